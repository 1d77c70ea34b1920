"""The index of an Argoverse 2 split: the same from one process and four; stale, foreign."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from perception3d.datasets.av2 import AV2Frames, load_index
from perception3d.datasets.nuscenes import ForeignIndexError
from tests.datasets.av2_fixture import make_log


@pytest.fixture()
def root(tmp_path: Path) -> Path:
    for seed in range(2):
        make_log(tmp_path / "val" / f"log-{seed}", sweeps=2, seed=seed, images=False)
    return tmp_path


@pytest.mark.slow
def test_one_and_four_processes_write_the_same_bytes(tmp_path: Path) -> None:
    for seed in range(5):
        make_log(tmp_path / "val" / f"log-{seed}", sweeps=2, seed=seed, images=False)
    one = load_index(tmp_path, "val", tmp_path / "one", workers=1)
    four = load_index(tmp_path, "val", tmp_path / "four", workers=4)
    assert one.path.read_bytes() == four.path.read_bytes()


def test_an_index_is_made_once(root: Path) -> None:
    path = load_index(root, "val").path
    assert path == root / "index" / "av2_val.npz"
    before = path.stat().st_mtime_ns
    load_index(root, "val")
    assert path.stat().st_mtime_ns == before


def test_changed_logs_are_read_again_with_a_reason(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = AV2Frames(root, "val").fingerprint
    make_log(root / "val" / "log-2", sweeps=2, images=False)
    assert len(AV2Frames(root, "val")) == 6
    assert "1 logs were added (log-2); building it again" in caplog.text
    shutil.rmtree(root / "val" / "log-2")
    assert AV2Frames(root, "val").fingerprint == first
    assert "1 logs were removed (log-2)" in caplog.text
    poses = root / "val" / "log-1" / "city_SE3_egovehicle.feather"
    os.utime(poses, ns=(1, 1))
    assert AV2Frames(root, "val").fingerprint == first
    assert "1 logs were changed (log-1)" in caplog.text


def test_a_sweep_that_comes_later_counts(root: Path) -> None:
    (lost, _) = sorted((root / "val" / "log-0" / "sensors" / "lidar").iterdir())
    data = lost.read_bytes()
    lost.unlink()
    with pytest.raises(FileNotFoundError, match="1 of 4"):
        AV2Frames(root, "val")
    lost.write_bytes(data)
    assert len(AV2Frames(root, "val")) == 4


def test_a_copy_has_the_same_fingerprint(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "val", tmp_path / "copy" / "val")
    assert AV2Frames(tmp_path / "copy", "val").fingerprint == AV2Frames(root, "val").fingerprint


@pytest.mark.parametrize("keep", [0, 100, -10])
def test_half_an_index_is_refused_and_left_alone(root: Path, keep: int) -> None:
    path = load_index(root, "val").path
    cut = path.read_bytes()[:keep]
    path.write_bytes(cut)
    with pytest.raises(ForeignIndexError, match=r"delete .*av2_val.npz"):
        load_index(root, "val")
    assert path.read_bytes() == cut


def test_an_index_of_other_logs_is_refused(root: Path) -> None:
    load_index(root, "val")
    (root / "val").rename(root / "before")
    make_log(root / "val" / "log-9", sweeps=2, images=False)
    with pytest.raises(ForeignIndexError, match="none is the same"):
        load_index(root, "val")
