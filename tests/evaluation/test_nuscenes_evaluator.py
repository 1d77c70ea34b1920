"""The evaluator of training and tools, on the least data set and on the town."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
from pathlib import Path

import pytest
import torch

pytest.importorskip("nuscenes")

from perception3d.evaluation import DetectionMetrics, NuScenesEvaluator, validate_submission
from perception3d.structures import Boxes3D, Prediction
from tests.evaluation import mini_nuscenes as mini


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mini.build(tmp_path_factory.mktemp("mini"))


def _emptied(prediction: Prediction) -> Prediction:
    return dataclasses.replace(prediction, boxes=Boxes3D.empty(), score=torch.zeros(0))


@pytest.mark.parametrize("split", [mini.CUSTOM, mini.PREDEFINED])
def test_perfect_predictions_score_one(
    root: Path, tmp_path: Path, split: str, capfd: pytest.CaptureFixture[str]
) -> None:
    evaluator = NuScenesEvaluator(root, mini.VERSION, split, tmp_path)
    for _ in range(2):  # every epoch of a training evaluates again
        evaluator.reset()
        evaluator.process(mini.perfect_predictions(mini.load(root), evaluator.tokens))
        metrics = evaluator.evaluate()
    assert metrics.nds == pytest.approx(1.0, abs=1e-6)
    assert metrics.mean_ap == pytest.approx(1.0, abs=1e-9)
    assert max(metrics.tp_errors.values()) < 1e-6
    assert metrics.num_samples == 3
    assert validate_submission(evaluator.results_path, tokens=evaluator.tokens).accepted
    out, err = capfd.readouterr()
    assert out == "" and err == "", "the devkit must stay silent"


def test_same_scores_as_the_devkit_called_by_hand(root: Path, tmp_path: Path) -> None:
    tables = mini.load(root)
    evaluator = NuScenesEvaluator(root, mini.VERSION, mini.CUSTOM, tmp_path)
    generator = torch.Generator().manual_seed(3)
    noisy = []
    for prediction in mini.perfect_predictions(tables, evaluator.tokens):
        boxes = prediction.boxes
        noise = torch.randn(boxes.center_m.shape, generator=generator, dtype=torch.float64)
        boxes = dataclasses.replace(
            boxes, center_m=boxes.center_m + noise, size_lwh_m=boxes.size_lwh_m * 1.2
        )
        score = torch.rand(len(boxes), generator=generator, dtype=torch.float64)
        noisy.append(dataclasses.replace(prediction, boxes=boxes, score=score))
    evaluator.reset()
    evaluator.process(noisy)
    metrics = evaluator.evaluate()
    with mini.quiet():
        from nuscenes.eval.common.config import config_factory
        from nuscenes.eval.detection.evaluate import DetectionEval

        config = config_factory("detection_cvpr_2019")
        path = str(evaluator.results_path)
        official = DetectionEval(tables, config, path, mini.CUSTOM, str(tmp_path / "o"), False)
        by_hand, _ = official.evaluate()
    assert 0.1 < metrics.mean_ap < 0.9
    assert metrics.mean_ap == by_hand.mean_ap
    assert metrics.nds == by_hand.nd_score
    assert metrics.tp_errors == by_hand.tp_errors
    assert metrics.mean_dist_aps == pytest.approx(by_hand.mean_dist_aps)
    assert evaluator.evaluate_file(path).summary() == metrics.summary()
    devkit = NuScenesEvaluator(root, mini.VERSION, mini.CUSTOM, tmp_path, devkit=True)
    assert devkit.evaluate_file(path).summary() == metrics.summary()


def test_predicting_nothing_scores_zero(root: Path, tmp_path: Path) -> None:
    evaluator = NuScenesEvaluator(root, mini.VERSION, mini.CUSTOM, tmp_path)
    evaluator.reset()
    perfect = mini.perfect_predictions(mini.load(root), evaluator.tokens)
    evaluator.process([_emptied(prediction) for prediction in perfect])
    metrics = evaluator.evaluate()
    assert metrics.nds == 0.0 and metrics.mean_ap == 0.0
    assert set(metrics.tp_errors.values()) == {1.0}
    # One box far from everything makes the official code answer, with the same figures.
    evaluator.reset()
    shifted = dataclasses.replace(perfect[0].boxes, center_m=perfect[0].boxes.center_m + 20.0)
    boxes, score = shifted.select(torch.tensor([0])), torch.tensor([1e-9])
    lone = [dataclasses.replace(perfect[0], boxes=boxes, score=score)]
    evaluator.process(lone + [_emptied(prediction) for prediction in perfect[1:]])
    official = evaluator.evaluate()
    assert official.summary() == metrics.summary()
    nan = {
        (name, error)
        for name, row in official.label_tp_errors.items()
        for error, value in row.items()
        if math.isnan(value)
    }
    assert nan == {
        (name, error)
        for name, row in metrics.label_tp_errors.items()
        for error, value in row.items()
        if math.isnan(value)
    }


def test_metrics_json_and_table(root: Path, tmp_path: Path) -> None:
    evaluator = NuScenesEvaluator(root, mini.VERSION, mini.CUSTOM, tmp_path)
    evaluator.reset()
    evaluator.process(mini.perfect_predictions(mini.load(root), evaluator.tokens))
    metrics = evaluator.evaluate()
    text = evaluator.metrics_path.read_text()

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    json.loads(text, parse_constant=refuse)
    again = DetectionMetrics.from_json(text)
    assert again.to_json() == text
    assert again.label_aps == metrics.label_aps
    table = metrics.table()
    assert "mAP 1.000  NDS 1.000" in table
    cone = next(line for line in table.splitlines() if line.startswith("traffic_cone"))
    assert cone.split() == ["traffic_cone", *["1.000"] * 5, "0.000", "0.000", "-", "-", "-"]
    assert len({len(line) for line in table.splitlines()[3:]}) == 1
    with pytest.raises(ValueError, match="evaluate again"):
        DetectionMetrics.from_json("[]")


def test_errors_name_the_fault(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match=r"no nuScenes tables in .*v9"):
        NuScenesEvaluator(root, "v9", mini.CUSTOM, tmp_path)
    for split, message in [
        ("elsewhere", "elsewhere requested, but not found"),
        ("nothing", "holds no sample"),
        ("train", "holds no sample"),
    ]:
        with pytest.raises(ValueError, match=message):
            NuScenesEvaluator(root, mini.VERSION, split, tmp_path).reset()
    evaluator = NuScenesEvaluator(root, mini.VERSION, mini.CUSTOM, tmp_path)
    with pytest.raises(ValueError, match="call reset"):
        evaluator.process([])
    perfect = mini.perfect_predictions(mini.load(root), evaluator.tokens)
    evaluator.reset()
    evaluator.process(perfect[:-1])
    with pytest.raises(ValueError, match=r"1 of 3 samples were not added.*scene-0916"):
        evaluator.evaluate()
    assert list(tmp_path.iterdir()) == [], "no half file"
    # The devkit ignores foreign samples of a custom split and raises a bare KeyError for missing.
    results = {token: [] for token in evaluator.tokens}
    for change, message in [({"alien": []}, "has foreign 1 samples"), ({}, "refused")]:
        path = tmp_path / "file.json"
        path.write_text(json.dumps({"meta": {}, "results": {**results, **change}}))
        if change:
            with pytest.raises(ValueError, match=message):
                evaluator.evaluate_file(path)
        else:
            assert evaluator.evaluate_file(path).nds == 0.0
    results.popitem()
    path.write_text(json.dumps({"meta": {}, "results": results}))
    with pytest.raises(ValueError, match="lack 1 samples"):
        evaluator.evaluate_file(path)
    with monkeypatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(ModuleNotFoundError, match="pip install 'nuscenes-devkit"):
            NuScenesEvaluator(root, mini.VERSION, mini.CUSTOM, tmp_path, devkit=True)
    with pytest.raises(FileNotFoundError, match="no results file"):
        evaluator.evaluate_file(tmp_path / "none.json")


@pytest.mark.parametrize("devkit", [False, True])
def test_refusal_is_explained(root: Path, tmp_path: Path, devkit: bool) -> None:
    evaluator = NuScenesEvaluator(root, mini.VERSION, mini.CUSTOM, tmp_path, devkit=devkit)
    evaluator.reset()
    evaluator.process(mini.perfect_predictions(mini.load(root), evaluator.tokens))
    evaluator.evaluate()
    content = json.loads(evaluator.results_path.read_text())
    content["results"][evaluator.tokens[0]][0]["detection_name"] = "tram"
    path = tmp_path / "tram.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"tram\.json.*Unknown detection_name '?tram"):
        evaluator.evaluate_file(path)


@pytest.mark.slow
def test_perfect_predictions_of_the_town(tiny_town: Path, tmp_path: Path) -> None:
    evaluator = NuScenesEvaluator(tiny_town, "v1.0-town", "town_val", tmp_path)
    evaluator.reset()
    tables = mini.load(tiny_town, "v1.0-town")
    evaluator.process(mini.perfect_predictions(tables, evaluator.tokens))
    metrics = evaluator.evaluate()
    # A class that the small town lacks scores 0 by rule; the others must be perfect.
    present = {name: ap for name, ap in metrics.mean_dist_aps.items() if ap > 0}
    assert "car" in present
    assert all(ap == pytest.approx(1.0) for ap in present.values()), metrics.table()
    assert validate_submission(evaluator.results_path, tokens=evaluator.tokens).accepted
