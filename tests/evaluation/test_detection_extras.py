"""Slices, intervals, comparison, worst frames, plots and the command line."""

from __future__ import annotations

import copy
import importlib.util
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perception3d.evaluation.detection import DetectionResult, evaluate_part
from perception3d.evaluation.detection_bootstrap import bootstrap, compare
from perception3d.evaluation.detection_file import read_results
from perception3d.evaluation.detection_frames import worst_frames
from perception3d.evaluation.detection_slices import (
    by_location,
    by_range,
    by_time,
    by_visibility,
    present_summary,
)
from perception3d.evaluation.detection_split import find_version
from perception3d.evaluation.detection_truth import DetectionTruth, load_truth
from tests.evaluation import detection_cases as cases

pytest.importorskip("nuscenes")

TOOL = Path(__file__).parents[2] / "tools" / "evaluate.py"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Scene 0916 is at night and elsewhere; splits hold one scene each, too."""
    folder = tmp_path_factory.mktemp("extras")
    root = cases.build(folder / "data", 5)
    tables = root / cases.VERSION
    scenes = json.loads((tables / "scene.json").read_text())
    for row in scenes:
        at_night = row["name"] == cases.SCENES[1]
        row["description"] = "Night, rain" if at_night else "Many trucks"
        row["log_token"] = "log2" if at_night else "log"
    (tables / "scene.json").write_text(json.dumps(scenes))
    logs = [
        {"token": "log", "location": "boston-seaport"},
        {"token": "log2", "location": "singapore-queenstown"},
    ]
    (tables / "log.json").write_text(json.dumps(logs))
    maps = [{"token": "map", "log_tokens": ["log", "log2"], "filename": "maps/empty.png"}]
    (tables / "map.json").write_text(json.dumps(maps))
    splits = {
        cases.CUSTOM: cases.SCENES[:2],
        "first": cases.SCENES[:1],
        "second": cases.SCENES[1:2],
    }
    (tables / "splits.json").write_text(json.dumps(splits))
    document = cases.predictions(cases.load(root, cases.VERSION), 5)
    for boxes in document["results"].values():  # those quirks cross samples
        for box in boxes:
            box.pop("num_pts", None)
    for token, boxes in document["results"].items():
        for box in boxes:
            box["sample_token"] = token
    (folder / "results.json").write_text(json.dumps(document))
    return root, document


def evaluated(world: tuple[Path, dict[str, Any]], split: str = cases.CUSTOM) -> (
    tuple[DetectionResult, DetectionTruth]
):  # fmt: skip
    truth = load_truth(world[0], cases.VERSION, split)
    path = world[0].parent / "results.json"
    return evaluate_part(read_results(path, truth, allow_foreign=True), truth), truth


def changed(world: tuple[Path, dict[str, Any]], change: Callable[[list[Any]], Any]) -> Path:
    document = copy.deepcopy(world[1])
    for boxes in document["results"].values():
        change(boxes)
    path = world[0].parent / "changed.json"
    path.write_text(json.dumps(document))
    return path


def test_place_and_time_are_evaluations_of_their_samples(
    world: tuple[Path, dict[str, Any]],
) -> None:
    result, truth = evaluated(world)
    alone = {split: evaluated(world, split)[0].scores for split in ("first", "second")}
    places, times = by_location(result, truth), by_time(result, truth)
    assert [part.name for part in places] == ["boston-seaport", "singapore-queenstown"]
    assert [part.name for part in times] == ["day", "night"]
    for parts in (places, times):
        for part, split in zip(parts, ("first", "second")):
            assert np.array_equal(part.scores.label_aps, alone[split].label_aps)
            assert np.array_equal(
                part.scores.label_tp_errors, alone[split].label_tp_errors, equal_nan=True
            )


def test_range_and_visibility_share_out_the_boxes(world: tuple[Path, dict[str, Any]]) -> None:
    result, truth = evaluated(world)
    whole = result.matched.class_counts()
    for parts in (by_range(result, truth), by_visibility(result, truth)):
        assert (sum(part.num_boxes for part in parts) == whole).all()
        assert len({part.scores.mean_ap for part in parts}) == len(parts)
    (one,) = by_range(result, truth, (0.0, 50.0))
    assert np.array_equal(one.scores.label_aps, result.scores.label_aps)
    with pytest.raises(ValueError, match="ascend"):
        by_range(result, truth, (10.0, 0.0))


def test_summary_of_present_classes(world: tuple[Path, dict[str, Any]]) -> None:
    result, _ = evaluated(world)
    everywhere = present_summary(result.scores, np.ones(10, int))
    assert everywhere["mAP"] == pytest.approx(result.scores.mean_ap)
    assert everywhere["NDS"] == pytest.approx(result.scores.nds)
    cars = present_summary(result.scores, np.eye(10, dtype=int)[0])
    assert cars["mAP"] == pytest.approx(result.scores.mean_dist_aps[0])
    assert math.isnan(present_summary(result.scores, np.zeros(10, int))["NDS"])


def test_intervals(world: tuple[Path, dict[str, Any]]) -> None:
    result, truth = evaluated(world)
    once = np.ones(len(truth.tokens), int)
    again = result.matched.curves(times=once)
    assert all((again[key].errors == curve.errors).all() for key, curve in result.curves.items())
    found = bootstrap(result, truth, draws=8)
    assert found == bootstrap(result, truth, draws=8)
    firsts = [evaluated(world, split)[0] for split in ("first", "second")]
    # Of two scenes there are three draws: either one twice, or both.
    values = [present_summary(r.scores, r.matched.class_counts())["NDS"] for r in firsts]
    assert found["NDS"].low <= found["NDS"].value
    assert found["NDS"].high == pytest.approx(max(*values, found["NDS"].value), abs=0.05)
    with pytest.raises(ValueError, match="one scene"):
        bootstrap(firsts[0], load_truth(world[0], cases.VERSION, "first"), draws=3)


def test_comparison_in_pairs(world: tuple[Path, dict[str, Any]]) -> None:
    result, truth = evaluated(world)
    same = compare(result, result, truth, draws=5)
    assert all(i.value == i.low == i.high == i.share_above_zero == 0 for i in same.values())

    def widen(boxes: list[Any]) -> None:
        for box in boxes:
            box["size"] = [value * 3 for value in box["size"]]

    worse = evaluate_part(read_results(changed(world, widen), truth), truth)
    found = compare(result, worse, truth, draws=5)
    assert found["scale_err"].low > 0 and found["scale_err"].share_above_zero == 1.0
    assert found["mAP"].value == 0.0 and found["NDS"].high < 0


def test_worst_frames(world: tuple[Path, dict[str, Any]]) -> None:
    result, truth = evaluated(world)
    frames = worst_frames(result, truth, 100)
    assert {frame.token for frame in frames} == set(truth.tokens)
    mistakes = [frame.missed + frame.false for frame in frames]
    assert mistakes == sorted(mistakes, reverse=True) and mistakes[0] > 0
    assert all(frame.missed <= frame.num_boxes for frame in frames)
    nothing = evaluate_part(read_results(changed(world, list.clear), truth), truth)
    frames = worst_frames(nothing, truth, 2)
    assert all(frame.missed == frame.num_boxes and frame.false == 0 for frame in frames)


def run(*words: str | Path) -> tuple[int, str]:
    import contextlib
    import io

    import tyro

    spec = importlib.util.spec_from_file_location("evaluate_tool", TOOL)
    assert spec is not None and spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        status = tyro.cli(tool.main, args=[str(word) for word in words])
    return status, output.getvalue()


@pytest.mark.slow
def test_command(world: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    root, document = world
    results = root.parent / "results.json"
    where = ("--data", root, "--split", cases.CUSTOM)
    status, text = run(
        results, *where, "--by", "range", "visibility", "location", "time", "--draws", "5",
        "--worst", "3", "--plots", tmp_path, "--save", tmp_path,
    )  # fmt: skip
    assert status == 0, text
    for part in ("0-10 m", "visible 40-60 %", "singapore-queenstown", "night", "95 % intervals"):
        assert part in text
    summary = json.loads((tmp_path / "metrics_summary.json").read_text())
    assert f"NDS {summary['nd_score']:.3f}" in text
    assert (tmp_path / "precision_recall.png").stat().st_size > 10_000
    assert f"NDS {summary['nd_score']:.3f}" in run(results, *where, "--devkit")[1]
    assert "mAP     0.0000  [  0.0000,   0.0000]" in run(results, *where, "--compare", results)[1]
    halves = []
    for half in range(2):
        tokens = list(document["results"])[half::2]
        part = {**document, "results": {token: document["results"][token] for token in tokens}}
        halves.append(tmp_path / f"{half}.json")
        halves[-1].write_text(json.dumps(part))
    assert f"NDS {summary['nd_score']:.3f}" in run(*halves, *where)[1]
    assert "lack 4 samples" in run(halves[0], *where)[1]
    status, text = run(tmp_path / "none.json", *where)
    assert status == 1 and "no results file" in text
    status, text = run(results, "--data", root, "--split", "elsewhere")
    assert status == 1 and "no version offers the split 'elsewhere'" in text
    assert find_version(root, "mini_val") == cases.VERSION
    with pytest.raises(FileNotFoundError, match="no nuScenes version"):
        find_version(tmp_path, "val")


@pytest.mark.slow
def test_command_needs_neither_devkit_nor_torch(world: tuple[Path, dict[str, Any]]) -> None:
    root = world[0]
    words = ["evaluate.py", str(root.parent / "results.json"), "--data", str(root)]
    code = (
        "import runpy, sys; sys.modules['nuscenes'] = None\n"
        f"sys.argv = {[*words, '--split', cases.CUSTOM]!r}\n"
        "try:\n"
        f"    runpy.run_path({str(TOOL)!r}, run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    print('status', end.code, 'torch' in sys.modules, 'matplotlib' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=TOOL.parents[1]
    )
    assert done.returncode == 0, done.stderr
    assert "mAP" in done.stdout and "status 0 False False" in done.stdout
