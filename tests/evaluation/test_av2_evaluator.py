"""The Argoverse 2 evaluator against the official one, bit by bit, and by hand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import feather

from perception3d.evaluation.av2 import AV2Evaluator
from perception3d.evaluation.av2_match import Rows, match_log
from perception3d.evaluation.av2_metrics import (
    AVERAGE,
    METRIC_NAMES,
    AV2Metrics,
    Tally,
    average_precision,
)
from perception3d.evaluation.av2_roi import RegionOfInterest
from perception3d.evaluation.av2_rules import (
    AV2_CATEGORIES,
    AV2_UNEVALUATED,
    BOX_COLUMNS,
    THRESHOLDS_M,
)
from perception3d.evaluation.av2_tables import DetectionFile, read_truth
from perception3d.structures import taxonomy_av2
from tests.evaluation.av2_cases import (
    Table,
    cat,
    generated_split,
    jittered,
    official,
    read_columns,
    real_split,
    select,
    write_table,
)


def assert_equal(root: Path, names: list[str], detections: Table, *, only_roi: bool = True) -> Any:
    """Every row's columns, every score, unrounded and rounded: the same bits."""
    pytest.importorskip("av2")
    path = write_table(root.parent / f"{root.name}.feather", detections)
    wanted = official(root, names, detections, only_roi=only_roi)
    evaluator = AV2Evaluator(root, root.parent / "out", only_roi=only_roi)
    metrics = evaluator.evaluate_file(path)
    for name, row in metrics.official().items():
        assert tuple(row.values()) == tuple(wanted.table.loc[name, list(METRIC_NAMES)]), name
    for name, values in metrics.categories.items():
        assert values == tuple(wanted.exact.loc[name, list(METRIC_NAMES)]), name
    means = tuple(wanted.exact.mean()[list(METRIC_NAMES)])
    assert tuple(metrics.summary().values()) == means
    _assert_rows_equal(evaluator, path, wanted)
    return metrics


def _assert_rows_equal(evaluator: AV2Evaluator, path: Path, wanted: Any) -> None:
    columns = [*THRESHOLDS_M, "ATE", "ASE", "AOE", "is_evaluated"]
    is_counted = wanted.dts["category"].isin(AV2_CATEGORIES)
    dts = wanted.dts[is_counted]
    gts = wanted.gts[wanted.gts["category"].isin(AV2_CATEGORIES)]
    compared = 0
    with DetectionFile(path) as file:
        for log_id in evaluator.log_ids:
            truth, _ = read_truth(evaluator.root / log_id)
            if log_id not in file.log_ids:
                continue
            rows = file.rows(log_id)
            rows = rows.select(rows.category >= 0)
            found = evaluator.match(log_id, rows, truth)
            ours = np.column_stack((found.right, found.errors, found.evaluated))[found.order]
            theirs = dts[dts["log_id"] == log_id][columns].to_numpy(float)
            np.testing.assert_array_equal(ours, theirs)
            order = np.lexsort((np.arange(len(truth)), truth.category, truth.time_ns))
            theirs = gts[gts["log_id"] == log_id][[4.0, "is_evaluated"]].to_numpy(float)
            ours = np.column_stack((found.truth_claimed, found.truth_evaluated))[order]
            np.testing.assert_array_equal(ours, theirs)
            compared += len(rows)
    assert compared == len(dts)


@pytest.mark.slow
@pytest.mark.parametrize("only_roi", [True, False])
@pytest.mark.parametrize("decimals", [None, 1])
def test_equal_to_the_official_one_on_real_logs(
    realdata: Path, tmp_path: Path, only_roi: bool, decimals: int | None
) -> None:
    root = tmp_path / "val"
    names = real_split(realdata, root)
    assert len(names) == 4
    # A hundred copies of some categories' boxes crowd groups over their limit.
    detections = jittered(root, names, 1, copies=1, decimals=decimals)
    few = np.flatnonzero(detections["timestamp_ns"] == detections["timestamp_ns"][0])
    crowd = select(detections, np.repeat(few, 30))
    rng = np.random.default_rng(2)
    crowd["score"] = rng.random(len(crowd["score"])).round(decimals or 15)
    crowd["tx_m"] = crowd["tx_m"] + rng.normal(0, 3, len(crowd["score"]))
    metrics = assert_equal(root, names, cat([detections, crowd]), only_roi=only_roi)
    assert 0.02 < metrics.summary()["mAP"] < 0.9


