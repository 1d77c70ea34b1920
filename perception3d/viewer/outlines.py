"""Box outlines in camera images, cut in homogeneous coordinates, before the perspective division.

A point (u d, v d, d) of :meth:`CameraRig.ref_to_image` is linear in the metric point, so every
limit (near plane, four image borders) is a half-space there and a segment is cut exactly by linear
interpolation. Dividing first would turn what lies behind the camera inside out and draw lines
through the whole image.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception3d.geometry.boxes import CORNER_SIGNS

Float = NDArray[np.float64]

NEAR_M = 0.2
"""Nothing nearer than this along the optical axis is drawn."""

# An edge joins two corners that differ in one sign.
EDGES = np.array(
    [
        (i, j)
        for i, one in enumerate(CORNER_SIGNS)
        for j, other in enumerate(CORNER_SIGNS)
        if i < j and sum(a != b for a, b in zip(one, other, strict=True)) == 1
    ]
)
FRONT_FACE = np.array([0, 3, 7, 4])
"""The corners of the face that looks along the heading (+x of the box), in order around it."""


def limits(height_px: float, width_px: float, near_m: float = NEAR_M) -> tuple[Float, Float]:
    """Half-spaces of the visible pyramid: normals (5, 3), offsets (5,); n . h + o >= 0 inside.

    Args:
        height_px: Image height.
        width_px: Image width.
        near_m: Smallest depth.
    """
    normals = np.array(
        [
            [0.0, 0.0, 1.0],
            [1.0, 0.0, 0.0],
            [-1.0, 0.0, width_px],
            [0.0, 1.0, 0.0],
            [0.0, -1.0, height_px],
        ]
    )
    return normals, np.array([-near_m, 0.0, 0.0, 0.0, 0.0])


def clip_segments(
    starts: NDArray[Any], ends: NDArray[Any], normals: Float, offsets: Float
) -> tuple[Float, NDArray[np.bool_]]:
    """Cut segments with half-spaces (Liang and Barsky 1984, in any dimension).

    Args:
        starts: (S, D) first end points.
        ends: (S, D) second end points.
        normals: (P, D) inward normals.
        offsets: (P,) offsets; a point x is inside when normals @ x + offsets >= 0.

    Returns:
        (S, 2, D) cut segments and (S,) bool, false where nothing is left of a segment.
    """
    starts, ends = np.asarray(starts, dtype=np.float64), np.asarray(ends, dtype=np.float64)
    inside_start = starts @ normals.T + offsets  # (S, P)
    inside_end = ends @ normals.T + offsets
    step = inside_start - inside_end
    with np.errstate(divide="ignore", invalid="ignore"):
        crossing = inside_start / step
    entering = (inside_start < 0) & (inside_end >= 0)
    leaving = (inside_start >= 0) & (inside_end < 0)
    first = np.where(entering, crossing, 0.0).max(axis=1, initial=0.0)
    last = np.where(leaving, crossing, 1.0).min(axis=1, initial=1.0)
    outside = ((inside_start < 0) & (inside_end < 0)).any(axis=1)
    kept = (first < last) & ~outside
    ends_kept = (
        starts[:, None] + np.stack([first, last], axis=1)[..., None] * ((ends - starts)[:, None])
    )
    return ends_kept, kept


def clip_polygon(vertices: Float, normals: Float, offsets: Float) -> Float:
    """Cut a convex polygon of (V, D) vertices with half-spaces (Sutherland and Hodgman 1974)."""
    for normal, offset in zip(normals, offsets, strict=True):
        if len(vertices) == 0:
            break
        inside = vertices @ normal + offset
        following, inside_following = np.roll(vertices, -1, axis=0), np.roll(inside, -1)
        kept: list[Float] = []
        for here, after, value, value_after in zip(
            vertices, following, inside, inside_following, strict=True
        ):
            if value >= 0:
                kept.append(here)
            if (value >= 0) != (value_after >= 0):
                kept.append(here + (after - here) * (value / (value - value_after)))
        vertices = np.array(kept) if kept else np.zeros((0, vertices.shape[1]))
    return vertices


def to_homogeneous_pixels(xyz: NDArray[Any], ref_to_image: NDArray[Any]) -> Float:
    """Map (..., 3) points of `ref` in metres to (u d, v d, d) by a (4, 4) matrix."""
    xyz = np.asarray(xyz, dtype=np.float64)
    matrix = np.asarray(ref_to_image, dtype=np.float64)
    return xyz @ matrix[:3, :3].T + matrix[:3, 3]


def visible_edges(
    corners: NDArray[Any], ref_to_image: NDArray[Any], image_hw: tuple[int, int]
) -> tuple[Float, NDArray[np.int64]]:
    """Project the edges of boxes into one image, cut at the near plane and the borders.

    Args:
        corners: (N, 8, 3) corners in `ref`, ordered as by
            :func:`perception3d.geometry.box_corners`.
        ref_to_image: (4, 4) homogeneous ref metres -> (u d, v d, d, 1).
        image_hw: Height and width of the image in pixels.

    Returns:
        (S, 2, 2) visible segments in pixels (u, v) and (S,) the box that each belongs to.
    """
    points = to_homogeneous_pixels(corners, ref_to_image)  # (N, 8, 3)
    starts = points[:, EDGES[:, 0]].reshape(-1, 3)
    ends = points[:, EDGES[:, 1]].reshape(-1, 3)
    segments, kept = clip_segments(starts, ends, *limits(*image_hw))
    owner = np.repeat(np.arange(len(points)), len(EDGES))
    segments = segments[kept]
    return segments[..., :2] / segments[..., 2:], owner[kept]


def visible_segments(
    segments: NDArray[Any], ref_to_image: NDArray[Any], image_hw: tuple[int, int]
) -> Float:
    """Project segments (S, 2, 3) of `ref` like :func:`visible_edges`: (S', 2, 2) in pixels."""
    points = to_homogeneous_pixels(segments, ref_to_image)
    cut, kept = clip_segments(points[:, 0], points[:, 1], *limits(*image_hw))
    result: Float = cut[kept][..., :2] / cut[kept][..., 2:]
    return result


def visible_front(
    corners: NDArray[Any], ref_to_image: NDArray[Any], image_hw: tuple[int, int]
) -> Float:
    """Project one box's (8, 3) front face: (V, 2) polygon in pixels, V = 0 when out of sight."""
    points = to_homogeneous_pixels(np.asarray(corners)[FRONT_FACE], ref_to_image)
    cut = clip_polygon(points, *limits(*image_hw))
    result: Float = cut[:, :2] / cut[:, 2:]
    return result
