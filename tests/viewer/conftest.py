from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from perception3d.structures import SE3, Boxes3D, CameraRig, Frame, PointCloud, Prediction

AZIMUTHS_DEG = {
    "CAM_FRONT": 0,
    "CAM_FRONT_RIGHT": -55,
    "CAM_FRONT_LEFT": 55,
    "CAM_BACK": 180,
    "CAM_BACK_LEFT": 110,
    "CAM_BACK_RIGHT": -110,
}
HW = (90, 160)
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="session")
def view() -> ModuleType:
    """The script tools/view.py as a module."""
    pytest.importorskip("tyro")
    spec = importlib.util.spec_from_file_location("view_tool", ROOT / "tools" / "view.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up while the class is made.
    sys.modules["view_tool"] = module
    spec.loader.exec_module(module)
    return module


def make_rig() -> CameraRig:
    """Six cameras at the origin of `ref` (x right, y forward), looking around the horizon."""
    rotations = []
    for degrees in AZIMUTHS_DEG.values():
        angle = np.radians(90 + degrees)
        forward = np.array([np.cos(angle), np.sin(angle), 0.0])
        down = np.array([0.0, 0.0, -1.0])
        rotations.append(np.stack([np.cross(down, forward), down, forward]))
    cam_SE3_ref = torch.eye(4, dtype=torch.float64).repeat(6, 1, 1)
    cam_SE3_ref[:, :3, :3] = torch.from_numpy(np.array(rotations))
    K = torch.tensor([[100.0, 0, 80.0], [0, 100.0, 45.0], [0, 0, 1]], dtype=torch.float64)
    return CameraRig(
        tuple(AZIMUTHS_DEG),
        K.repeat(6, 1, 1),
        cam_SE3_ref,
        torch.tensor([HW] * 6),
        torch.eye(3, dtype=torch.float64).repeat(6, 1, 1),
        torch.zeros(6, dtype=torch.int64),
    )


@pytest.fixture
def make_boxes() -> Callable[..., Boxes3D]:
    """Boxes of 4 x 2 x 1.5 m: rows of (x, y, yaw) or (x, y, yaw, vx, vy)."""

    def make(*rows: tuple[float, ...], label: int = 0) -> Boxes3D:
        table = torch.tensor([(*row, 0.0, 0.0) if len(row) == 3 else row for row in rows])
        table = table.reshape(-1, 5).float()
        count = len(table)
        return Boxes3D.build(
            torch.cat([table[:, :2], torch.zeros(count, 1)], dim=1),
            torch.tensor([[4.0, 2.0, 1.5]]).repeat(count, 1),
            table[:, 2],
            torch.full((count,), label),
            velocity_mps=table[:, 3:5],
        )

    return make


@pytest.fixture
def make_frame() -> Callable[..., Frame]:
    """A nuScenes-like sample; parts are given by name, no part by default."""

    def make(
        *, token: str = "sample", points: list[tuple[float, float, float]] | None = None,
        with_rig: bool = False, with_images: bool = False, **parts: object,
    ) -> Frame:  # fmt: skip
        turn = torch.tensor([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]], dtype=torch.float64)
        cloud = None
        if points is not None:
            xyz = torch.tensor(points).reshape(-1, 3).float()
            cloud = PointCloud(xyz, torch.ones(len(xyz)), torch.zeros(len(xyz)))
        images = tuple(torch.full((*HW, 3), 20 * (i + 1), dtype=torch.uint8) for i in range(6))
        values: dict[str, object] = {
            "global_SE3_ref": SE3.identity(),
            "ego_SE3_ref": SE3(turn, torch.tensor([0.9, 0, 1.8], dtype=torch.float64)),
            "points": cloud,
            "rig": make_rig() if with_rig or with_images else None,
            "images": images if with_images else None,
        }
        values.update(parts)
        return Frame(token, "log", 1_500_000_000_000_000_000, **values)  # type: ignore[arg-type]

    return make


@pytest.fixture
def make_prediction() -> Callable[..., Prediction]:
    def make(frame: Frame, boxes: Boxes3D, *scores: float) -> Prediction:
        poses = (frame.global_SE3_ref, frame.ego_SE3_ref)
        return Prediction(frame.token, boxes, torch.tensor(scores).float(), *poses)

    return make
