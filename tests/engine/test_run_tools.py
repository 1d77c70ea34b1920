"""The tools as programs: what they print, and how they end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_run_commands import tool

from perception3d.datasets.locate import locate
from tests.evaluation import mini_nuscenes as mini

REPOSITORY = Path(__file__).parents[2]
TOY = Path(__file__).with_name("toy_config.py")
ORACLE = Path(__file__).with_name("nuscenes_config.py")


def start(name: str, *flags: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, f"tools/{name}.py", *map(str, flags)],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mini.build(tmp_path_factory.mktemp("data") / "mini")


@pytest.mark.slow
def test_the_data_are_named_once(data: Path, tmp_path: Path) -> None:
    process = start("submit", ORACLE, "untrained", "--data", data, "--root", tmp_path)
    out, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    line = f"data: {data} (v1.0-mini, asked for; validate on mini_val)"
    assert (out + said).splitlines().count(line) == 1
    # To continue a run its config is built twice.
    process = start("train", ORACLE, "--data", data, "--root", tmp_path, "--resume")
    _, said = process.communicate(timeout=120)
    assert process.returncode == 1 and said.splitlines().count(line) == 1
    assert "no run called 'oracle'" in said


def test_the_test_set_alone_can_be_predicted(tmp_path: Path) -> None:
    version = tmp_path / "v1.0-test"
    version.mkdir()
    (version / "sample.json").write_text("[]")
    found = locate(tmp_path, val_split="test")
    assert (found.version, found.val_split, found.kind) == ("v1.0-test", "test", "nuscenes")
    with pytest.raises(ValueError, match="has a split to train on"):
        locate(tmp_path)
    with pytest.raises(ValueError, match=r"has the split 'tset'; found v1\.0-test \(test\)"):
        locate(tmp_path, val_split="tset")
    # Beside data to train on it takes nothing away from them.
    shutil.copytree(version, tmp_path / "v1.0-trainval")
    both = locate(tmp_path, val_split="test")
    assert (both.version, both.train_split, both.val_split) == ("v1.0-test", "train", "test")
    assert locate(tmp_path).version == "v1.0-trainval"


@pytest.mark.parametrize("name", ["test", "submit"])
def test_predictions_in_the_wrong_frame_are_noticed(
    name: str, data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("nuscenes")
    flags = ["--data", str(data), "--root", str(tmp_path)]
    assert tool(name).main([str(ORACLE), "untrained", *flags]) == 0
    said = capfd.readouterr().out
    assert "accepted" in said and "out-of-range" not in said
    assert tool(name).main([str(ORACLE), "untrained", *flags, "--wrong-frame"]) == 1
    assert "mostly-out-of-range" in capfd.readouterr().out


def interrupt(process: subprocess.Popen[str], ready: Callable[[], bool]) -> tuple[str, str]:
    """Ctrl-C, which a terminal sends to every process of a command; returns stdout and stderr."""
    for _ in range(6000):
        if ready():
            break
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    return process.communicate(timeout=120)


def told(pid: int | str, what: str) -> str:
    """A file of /proc about a process: maps (what it has loaded), cmdline."""
    try:
        return Path(f"/proc/{pid}/{what}").read_text()
    except OSError:
        return ""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("name", ["train", "test", "submit", "validate", "make_town"])
def test_ctrl_c_during_the_imports(name: str, tmp_path: Path) -> None:
    library = "cv2" if name == "make_town" else "libtorch"
    flags: dict[str, tuple[object, ...]] = {
        "train": (TOY, "--root", tmp_path),
        "validate": (tmp_path / "none.json",),
        "make_town": ("--out", tmp_path / "town"),
    }
    process = start(name, *flags.get(name, (TOY, "untrained", "--root", tmp_path)))
    out, said = interrupt(process, lambda: library in told(process.pid, "maps"))
    assert process.returncode == 130, (out, said)
    assert (out + said).split() == ["stopped"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "place", "line"),
    [
        ("train", "model", "stopped before the first step; nothing is kept"),
        ("test", "predict", "stopped"),
        ("submit", "predict", "stopped"),
    ],
)
def test_ctrl_c_outside_the_steps(name: str, place: str, line: str, tmp_path: Path) -> None:
    weights = () if name == "train" else ("untrained",)
    flags = ("--root", tmp_path, "--pause-s", 20, "--pause-in", place, "--workers", 1)
    process = start(name, TOY, *weights, *flags)
    assert process.stdout is not None and process.stdout.readline() == f"pause in {place}\n"
    out, said = interrupt(process, lambda: True)
    assert process.returncode == 130, said
    assert out == "" and said.strip() == line
    # No half-written file and no run that nobody can continue.
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_ctrl_c_while_a_town_is_made(tmp_path: Path) -> None:
    small: dict[str, Any] = {"train-scenes": 2, "val-scenes": 1, "scene-length-s": 1}
    flags = [word for name, value in small.items() for word in (f"--{name}", value)]
    process = start("make_town", "--out", tmp_path / "town", "--processes", 2, *flags)

    def workers_import() -> bool:
        # Libraries that are imported start short programs of their own; those are not meant.
        children = told(process.pid, f"task/{process.pid}/children").split()
        workers = [child for child in children if "spawn_main" in told(child, "cmdline")]
        return any("cv2" in told(child, "maps") for child in workers)

    out, said = interrupt(process, workers_import)
    assert process.returncode == 130, said
    assert out.strip().endswith(f"run the same command again to go on with {tmp_path / 'town'}")
    assert said == ""
    assert json.loads((tmp_path / "town" / "town.json").read_text())["complete"] is False
