"""Our evaluator and the devkit on generated data: equal to the last digit, and equal verdicts."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("nuscenes")

from perception3d.evaluation.detection_truth import load_truth
from tests.evaluation import detection_cases as cases


def check(tmp_path: Path, seed: int, split: str, ties: bool) -> float:
    root = cases.build(tmp_path / "data", seed)
    tables = cases.load(root, cases.VERSION)
    document = cases.predictions(tables, seed, ties=ties)
    assert cases.compare(root, tables, document, split, tmp_path) == "equal"
    found = cases.ours(root, tmp_path / "results.json", split)
    assert isinstance(found, dict)
    return float(found["mean_ap"])


@pytest.mark.parametrize("seed", range(10))
def test_every_curve_and_figure(tmp_path: Path, seed: int) -> None:
    split = (cases.CUSTOM, cases.PREDEFINED)[seed % 2]
    assert check(tmp_path, seed, split, ties=seed % 3 > 0) > 0.005


@pytest.mark.slow
def test_every_curve_and_figure_of_many(tmp_path: Path) -> None:
    for seed in range(10, 200):
        split = (cases.CUSTOM, cases.PREDEFINED)[seed % 2]
        check(tmp_path / str(seed), seed, split, ties=seed % 3 > 0)


@pytest.mark.slow
@pytest.mark.parametrize("split", ["town_val", "town_train"])
def test_on_the_town(tiny_town: Path, tmp_path: Path, split: str) -> None:
    tables = cases.load(tiny_town, "v1.0-town")
    tokens = list(load_truth(tiny_town, "v1.0-town", split).tokens)
    for seed, ties in ((1, True), (2, False)):
        document = cases.predictions(tables, seed, tokens=tokens[::-1], ties=ties)
        verdict = cases.compare(tiny_town, tables, document, split, tmp_path, "v1.0-town")
        assert verdict == "equal"
