"""Training in one process: the whole path, and going on from every single step."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from toy import ToyData, ToyModel, collate, toy_experiment

from perception3d.engine import run as run_module
from perception3d.engine.checkpoints import read_weights
from perception3d.engine.experiment import Experiment, Phase, Samples
from perception3d.engine.launch import Launch
from perception3d.engine.optim import AdamWSettings
from perception3d.engine.run_state import RunState
from perception3d.engine.stopping import Interrupted
from perception3d.engine.training import TrainingResult, train


def run(experiment: Experiment, root: Path, **launch: Any) -> TrainingResult:
    return train(experiment, Launch(root=root, tensorboard=False, **launch))


def same_state(a: Path, b: Path) -> bool:
    """Whether two checkpoints hold the same bits: model, optimiser, average."""
    left, right = RunState.load(a), RunState.load(b)
    return _same(
        (left.step, left.model, left.optimizer, left.average),
        (right.step, right.model, right.optimizer, right.average),
    )


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(a == b)


class Killed(BaseException):
    """Stands for kill -9 inside one process."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    return run(toy_experiment(), tmp_path_factory.mktemp("whole"))


def test_a_run_leaves_everything_behind(whole: TrainingResult) -> None:
    folder = whole.folder
    assert whole.finished and whole.step == 24
    names = {p.stem for p in (folder.path / "weights").iterdir()}
    assert names == {"epoch_01", "epoch_02", "epoch_03", "epoch_04", "best", "last"}
    assert [row["epoch"] for row in whole.scores] == [2, 4]
    lines = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    steps = [line["step"] for line in lines if "loss" in line]
    assert steps == list(range(1, 25))
    assert set(lines[0]["task"]) == {"boxes", "map"}
    assert lines[0]["loss"] == pytest.approx(sum(lines[0]["task"].values()))
    # The published cycle: base lr first, up, then almost nothing; beta1 the other way.
    rates = [line["lr"] for line in lines if "loss" in line]
    assert rates[0] == pytest.approx(1e-2) and max(rates) == pytest.approx(4e-2, rel=0.05)
    assert rates[-1] < 1e-3
    assert not (folder.path / "lock").exists()


def test_it_learns(tmp_path: Path) -> None:
    experiment = toy_experiment(
        model=lambda: ToyModel(dropout=0, norm=False, width=64),
        train=lambda: Samples(dataset=ToyData(120), collate=collate),
        epochs=6,
        evaluate_every=None,
    )
    result = run(experiment, tmp_path)
    lines = [json.loads(line) for line in result.folder.metrics.read_text().splitlines()]
    losses = [line["loss"] for line in lines]
    assert sum(losses[-6:]) < 0.1 * sum(losses[:6])


def test_saved_weights_are_the_average(whole: TrainingResult) -> None:
    weights, header = read_weights(whole.folder.weights("last"))
    state = RunState.load(whole.folder.checkpoint)
    assert state.average is not None
    average = state.average["average"]
    assert all(torch.equal(weights[name], average[name]) for name in average)
    assert not torch.equal(weights["head.weight"], state.model["head.weight"])
    assert header["experiment"] == "toy" and header["step"] == "24"


# Around the ends of epochs (6, 12, 18, 24), in between, and at both ends of the run.
@pytest.mark.parametrize("step", [1, 2, 5, 6, 7, 11, 12, 13, 16, 18, 23, 24])
def test_going_on_from_any_step_gives_the_same_bits(
    step: int, whole: TrainingResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = toy_experiment(save_every_steps=1)
    save = run_module.Run.save

    def save_then_die(self: Any, *args: Any) -> None:
        save(self, *args)
        if self.step == step:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(run_module.Run, "save", save_then_die)
        with pytest.raises(Killed):
            run(experiment, tmp_path)
    result = run(experiment, tmp_path, resume="auto")
    assert result.finished
    assert same_state(result.folder.checkpoint, whole.folder.checkpoint)
    for name in ("epoch_01", "epoch_04", "best", "last"):
        ours, theirs = result.folder.weights(name), whole.folder.weights(name)
        assert _same(read_weights(ours)[0], read_weights(theirs)[0]), name
    # The log and the scores continue without gap or repetition.
    lines = [json.loads(line) for line in result.folder.metrics.read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 25))
    assert result.scores == whole.scores


def test_a_stop_between_saves_repeats_steps_exactly(whole: TrainingResult, tmp_path: Path) -> None:
    experiment = toy_experiment(save_every_steps=5, model=dies_at_batch(33))
    with pytest.raises(Killed):
        run(experiment, tmp_path)
    again = toy_experiment(save_every_steps=5)
    result = run(again, tmp_path, resume="toy")
    assert same_state(result.folder.checkpoint, whole.folder.checkpoint)


def dies_at_batch(number: int) -> Any:
    class Mortal(ToyModel):
        batches = 0

        def loss(self, outputs: Any, batch: Any) -> Any:
            self.batches += 1
            if self.batches == number:
                raise Killed
            return super().loss(outputs, batch)

    return Mortal


def test_workers_change_nothing(whole: TrainingResult, tmp_path: Path) -> None:
    result = run(toy_experiment(workers=2), tmp_path)
    assert multiprocessing.active_children() == []
    assert same_state(result.folder.checkpoint, whole.folder.checkpoint)


def test_accumulation_equals_the_big_batch(tmp_path: Path) -> None:
    def small(**sizes: int) -> Experiment:
        return toy_experiment(
            name=f"b{sizes['batch_size']}",
            model=lambda: ToyModel(dropout=0, norm=False).double(),
            train=lambda: Samples(dataset=ToyData(), collate=_double),
            val=None,
            evaluators=(),
            ema_decay=None,
            epochs=2,
            optimizer=AdamWSettings(lr=1e-3),
            **sizes,
        )

    many = run(small(batch_size=2, accumulate=3), tmp_path)
    one = run(small(batch_size=6, accumulate=1), tmp_path)
    left, right = (RunState.load(r.folder.checkpoint).model for r in (many, one))
    assert many.total_steps == one.total_steps == 8
    for name in left:
        torch.testing.assert_close(left[name], right[name], rtol=1e-9, atol=1e-12)


