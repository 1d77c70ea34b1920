"""Sensors that fail in a test."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from perception3d.datasets.sensor_drop import SensorDrop, every_drop
from perception3d.structures import SE3, CameraRig, Frame, PointCloud


def frame() -> Frame:
    eye = torch.eye(3).double()
    rig = CameraRig(
        ("CAM_FRONT", "CAM_BACK"),
        eye.expand(2, 3, 3),
        torch.eye(4).double().expand(2, 4, 4),
        torch.tensor([[4, 6], [4, 6]]),
        eye.expand(2, 3, 3),
        torch.zeros(2, dtype=torch.int64),
    )
    points = PointCloud(torch.randn(2000, 3), torch.ones(2000), torch.zeros(2000))
    images = tuple(torch.full((4, 6, 3), 9, dtype=torch.uint8) for _ in range(2))
    return Frame("t", "log", 0, SE3.identity(), SE3.identity(), points, images, rig)


def test_what_is_left() -> None:
    rng = np.random.default_rng(0)
    whole = frame()
    assert SensorDrop("lidar")(whole, rng).points is None
    assert SensorDrop("cameras")(whole, rng).images is None
    black = SensorDrop("CAM_BACK")(whole, rng).images
    assert black is not None and whole.images is not None
    assert torch.equal(black[0], whole.images[0]) and int(black[1].max()) == 0
    thin = SensorDrop("lidar:0.25")(whole, rng).points
    assert thin is not None and 430 < len(thin) < 570
    assert SensorDrop("lidar:0.25")(replace(whole, points=None), rng).points is None


def test_a_camera_is_black_at_both_moments() -> None:
    whole = frame()
    assert whole.rig is not None
    two = replace(whole, rig=replace(whole.rig, names=("CAM_BACK", "CAM_BACK earlier")))
    black = SensorDrop("CAM_BACK")(two, np.random.default_rng(0)).images
    assert black is not None and all(int(image.max()) == 0 for image in black)


def test_the_table_holds_what_the_model_has() -> None:
    assert every_drop(("A", "B"), lidar=True) == (
        "lidar", "cameras", "A", "B", "lidar:0.5", "lidar:0.1",
    )  # fmt: skip
    assert every_drop((), lidar=True) == ("lidar:0.5", "lidar:0.1")
    assert every_drop(("A",), lidar=False) == ("A",)


def test_errors_name_what_is_known() -> None:
    with pytest.raises(ValueError, match="known: lidar, cameras, lidar:SHARE, CAM_FRONT, CAM_BACK"):
        SensorDrop("CAM_TOP")(frame(), np.random.default_rng(0))
    for bad in ("lidar:2", "lidar:x", "radar:0.5"):
        with pytest.raises(ValueError, match=f"'{bad}' cannot be dropped"):
            SensorDrop(bad)
