"""Broken submissions: what the validator and the evaluator say, and what the official code does."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from perception3d.evaluation.av2 import AV2Evaluator
from perception3d.evaluation.av2_rules import AV2_CATEGORIES
from perception3d.evaluation.av2_tables import read_sweeps
from perception3d.evaluation.av2_validator import validate_av2_submission
from tests.evaluation.av2_cases import (
    Table,
    cat,
    generated_split,
    jittered,
    official,
    read_columns,
    select,
    write_table,
)

POSE = ("tx_m", "ty_m", "tz_m")


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], Table]:
    """A generated split and fine detections on it: one box a sweep at least, scores apart."""
    root = tmp_path_factory.mktemp("av2") / "val"
    names = generated_split(root, 4)
    detections = jittered(root, names, 4)
    for name, times in read_sweeps(root).items():
        for time_ns in times:
            extra = select(detections, slice(0, 1))
            extra["log_id"] = np.array([name], object)
            extra["timestamp_ns"] = np.array([time_ns])
            extra["score"] = np.array([0.5 + time_ns * 1e-5])
            detections = cat([detections, extra])
    near = np.linalg.norm([detections[axis] for axis in POSE], axis=0) < 140
    known = np.isin(detections["category"], AV2_CATEGORIES)
    return root, names, select(detections, near & known)


Mutation = Callable[[Table, Path], Table]


def first(column: str, value: object) -> Mutation:
    """Puts a value into the first row."""

    def mutate(columns: Table, _: Path) -> Table:
        changed = columns[column].copy()
        changed[0] = value
        return {**columns, column: changed}

    return mutate


def cast(column: str, kind: type) -> Mutation:
    """Gives a column another type."""
    return lambda columns, _: {**columns, column: columns[column].astype(kind)}


def without(column: str) -> Mutation:
    """Leaves a column out."""
    return lambda columns, _: {name: v for name, v in columns.items() if name != column}


def as_text(columns: Table, _: Path) -> Table:
    return {**columns, "tx_m": columns["tx_m"].astype(str).astype(object)}


def all_quaternions_longer(columns: Table, _: Path) -> Table:
    return {**columns, **{name: columns[name] * 2 for name in ("qw", "qx", "qy", "qz")}}


def zero_quaternion(columns: Table, _: Path) -> Table:
    for name in ("qw", "qx", "qy", "qz"):
        columns = first(name, 0.0)(columns, _)
    return columns


def without_first_sweep(columns: Table, _: Path) -> Table:
    key = (columns["log_id"] == columns["log_id"][0]) & (
        columns["timestamp_ns"] == columns["timestamp_ns"][0]
    )
    return select(columns, ~key)


def without_first_log(columns: Table, _: Path) -> Table:
    return select(columns, columns["log_id"] != columns["log_id"][0])


def sweep_twice(columns: Table, _: Path) -> Table:
    key = (columns["log_id"] == columns["log_id"][0]) & (
        columns["timestamp_ns"] == columns["timestamp_ns"][0]
    )
    return cat([columns, select(columns, key)])


def in_city(columns: Table, root: Path) -> Table:
    changed = {**columns, **{axis: columns[axis].copy() for axis in POSE}}
    for name in set(columns["log_id"].tolist()):
        poses = read_columns(root / name / "city_SE3_egovehicle.feather")
        for row in np.flatnonzero(columns["log_id"] == name):
            pose = int(np.flatnonzero(poses["timestamp_ns"] == columns["timestamp_ns"][row])[0])
            for axis in POSE:
                changed[axis][row] += poses[axis][pose]
    return changed


def empty(columns: Table, _: Path) -> Table:
    return select(columns, slice(0, 0))


# name: (mutation, our code, whether the evaluator refuses, whether the official code does)
CASES: dict[str, tuple[Mutation, str, bool, bool]] = {
    "column missing": (without("score"), "column-missing", True, True),
    "log column missing": (without("log_id"), "column-missing", True, True),
    "numbers as text": (as_text, "column-type", True, False),
    "time as float": (cast("timestamp_ns", float), "column-type", True, False),
    "score as integer": (cast("score", np.int64), "column-type", True, False),
    "category of another data set": (first("category", "car"), "category-unknown", True, False),
    "category in lower case": (first("category", "pedestrian"), "category-unknown", True, False),
    "NaN in a centre": (first("tx_m", np.nan), "number-not-finite", True, False),
    "NaN score": (first("score", np.nan), "number-not-finite", True, False),
    "infinite length": (first("length_m", np.inf), "number-not-finite", True, False),
    "NaN in a quaternion": (first("qz", np.nan), "number-not-finite", True, True),
    "absurd height": (first("height_m", 1e9), "number-implausible", True, False),
    "negative size": (first("width_m", -1.0), "size-not-positive", True, False),
    "size of zero": (first("length_m", 0.0), "size-not-positive", True, False),
    "zero quaternion": (zero_quaternion, "rotation-zero", True, True),
    "long quaternions": (all_quaternions_longer, "rotation-unnormalised", True, False),
    "foreign log": (first("log_id", "elsewhere"), "log-foreign", True, True),
    "foreign sweep": (first("timestamp_ns", 12), "sweep-foreign", True, True),
    "missing sweep": (without_first_sweep, "sweep-missing", False, False),
    "missing log": (without_first_log, "log-missing", False, False),
    "sweep written twice": (sweep_twice, "sweep-duplicate", False, False),
    "no box": (empty, "all-empty", False, False),
}


@pytest.mark.parametrize("name", CASES)
def test_broken_files(split: tuple[Path, list[str], Table], tmp_path: Path, name: str) -> None:
    root, names, detections = split
    mutate, code, refused, officially_refused = CASES[name]
    changed = mutate(detections, root)
    path = write_table(tmp_path / "d.feather", changed)
    report = validate_av2_submission(path, root)
    errors = {finding.code for finding in report.errors}
    assert code in errors and errors <= {code, "log-missing", "sweep-missing"}, str(report)
    assert "REJECTED" in str(report)
    evaluator = AV2Evaluator(root, tmp_path)
    if refused:
        with pytest.raises(ValueError, match=r"d\.feather"):
            evaluator.evaluate_file(path)
    else:
        evaluator.evaluate_file(path)
    pytest.importorskip("av2")
    if officially_refused:
        with pytest.raises(Exception):  # noqa: B017 (bare KeyError, IndexError, what comes)
            official(root, names, changed)
    else:
        official(root, names, changed)


def test_a_fine_file(split: tuple[Path, list[str], Table], tmp_path: Path) -> None:
    root, _, detections = split
    path = write_table(tmp_path / "d.feather", detections)
    report = validate_av2_submission(path, root)
    assert report.accepted and not report.warnings, str(report)
    assert (report.num_boxes, report.num_samples) == (len(detections["qw"]), 8)
    unchecked = validate_av2_submission(path)
    assert unchecked.accepted
    assert [finding.code for finding in unchecked.warnings] == ["sweeps-unchecked"]


def test_warnings(split: tuple[Path, list[str], Table], tmp_path: Path) -> None:
    root, _, detections = split
    crowd = select(detections, np.zeros(150, int))
    crowd["score"] = np.linspace(0, 2, 150)
    crowd["tx_m"] = np.linspace(0, 200, 150)
    crowd["category"][:3] = "ANIMAL"
    changed = cat([detections, crowd, select(crowd, slice(10, 11))])
    changed["extra"] = np.zeros(len(changed["qw"]))
    report = validate_av2_submission(write_table(tmp_path / "d.feather", changed), root)
    assert report.accepted, str(report)
    assert {finding.code for finding in report.warnings} == {
        "box-duplicate", "box-out-of-range", "category-not-evaluated", "column-unknown",
        "score-range", "scores-equal", "too-many-boxes",
    }  # fmt: skip


def test_boxes_in_the_city_frame(split: tuple[Path, list[str], Table], tmp_path: Path) -> None:
    source, names, detections = split
    root = tmp_path / "val"
    shutil.copytree(source, root)
    for name in names:  # real cities are thousands of metres across
        poses = read_columns(root / name / "city_SE3_egovehicle.feather")
        poses["tx_m"] = poses["tx_m"] + 5000.0
        write_table(root / name / "city_SE3_egovehicle.feather", poses)
    path = write_table(tmp_path / "d.feather", in_city(detections, root))
    report = validate_av2_submission(path, root)
    assert [finding.code for finding in report.errors] == ["frame-city"], str(report)
    assert [f.code for f in validate_av2_submission(path).errors] == ["mostly-out-of-range"]
    with pytest.raises(ValueError, match="seem to be in the city frame"):
        AV2Evaluator(root, tmp_path).evaluate_file(path)


def test_broken_splits(split: tuple[Path, list[str], Table], tmp_path: Path) -> None:
    source, names, detections = split
    path = write_table(tmp_path / "d.feather", detections)
    for part, message in (
        ("map", "0 maps"),
        ("city_SE3_egovehicle.feather", "there is no file"),
    ):
        root = tmp_path / part
        shutil.copytree(source, root)
        target = root / names[1] / part
        shutil.rmtree(target) if target.is_dir() else target.unlink()
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            AV2Evaluator(root, tmp_path).evaluate_file(path)
        AV2Evaluator(root, tmp_path, only_roi=False).evaluate_file(path)
    poses = read_columns(source / names[0] / "city_SE3_egovehicle.feather")
    root = tmp_path / "few"
    shutil.copytree(source, root)
    write_table(root / names[0] / "city_SE3_egovehicle.feather", select(poses, slice(0, 1)))
    with pytest.raises(ValueError, match="has no pose at"):
        AV2Evaluator(root, tmp_path).evaluate_file(path)
    annotations = read_columns(source / names[0] / "annotations.feather")
    del annotations["num_interior_pts"]
    write_table(root / names[0] / "annotations.feather", annotations)
    with pytest.raises(ValueError, match="num_interior_pts is missing"):
        AV2Evaluator(root, tmp_path).evaluate_file(path)
    with pytest.raises(FileNotFoundError, match="folder of the split"):
        AV2Evaluator(tmp_path, tmp_path)


@pytest.mark.parametrize("content", [b"", b"ARROW1", b"{}", b"ARROW1\0\0" + b"\7" * 500])
def test_files_that_are_no_feather(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "d.feather"
    path.write_bytes(content)
    report = validate_av2_submission(path)
    assert [finding.code for finding in report.errors] == ["feather-malformed"], str(report)
    assert validate_av2_submission(tmp_path / "none").errors[0].code == "file-missing"


def test_truncated_and_overwritten_files_never_raise(
    split: tuple[Path, list[str], Table], tmp_path: Path
) -> None:
    root, _, detections = split
    whole = write_table(tmp_path / "d.feather", detections).read_bytes()
    rng = np.random.default_rng(0)
    for trial in range(60):
        content = bytearray(whole)
        if trial % 2:
            del content[int(rng.integers(8, len(content))) :]
        else:
            place = int(rng.integers(8, len(content) - 8))
            content[place : place + 4] = rng.bytes(4)
        path = tmp_path / "broken.feather"
        path.write_bytes(content)
        report = validate_av2_submission(path, root)
        assert trial % 2 == 0 or not report.accepted