@pytest.mark.parametrize("seed", range(10))
def test_equal_on_generated_logs(tmp_path: Path, seed: int) -> None:
    root, names, detections = _generated(tmp_path, seed)
    metrics = assert_equal(root, names, detections, only_roi=seed % 3 != 2)
    assert metrics.num_logs == len(names)


@pytest.mark.slow
def test_equal_on_two_hundred_more(tmp_path: Path) -> None:
    for seed in range(10, 210):
        root, names, detections = _generated(tmp_path / str(seed), seed)
        metrics = assert_equal(root, names, detections, only_roi=seed % 3 != 2)
        assert metrics.num_logs == len(names)


def _generated(folder: Path, seed: int) -> tuple[Path, list[str], Table]:
    root = folder / "val"
    names = generated_split(root, seed)
    rng = np.random.default_rng(seed)
    copies = int(rng.choice([1, 2, 60]))
    detections = jittered(root, names, seed, copies=copies, decimals=[None, 1, 2][seed % 3])
    if seed % 4 == 1:  # boxes exactly on their objects, and on edges of cells
        for axis in ("tx_m", "ty_m", "tz_m", "length_m", "width_m"):
            detections[axis] = np.round(detections[axis] * 4).clip(1e-3) / 4
            detections["qw"][:], detections["qz"][:] = 1.0, 0.0
            detections["qx"][:] = detections["qy"][:] = 0.0
    if seed % 5 == 2:
        detections = select(detections, detections["log_id"] == names[0])
    return root, names, detections


@pytest.mark.parametrize("file", ["detections", "detections_assignment", "detections_identity"])
def test_fixtures_of_the_official_tests(realdata: Path, tmp_path: Path, file: str) -> None:
    labels = read_columns(realdata / "av2_eval_fixtures" / "labels.feather")
    detections = read_columns(realdata / "av2_eval_fixtures" / f"{file}.feather")
    root = tmp_path / "val"
    names = sorted(set(labels["log_id"].tolist()))
    for name in names:
        part = select(labels, labels["log_id"] == name)
        del part["log_id"]
        write_table(root / name / "annotations.feather", part)
    metrics = assert_equal(root, names, detections, only_roi=False)
    if file == "detections_identity":
        assert metrics.categories["REGULAR_VEHICLE"] == (1.0, 0.0, 0.0, 0.0, 1.0)


def test_files_in_any_order_and_in_pieces(tmp_path: Path) -> None:
    root = tmp_path / "val"
    names = generated_split(root, 6, num_logs=4)
    detections = jittered(root, names, 6)
    shuffled = select(detections, np.random.default_rng(6).permutation(len(detections["qw"])))
    evaluator = AV2Evaluator(root, tmp_path)
    wanted = evaluator.evaluate_file(write_table(tmp_path / "d.feather", detections))
    table = feather.read_table(write_table(tmp_path / "s.feather", shuffled))
    feather.write_feather(table, tmp_path / "p.feather", chunksize=37)
    assert evaluator.evaluate_file(tmp_path / "p.feather") == wanted


