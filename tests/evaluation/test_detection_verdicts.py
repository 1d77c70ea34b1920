"""Files with faults: refused and accepted as the devkit does, and scored to the last digit."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("nuscenes")

from perception3d.evaluation import NuScenesEvaluator
from perception3d.evaluation.detection_file import read_results
from perception3d.evaluation.detection_truth import load_truth
from tests.evaluation import detection_cases as cases
from tests.evaluation import mini_nuscenes as mini
from tests.evaluation import mutations

WORLD = tuple[Path, Any, dict[str, Any]]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> WORLD:
    folder = tmp_path_factory.mktemp("mini")
    root = mini.build(folder)
    tables = mini.load(root)
    evaluator = NuScenesEvaluator(root, mini.VERSION, mini.CUSTOM, folder / "out")
    evaluator.reset()
    evaluator.process(mini.perfect_predictions(tables, evaluator.tokens))
    evaluator.evaluate()
    return root, tables, json.loads(evaluator.results_path.read_text())


@pytest.mark.slow
def test_named_faults(world: WORLD, tmp_path: Path) -> None:
    root, tables, document = world
    verdicts = Counter(
        cases.compare(root, tables, mutations.apply(change, document), mini.CUSTOM, tmp_path)
        for _, change in (*mutations.ERRORS.values(), *mutations.WARNINGS.values())
    )
    assert verdicts.pop("equal") > 40
    assert sum(verdicts.values()) > 60


@pytest.mark.slow
def test_random_faults(world: WORLD, tmp_path: Path) -> None:
    root, tables, document = world
    rng = np.random.default_rng(5)
    verdicts: Counter[str] = Counter()
    for index in range(600):
        text = mutations.random_fault(document, rng)
        split = (mini.CUSTOM, mini.PREDEFINED)[index % 2]
        verdicts[cases.compare(root, tables, text, split, tmp_path)] += 1
    # Faults that matter and faults that do not, both in numbers.
    assert 20 < verdicts["equal"] < 580


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("translation NaN", r"sample 'scene-.*', box 0: translation may not be NaN"),
        ("size negative", r"sizes that are not > 0, first \[.*-4\.0"),
        ("rotation matrix", r"box 0: rotation must hold 4 numbers"),
        ("no velocity", r"box 0: the field velocity is missing; add it"),
        ("velocity text", r"box 0: its velocity does not hold 2 numbers"),
        ("attribute unknown", r"box 0: Unknown attribute_name 'vehicle.flying'; use one of"),
        ("class raw", r"Unknown detection_name 'vehicle.car'; use one of car, truck"),
        ("501 boxes", r"has 501 boxes, allowed are 500; keep the best"),
        ("foreign sample", r"has foreign 1 samples \(split mine: 3\), first 'alien'"),
        ("sample missing", r"lack 1 samples"),
        ("no meta", r"no field meta; add it"),
        ("results a list", r"results must be an object"),
        ("cut in the middle", r"not valid JSON .*cut short"),
        ("box a list", r"a box must be an object"),
    ],
)
def test_what_is_said(world: WORLD, tmp_path: Path, fault: str, message: str) -> None:
    root, _, document = world
    path = tmp_path / "results.json"
    path.write_bytes(mutations.apply(mutations.ERRORS[fault][1], document))
    with pytest.raises(ValueError, match=message):
        NuScenesEvaluator(root, mini.VERSION, mini.CUSTOM, tmp_path).evaluate_file(path)


def test_negative_scores(world: WORLD, tmp_path: Path) -> None:
    root, tables, document = world
    changed = json.loads(json.dumps(document))
    for boxes in changed["results"].values():
        boxes.pop(0)  # a car; where all are found, the official code accepts negative scores
        for box in boxes:
            box["detection_score"] = -0.5
    assert "AssertionError" in cases.compare(root, tables, changed, mini.CUSTOM, tmp_path)
    found = cases.ours(root, tmp_path / "results.json", mini.CUSTOM)
    assert "do not descend (lowest -0.5)" in str(found)


def test_boxes_in_the_vehicle_frame_are_suspected(world: WORLD, tmp_path: Path) -> None:
    root, tables, document = world
    changed = json.loads(json.dumps(document))
    for token, boxes in changed["results"].items():
        ego = tables.get("ego_pose", token)["translation"]
        for box in boxes:
            box["translation"] = [p - q for p, q in zip(box["translation"], ego)]
    path = tmp_path / "results.json"
    path.write_text(json.dumps(changed))
    metrics = NuScenesEvaluator(root, mini.VERSION, mini.CUSTOM, tmp_path).evaluate_file(path)
    assert metrics.nds == 0.0
    assert "near the origin" in metrics.notes[0] and "global frame" in metrics.notes[0]
    assert "note: only 0 of" in metrics.table()


@pytest.mark.parametrize(
    "layout",
    ["plain", "indented", "meta last", "meta holds results", "compact", "odd string", "workers"],
)
def test_layouts_of_the_text(
    world: WORLD, tmp_path: Path, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However the text is laid out and cut, the same boxes are read."""
    root, _, document = world
    truth = load_truth(root, mini.VERSION, mini.CUSTOM)
    path = tmp_path / "results.json"
    path.write_text(json.dumps(document))
    expected = read_results(path, truth)
    for name in ("_PIECE_BYTES", "_BLOCK_BYTES"):  # cut everywhere
        monkeypatch.setattr(f"perception3d.evaluation.detection_pieces.{name}", 200)
    monkeypatch.setattr("perception3d.evaluation.detection_file._LEAST_BYTES", 2000)
    changed = json.loads(json.dumps(document))
    options: dict[str, Any] = {}
    if layout == "indented":
        options = {"indent": 1}
    elif layout == "compact":
        options = {"separators": (",", ":")}
    elif layout == "meta last":
        changed = {"results": changed["results"], "meta": changed["meta"], "more": [{}, {"a": [1]}]}
    elif layout == "meta holds results":
        changed["meta"] = {"results": {"x": [{"y": 1}]}, **changed["meta"]}
    elif layout == "odd string":
        next(iter(changed["results"].values()))[0]["note"] = '}],"}], "results": {'
    path.write_text(json.dumps(changed, **options))
    found = read_results(path, truth, workers=3 if layout == "workers" else 1)
    assert found.counts == expected.counts and found.counts.listed > 20
    for name in ("score", "listed", "turn", "place", "samples"):
        assert (getattr(found, name) == getattr(expected, name)).all(), name
    assert (found.boxes.center_m == expected.boxes.center_m).all()
    assert "use_lidar" in found.meta
