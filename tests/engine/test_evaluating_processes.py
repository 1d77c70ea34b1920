"""Scores of two processes: maps are counted where they were drawn, and only counts travel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from perception3d.engine import evaluating
from perception3d.engine.experiment import Experiment, Samples
from perception3d.evaluation.map_iou import THRESHOLDS, MapIouEvaluator
from perception3d.structures import SE3, BEVGrid, Boxes3D, MapRaster, Prediction
from tests.engine.toy import toy_experiment

GRID = BEVGrid((0.0, 4.0), (0.0, 4.0), (-5.0, 3.0), 1.0)
TOKENS = tuple("abcde")


@dataclass(frozen=True)
class Numbers:
    """A batch of sample numbers."""

    which: tuple[int, ...]

    def to(self, device: torch.device | str) -> Numbers:
        return self


def probability(number: int) -> torch.Tensor:
    return torch.rand(2, 4, 4, generator=torch.Generator().manual_seed(number))


def truth(token: str) -> MapRaster:
    chance = torch.rand(2, 4, 4, generator=torch.Generator().manual_seed(100 + ord(token)))
    return MapRaster(chance > 0.5, ("road", "divider"), GRID)


class Draws(nn.Module):
    """Maps that depend on the sample's number alone."""

    def forward(self, batch: Numbers) -> Numbers:
        return batch

    def predict(self, outputs: Numbers, batch: Numbers) -> list[Prediction]:
        still = SE3.identity()
        return [
            Prediction(
                TOKENS[i], Boxes3D.empty(), torch.zeros(0), still, still,
                map_prob=probability(i), grid=GRID, map_classes=("road", "divider"),
            )
            for i in batch.which
        ]  # fmt: skip


class Metrics:
    def table(self) -> str:
        return "boxes"

    def summary(self) -> dict[str, float]:
        return {"boxes": 1.0}


class Boxes:
    """An evaluator that takes whole predictions, and says what came."""

    seen: list[Prediction]

    def reset(self) -> None:
        self.seen = []

    def process(self, predictions: Sequence[Prediction]) -> None:
        self.seen.extend(predictions)

    def evaluate(self) -> Metrics:
        return Metrics()


def run(boxes: Boxes, folder: Path, **process: int) -> dict[str, float] | None:
    experiment: Experiment = replace(
        toy_experiment(),
        batch_size=1,
        workers=0,
        evaluators=(
            lambda _: boxes,
            lambda to: MapIouEvaluator(truth, TOKENS, to, threshold=THRESHOLDS),
        ),
    )
    samples = Samples(dataset=list(range(5)), collate=lambda numbers: Numbers(tuple(numbers)))  # type: ignore[arg-type]
    return evaluating.evaluate(
        experiment, Draws(), samples, folder, quiet=True, say=lambda _: None, **process
    )


def test_two_processes_score_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []

    def gather(mine: Any, parts: list[Any] | None, dst: int) -> None:
        if parts is None:
            sent.append(mine)
        else:
            parts[:] = [mine, sent.pop(0)]

    same: Callable[..., None] = lambda values, src: None  # noqa: E731
    monkeypatch.setattr(evaluating.dist, "gather_object", gather)
    monkeypatch.setattr(evaluating.dist, "broadcast_object_list", same)
    alone = Boxes()
    expected = run(alone, tmp_path / "one")
    assert expected is not None and 0 < expected["mIoU"] < 1 and expected["boxes"] == 1
    assert all(one.map_prob is not None for one in alone.seen)
    # The second process first: what it sends lies ready for the first one.
    assert run(Boxes(), tmp_path / "two", rank=1, world_size=2) is None
    assert all(one.map_prob is None for one in sent[0]) and sent[1][0].tokens == {"b", "d"}
    both = Boxes()
    assert run(both, tmp_path / "two", rank=0, world_size=2) == expected
    assert [one.token for one in both.seen] == list(TOKENS)
    assert all(one.map_prob is None for one in both.seen)
    files = [(tmp_path / name / "map_metrics.json").read_text() for name in ("one", "two")]
    assert files[0] == files[1]