def test_what_other_writers_make_of_the_columns(tmp_path: Path) -> None:
    root = tmp_path / "val"
    names = generated_split(root, 7)
    detections = jittered(root, names, 7)
    for column in (*BOX_COLUMNS, "score"):
        detections[column] = detections[column].astype(np.float32)
    evaluator = AV2Evaluator(root, tmp_path)
    path = write_table(tmp_path / "d.feather", detections)
    wanted = evaluator.evaluate_file(path)
    table = feather.read_table(path)
    for column, kind in (("log_id", pa.large_string()), ("category", pa.large_string())):
        place = table.column_names.index(column)
        table = table.set_column(place, column, table[column].cast(kind))
    feather.write_feather(table, tmp_path / "large.feather", compression="uncompressed")
    assert evaluator.evaluate_file(tmp_path / "large.feather") == wanted
    for column in ("log_id", "category"):
        place = table.column_names.index(column)
        table = table.set_column(place, column, table[column].dictionary_encode())
    feather.write_feather(table.append_column("more", table["qw"]), tmp_path / "codes.feather")
    assert evaluator.evaluate_file(tmp_path / "codes.feather") == wanted


def test_categories_are_those_of_the_data_set() -> None:
    assert AV2_CATEGORIES == taxonomy_av2.AV2_CLASSES
    assert AV2_UNEVALUATED == taxonomy_av2.AV2_IGNORED_CATEGORIES
    assert list(AV2_CATEGORIES) == sorted(AV2_CATEGORIES)


