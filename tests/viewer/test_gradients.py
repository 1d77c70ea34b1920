"""Curves of balancing from a run's log."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from perception3d.viewer.gradients import draw_gradients, read_gradients


def log(folder: Path) -> Path:
    lines = []
    for step in (10, 20, 30):
        made = {
            "norm": {"detection": 1.0 / step, "segmentation": 0.01},
            "cosine": {"detection segmentation": -0.1},
            "weight": {"detection": 0.2, "segmentation": 1.8},
            "modality_norm": {"camera": 1e-3, "lidar": 2e-3},
            "modality_scale": {"camera": 1.5, "lidar": 0.75},
        }
        lines.append(json.dumps({"step": step, "loss": 1.0, "gradients": made}))
    path = folder / "metrics.jsonl"
    path.write_text("\n".join([*lines, '{"step": 40, "gradie']))
    return path


def test_curves_are_read_past_a_torn_line(tmp_path: Path) -> None:
    curves = read_gradients(log(tmp_path))
    assert curves["norm"]["detection"] == [(10, 0.1), (20, 0.05), (30, pytest.approx(1 / 30))]
    assert set(curves) == {"norm", "cosine", "weight", "modality_norm", "modality_scale"}


def test_a_picture_of_five_rows(tmp_path: Path) -> None:
    import cv2

    out = draw_gradients(log(tmp_path), tmp_path / "pictures" / "gradients.png")
    image = cv2.imread(str(out))
    assert image.shape == (1260, 1080, 3) and image.std() > 5
    assert [p.name for p in out.parent.iterdir()] == ["gradients.png"]


def test_runs_without_balancing_say_so(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2.0}\n')
    with pytest.raises(ValueError, match="has no fork and no balance"):
        read_gradients(path)
    with pytest.raises(FileNotFoundError, match="name the folder of a run"):
        read_gradients(tmp_path / "other.jsonl")
