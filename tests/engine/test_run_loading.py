"""Errors of the data reach the user as they were, whichever process met them."""

from __future__ import annotations

import json
import multiprocessing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from test_training import run
from toy import ToyData, collate, toy_experiment

from perception3d.engine.command_line import clear_errors
from perception3d.engine.experiment import Samples
from perception3d.engine.loading import eval_loader
from perception3d.engine.prediction import predict


class TornFileError(ValueError):
    """Made from other arguments than its message."""

    def __init__(self, name: str, *, missing: int) -> None:
        super().__init__(f"{name} lacks {missing} bytes")


def missing_file() -> None:
    raise FileNotFoundError(2, "No such file or directory", "samples/CAM_FRONT/1.jpg")


def bad_image() -> None:
    raise ValueError("samples/CAM_FRONT/1.jpg is no whole JPEG")


def torn_file() -> None:
    raise TornFileError("1.bin", missing=20)


def bad_json() -> None:
    json.loads("{")


class BadData(ToyData):
    """Fails at one sample."""

    def __init__(self, fail: Any) -> None:
        super().__init__()
        self.fail = fail

    def __getitem__(self, key: Any) -> Any:
        token, values = super().__getitem__(key)
        if token == "sample5":
            self.fail()
        return token, values


def samples(fail: Any) -> Samples:
    return Samples(dataset=BadData(fail), collate=collate)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("fail", "kind", "text"),
    [
        (missing_file, FileNotFoundError, "[Errno 2] No such file or directory: 'samples/CAM_"),
        (bad_image, ValueError, "samples/CAM_FRONT/1.jpg is no whole JPEG"),
        (bad_json, ValueError, "Expecting property name"),
        (torn_file, ValueError, "1.bin lacks 20 bytes"),
    ],
)
def test_the_original_error_is_raised(workers: int, fail: Any, kind: Any, text: str) -> None:
    loader = eval_loader(samples(fail), batch_size=2, workers=workers)
    seen = []
    with pytest.raises(kind) as error:
        for batch in loader:
            seen += batch.tokens
    assert seen == ["sample0", "sample1", "sample2", "sample3"]
    assert text in str(error.value) and "Traceback" not in str(error.value)
    if workers:
        # Where it happened is there for whoever looks for it.
        assert f"in {fail.__name__}" in str(error.value.__cause__)


@pytest.mark.parametrize("workers", [0, 1])
def test_errors_in_the_making_of_a_batch(workers: int) -> None:
    def bad_collate(items: Any) -> Any:
        raise ValueError("samples have other sizes")

    loader = eval_loader(
        Samples(dataset=ToyData(4), collate=bad_collate), batch_size=2, workers=workers
    )
    with pytest.raises(ValueError, match=r"^samples have other sizes$"):
        list(predict(toy_experiment().model(), loader))


def test_training_ends_with_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    experiment = toy_experiment(workers=1, train=partial(samples, bad_image))
    with pytest.raises(SystemExit), clear_errors():
        run(experiment, tmp_path)
    said = capsys.readouterr().err.splitlines()
    assert "error: samples/CAM_FRONT/1.jpg is no whole JPEG" in said
    assert not [line for line in said if "Traceback" in line]


def workers_alive() -> int:
    return len(multiprocessing.active_children())


def test_an_error_ends_the_workers_of_its_own_iteration() -> None:
    """Another iteration of the same loader goes on; no worker outlives an error of any kind."""

    def fail() -> None:
        raise KeyError("not an error of the data")

    before = workers_alive()
    loader = eval_loader(samples(bad_image), batch_size=2, workers=1)
    first, second = iter(loader), iter(loader)
    assert next(second).tokens
    with pytest.raises(ValueError, match="no whole JPEG"):
        list(first)
    assert next(second).tokens
    with pytest.raises(ValueError, match="no whole JPEG"):
        list(second)
    with pytest.raises(KeyError):
        list(eval_loader(samples(fail), batch_size=2, workers=1))
    assert workers_alive() == before
