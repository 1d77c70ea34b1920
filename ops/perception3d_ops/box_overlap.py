"""Overlap of upright boxes: rotated intersection over union from above, and in three dimensions.

Boxes from above are (x, y, length, width, yaw), solid ones (x, y, z, length, width, height, yaw)
with z at the gravity centre; metres and radians, length along the heading, yaw counter-clockwise
from +x. The results are exact to rounding, also where sides are collinear (where mmcv's
``box_iou_rotated`` loses vertices), boxes touch, or are turned by 1e-6 rad. They have no gradient.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from perception3d_ops.checks import check_tensor
from perception3d_ops.library import define

Measure = Literal["iou", "iof"]
MEASURES: tuple[Measure, ...] = ("iou", "iof")
#: Boxes of less area overlap nothing, as published (mmcv ``box_iou_rotated``).
LEAST_AREA = 1e-14


def box_overlap(
    boxes1: Tensor, boxes2: Tensor, measure: Measure = "iou", *, aligned: bool = False
) -> Tensor:
    """Overlap from above.

    Args:
        boxes1: (N, 5) x, y, length, width, yaw; any floating type.
        boxes2: (M, 5) in the same frame; (N, 5) when aligned.
        measure: "iou" for intersection over union, "iof" for intersection over the first box.
        aligned: compare row by row instead of all with all.

    Returns:
        (N, M), or (N,) when aligned: float64 where an input is, else float32; in [0, 1]. Boxes of
        an area below 1e-14 overlap nothing; a box that is not finite gives NaN. Without gradient.

    Raises:
        ValueError: wrong shapes, types or devices, or an unknown measure.
    """
    return _overlap(boxes1, boxes2, 5, measure, aligned)


def box_overlap_3d(
    boxes1: Tensor, boxes2: Tensor, measure: Measure = "iou", *, aligned: bool = False
) -> Tensor:
    """Overlap of volumes: that from above times that of heights.

    Args:
        boxes1: (N, 7) x, y, z (gravity centre), length, width, height, yaw; any floating type.
        boxes2: (M, 7) in the same frame; (N, 7) when aligned.
        measure, aligned, returns and raises: as of :func:`box_overlap`.
    """
    return _overlap(boxes1, boxes2, 7, measure, aligned)


def _overlap(
    boxes1: Tensor, boxes2: Tensor, columns: int, measure: Measure, aligned: bool
) -> Tensor:
    check_tensor("boxes1", boxes1, ("N", columns), floating=True)
    rows = boxes1.shape[0] if aligned else "M"
    check_tensor("boxes2", boxes2, (rows, columns), floating=True, beside=boxes1)
    if measure not in MEASURES:
        raise ValueError(f"measure must be one of {', '.join(MEASURES)}; found {measure!r}")
    return _op(boxes1.detach(), boxes2.detach(), aligned, measure == "iof")


def box_overlap_twin(boxes1: Tensor, boxes2: Tensor, aligned: bool, over_first: bool) -> Tensor:
    """The definition of :func:`box_overlap` (5 columns) and :func:`box_overlap_3d` (7)."""
    wide = torch.promote_types(torch.promote_types(boxes1.dtype, boxes2.dtype), torch.float32)
    one, other = boxes1.double(), boxes2.double()
    if not aligned:
        one, other = one[:, None], other[None]
    one, other = torch.broadcast_tensors(one, other)
    x1, y1, z1, l1, w1, h1, yaw1 = _columns(one)
    x2, y2, z2, l2, w2, h2, yaw2 = _columns(other)
    # The second box in the frame of the first.
    c, s = yaw1.cos(), yaw1.sin()
    x = c * (x2 - x1) + s * (y2 - y1)
    y = c * (y2 - y1) - s * (x2 - x1)
    c, s = (yaw2 - yaw1).cos() / 2, (yaw2 - yaw1).sin() / 2
    corners = [
        (x + i * l2 * c - j * w2 * s, y + i * l2 * s + j * w2 * c)
        for i, j in ((1, -1), (1, 1), (-1, 1), (-1, -1))
    ]
    sides = zip(corners, corners[1:] + corners[:1])
    # Counter-clockwise, the integrals of y along the sides sum up to minus the area.
    area = -torch.stack([_cut_integral(p, q, l1 / 2, w1 / 2) for p, q in sides]).sum(dim=0)
    area1, area2 = l1.clamp_min(0) * w1.clamp_min(0), l2.clamp_min(0) * w2.clamp_min(0)
    area = area.clamp_min(0).minimum(area1).minimum(area2)
    shared = area * height_overlap(z1, h1, z2, h2)
    whole = area1 * h1 if over_first else area1 * h1 + area2 * h2 - shared
    overlap = (shared / whole).clamp_max(1)
    empty = (area1 < LEAST_AREA) | (area2 < LEAST_AREA) | (shared <= 0)
    finite = torch.isfinite(one).all(dim=-1) & torch.isfinite(other).all(dim=-1)
    return overlap.masked_fill(empty, 0).masked_fill(~finite, torch.nan).to(wide)


def height_overlap(z1: Tensor, height1: Tensor, z2: Tensor, height2: Tensor) -> Tensor:
    """Metres that two spans share; z are their middles. Broadcasts."""
    top = torch.minimum(z1 + height1 / 2, z2 + height2 / 2)
    return (top - torch.maximum(z1 - height1 / 2, z2 - height2 / 2)).clamp_min(0)


def _columns(boxes: Tensor) -> tuple[Tensor, ...]:
    """x, y, z, length, width, height, yaw; flat boxes become slabs of height 1."""
    if boxes.shape[-1] == 7:
        return boxes.unbind(-1)
    x, y, length, width, yaw = boxes.unbind(-1)
    return x, y, torch.zeros_like(x), length, width, torch.ones_like(x), yaw


def _cut_integral(
    p: tuple[Tensor, Tensor], q: tuple[Tensor, Tensor], a: Tensor, b: Tensor
) -> Tensor:
    """Integral of y, cut to [-b, b], over the x in [-a, a] below the side p -> q."""
    (px, py), (qx, qy) = p, q
    x0, x1 = torch.clamp(px, -a, a), torch.clamp(qx, -a, a)
    slope = (qy - py) / torch.where(qx == px, 1.0, qx - px)
    y0, y1 = py + (x0 - px) * slope, py + (x1 - px) * slope
    low, high = torch.minimum(y0, y1), torch.maximum(y0, y1)
    # Shares of the width over which the side is above b and below -b; in between it is straight.
    # A level side needs neither: the mean of its cut ends is exact.
    span = torch.where(high == low, 1.0, high - low)
    above = (high - torch.maximum(low, b)).clamp_min(0) / span
    below = (torch.minimum(high, -b) - low).clamp_min(0) / span
    mean = (torch.clamp(low, -b, b) + torch.clamp(high, -b, b)) / 2
    return (b * (above - below) + (1 - above - below) * mean) * (x1 - x0)


def _fake(boxes1: Tensor, boxes2: Tensor, aligned: bool, over_first: bool) -> Tensor:
    wide = torch.promote_types(torch.promote_types(boxes1.dtype, boxes2.dtype), torch.float32)
    shape = boxes1.shape[:1] if aligned else (boxes1.shape[0], boxes2.shape[0])
    return boxes1.new_empty(shape, dtype=wide)


_op = define(
    "box_overlap(Tensor boxes1, Tensor boxes2, bool aligned, bool over_first) -> Tensor",
    box_overlap_twin,
    _fake,
)
