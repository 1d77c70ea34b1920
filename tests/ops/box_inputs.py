"""Boxes, pairs of boxes that are hard to compare, and areas by exact clipping."""

from __future__ import annotations

import math
from fractions import Fraction

import torch
from hypothesis import strategies as st
from torch import Tensor

from tests.ops.op_inputs import seeded

Box = tuple[float, float, float, float, float]


def flat_boxes(count: int, seed: int, *, reach_m: float = 10.0) -> Tensor:
    """(count, 5) x, y, length, width, yaw; about a tenth of all pairs overlap."""
    u = torch.rand(count, 5, generator=seeded(seed))
    low = torch.tensor([-reach_m, -reach_m, 0.3, 0.3, -7.0])
    high = torch.tensor([reach_m, reach_m, 6.0, 3.0, 7.0])
    return low + u * (high - low)


def solid_boxes(count: int, seed: int, *, reach_m: float = 10.0) -> Tensor:
    """(count, 7) x, y, z, length, width, height, yaw."""
    flat = flat_boxes(count, seed, reach_m=reach_m)
    z_height = torch.rand(count, 2, generator=seeded(seed + 1)) * 3 + 0.2
    return torch.cat((flat[:, :2], z_height[:, :1], flat[:, 2:4], z_height[:, 1:], flat[:, 4:]), 1)


def moved(box: Box, along: float, across: float) -> Box:
    x, y, length, width, yaw = box
    c, s = math.cos(yaw), math.sin(yaw)
    return (x + c * along - s * across, y + s * along + c * across, length, width, yaw)


def related(box: Box, kind: str, share: float) -> Box:
    """A second box whose sides are collinear with those of the first, touch them, or nearly so."""
    x, y, length, width, yaw = box
    match kind:
        case "identical":
            return box
        case "turned by a millionth":
            return (x, y, length, width, yaw + 1e-6)
        case "turned by pi":
            return (x, y, length, width, yaw + math.pi)
        case "swapped":
            return (x, y, width, length, yaw + math.pi / 2)
        case "shifted along":
            return moved(box, share * length, 0.0)
        case "shifted across":
            return moved(box, 0.0, share * width)
        case "touching":
            return moved(box, length, share * width)
        case "touching at a corner":
            return moved(box, length, width)
        case "contained":
            return (x, y, share * length, share * width, yaw)
        case "flush at three sides":
            x, y, *_ = moved(box, (1 - share) / 2 * length, 0.0)
            return (x, y, share * length, width, yaw)
        case "cross":
            return (x, y, length * (1 + share), width / 2, yaw + math.pi / 2)
        case "sliver":
            return moved((x, y, length, width, yaw + 1e-3), 0.0, width * 0.9995)
    raise AssertionError(kind)


KINDS = (
    "identical", "turned by a millionth", "turned by pi", "swapped", "shifted along",
    "shifted across", "touching", "touching at a corner", "contained", "flush at three sides",
    "cross", "sliver",
)  # fmt: skip

places = st.floats(-30, 30)
extents = st.floats(0.02, 40)
yaws = st.floats(-7, 7) | st.sampled_from([0.0, math.pi / 2, math.pi, -math.pi / 4])
boxes = st.tuples(places, places, extents, extents, yaws)
related_pairs = st.builds(
    lambda box, kind, share: (box, related(box, kind, share)),
    boxes,
    st.sampled_from(KINDS),
    st.floats(0.05, 1.0),
)
any_pairs = related_pairs | st.tuples(boxes, boxes)


def polygon_area(one: Box, other: Box) -> float:
    """Area that two boxes share: their corners in float64, all else in fractions.

    Floating-point polygon libraries are no reference for collinear sides: GEOS (shapely 2.0) finds
    no area in two boxes (25, 0, 23.184525990390455 or 25, 1, 0.5), one of which holds the other.
    """
    polygon, frame = corners(one), corners(other)
    for p, q in zip(frame, frame[1:] + frame[:1]):
        polygon = left_part(polygon, p, q)
    return float(sum(cross(p, q) for p, q in zip(polygon, polygon[1:] + polygon[:1]))) / 2


Corner = tuple[Fraction, Fraction]


def corners(box: Box) -> list[Corner]:
    x, y, length, width, yaw = box
    c, s = math.cos(yaw) / 2, math.sin(yaw) / 2
    return [
        (
            Fraction(x + i * length * c - j * width * s),
            Fraction(y + i * length * s + j * width * c),
        )
        for i, j in ((1, 1), (-1, 1), (-1, -1), (1, -1))
    ]


def cross(p: Corner, q: Corner) -> Fraction:
    return p[0] * q[1] - p[1] * q[0]


def left_part(polygon: list[Corner], p: Corner, q: Corner) -> list[Corner]:
    """What of a convex polygon lies to the left of the line p -> q."""
    along = (q[0] - p[0], q[1] - p[1])
    height = [cross(along, (x - p[0], y - p[1])) for x, y in polygon]
    kept = []
    for i, corner in enumerate(polygon):
        before, corner_before = height[i - 1], polygon[i - 1]
        if (before < 0) != (height[i] < 0):
            share = before / (before - height[i])
            kept.append(tuple(a + share * (b - a) for a, b in zip(corner_before, corner)))
        if height[i] >= 0:
            kept.append(corner)
    return kept