def test_a_file_is_scored_without_pytorch(tmp_path: Path) -> None:
    root = tmp_path / "val"
    write_table(tmp_path / "d.feather", jittered(root, generated_split(root, 9), 9))
    code = (
        "import sys\nfrom perception3d.evaluation.av2 import AV2Evaluator\n"
        f"AV2Evaluator({str(root)!r}, '.').evaluate_file({str(tmp_path / 'd.feather')!r})\n"
        "print([name for name in ('torch', 'av2') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_no_detections_at_all(tmp_path: Path) -> None:
    root = tmp_path / "val"
    names = generated_split(root, 3)
    none = select(jittered(root, names, 3), slice(0, 0))
    metrics = AV2Evaluator(root, tmp_path).evaluate_file(write_table(tmp_path / "d.feather", none))
    assert set(metrics.categories.values()) == {(0.0, 2.0, 1.0, np.pi, 0.0)}
    assert metrics.official()[AVERAGE] == {
        "AP": 0.0, "ATE": 2.0, "ASE": 1.0, "AOE": 3.142, "CDS": 0.0,
    }  # fmt: skip


def test_the_region_is_the_official_one(realdata: Path, tmp_path: Path) -> None:
    pytest.importorskip("av2")
    import cv2

    log = next(iter(sorted((realdata / "av2_log").glob("*/map")))).parent
    roi = RegionOfInterest.of_log(log)
    from av2.map.map_api import ArgoverseStaticMap

    theirs = ArgoverseStaticMap.from_map_dir(log / "map", build_raster=True)
    np.testing.assert_array_equal(roi.mask, theirs.raster_drivable_area_layer.array)
    distance = cv2.distanceTransform(1 - roi.mask, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    rng = np.random.default_rng(0)
    height, width = roi.mask.shape
    cells = np.column_stack((rng.integers(0, width, 200_000), rng.integers(0, height, 200_000)))
    xy_m = (cells + 0.5) / 10 - roi.origin_xy
    np.testing.assert_array_equal(roi.contains(xy_m), distance[cells[:, 1], cells[:, 0]] <= 50)


def test_the_region_is_cut_at_the_rasters_edge_and_reaches_below_it() -> None:
    # A square of 10 m: the raster ends 1 m beyond its high sides, at 11 m.
    square = np.array([(0.0, 0.0), (10.0, 0.0), (10.0, 10.0), (0.0, 10.0)])
    roi = RegionOfInterest([square])
    assert roi.mask.shape == (110, 110)
    xy_m = np.array([(5, 5), (10.95, 5), (11.05, 5), (-0.05, 5), (-0.15, 5), (10.5, -0.05)])
    assert roi.contains(xy_m).tolist() == [True, True, False, True, False, True]


def rows(*boxes: tuple[float, float], score: tuple[float, ...] = (), category: int = 15) -> Rows:
    """Boxes of 2 x 2 x 2 m at (x, y) in one sweep; truth when there are no scores."""
    box = np.tile([0, 0, 0, 2.0, 2.0, 2.0, 1.0, 0, 0, 0], (len(boxes), 1))
    box[:, :2] = boxes
    codes = np.full(len(boxes), category)
    return Rows(np.zeros(len(boxes), np.int64), codes, box, np.array(score or (5.0,) * len(boxes)))


def test_a_confident_detection_blocks_a_perfect_one() -> None:
    found = match_log(rows((3, 0), (0, 0), score=(0.9, 0.8)), rows((0, 0)))
    assert found.right.tolist() == [[False, False, False, True], [False] * 4]


def test_there_is_no_fall_back_to_a_free_object() -> None:
    found = match_log(rows((0, 0), (0.1, 0), score=(0.9, 0.8)), rows((0, 0), (1.3, 0)))
    assert found.right.tolist() == [[True] * 4, [False] * 4]
    assert found.truth_claimed.tolist() == [True, False]


def test_the_limit_counts_the_best_in_range_before_the_region() -> None:
    boxes = [(150.0, 0.0)] * 3 + [(float(i % 50), 0.0) for i in range(120)]
    score = tuple(1 - i / 1000 for i in range(len(boxes)))
    found = match_log(rows(*boxes, score=score), rows((0, 0)), lambda _, asked: asked & False)
    assert not found.evaluated.any()
    found = match_log(rows(*boxes, score=score), rows((0, 0)))
    assert found.evaluated.tolist() == [False] * 3 + [True] * 100 + [False] * 20


def test_scale_and_heading_errors_by_hand() -> None:
    detection, truth = rows((0, 0), score=(0.5,)), rows((0, 1))
    detection.box[0, 3:6] = 4.0, 1.0, 2.0
    detection.box[0, 6:] = np.cos(np.deg2rad(100)), 0, 0, np.sin(np.deg2rad(100))  # 200 degrees
    errors = match_log(detection, truth).errors[0]
    # min 2 x 1 x 2 over max 4 x 2 x 2; 200 degrees are -160.
    np.testing.assert_allclose(errors, (1.0, 1 - 4 / 16, np.deg2rad(160)))


def test_average_precision_by_hand() -> None:
    # Recalls 1/2, 1/2, 1, precisions 1, 1/2, 2/3: made monotone 1, 2/3, 2/3. So 1 at the 50 recalls
    # below 1/2, and 2/3 at the 51 others.
    right = np.array([True, False, True])
    wanted = (50 * 1.0 + 51 * 2 / 3) / 101
    assert average_precision(right, 2) == pytest.approx(wanted, abs=1e-12)
    # With a third object that nobody found: 2/3 up to a recall of 2/3, then nothing.
    wanted = (34 * 1.0 + 33 * 2 / 3) / 101
    assert average_precision(right, 3) == pytest.approx(wanted, abs=1e-12)
    assert average_precision(right[:0], 2) == 0.0


def test_tallies_merge_exactly_and_metrics_survive_json(tmp_path: Path) -> None:
    root = tmp_path / "val"
    names = generated_split(root, 5, num_logs=3)
    path = write_table(tmp_path / "d.feather", jittered(root, names, 5, decimals=1))
    evaluator = AV2Evaluator(root, tmp_path)
    merged = Tally()
    for part in ((names[2],), (names[0],), (names[1],)):
        merged.merge(evaluator.tally(path, part))
    metrics = evaluator.evaluate_file(path)
    assert merged.metrics() == metrics
    assert AV2Metrics.from_json(metrics.to_json()) == metrics
    assert "REGULAR_VEHICLE" in metrics.table()
    with pytest.raises(ValueError, match="in both parts"):
        merged.merge(merged)
