"""The cameras' ray casting, part by part: each part is tried only against the pixels of its
projected box.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from perception3d.datasets.town import primitives as p
from perception3d.datasets.town.compiled import inline, kernel
from perception3d.datasets.town.raycast import MISS, cast_unit, to_part, to_world

_X, _Y, _Z, _HX, _HY, _HZ = p.X, p.Y, p.Z, p.HX, p.HY, p.HZ
NEAR_M = 0.15
GROUND, SKY = -1, -2


@kernel
def start_buffers(
    R: NDArray[np.float64],
    height_m: float,
    lens: tuple[float, float, float],
    depth: NDArray[np.float32],
    hit: NDArray[np.int32],
) -> None:
    """Fill depth and hit with the ground plane, or sky.

    Args:
        R: (3, 3) camera axes -> world.
        height_m: of the camera above the ground.
        lens: focal length, cx, cy [px].
        depth: (H, W) out.
        hit: (H, W) out, GROUND or SKY.
    """
    f, cx, cy = lens
    for v in range(depth.shape[0]):
        b = (v - cy) / f
        for u in range(depth.shape[1]):
            dz = R[2, 0] * (u - cx) / f + R[2, 1] * b + R[2, 2]
            t = -height_m / dz if dz < -1e-9 else MISS
            depth[v, u] = t
            hit[v, u] = GROUND if t < 3000.0 else SKY


@inline
def _grow(
    rect: tuple[float, float, float, float],
    x: float,
    y: float,
    z: float,
    lens: tuple[float, float, float],
) -> tuple[float, float, float, float]:
    u, v = lens[0] * x / z + lens[1], lens[0] * y / z + lens[2]
    return min(rect[0], u), min(rect[1], v), max(rect[2], u), max(rect[3], v)


@inline
def _rectangle(
    rows: NDArray[np.float32],
    i: int,
    R: NDArray[np.float64],
    origin: NDArray[np.float64],
    lens: tuple[float, float, float],
    corners: NDArray[np.float64],
) -> tuple[float, float, float, float]:
    """Pixel rectangle of part i's box, its edges cut at the near plane; empty (min > max) when
    behind the camera.
    """
    for k in range(8):
        sx = rows[i, _HX] if k & 1 else -rows[i, _HX]
        sy = rows[i, _HY] if k & 2 else -rows[i, _HY]
        sz = rows[i, _HZ] if k & 4 else -rows[i, _HZ]
        x, y, z = to_world(rows, i, sx, sy, sz)
        x, y, z = (
            x + rows[i, _X] - origin[0],
            y + rows[i, _Y] - origin[1],
            z + rows[i, _Z] - origin[2],
        )
        for a in range(3):
            corners[k, a] = R[0, a] * x + R[1, a] * y + R[2, a] * z
    rect = (1e9, 1e9, -1e9, -1e9)
    for k in range(8):
        if corners[k, 2] >= NEAR_M:
            rect = _grow(rect, corners[k, 0], corners[k, 1], corners[k, 2], lens)
        for axis in range(3):
            other = k ^ (1 << axis)
            if other > k and (corners[k, 2] < NEAR_M) != (corners[other, 2] < NEAR_M):
                s = (NEAR_M - corners[k, 2]) / (corners[other, 2] - corners[k, 2])
                x = corners[k, 0] + s * (corners[other, 0] - corners[k, 0])
                y = corners[k, 1] + s * (corners[other, 1] - corners[k, 1])
                rect = _grow(rect, x, y, NEAR_M, lens)
    return rect


@kernel
def draw_parts(
    rows: NDArray[np.float32],
    group: NDArray[np.int32],
    R: NDArray[np.float64],
    origin: NDArray[np.float64],
    lens: tuple[float, float, float],
    depth: NDArray[np.float32],
    hit: NDArray[np.int32],
    stamp: NDArray[np.int32],
    covered: NDArray[np.int64],
) -> int:
    """Draw all parts into depth and hit, and count each owner's pixels before the depth test.

    Args:
        rows: (n, NUM_COLUMNS) world rows; parts of one owner must follow each other, near ones
            first is faster.
        group: (n,) number of the owner among those in `rows`, -1 for scenery.
        R: (3, 3) camera axes -> world.
        origin: (3,) camera in the world.
        lens: focal length, cx, cy [px].
        depth: (H, W) nearest depth so far; changed.
        hit: (H, W) part of the nearest hit; changed.
        stamp: (H, W) zeros; scratch.
        covered: (number of owners,) zeros; out.

    Returns:
        Number of ray-part tests.
    """
    height, width = depth.shape
    f, cx, cy = lens
    corners = np.empty((8, 3))
    tests = 0
    for i in range(rows.shape[0]):
        x, y, z = rows[i, _X] - origin[0], rows[i, _Y] - origin[1], rows[i, _Z] - origin[2]
        ahead = R[0, 2] * x + R[1, 2] * y + R[2, 2] * z
        radius = math.sqrt(rows[i, _HX] ** 2 + rows[i, _HY] ** 2 + rows[i, _HZ] ** 2)
        if ahead + radius < NEAR_M:
            continue
        u0, v0, u1, v1 = _rectangle(rows, i, R, origin, lens, corners)
        first, last = max(0, math.ceil(u0 - 0.01)), min(width - 1, math.floor(u1 + 0.01))
        top, bottom = max(0, math.ceil(v0 - 0.01)), min(height - 1, math.floor(v1 + 0.01))
        if first > last or top > bottom:
            continue
        o = to_part(rows, i, -x, -y, -z)
        du = to_part(rows, i, R[0, 0] / f, R[1, 0] / f, R[2, 0] / f)
        dv = to_part(rows, i, R[0, 1] / f, R[1, 1] / f, R[2, 1] / f)
        d0 = to_part(rows, i, R[0, 2], R[1, 2], R[2, 2])
        blur = max(ahead, 0.5) / f
        nearest = ahead - radius
        who = group[i]
        for v in range(top, bottom + 1):
            b = v - cy
            bx, by, bz = d0[0] + b * dv[0], d0[1] + b * dv[1], d0[2] + b * dv[2]
            for u in range(first, last + 1):
                new = who >= 0 and stamp[v, u] != who + 1
                if depth[v, u] <= nearest and not new:
                    continue
                a = u - cx
                tests += 1
                t = cast_unit(rows, i, o, (bx + a * du[0], by + a * du[1], bz + a * du[2]), blur)
                if t >= MISS:
                    continue
                if new:
                    stamp[v, u] = who + 1
                    covered[who] += 1
                if t < depth[v, u]:
                    depth[v, u] = t
                    hit[v, u] = i
    return tests
