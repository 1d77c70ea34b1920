"""Maps are scored by summed cells, sample by sample once."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from perception3d.evaluation.map_iou import MapIouEvaluator, MapMetrics
from perception3d.structures import SE3, BEVGrid, Boxes3D, MapRaster, Prediction

GRID = BEVGrid((0.0, 2.0), (0.0, 2.0), (-5.0, 3.0), 1.0)
CLASSES = ("drivable_area", "vehicle")

TRUTH = {
    "a": [[[1, 1], [0, 0]], [[0, 0], [0, 1]]],
    "b": [[[1, 0], [0, 0]], [[0, 0], [0, 0]]],
}


def truth(token: str) -> MapRaster:
    return MapRaster(torch.tensor(TRUTH[token]).bool(), CLASSES, GRID)


def prediction(token: str, probability: list[list[list[float]]]) -> Prediction:
    return Prediction(
        token, Boxes3D.empty(), torch.zeros(0), SE3.identity(), SE3.identity(),
        map_prob=torch.tensor(probability), grid=GRID,
    )  # fmt: skip


A = prediction("a", [[[0.9, 0.43], [0.42, 0.5]], [[0.0, 0.0], [0.0, 0.0]]])
B = prediction("b", [[[0.9, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.8]]])


def evaluator(folder: Path, threshold: float = 0.43) -> MapIouEvaluator:
    return MapIouEvaluator(truth, ("a", "b"), folder, threshold=threshold)


def test_cells_are_summed_over_samples(tmp_path: Path) -> None:
    scores = evaluator(tmp_path)
    scores.process([A])
    scores.process([B])
    metrics = scores.evaluate()
    # Drivable: a has 2 of 3 (0.43 counts, 0.42 does not), b 1 of 1; the mean of samples would be
    # 0.83. Vehicles: found where there is none, missed where there is one.
    assert metrics.iou == {"drivable_area": 3 / 4, "vehicle": 0.0}
    assert metrics.summary() == {
        "IoU_drivable_area": 0.75, "IoU_vehicle": 0.0, "mIoU": 0.375,
    }  # fmt: skip
    assert "drivable_area  0.750" in metrics.table()
    saved = json.loads((tmp_path / "map_metrics.json").read_text())
    assert saved["IoU_drivable_area"] == 0.75 and saved["threshold"] == 0.43
    scores.reset()
    with pytest.raises(ValueError, match="2 of 2 samples were not predicted, first 'a'"):
        scores.evaluate()


def test_the_threshold_is_a_knob(tmp_path: Path) -> None:
    scores = evaluator(tmp_path, threshold=0.6)
    scores.process([A, B])
    # Of a only 0.9 is left: 1 of 2, and b's 1 of 1.
    assert scores.evaluate().iou["drivable_area"] == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match=r"in \(0, 1\); found 1.5"):
        evaluator(tmp_path, threshold=1.5)


def test_a_class_that_is_nowhere_has_no_score() -> None:
    metrics = MapMetrics(CLASSES, (1, 0), (2, 0), 0.43, 1)
    assert math.isnan(metrics.iou["vehicle"]) and metrics.summary()["mIoU"] == 0.5
    assert metrics.table().splitlines()[2].split() == ["vehicle", "-"]


def test_what_is_refused(tmp_path: Path) -> None:
    scores = evaluator(tmp_path)
    scores.process([A])
    with pytest.raises(ValueError, match="sample a is twice"):
        scores.process([A])
    with pytest.raises(ValueError, match="sample c is foreign to the split"):
        scores.process([replace(A, token="c")])
    with pytest.raises(ValueError, match="prediction of sample b has no map"):
        scores.process([replace(B, map_prob=None, grid=None)])
    assert B.map_prob is not None
    with pytest.raises(ValueError, match=r"1 maps were predicted .* the truth has 2"):
        scores.process([replace(B, map_prob=B.map_prob[:1])])
    with pytest.raises(ValueError, match="1 of 2 samples were not predicted, first 'b'"):
        scores.evaluate()
    with pytest.raises(ValueError, match="no sample to score"):
        MapIouEvaluator(truth, (), tmp_path)


def test_maps_from_inference_mode_are_counted_outside_of_it(tmp_path: Path) -> None:
    """As evaluation does it: some samples are handed over inside, the rest afterwards."""
    evaluator = MapIouEvaluator(truth, ("a", "b"), tmp_path)
    with torch.inference_mode():
        evaluator.process([prediction("a", TRUTH["a"])])
    evaluator.process([prediction("b", TRUTH["b"])])
    assert evaluator.evaluate().iou == {"drivable_area": 1.0, "vehicle": 1.0}
