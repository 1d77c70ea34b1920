"""Runs that are stopped or fail before there is anything to continue, or at once."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from test_training import Killed, dies_at_batch, run
from toy import ToyData, ToyModel, collate, toy_experiment

from perception3d.engine import run as run_module
from perception3d.engine.checkpoints import save_weights
from perception3d.engine.experiment import Samples
from perception3d.engine.run_state import RunState


def test_a_second_interruption_stops_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loss(self: Any, *args: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return plain_loss(self, *args)

    plain_loss = ToyModel.loss
    monkeypatch.setattr(ToyModel, "loss", loss)
    with pytest.raises(KeyboardInterrupt):
        run(toy_experiment(accumulate=4), tmp_path)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_early_interruption_leaves_nothing(
    number: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def model() -> ToyModel:
        os.kill(os.getpid(), number)
        return ToyModel()

    result = run(toy_experiment(model=model), tmp_path)
    assert not result.finished and list(tmp_path.iterdir()) == []
    assert "stopped before the first step; nothing is kept" in capfd.readouterr().err


def test_termination_saves_like_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    after = run_module.Run.after_update

    def terminate(self: Any, *args: Any) -> None:
        after(self, *args)
        if self.step == 8:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(run_module.Run, "after_update", terminate)
    result = run(toy_experiment(), tmp_path)
    assert result.step == 8 and RunState.load(result.folder.checkpoint).step == 8


def test_a_failed_start_leaves_its_place_free(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.safetensors"
    save_weights(ToyModel(width=20), wrong)
    root = tmp_path / "runs"
    for weights, message in ((wrong, "does not fit"), (tmp_path / "none", "no weights at")):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            run(toy_experiment(weights=weights), root)
    with pytest.raises(Killed):
        run(toy_experiment(model=dies_at_batch(1)), root)
    assert list(root.iterdir()) == []
    # From the first step on there is something to look at and to continue.
    with pytest.raises(Killed):
        run(toy_experiment(model=dies_at_batch(3)), root)
    with pytest.raises(ValueError, match="data changed"):
        other = Samples(dataset=ToyData(), collate=collate, fingerprint="other")
        run(toy_experiment(train=lambda: other), root, resume="auto")
    metrics = root / "toy" / "metrics.jsonl"
    assert metrics.read_text().startswith('{"step": 1,')
    # There is no checkpoint yet: the run starts from its beginning, and so does its log.
    assert run(toy_experiment(), root, resume="auto").finished
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 25))
