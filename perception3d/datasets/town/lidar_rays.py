"""The LiDAR's ray casting, part by part: each part is tried only against the columns and rings that
it can cover.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from perception3d.datasets.town import primitives as p
from perception3d.datasets.town import rig
from perception3d.datasets.town.compiled import inline, kernel
from perception3d.datasets.town.raycast import MISS, cast_unit, to_part, to_world

_X, _Y, _Z, _HX, _HY, _HZ, _VX, _VY = p.X, p.Y, p.Z, p.HX, p.HY, p.HZ, p.VX, p.VY
_COLUMNS, _RINGS = rig.NUM_COLUMNS_OF_A_TURN, rig.NUM_RINGS
_STEP = math.radians(-rig.COLUMN_STEP_DEG)
_FIRST = (
    math.radians(rig.FIRST_AZIMUTH_DEG) - math.pi / 2
)  # in the ego frame (the LIDAR frame is turned by -90 degrees)
_LOWEST = float(rig.BEAM_ELEVATIONS_RAD[0])
_RING_STEP = float(rig.BEAM_ELEVATIONS_RAD[1] - rig.BEAM_ELEVATIONS_RAD[0])
_TILT = math.radians(1.5)  # the sensor leans by 1.4 degrees
_BEAM_SPREAD = 0.003  # width of a beam per metre, for leaves


@kernel
def world_directions(
    in_ego: NDArray[np.float64], poses: NDArray[np.float64], world: NDArray[np.float64]
) -> None:
    """Turn (1084, 32, 3) ego directions by each column's heading into `world`."""
    for c in range(in_ego.shape[0]):
        cos, sin = math.cos(poses[c, 2]), math.sin(poses[c, 2])
        for r in range(in_ego.shape[1]):
            x, y = in_ego[c, r, 0], in_ego[c, r, 1]
            world[c, r, 0] = cos * x - sin * y
            world[c, r, 1] = sin * x + cos * y
            world[c, r, 2] = in_ego[c, r, 2]


@inline
def _ring_span(low: float, high: float, nearest: float, farthest: float) -> tuple[int, int]:
    """Rings that can meet something between two heights (above the sensor) and two distances."""
    top = math.atan2(high, nearest if high > 0.0 else farthest) + _TILT
    bottom = math.atan2(low, nearest if low < 0.0 else farthest) - _TILT
    first = max(0, math.ceil((bottom - _LOWEST) / _RING_STEP))
    last = min(_RINGS - 1, math.floor((top - _LOWEST) / _RING_STEP))
    return first, last


@inline
def _try_part(
    rows: NDArray[np.float32],
    i: int,
    columns: tuple[int, int],
    rings: tuple[int, int],
    origins: NDArray[np.float64],
    directions: NDArray[np.float64],
    ages: NDArray[np.float64],
    nearest: NDArray[np.float64],
    hit: NDArray[np.int32],
) -> int:
    """Cast the rays of a block against part i; number of tests."""
    distance = math.hypot(rows[i, _X] - origins[0, 0], rows[i, _Y] - origins[0, 1])
    blur = _BEAM_SPREAD * distance
    size = math.sqrt(rows[i, _HX] ** 2 + rows[i, _HY] ** 2 + rows[i, _HZ] ** 2)
    closest = distance - size - 0.05 * math.hypot(rows[i, _VX], rows[i, _VY]) - 2.5
    tests = 0
    for c in range(columns[0], columns[1] + 1):
        # ages are <= 0: the object was still behind.
        x = rows[i, _X] + rows[i, _VX] * ages[c]
        y = rows[i, _Y] + rows[i, _VY] * ages[c]
        o = to_part(rows, i, origins[c, 0] - x, origins[c, 1] - y, origins[c, 2] - rows[i, _Z])
        for r in range(rings[0], rings[1] + 1):
            if nearest[c, r] < closest:
                continue
            tests += 1
            d = to_part(rows, i, directions[c, r, 0], directions[c, r, 1], directions[c, r, 2])
            t = cast_unit(rows, i, o, d, blur)
            if t < nearest[c, r]:
                nearest[c, r] = t
                hit[c, r] = i
    return tests


@inline
def _reach(rows: NDArray[np.float32], i: int) -> tuple[float, float]:
    """Half extents of part i: along the vertical, and the farthest horizontal distance of its
    corners.
    """
    up, out = 0.0, 0.0
    for k in range(4):
        sx = rows[i, _HX] if k % 2 == 0 else -rows[i, _HX]
        sy = rows[i, _HY]
        sz = rows[i, _HZ] if k < 2 else -rows[i, _HZ]
        x, y, z = to_world(rows, i, sx, sy, sz)
        up, out = max(up, abs(z)), max(out, math.hypot(x, y))
    return up, out


