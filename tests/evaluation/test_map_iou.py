"""Maps are scored by summed cells, sample by sample once, in one piece or in shards."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from perception3d.evaluation.map_iou import (
    THRESHOLDS,
    MapCounts,
    MapIouEvaluator,
    MapMetrics,
    count_cells,
    intersection_union,
)
from perception3d.structures import SE3, BEVGrid, Boxes3D, MapRaster, Prediction

GRID = BEVGrid((0.0, 2.0), (0.0, 2.0), (-5.0, 3.0), 1.0)
CLASSES = ("drivable_area", "vehicle")

TRUTH = {
    "a": [[[1, 1], [0, 0]], [[0, 0], [0, 1]]],
    "b": [[[1, 0], [0, 0]], [[0, 0], [0, 0]]],
}


def truth(token: str) -> MapRaster:
    return MapRaster(torch.tensor(TRUTH[token]).bool(), CLASSES, GRID)


def prediction(token: str, probability: Any, grid: BEVGrid = GRID) -> Prediction:
    return Prediction(
        token, Boxes3D.empty(), torch.zeros(0), SE3.identity(), SE3.identity(),
        map_prob=torch.as_tensor(probability), grid=grid,
    )  # fmt: skip


A = prediction("a", [[[0.9, 0.43], [0.42, 0.5]], [[0.0, 0.0], [0.0, 0.0]]])
B = prediction("b", [[[0.9, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.8]]])


def evaluator(folder: Path, threshold: float | tuple[float, ...] = 0.43) -> MapIouEvaluator:
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
    assert metrics.table().splitlines()[1:] == [
        "drivable_area  0.750", "vehicle        0.000", "mean           0.375",
    ]  # fmt: skip
    saved = json.loads((tmp_path / "map_metrics.json").read_text())
    assert saved["IoU_drivable_area"] == 0.75 and saved["thresholds"] == [0.43]
    assert saved["intersection"] == {"drivable_area": [3], "vehicle": [0]}
    assert saved["union"] == {"drivable_area": [4], "vehicle": [2]} and saved["num_samples"] == 2
    scores.reset()
    with pytest.raises(ValueError, match="2 of 2 samples were not predicted, first 'a'"):
        scores.evaluate()


def test_each_class_has_its_best_threshold(tmp_path: Path) -> None:
    scores = evaluator(tmp_path, THRESHOLDS)
    scores.process([A, B])
    metrics = scores.evaluate()
    # Drivable, intersection / union: at 0.35 and 0.40 a has 2 of 4 and b 1 of 1; at 0.45 a has
    # 0.9 and 0.5, so 1 of 3; the same at 0.50; from 0.55 on 0.9 alone, 1 of 2, and b 1 of 1.
    want = [3 / 5, 3 / 5, 2 / 4, 2 / 4, 2 / 3, 2 / 3, 2 / 3]
    assert metrics.counts.iou()[0].tolist() == pytest.approx(want, abs=1e-6)
    assert metrics.counts.intersection[0].tolist() == [3, 3, 2, 2, 2, 2, 2]
    summary = metrics.summary()
    assert list(summary) == [
        "IoU_drivable_area", "IoU_vehicle", "mIoU",
        "IoU@0.50_drivable_area", "IoU@0.50_vehicle", "mIoU@0.50",
    ]  # fmt: skip
    assert summary["IoU_drivable_area"] == 2 / (3 + 1e-7)
    assert summary["mIoU"] == pytest.approx(1 / 3, abs=1e-6)
    assert summary["IoU@0.50_drivable_area"] == pytest.approx(0.5, abs=1e-6)
    assert summary["mIoU@0.50"] == pytest.approx(0.25, abs=1e-6)
    assert metrics.table().splitlines() == [
        "maps of 2 samples, threshold 0.35 to 0.65: best, at, at 0.50",
        "drivable_area  0.667  0.550  0.500",
        "vehicle        0.000  0.350  0.000",
        "mean           0.333  -  0.250",
    ]
    saved = json.loads((tmp_path / "map_metrics.json").read_text())
    assert saved["thresholds"] == list(THRESHOLDS)
    assert saved["union"]["vehicle"] == [2] * 7


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_one_look_counts_as_one_comparison_a_threshold(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    probability = torch.rand(3, 4, 20, 30, dtype=torch.float64).to(dtype)
    probability[0, 0, 0, :7] = torch.tensor(THRESHOLDS, dtype=dtype)  # reached exactly
    target = torch.rand(3, 4, 20, 30) > 0.6
    inside, either = count_cells(probability, target)
    assert inside.shape == either.shape == (4, 7)
    wide = probability.float() if dtype == torch.bfloat16 else probability
    for column, threshold in enumerate(THRESHOLDS):
        predicted = wide >= threshold
        assert torch.equal(inside[:, column], (predicted & target).sum(dim=(0, 2, 3)))
        assert torch.equal(either[:, column], (predicted | target).sum(dim=(0, 2, 3)))
        one = intersection_union(probability, target, threshold)
        assert torch.equal(one[0], inside[:, column]) and torch.equal(one[1], either[:, column])
    with pytest.raises(ValueError, match="must have one shape"):
        count_cells(probability, target[:2])


@pytest.mark.parametrize("cuts", [(), (1,), (4,), (2, 3), (1, 5, 6), (3, 3)])
def test_shards_add_up_exactly(cuts: tuple[int, ...], tmp_path: Path) -> None:
    torch.manual_seed(1)
    grid = BEVGrid((0.0, 9.0), (0.0, 7.0), (-5.0, 3.0), 1.0)
    masks = {f"s{i}": torch.rand(2, 7, 9) > 0.5 for i in range(7)}

    def maps(token: str) -> MapRaster:
        return MapRaster(masks[token], CLASSES, grid)

    def scores(tokens: list[str]) -> MapIouEvaluator:
        return MapIouEvaluator(maps, tokens, tmp_path, threshold=THRESHOLDS)

    predictions = [prediction(token, torch.rand(2, 7, 9), grid) for token in masks]
    whole = scores(list(masks))
    whole.process(predictions)
    ends = (0, *cuts, len(predictions))
    merged = scores(list(masks))
    # The last shard comes first: order plays no part.
    for a, b in reversed(list(zip(ends, ends[1:]))):
        if a == b:
            continue
        shard = scores([one.token for one in predictions[a:b]])
        shard.process(predictions[a:b])
        merged.merge(shard.counts)
    assert merged.evaluate().content() == whole.evaluate().content()
    assert json.loads(merged.metrics_path.read_text()) == whole.evaluate().content()


def test_shards_that_do_not_fit(tmp_path: Path) -> None:
    one, other = evaluator(tmp_path), evaluator(tmp_path, THRESHOLDS)
    with pytest.raises(ValueError, match="no map was counted"):
        one.counts
    one.process([A])
    other.process([B])
    with pytest.raises(ValueError, match=r"different thresholds: \(0.43,\) and \(0.35,"):
        one.counts + other.counts
    with pytest.raises(ValueError, match="different classes"):
        one.counts + replace(one.counts, classes=("walkway", "vehicle"))
    with pytest.raises(ValueError, match="sample a is twice"):
        one.merge(one.counts)
    with pytest.raises(ValueError, match="sample a is twice"):
        one.counts + one.counts
    with pytest.raises(ValueError, match="sample z is foreign"):
        one.merge(replace(one.counts, tokens=frozenset({"z"})))


def test_many_samples_are_summed_now_and_then(tmp_path: Path) -> None:
    tokens = [f"t{i}" for i in range(600)]
    scores = MapIouEvaluator(lambda _: truth("a"), tokens, tmp_path)
    scores.process([replace(A, token=token) for token in tokens])
    counts = scores.evaluate().counts
    assert counts.intersection.tolist() == [[1200], [0]] and len(counts.tokens) == 600


def test_the_threshold_is_a_knob(tmp_path: Path) -> None:
    scores = evaluator(tmp_path, threshold=0.6)
    scores.process([A, B])
    # Of a only 0.9 is left: 1 of 2, and b's 1 of 1.
    assert scores.evaluate().iou["drivable_area"] == pytest.approx(2 / 3)
    for wrong in (1.5, 0.0, (0.5, 1.0), ()):
        with pytest.raises(ValueError, match=r"in \(0, 1\); found"):
            evaluator(tmp_path, threshold=wrong)
    for wrong in ((0.4, 0.6), (0.5, 0.4), (0.5, 0.5)):
        with pytest.raises(ValueError, match=r"must increase and hold 0.50; found"):
            evaluator(tmp_path, threshold=wrong)


def test_a_class_that_is_nowhere() -> None:
    """One threshold: it has no score. Several: 0, as published."""
    cells = torch.tensor([[1], [0]]), torch.tensor([[2], [0]])
    one = MapMetrics(MapCounts(CLASSES, (0.43,), *cells, frozenset("a")))
    assert math.isnan(one.iou["vehicle"]) and one.summary()["mIoU"] == 0.5
    assert one.table().splitlines()[2].split() == ["vehicle", "-"]
    assert one.content()["IoU_vehicle"] is None
    two = tuple(part.expand(2, 2) for part in cells)
    several = MapMetrics(MapCounts(CLASSES, (0.4, 0.5), *two, frozenset("a")))
    assert several.summary()["IoU_vehicle"] == 0.0
    assert several.summary()["mIoU"] == pytest.approx(0.25)


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
