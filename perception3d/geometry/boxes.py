"""Upright boxes: gravity centre, size (length along the heading, width, height), yaw."""

from __future__ import annotations

import torch
from torch import Tensor

#: Signs of (x, y, z) half sizes of the eight corners: bottom face counter-clockwise from the front
#: left, then top.
CORNER_SIGNS = (
    (1, 1, -1), (-1, 1, -1), (-1, -1, -1), (1, -1, -1),
    (1, 1, 1), (-1, 1, 1), (-1, -1, 1), (1, -1, 1),
)  # fmt: skip


def box_corners(center_m: Tensor, size_lwh_m: Tensor, yaw_rad: Tensor) -> Tensor:
    """Corners of boxes.

    Args:
        center_m: (N, 3) gravity centres.
        size_lwh_m: (N, 3) length, width, height.
        yaw_rad: (N,) heading, counter-clockwise from +x.

    Returns:
        (N, 8, 3) corners in the order of :data:`CORNER_SIGNS`: 0 front left, 1 rear left,
        2 rear right, 3 front right of the bottom face; 4 to 7 the same of the top face. "Left"
        is +y of the box.
    """
    signs = torch.tensor(CORNER_SIGNS, dtype=center_m.dtype, device=center_m.device)
    local = signs * (size_lwh_m[:, None, :] / 2)
    c, s = torch.cos(yaw_rad)[:, None], torch.sin(yaw_rad)[:, None]
    x = c * local[..., 0] - s * local[..., 1]
    y = s * local[..., 0] + c * local[..., 1]
    return torch.stack((x, y, local[..., 2]), dim=-1) + center_m[:, None, :]


def points_in_boxes(xyz: Tensor, center_m: Tensor, size_lwh_m: Tensor, yaw_rad: Tensor) -> Tensor:
    """Which points lie in which boxes: top and bottom faces included, sides not, as published.

    Args:
        xyz: (P, 3) points in metres.
        center_m, size_lwh_m, yaw_rad: N boxes as in :func:`box_corners`, same frame.

    Returns:
        (P, N) bool.

    Raises:
        ValueError: wrong shapes, types or devices.
    """
    # Imported here, because most of what needs geometry alone needs no kernels loaded.
    from perception3d_ops.points_in_boxes import points_in_boxes_mask

    boxes = torch.cat((center_m, size_lwh_m, yaw_rad[:, None]), dim=1)
    return points_in_boxes_mask(xyz, boxes)