def _double(items: Any) -> Any:
    batch = collate(items)
    return type(batch)(batch.tokens, batch.x.double(), batch.y.double())


def test_max_steps_ends_within_an_epoch(tmp_path: Path) -> None:
    result = run(toy_experiment(max_steps=9, evaluate_every=None), tmp_path)
    assert result.finished and result.step == 9
    assert result.folder.weights("last").exists() and result.scores == []


def test_steps_alone_go_over_several_epochs(tmp_path: Path) -> None:
    built = []

    def last_epoch() -> Samples:
        built.append(1)
        return Samples(dataset=ToyData(), collate=collate)

    result = run(
        toy_experiment(
            epochs=None,
            max_steps=15,
            phases=(Phase(first_epoch=-1, train=last_epoch),),
        ),
        tmp_path,
    )
    assert result.finished and result.step == 15 and built == [1]
    names = {path.stem for path in (result.folder.path / "weights").iterdir()}
    assert names == {"epoch_01", "epoch_02", "epoch_03", "best", "last"}
    lines = [json.loads(line) for line in result.folder.metrics.read_text().splitlines()]
    assert [line["epoch"] for line in lines if "loss" in line] == [0] * 6 + [1] * 6 + [2] * 3
    assert [row["epoch"] for row in result.scores] == [2, 3]


def test_a_phase_changes_the_samples(tmp_path: Path) -> None:
    built = []

    def shifted() -> Samples:
        built.append(1)
        return Samples(dataset=ToyData(shift=100.0), collate=collate)

    experiment = toy_experiment(phases=(Phase(first_epoch=-1, train=shifted),), log_every=1)
    result = run(experiment, tmp_path)
    lines = [json.loads(line) for line in result.folder.metrics.read_text().splitlines()]
    losses = {line["step"]: line["loss"] for line in lines if "loss" in line}
    assert losses[19] > 100 * losses[18] and len(built) == 1


def test_interruption_saves_and_says_how_to_go_on(
    whole: TrainingResult,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    after = run_module.Run.after_update

    def interrupt(self: Any, *args: Any) -> None:
        after(self, *args)
        if self.step == 8:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(run_module.Run, "after_update", interrupt)
        result = run(toy_experiment(), tmp_path)
    assert not result.finished and result.step == 8
    said = capfd.readouterr().err
    assert "stopped at step 8 of 24" in said and f"--resume toy --root {tmp_path}" in said
    result = run(toy_experiment(), tmp_path, resume="auto")
    assert same_state(result.folder.checkpoint, whole.folder.checkpoint)
    # Going on with a finished run does nothing.
    assert run(toy_experiment(), tmp_path, resume="auto").finished


def test_interruption_during_an_evaluation(
    whole: TrainingResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "evaluate", _interrupted)
        result = run(toy_experiment(), tmp_path)
    assert result.step == 12 and result.scores == []
    result = run(toy_experiment(), tmp_path, resume="auto")
    assert result.scores == whole.scores
    assert same_state(result.folder.checkpoint, whole.folder.checkpoint)


def _interrupted(*_: Any, **__: Any) -> None:
    raise Interrupted


def test_missing_devkit_skips_the_evaluation(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def missing(folder: Path) -> Any:
        raise ModuleNotFoundError("needs nuscenes-devkit; run: pip install nuscenes-devkit")

    result = run(toy_experiment(evaluators=(missing,), epochs=2), tmp_path)
    assert result.finished and result.scores == []
    assert "evaluation skipped: needs nuscenes-devkit" in capfd.readouterr().err


def test_bf16_trains(tmp_path: Path) -> None:
    assert run(toy_experiment(precision="bf16", epochs=1), tmp_path).finished


def test_fp16_needs_a_gpu(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ValueError, match="fp16 needs a CUDA device; on a CPU use bf16"):
        run(toy_experiment(precision="fp16"), tmp_path)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_on_a_gpu(precision: Any, tmp_path: Path) -> None:
    result = run(toy_experiment(precision=precision), tmp_path, accelerator="gpu")
    assert result.finished


def test_other_numbers_are_refused_on_resume(tmp_path: Path) -> None:
    run(toy_experiment(max_steps=7), tmp_path)
    with pytest.raises(ValueError, match=r"batch_size: 2 -> 3.*start a new run"):
        run(toy_experiment(max_steps=7, batch_size=3), tmp_path, resume="auto")
    with pytest.raises(ValueError, match="seed: 0 -> 1"):
        run(toy_experiment(max_steps=7, seed=1), tmp_path, resume="auto")


def test_other_data_is_refused_on_resume(tmp_path: Path) -> None:
    run(toy_experiment(max_steps=2), tmp_path)
    other = toy_experiment(
        max_steps=2,
        train=lambda: Samples(dataset=ToyData(), collate=collate, fingerprint="other"),
    )
    with pytest.raises(ValueError, match="train data changed"):
        run(other, tmp_path, resume="auto")


def test_two_runs_in_one_folder(whole: TrainingResult) -> None:
    root = whole.folder.path.parent
    with pytest.raises(FileExistsError, match=r"already holds a run.*--resume.*--run NAME"):
        run(toy_experiment(), root)
    with pytest.raises(FileNotFoundError, match=r"no run called 'nothing'.*runs there: toy"):
        run(toy_experiment(), root, resume="nothing")
