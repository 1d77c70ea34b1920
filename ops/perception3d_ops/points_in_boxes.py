"""Which points lie in which upright boxes.

Boxes are (x, y, z, length, width, height, yaw): gravity centre in metres, length along the heading,
yaw counter-clockwise from +x. A point on the top or bottom face is inside, one on a side is not, as
in mmcv's ``points_in_boxes`` (whose z is that of the bottom face). The comparison is made in double
precision. The results have no gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor

from perception3d_ops.checks import check_tensor
from perception3d_ops.library import define
from perception3d_ops.voxel_keys import check_offsets


def points_in_boxes(
    points: Tensor,
    boxes: Tensor,
    *,
    point_offsets: Tensor | None = None,
    box_offsets: Tensor | None = None,
) -> Tensor:
    """The first box that holds each point.

    Args:
        points: (P, 3) x, y, z; any floating type. A point that is not finite is in no box.
        boxes: (N, 7) in the same frame; any floating type. One that is not finite holds no point.
        point_offsets: (B + 1,) int64 of a batch: sample b owns points
            point_offsets[b]:point_offsets[b + 1]. None, as box_offsets, for one sample.
        box_offsets: (B + 1,) int64 of the boxes; points lie only in boxes of their own sample.

    Returns:
        (P,) int64 lowest row of ``boxes`` (of all of them, also in a batch), -1 for none.

    Raises:
        ValueError: wrong shapes, types, devices or offsets.
    """
    return _op(*_checked(points, boxes, point_offsets, box_offsets))


def points_in_boxes_mask(
    points: Tensor,
    boxes: Tensor,
    *,
    point_offsets: Tensor | None = None,
    box_offsets: Tensor | None = None,
) -> Tensor:
    """All boxes that hold each point: (P, N) bool; otherwise as :func:`points_in_boxes`."""
    return _mask_op(*_checked(points, boxes, point_offsets, box_offsets))


def _checked(
    points: Tensor, boxes: Tensor, point_offsets: Tensor | None, box_offsets: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    check_tensor("points", points, ("P", 3), floating=True)
    check_tensor("boxes", boxes, ("N", 7), floating=True, beside=points)
    if (point_offsets is None) != (box_offsets is None):
        missing = "point_offsets" if point_offsets is None else "box_offsets"
        raise ValueError(
            f"offsets are needed of points and boxes, or of neither; {missing} is None"
        )
    if point_offsets is None or box_offsets is None:
        point_offsets, box_offsets = (
            torch.tensor([0, rows.shape[0]], device=rows.device) for rows in (points, boxes)
        )
    check_offsets(point_offsets, points)
    check_offsets(box_offsets, boxes)
    if len(point_offsets) != len(box_offsets):
        raise ValueError(
            "point_offsets and box_offsets must be of as many samples; found "
            f"{len(point_offsets) - 1} and {len(box_offsets) - 1}"
        )
    return points.detach(), boxes.detach(), point_offsets, box_offsets


def points_in_boxes_mask_twin(
    points: Tensor, boxes: Tensor, point_offsets: Tensor, box_offsets: Tensor
) -> Tensor:
    """The definition of :func:`points_in_boxes_mask`."""
    center, size_lwh, yaw = boxes.double().split((3, 3, 1), dim=1)
    dx, dy, dz = (points.double()[:, None] - center).unbind(-1)
    c, s = yaw.T.cos(), yaw.T.sin()
    half_l, half_w, half_h = (size_lwh / 2).unbind(1)
    inside = (c * dx + s * dy).abs() < half_l
    inside &= (c * dy - s * dx).abs() < half_w
    inside &= dz.abs() <= half_h
    inside &= torch.isfinite(boxes).all(dim=1)
    return inside & (_sample(points, point_offsets)[:, None] == _sample(boxes, box_offsets))


def points_in_boxes_twin(
    points: Tensor, boxes: Tensor, point_offsets: Tensor, box_offsets: Tensor
) -> Tensor:
    """The definition of :func:`points_in_boxes`."""
    mask = points_in_boxes_mask_twin(points, boxes, point_offsets, box_offsets)
    rows = torch.arange(len(boxes), device=boxes.device)
    first = torch.where(mask, rows, len(boxes))
    first = torch.cat((first, rows.new_full((len(points), 1), len(boxes))), dim=1).amin(dim=1)
    return torch.where(first == len(boxes), -1, first)


def _sample(rows: Tensor, offsets: Tensor) -> Tensor:
    place = torch.arange(len(rows), device=rows.device)
    return torch.searchsorted(offsets.contiguous(), place, right=True)


def _fake(points: Tensor, *_: object) -> Tensor:
    return points.new_empty(points.shape[0], dtype=torch.int64)


def _fake_mask(points: Tensor, boxes: Tensor, *_: object) -> Tensor:
    return points.new_empty(points.shape[0], boxes.shape[0], dtype=torch.bool)


_op = define(
    "points_in_boxes(Tensor points, Tensor boxes, Tensor point_offsets, Tensor box_offsets) "
    "-> Tensor",
    points_in_boxes_twin,
    _fake,
)
_mask_op = define(
    "points_in_boxes_mask(Tensor points, Tensor boxes, Tensor point_offsets, Tensor box_offsets) "
    "-> Tensor",
    points_in_boxes_mask_twin,
    _fake_mask,
)
