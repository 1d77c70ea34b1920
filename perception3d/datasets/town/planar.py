"""Plane geometry of the town: polylines by arc length, the warp of the street grid, oriented
rectangles, occupancy.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]  # (n, 2) metres
Pose = tuple[float, float, float]  # x, y [m], yaw [rad]


@dataclass(frozen=True)
class Warp:
    """One smooth map from the straight canonical grid of a district to the world.

    Streets bend a little, yet everything that fits on the straight grid still fits: no
        street-by-street cases.

    Attributes:
        phase: makes districts differ [rad].
        origin_m: (2,) lower left corner of the district in the world.
        amplitude_m: largest shift of a point along each axis.
    """

    phase: float
    origin_m: tuple[float, float]
    amplitude_m: float = 5.0

    def __call__(self, points: Points) -> Points:
        """Canonical (..., 2) -> world (..., 2) [m]."""
        x, y = points[..., 0], points[..., 1]
        a = self.amplitude_m
        return np.stack(
            [
                x + a * np.sin(2 * np.pi * y / 190 + self.phase) + self.origin_m[0],
                y + a * np.sin(2 * np.pi * x / 210 + 2 * self.phase) + self.origin_m[1],
            ],
            -1,
        )

    def pose(self, xy: tuple[float, float], direction: tuple[float, float]) -> Pose:
        """Place and heading in the world of a canonical place and direction."""
        base = np.array(xy, np.float64)
        step = np.array(direction, np.float64) * 0.05
        a, b, c = self(np.stack([base - step, base, base + step]))
        return (float(b[0]), float(b[1]), float(np.arctan2(c[1] - a[1], c[0] - a[0])))


def densify(points: Points, step_m: float = 2.0, *, closed: bool = False) -> Points:
    """Insert points so that no piece is longer than `step_m`; the given points stay.

    Args:
        points: (n, 2) polyline or ring.
        step_m: longest piece.
        closed: also divide the piece from last to first (whose end is not repeated).

    Returns:
        (m, 2) points.
    """
    ends = np.roll(points, -1, axis=0) if closed else points[1:]
    starts = points if closed else points[:-1]
    out = []
    for a, b in zip(starts, ends, strict=True):
        n = max(1, int(np.ceil(np.linalg.norm(b - a) / step_m - 1e-9)))
        out.append(a + (b - a) * (np.arange(n) / n)[:, None])
    if not closed:
        out.append(points[-1:])
    return np.concatenate(out)


def rectangle(x0: float, y0: float, x1: float, y1: float) -> Points:
    """Counter-clockwise corners of an axis-aligned rectangle."""
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], np.float64)


def arc(centre: tuple[float, float], radius_m: float, start: float, end: float, n: int) -> Points:
    """n points of a circular arc from angle `start` to `end` [rad]."""
    t = np.linspace(start, end, n)
    return np.stack([centre[0] + radius_m * np.cos(t), centre[1] + radius_m * np.sin(t)], 1)


def hermite(a: Pose, b: Pose, n: int = 13) -> Points:
    """Cubic Hermite curve between two poses, tangents as long as the chord: the path through a
    junction.
    """
    p, q = np.array(a[:2]), np.array(b[:2])
    chord = float(np.linalg.norm(q - p))
    # A quarter circle has this tangent length for its chord; a straight has tangent = chord.
    turn = abs((b[2] - a[2] + np.pi) % (2 * np.pi) - np.pi)
    scale = chord * (1.0 + 0.172 * min(1.0, turn / (np.pi / 2)))
    ta = scale * np.array([np.cos(a[2]), np.sin(a[2])])
    tb = scale * np.array([np.cos(b[2]), np.sin(b[2])])
    t = np.linspace(0, 1, n)[:, None]
    h00, h10 = 2 * t**3 - 3 * t**2 + 1, t**3 - 2 * t**2 + t
    h01, h11 = -2 * t**3 + 3 * t**2, t**3 - t**2
    return h00 * p + h10 * ta + h01 * q + h11 * tb


def arc_lengths(points: Points) -> NDArray[np.float64]:
    """(n,) distance along the polyline, from 0."""
    return np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])


def offset_polyline(points: Points, left_m: float) -> Points:
    """The polyline moved sideways (positive = left), by the mean normal at each point."""
    tangent = np.gradient(points, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    normal = np.stack([-tangent[:, 1], tangent[:, 0]], 1)
    return points + left_m * normal


def corners_of(pose: Pose, length_m: float, width_m: float) -> Points:
    """(4, 2) corners of an oriented rectangle: front left, rear left, rear right, front right."""
    c, s = np.cos(pose[2]), np.sin(pose[2])
    half = np.array([(1, 1), (-1, 1), (-1, -1), (1, -1)]) * (length_m / 2, width_m / 2)
    return half @ np.array([[c, s], [-s, c]]) + np.array(pose[:2])


def rectangles_overlap(a: Points, b: Points) -> bool:
    """Whether two convex quadrilaterals share area (separating axes); touching is not
    overlapping.
    """
    for first, second in ((a, b), (b, a)):
        edges = np.roll(first, -1, axis=0) - first
        normals = np.stack([-edges[:, 1], edges[:, 0]], 1)
        pa, pb = first @ normals.T, second @ normals.T
        if np.any((pa.max(0) <= pb.min(0) + 1e-9) | (pb.max(0) <= pa.min(0) + 1e-9)):
            return False
    return True


def is_inside(polygon: Points, point: tuple[float, float]) -> bool:
    """Whether a point lies inside a polygon (n, 2) or on its edge."""
    # float32 would be coarse far from the canvas corner.
    local = (polygon - polygon[0]).astype(np.float32)
    at = (float(point[0] - polygon[0, 0]), float(point[1] - polygon[0, 1]))
    return cv2.pointPolygonTest(local, at, False) >= 0


class Occupancy:
    """A coarse raster of taken ground: things are placed only where it is free.

    Args:
        origin_m: (2,) lower left corner.
        size_m: side of the square.
        cell_m: raster step.
    """

    def __init__(self, origin_m: tuple[float, float], size_m: float, cell_m: float = 0.1) -> None:
        self.origin_m = origin_m
        self.cell_m = cell_m
        n = int(np.ceil(size_m / cell_m))
        self.taken: NDArray[np.uint8] = np.zeros((n, n), np.uint8)

    def copy(self) -> Occupancy:
        """An independent raster with the same content."""
        other = Occupancy(self.origin_m, 0.0, self.cell_m)
        other.taken = self.taken.copy()
        return other

    def mark(self, polygon: Points) -> None:
        """Take the ground under a polygon (n, 2)."""
        pixels = self._pixels(polygon)
        cv2.fillPoly(self.taken, [pixels], (1,), shift=4)

    def is_free(self, polygon: Points) -> bool:
        """Whether a polygon (n, 2) lies inside the raster on free ground."""
        pixels = self._pixels(polygon)
        low = (pixels.min(0) >> 4) - 1
        high = (pixels.max(0) >> 4) + 2
        if np.any(low < 0) or np.any(high > self.taken.shape[0]):
            return False
        window = self.taken[low[1] : high[1], low[0] : high[0]]
        mask = np.zeros_like(window)
        cv2.fillPoly(mask, [(pixels - (low << 4)).astype(np.int32)], (1,), shift=4)
        return not bool(np.any(window & mask))

    def _pixels(self, polygon: Points) -> NDArray[np.int32]:
        cells = (polygon - np.array(self.origin_m)) / self.cell_m - 0.5
        return np.round(cells * 16).astype(np.int32)
