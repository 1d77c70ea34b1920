"""Making a town on disk: the same bytes every time, whatever stopped it in between."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import orjson
import pytest

from perception3d.datasets.town import build, record, workers
from perception3d.datasets.town.build import STAMP, VERSION, build_town, claim_folder
from perception3d.datasets.town.files import BlobWriter
from perception3d.datasets.town.settings import ScenePlan, plan_scenes
from tests.town_fixture import SMALL, quiet

ROOT = Path(__file__).parents[2]


#: Each makes a town, or parts of one.
pytestmark = pytest.mark.slow


def digests(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.md5(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def small_town(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("small") / "town"
    build_town(root, SMALL, processes=1, report=quiet)
    return root


def test_layout_of_the_folder(small_town: Path) -> None:
    names = {path.name for path in (small_town / VERSION).iterdir()}
    tables = "attribute calibrated_sensor category ego_pose instance log map sample"
    tables += " sample_annotation sample_data scene sensor visibility splits"
    assert names == {f"{name}.json" for name in tables.split()}
    assert {p.name for p in small_town.iterdir()} == {"maps", "samples", "sweeps", VERSION, STAMP}
    splits = orjson.loads((small_town / VERSION / "splits.json").read_bytes())
    assert splits == {"town_train": ["scene-0001"], "town_val": ["scene-0002"]}


def test_tables_obey_the_format(small_town: Path) -> None:
    def table(name: str) -> list[dict]:
        return orjson.loads((small_town / VERSION / f"{name}.json").read_bytes())

    samples = {row["token"]: row for row in table("sample")}
    poses = {row["token"]: row for row in table("ego_pose")}
    rows = table("sample_data")
    assert len(poses) == len(rows)
    by_token = {row["token"]: row for row in rows}
    for row in rows:
        assert (small_town / row["filename"]).is_file()
        assert row["timestamp"] == poses[row["ego_pose_token"]]["timestamp"]
        sample = samples[row["sample_token"]]
        if not row["is_key_frame"]:
            # It belongs to the sample that FOLLOWS.
            assert row["filename"].startswith("sweeps/")
            assert 0 < sample["timestamp"] - row["timestamp"] < 500_000
        if row["next"]:
            assert by_token[row["next"]]["prev"] == row["token"]
            assert by_token[row["next"]]["timestamp"] > row["timestamp"]
    for row in table("sample_annotation"):
        assert len(row["size"]) == 3
        assert row["translation"][2] == pytest.approx(row["size"][2] / 2)
        assert row["num_radar_pts"] == 0
        assert len(row["attribute_tokens"]) <= 1
        assert row["visibility_token"] in {"1", "2", "3", "4"}
    cameras = [row for row in rows if row["fileformat"] == "jpg"]
    assert {(row["width"], row["height"]) for row in cameras} == {(80, 45)}
    # Two key frames half a second apart at 12 Hz: six steps from one to the other.
    assert sum(not row["is_key_frame"] for row in cameras) == 2 * 6 * 5


def test_points_inside_counts_faces_and_leaves_out_neighbours() -> None:
    points = np.array([[1.0, 0, 0], [2.0, 0, 1.0], [2.01, 0, 1.0], [0, 1.0, 0.5], [0, 0, 2.5]])
    poses = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, np.pi / 2]])
    sizes = np.array([[4.0, 2.0, 2.0], [4.0, 2.0, 2.0]])
    assert record.points_inside(points, poses, sizes).tolist() == [3, 2]


def test_two_processes_give_the_same_bytes(small_town: Path, tmp_path: Path) -> None:
    build_town(tmp_path / "town", SMALL, processes=2, report=quiet)
    assert digests(tmp_path / "town") == digests(small_town)


def test_a_stopped_town_goes_on(
    small_town: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "town"
    written = 0
    original = BlobWriter.write

    def interrupted(self: BlobWriter, name: str, data: bytes) -> None:
        nonlocal written
        written += 1
        if written == 60:  # in the second scene
            raise KeyboardInterrupt
        original(self, name, data)

    monkeypatch.setattr(BlobWriter, "write", interrupted)
    lines: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        build_town(root, SMALL, processes=1, report=lines.append)
    assert "run the same command again" in lines[-1]
    monkeypatch.undo()
    build_town(root, SMALL, processes=1, report=lines.append)
    assert any("1 of 2 scenes are there" in line for line in lines)
    assert digests(root) == digests(small_town)


def test_disk_full_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Path.write_bytes

    def full(self: Path, data: bytes) -> int:
        if len(data) > 100_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(self, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match=r"disk full after 0 of 2 scenes.*same command again"):
        build_town(tmp_path / "town", SMALL, processes=1, report=quiet)


def test_other_settings_are_refused(small_town: Path) -> None:
    other = dataclasses.replace(SMALL, density=0.5, seed=12)
    with pytest.raises(ValueError, match=r"density 0.4 \(asked for: 0.5\).*seed 11"):
        build_town(small_town, other, report=quiet)


def test_other_generator_version_is_refused(
    small_town: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perception3d.datasets.town.settings.GENERATOR_VERSION", "0-other")
    with pytest.raises(ValueError, match="generator_version"):
        claim_folder(small_town, SMALL)


def test_a_foreign_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(ValueError, match="not empty"):
        build_town(tmp_path, SMALL, report=quiet)
    assert [p.name for p in tmp_path.iterdir()] == ["precious.txt"]


def test_a_complete_town_is_left_alone(small_town: Path) -> None:
    lines: list[str] = []
    counts = build_town(small_town, SMALL, report=lines.append)
    assert "complete" in lines[0]
    assert set(counts) == {"town_train", "town_val"}


def test_progress_tells_the_time_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 100.0

    def make(root: Path, settings: object, plan: ScenePlan) -> str:
        nonlocal now_s
        now_s += 10.0 + plan.index
        return plan.name

    monkeypatch.setattr(build, "_make_scene", make)
    monkeypatch.setattr(workers, "time", SimpleNamespace(monotonic=lambda: now_s))
    lines: list[str] = []
    settings = dataclasses.replace(SMALL, train_scenes=3, val_scenes=0)
    build._make_scenes(tmp_path, settings, list(plan_scenes(settings)), 1, lines.append)
    assert lines == [
        "scene-0001 done (1 of 3), 10 s, about 20 s left",
        "scene-0002 done (2 of 3), 21 s, about 10 s left",
        "scene-0003 done (3 of 3), 33 s, about 0 s left",
    ]


@pytest.mark.parametrize("processes", [1, 2])
def test_killed_and_resumed_gives_the_same_bytes(
    small_town: Path, tmp_path: Path, processes: int
) -> None:
    root = tmp_path / "town"
    command = [sys.executable, "tools/make_town.py", "--out", str(root)]
    command += ["--processes", str(processes), "--camera-sweeps"]
    for name, value in dataclasses.asdict(SMALL).items():
        if name not in ("quotas", "camera_sweeps"):
            command += [f"--{name.replace('_', '-')}", str(value)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    child = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        begin = time.monotonic()
        while not list(root.glob("samples/LIDAR_TOP/*")):
            assert time.monotonic() - begin < 120, "nothing was written"
            assert child.poll() is None
            time.sleep(0.02)
        child.send_signal(signal.SIGKILL)
        child.wait()
        # The pipe ends with the last process that could write into it: none outlives the parent.
        child.communicate(timeout=10)
    except BaseException:  # leave no process behind when the test fails
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        raise
    assert not (root / VERSION).exists()
    subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
    assert digests(root) == digests(small_town)


WORKER = """
import os, sys, time
from perception3d.datasets.town import workers
if sys.argv[1] == "thread":
    workers._end_by_kernel = lambda: False
workers.end_with_parent(int(sys.argv[2]))
print("working", flush=True)
time.sleep(60)
"""
PARENT = """
import os, subprocess, sys
subprocess.run([sys.executable, "-c", sys.argv[1], sys.argv[2], str(os.getpid())])
"""


@pytest.mark.parametrize("how", ["kernel", "thread"])
def test_a_worker_ends_with_its_parent(how: str) -> None:
    command = [sys.executable, "-c", PARENT, WORKER, how]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"working\n"
        parent.kill()
        parent.communicate(timeout=10)  # returns once the worker's end of the pipe is closed too


def test_a_worker_whose_parent_is_gone_does_not_begin() -> None:
    nobody = "0"
    command = [sys.executable, "-c", WORKER, "kernel", nobody]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (1, b"")
