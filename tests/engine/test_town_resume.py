"""The real model on real files: killed and continued, a run ends with the same bits."""

from __future__ import annotations

import json
import os
import random
import signal
from pathlib import Path

import pytest
import torch
from test_training import same_state
from test_training_processes import start, wait_for_step

from perception3d.engine.checkpoints import read_weights
from perception3d.engine.config_file import load_config
from perception3d.engine.launch import Launch
from perception3d.engine.run_folder import RunFolder
from perception3d.engine.training import train

CONFIG = Path(__file__).with_name("town_config.py")


@pytest.mark.slow
def test_cmt_is_killed_and_continued_bit_for_bit(tiny_town: Path, tmp_path: Path) -> None:
    killed_at = random.SystemRandom().randint(1, 6)
    print(f"kill -9 after step {killed_at}")
    flags = ("--data", str(tiny_town), "--sensors", "fusion")
    cut = RunFolder(tmp_path / "cut" / "town")
    process = start(tmp_path / "cut", *flags, config=CONFIG)
    wait_for_step(process, cut.metrics, killed_at)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    process = start(tmp_path / "cut", "--resume", config=CONFIG)
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 0, said

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        experiment = load_config(CONFIG).build({"data": str(tiny_town), "sensors": "fusion"})
        whole = train(experiment, Launch(root=tmp_path / "whole", tensorboard=False)).folder
    finally:
        torch.set_num_threads(threads)
    assert same_state(cut.checkpoint, whole.checkpoint)
    ours, theirs = (read_weights(folder.weights("last"))[0] for folder in (cut, whole))
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())
    lines = [[json.loads(x) for x in f.metrics.read_text().splitlines()] for f in (cut, whole)]
    losses = [[(line["step"], line["loss"], line["task"]) for line in each] for each in lines]
    assert losses[0] == losses[1] and len(losses[0]) == 8
