"""Published box geometry against ours."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from perception3d.datasets.augment import transform_scene
from perception3d.geometry import box_corners, matrix_from_yaw, wrap_to_pi
from perception3d.geometry.boxes import CORNER_SIGNS
from perception3d.structures import SE3, Boxes3D, Frame
from tests.golden_boxes import published_boxes
from tests.golden_cases import GoldenCase, golden, load_case

#: Published order of the corners by the ends (x, y, z) of the box.
PUBLISHED_SIGNS = (
    (-1, -1, -1), (-1, -1, 1), (-1, 1, 1), (-1, 1, -1),
    (1, -1, -1), (1, -1, 1), (1, 1, 1), (1, 1, -1),
)  # fmt: skip
#: What has no counterpart here: views and filters of the published box class that nothing needs,
#: and the convention before its version 1.0.
WITHOUT_COUNTERPART = {
    "bev", "bev_xyxyr", "nearest_bev", "volume", "from_gravity", "in_range_bev", "in_range_3d",
    "limit_yaw_pi_offset0", "enlarged", "pre_1_0",
}  # fmt: skip


def changed(boxes: Boxes3D, **change: object) -> Boxes3D:
    """Boxes after a change of their scene."""
    values = {"yaw_rad": 0.0, "scale": 1.0, "shift_m": np.zeros(3)}
    values |= {"flip_x": False, "flip_y": False}
    frame = Frame("token", "log", 0, SE3.identity(), SE3.identity(), boxes=boxes)
    moved = transform_scene(frame, **(values | change)).boxes  # type: ignore[arg-type]
    assert moved is not None
    return moved


def published_rows(boxes: Boxes3D, yaw_near: Tensor) -> Tensor:
    """x, y, z of the bottom, sizes, yaw as many turns around as ``yaw_near``, velocity."""
    bottom = boxes.center_m.clone()
    bottom[:, 2] -= boxes.size_lwh_m[:, 2] / 2
    yaw = yaw_near + wrap_to_pi(boxes.yaw_rad - yaw_near)
    return torch.cat((bottom, boxes.size_lwh_m, yaw[:, None], boxes.velocity_mps), dim=1)


@pytest.mark.parametrize("name", golden("geometry_boxes"))
def test_golden_geometry_boxes(name: str) -> None:
    case = load_case(name)
    inputs = case.inputs()
    rows = inputs["boxes"]
    boxes = published_boxes(rows, torch.zeros(len(rows), dtype=torch.int64))
    corners = box_corners(boxes.center_m, boxes.size_lwh_m, boxes.yaw_rad)
    case.check("corners", corners[:, [CORNER_SIGNS.index(signs) for signs in PUBLISHED_SIGNS]])
    case.check("gravity_center", boxes.center_m)
    case.check("bottom_center", published_rows(boxes, rows[:, 6])[:, :3])
    # Numbers near either end of [-pi, pi) may wrap to the other one.
    want = torch.from_numpy(case.arrays["out/limit_yaw_2pi"]).view(len(rows))
    case.check("limit_yaw_2pi", want + wrap_to_pi(boxes.yaw_rad - want))
    assert bool((boxes.yaw_rad >= -math.pi).all() and (boxes.yaw_rad < math.pi).all())
    check_changes(case, boxes, inputs)
    assert case.errors.keys() | WITHOUT_COUNTERPART == case.output_specs.keys()
    assert not case.errors.keys() & WITHOUT_COUNTERPART


def check_changes(case: GoldenCase, boxes: Boxes3D, inputs: dict[str, Tensor]) -> None:
    angle, scale = float(inputs["rotate_angle"]), float(inputs["scale"])
    yaw = inputs["boxes"][:, 6]
    case.check("rotation_matrix_T", matrix_from_yaw(torch.tensor(angle)).T)
    turned = changed(boxes, yaw_rad=angle)
    case.check("rotated", published_rows(turned, yaw + angle))
    # "Horizontal" mirrors left and right: y changes sign.
    case.check("flip_horizontal", published_rows(changed(boxes, flip_y=True), -yaw))
    case.check("flip_vertical", published_rows(changed(boxes, flip_x=True), math.pi - yaw))
    case.check("scaled", published_rows(changed(boxes, scale=scale), yaw))
    shifted = changed(boxes, shift_m=inputs["translate"].numpy())
    case.check("translated", published_rows(shifted, yaw))
