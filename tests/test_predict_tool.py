"""tools/predict.py: a picture of what a model says of one sample."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent


def predict(town: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "tools/predict.py", "configs/fuller_joint.py", "untrained"]
    command += ["--size", "study", "--data", str(town), *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_truth_beside_prediction(tiny_town: Path, tmp_path: Path) -> None:
    pictures = []
    for probability in ("0.0001", "0.9999"):  # the whole map, and nothing of it
        out = tmp_path / f"{probability}.png"
        flags = ("--frame", "2", "--drop", "lidar", "--probability", probability)
        done = predict(tiny_town, *flags, "--out", str(out))
        assert done.returncode == 0, done.stderr
        assert f"untrained: {out}" in done.stdout
        pictures.append(cv2.imread(str(out))[100:900].astype(int))  # between title and legend
    whole, none = pictures
    assert whole.shape[1] > 2 * 900
    assert (whole[:, :900] == none[:, :900]).all()  # the truth
    brighter = (whole - none)[:, 910:].sum(axis=-1) > 30
    assert brighter.mean() > 0.5


def test_what_is_not_there(tiny_town: Path, tmp_path: Path) -> None:
    done = predict(tiny_town, "--frame", "6", "--out", str(tmp_path / "none.png"))
    assert done.returncode != 0 and not (tmp_path / "none.png").exists()
    assert "--frame 6: town_val has frames 0 to 5" in done.stderr
    for flags, words in (
        (("--probability", "5"), "--probability 5.0: give a number in (0, 1)"),
        (("--drop", "CAM_ROOF"), "there is no sensor 'CAM_ROOF' to drop"),
    ):
        done = predict(tiny_town, *flags)
        assert done.returncode != 0 and words in done.stderr
