"""Training in processes of its own: killed and continued, and two processes as one."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from test_training import same_state
from toy_config import experiment

from perception3d.engine.launch import Launch
from perception3d.engine.run_folder import RunFolder
from perception3d.engine.run_state import RunState
from perception3d.engine.training import train

REPOSITORY = Path(__file__).parents[2]
CONFIG = Path(__file__).with_name("toy_config.py")


def start(root: Path, *flags: str, config: Path = CONFIG) -> subprocess.Popen[str]:
    command = [sys.executable, "tools/train.py", str(config), "--root", str(root), *flags]
    return subprocess.Popen(
        command,
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for_step(process: subprocess.Popen[str], metrics: Path, step: int) -> None:
    for _ in range(12000):
        if metrics.exists() and f'{{"step": {step},' in metrics.read_text():
            return
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.005)
    raise AssertionError("the step never came")


@pytest.mark.slow
def test_killed_interrupted_and_continued_bit_for_bit(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        whole = train(experiment(workers=2), Launch(root=tmp_path / "whole", tensorboard=False))
    finally:
        torch.set_num_threads(threads)

    killed_at = random.SystemRandom().randint(2, 7)
    stopped_at = random.SystemRandom().randint(9, 12)
    print(f"kill -9 after step {killed_at}, Ctrl-C after step {stopped_at}")
    # On a busy machine this process may sleep for a while after the step that it waits for: twelve
    # steps of 0.2 s are left then. A run that goes on keeps its pause.
    knobs = ("--workers", "2", "--save-every-steps", "4", "--pause-s", "0.1")
    folder = RunFolder(tmp_path / "cut" / "toy")

    process = start(tmp_path / "cut", *knobs)
    wait_for_step(process, folder.metrics, killed_at)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert (folder.path / "lock").exists()

    assert folder.record()["knobs"]["pause_s"] == 0.1
    process = start(tmp_path / "cut", "--resume")
    wait_for_step(process, folder.metrics, stopped_at)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: workers get it too
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 130
    assert f"Continue with\n  python tools/train.py {CONFIG} --resume toy" in said
    assert "Traceback" not in said

    process = start(tmp_path / "cut", "--resume")
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 0, said
    assert same_state(folder.checkpoint, whole.folder.checkpoint)
    steps = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    assert [line["step"] for line in steps if "loss" in line] == list(range(1, 25))


@pytest.mark.slow
def test_two_machines_train_like_two_processes_of_one(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        master = f"127.0.0.1:{listener.getsockname()[1]}"
    sizes = ("--accelerator", "cpu", "--epochs", "2")
    nodes = [
        start(
            tmp_path / f"machine{rank}",
            *sizes,
            *("--nodes", "2", "--node-rank", str(rank), "--master", master),
        )
        for rank in (1, 0)  # in any order
    ]
    for rank, process in zip((1, 0), nodes, strict=True):
        said = process.communicate(timeout=180)[1]
        assert process.returncode == 0, said
        assert f"machine {rank} of 2: waiting for the others at {master}" in said
    pair = start(tmp_path / "pair", *sizes, "--devices", "2")
    said = pair.communicate(timeout=180)[1]
    assert pair.returncode == 0, said
    # Machine 0 keeps the run; its disk need not be seen by the other.
    assert not (tmp_path / "machine1" / "toy").exists()
    folders = [RunFolder(tmp_path / name / "toy") for name in ("machine0", "pair")]
    assert RunState.load(folders[0].checkpoint).world_size == 2
    assert same_state(folders[0].checkpoint, folders[1].checkpoint)
    assert folders[0].read_scores() == folders[1].read_scores()


@pytest.mark.slow
def test_the_loss_of_a_machine_is_told(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        master = f"127.0.0.1:{listener.getsockname()[1]}"
    flags = ("--accelerator", "cpu", "--pause-s", "0.3", "--nodes", "2", "--master", master)
    first, second = (start(tmp_path, *flags, "--node-rank", str(rank)) for rank in (0, 1))
    wait_for_step(first, RunFolder(tmp_path / "toy").metrics, 1)
    os.kill(second.pid, signal.SIGKILL)
    second.communicate()
    said = first.communicate(timeout=120)[1]
    assert first.returncode == 1 and "Traceback" not in said
    assert "error: another process of the run ended" in said


@pytest.mark.slow
def test_two_processes_give_the_gradients_of_the_big_batch(tmp_path: Path) -> None:
    """Losses that are means over samples: the mean over processes is the big batch's mean."""
    pair = start(
        tmp_path / "pair",
        *("--mode", "exact", "--devices", "2", "--accelerator", "cpu"),
        *("--batch-size", "3", "--epochs", "2"),
    )
    said = pair.communicate(timeout=120)[1]
    assert pair.returncode == 0, said
    one = train(
        experiment(mode="exact", batch_size=6, epochs=2),
        Launch(root=tmp_path / "one", tensorboard=False, accelerator="cpu"),
    )
    folder = RunFolder(tmp_path / "pair" / "toy")
    ours, theirs = RunState.load(folder.checkpoint), RunState.load(one.folder.checkpoint)
    assert ours.world_size == 2 and ours.step == theirs.step == 8
    for name, value in theirs.model.items():
        # Eight steps of plain SGD: weights differ by the sum of gradients.
        torch.testing.assert_close(ours.model[name], value, rtol=1e-12, atol=1e-13)
    # The evaluator saw every sample once, in order, from both processes.
    assert folder.read_scores() == one.folder.read_scores() and one.scores
