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
    out = tmp_path / "whole.png"
    done = predict(tiny_town, "--frame", "2", "--drop", "lidar", "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert f"untrained: {out}" in done.stdout
    image = cv2.imread(str(out))
    assert image.shape[1] > 2 * 900 and image.std() > 5


def test_a_frame_that_is_not_there(tiny_town: Path, tmp_path: Path) -> None:
    done = predict(tiny_town, "--frame", "6", "--out", str(tmp_path / "none.png"))
    assert done.returncode != 0 and not (tmp_path / "none.png").exists()
    assert "--frame 6: town_val has frames 0 to 5" in done.stderr
