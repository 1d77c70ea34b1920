"""The index: used again, built again for changed tables, refused when it is not this data set's."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perception3d.datasets.arrays import save_arrays
from perception3d.datasets.index_file import index_path
from perception3d.datasets.nuscenes import (
    ForeignIndexError,
    NuScenesFrames,
    StaleIndexError,
    load_index,
    open_index,
)
from tests.datasets.nuscenes_fixture import VERSION, edit, make_dataset


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("index"))


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    """A data set that a test may damage; without an index."""
    root = tmp_path / "data"
    shutil.copytree(made, root, ignore=shutil.ignore_patterns("index"))
    return root


def check_refused(root: Path, because: str) -> None:
    """The index is refused by both doors, says what to do, and stays as it is."""
    path = index_path(root, VERSION)
    before = path.read_bytes()
    says = rf"{because}.*delete {path} .*or name another cache_dir"
    for door in (
        lambda: open_index(path, root, VERSION),
        lambda: load_index(root, VERSION),
        lambda: NuScenesFrames(root, "made_val"),
    ):
        with pytest.raises(ForeignIndexError, match=says):
            door()
    assert issubclass(ForeignIndexError, ValueError)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def with_header(root: Path, **changes: Any) -> None:
    """Build the index, and write it again with another header."""
    index = load_index(root, VERSION)
    save_arrays(index.path, {**index.header, **changes}, dict(index.arrays))


def test_index_is_used_again(copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    first = load_index(copy, VERSION)
    assert first.path == copy / "index" / f"{VERSION}.npz" and "built in" in caplog.text
    written = first.path.stat()
    caplog.clear()
    assert load_index(copy, VERSION).fingerprint == first.fingerprint and caplog.text == ""
    assert first.path.stat().st_ino == written.st_ino


def test_changed_table_is_told_and_the_index_built_again(
    copy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = load_index(copy, VERSION)
    before = first["box_num_lidar"].copy()
    edit(copy, "sample_annotation", lambda rows: [row.update(num_lidar_pts=77) for row in rows])
    with pytest.raises(StaleIndexError, match=r"other tables \(sample_annotation\.json changed"):
        open_index(first.path, copy, VERSION)
    caplog.set_level(logging.WARNING)
    second = load_index(copy, VERSION)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    line = caplog.records[0].getMessage()
    assert "\n" not in line and str(first.path) in line
    assert "sample_annotation.json changed since" in line and "building it again" in line
    assert first.fingerprint in line and second.fingerprint in line
    assert (second["box_num_lidar"] == 77).all() and second.fingerprint != first.fingerprint
    # Who mapped the old file keeps its contents.
    assert np.array_equal(first["box_num_lidar"], before)
    assert list(first.path.parent.iterdir()) == [first.path]


def test_edit_that_keeps_size_and_time_is_noticed(copy: Path) -> None:
    index = load_index(copy, VERSION)
    path = copy / VERSION / "log.json"
    times = path.stat().st_mtime_ns
    path.write_text(path.read_text().replace("2020-01-01", "2021-01-01"))
    os.utime(path, ns=(times, times))
    with pytest.raises(StaleIndexError, match="contents"):
        open_index(index.path, copy, VERSION)


def test_index_of_another_schema_is_refused(copy: Path) -> None:
    with_header(copy, schema=0)
    check_refused(copy, "its schema is 0, expected 2")


def test_index_of_other_conventions_is_refused(copy: Path) -> None:
    with_header(copy, convention="ego frame; size width length height")
    check_refused(
        copy, "its convention is 'ego frame; size width length height', expected 'global frame"
    )


def test_index_of_another_version_is_refused(copy: Path) -> None:
    with_header(copy, version="v1.0-mini")
    check_refused(copy, "its version is 'v1.0-mini', expected 'v1.0-made'")


@pytest.mark.parametrize("change", ["other times", "other tokens", "fewer scenes"])
def test_index_copied_from_another_data_set_is_refused(
    copy: Path, tmp_path: Path, change: str
) -> None:
    other = make_dataset(tmp_path / "other", seed=1 if change == "other times" else 0)
    frames, same = 27, 0
    if change == "other tokens":
        for table in ("sample", "sample_data", "sample_annotation", "scene"):
            path = other / VERSION / f"{table}.json"
            text = path.read_text()
            for row in load_index(copy, VERSION)["sample_token"].tolist():
                text = text.replace(row.decode(), row.decode()[::-1])
            path.write_text(text)
    elif change == "fewer scenes":
        frames = same = 18
        keep_two_scenes(other)
    source = load_index(other, VERSION).path
    target = index_path(copy, VERSION)
    target.parent.mkdir(exist_ok=True)
    shutil.copyfile(source, target)
    check_refused(
        copy,
        rf"index of another data set: found {frames} key frames, expected the 27 of "
        rf"{copy / VERSION}, and {same} are the same",
    )


def keep_two_scenes(root: Path) -> None:
    kept: set[str] = set()

    def samples(rows: list[dict[str, Any]]) -> None:
        rows[:] = rows[:18]
        kept.update(row["token"] for row in rows)

    def drop(rows: list[dict[str, Any]]) -> None:
        rows[:] = [row for row in rows if row["sample_token"] in kept]

    edit(root, "sample", samples)
    for table in ("sample_data", "sample_annotation"):
        edit(root, table, drop)


@pytest.mark.parametrize("content", ["empty", "notes", "other arrays", "other kind"])
def test_file_that_is_no_index_is_refused(copy: Path, content: str) -> None:
    path = index_path(copy, VERSION)
    path.parent.mkdir()
    if content == "empty":
        path.touch()
    elif content == "notes":
        path.write_text("my notes")
    elif content == "other arrays":
        np.savez(path, x=np.arange(3))
    else:
        save_arrays(path, {"kind": "something else"}, {})
        check_refused(copy, "its kind is 'something else', expected 'perception3d nuScenes index'")
        return
    check_refused(copy, f"is not an array file.* expected the index of {copy / VERSION}")


@pytest.mark.parametrize("share", [0.01, 0.5, 0.999])
def test_truncated_index_is_refused(copy: Path, share: float) -> None:
    path = load_index(copy, VERSION).path
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    check_refused(copy, f"cut short .* expected the index of {copy / VERSION}")
    path.unlink()
    assert load_index(copy, VERSION).path.read_bytes() == whole


@pytest.mark.parametrize("stale", [False, True])
def test_half_written_index_is_never_visible(
    copy: Path, monkeypatch: pytest.MonkeyPatch, stale: bool
) -> None:
    path = index_path(copy, VERSION)
    before = None
    if stale:
        before = load_index(copy, VERSION).path.read_bytes()
        edit(copy, "sample_annotation", lambda rows: rows[0].update(num_lidar_pts=77))
    write, written = np.lib.format.write_array, []

    def visible() -> bytes | None:
        return path.read_bytes() if path.exists() else None

    def stop_half_way(*arguments: Any, **settings: Any) -> None:
        assert visible() == before
        if len(written) == 10:
            raise KeyboardInterrupt
        write(*arguments, **settings)
        written.append(arguments)

    monkeypatch.setattr(np.lib.format, "write_array", stop_half_way)
    with pytest.raises(KeyboardInterrupt):
        load_index(copy, VERSION)
    assert len(written) == 10 and visible() == before
    assert list(path.parent.iterdir()) == ([path] if stale else [])
    monkeypatch.undo()
    assert load_index(copy, VERSION).path == path


def test_index_in_a_cache_folder(copy: Path, tmp_path: Path) -> None:
    index = load_index(copy, VERSION, tmp_path / "cache")
    assert index.path.parent == tmp_path / "cache" and not (copy / "index").exists()