@inline
def _bearing_halfwidth(rows: NDArray[np.float32], i: int, x: float, y: float) -> float:
    """Largest bearing between the part's centre, at (x, y) from the sensor, and its corners."""
    widest = 0.0
    for k in range(8):
        sx = rows[i, _HX] if k & 1 else -rows[i, _HX]
        sy = rows[i, _HY] if k & 2 else -rows[i, _HY]
        sz = rows[i, _HZ] if k & 4 else -rows[i, _HZ]
        cx, cy, _ = to_world(rows, i, sx, sy, sz)
        cx, cy = x + cx, y + cy
        widest = max(widest, abs(math.atan2(x * cy - y * cx, x * cx + y * cy)))
    return widest


@kernel
def cast_turn(
    rows: NDArray[np.float32],
    origins: NDArray[np.float64],
    headings: NDArray[np.float64],
    directions: NDArray[np.float64],
    ages: NDArray[np.float64],
    max_range: float,
    nearest: NDArray[np.float64],
    hit: NDArray[np.int32],
) -> int:
    """Nearest part of every ray of a turn.

    Args:
        rows: (n, NUM_COLUMNS) world rows at the end of the turn; near ones first is faster.
        origins: (1084, 3) the sensor in the world, a column.
        headings: (1084,) ego heading, a column [rad].
        directions: (1084, 32, 3) world directions.
        ages: (1084,) time of a column minus the end (<= 0) [s].
        max_range: parts farther away are skipped [m].
        nearest: (1084, 32) filled so far; lowered in place.
        hit: (1084, 32) index of the nearest part; changed in place.

    Returns:
        Number of ray-part tests.
    """
    last = _COLUMNS - 1
    middle = _COLUMNS // 2
    travel = math.hypot(origins[0, 0] - origins[last, 0], origins[0, 1] - origins[last, 1])
    turned = abs(headings[last] - headings[0])
    period = 2.0 * math.pi / _STEP
    tests = 0
    for i in range(rows.shape[0]):
        x, y = rows[i, _X] - origins[middle, 0], rows[i, _Y] - origins[middle, 1]
        distance = math.hypot(x, y)
        up, out = _reach(rows, i)
        if distance - out > max_range:
            continue
        slack = travel + math.hypot(rows[i, _VX], rows[i, _VY]) * 0.05 + 0.05
        near = max(distance - out - slack, 0.2)
        z = rows[i, _Z] - origins[middle, 2]
        rings = _ring_span(z - up, z + up, near, distance + out + slack)
        if rings[0] > rings[1]:
            continue
        if near < 0.5:
            tests += _try_part(rows, i, (0, last), rings, origins, directions, ages, nearest, hit)
            continue
        half = _bearing_halfwidth(rows, i, x, y) + slack / near + 0.02 + turned
        centre = (_FIRST + headings[middle] - math.atan2(y, x)) / _STEP
        centre -= math.floor(centre / period) * period
        width = half / _STEP
        for turn in range(-1, 2):
            first = max(0, math.ceil(centre - width + turn * period))
            final = min(last, math.floor(centre + width + turn * period))
            if first <= final:
                tests += _try_part(
                    rows, i, (first, final), rings, origins, directions, ages, nearest, hit
                )
    return tests


@kernel
def nearest_of_parts(
    rows: NDArray[np.float32], origin: NDArray[np.float64], directions: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """Every ray against every part, from one origin: the slow reference of `cast_turn`, and the own
    car's table.

    Args:
        rows: (n, NUM_COLUMNS).
        origin: (3,).
        directions: (C, R, 3).

    Returns:
        (C, R) distance or MISS, and index of the part or -1.
    """
    nearest = np.full(directions.shape[:2], MISS)
    hit = np.full(directions.shape[:2], -1, dtype=np.int32)
    for i in range(rows.shape[0]):
        o = to_part(
            rows, i, origin[0] - rows[i, _X], origin[1] - rows[i, _Y], origin[2] - rows[i, _Z]
        )
        blur = _BEAM_SPREAD * math.hypot(rows[i, _X] - origin[0], rows[i, _Y] - origin[1])
        for c in range(directions.shape[0]):
            for r in range(directions.shape[1]):
                d = to_part(rows, i, directions[c, r, 0], directions[c, r, 1], directions[c, r, 2])
                t = cast_unit(rows, i, o, d, blur)
                if t < nearest[c, r]:
                    nearest[c, r] = t
                    hit[c, r] = i
    return nearest, hit
