"""Sun shadows, ground darkness and lamp light of a district, as maps over the ground.

The sun is far away, so all points on one of its rays share one place on the ground. For that place
the map keeps the height up to which the ray is blocked: a point lower than that is in shadow,
whatever it lies on, ground, car or wall. So shading a pixel costs one lookup and no shadow ray.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from perception3d.datasets.town import primitives as p
from perception3d.datasets.town.compiled import kernel
from perception3d.datasets.town.primitives import Rows
from perception3d.datasets.town.raycast import MISS, cast_unit, solid, to_part, to_world
from perception3d.datasets.town.weather import Weather

CELL_M = 0.2

_X, _Y, _Z, _HX, _HY, _HZ, _COS, _SIN = p.X, p.Y, p.Z, p.HX, p.HY, p.HZ, p.COS, p.SIN
_MATERIAL, _VX, _VY, _SHAPE = p.MATERIAL, p.VX, p.VY, p.SHAPE
_LEAVES, _SPOKES, _MESH = int(p.Material.LEAVES), int(p.Material.SPOKES), int(p.Material.MESH)
_STREET_LAMP, _HEAD_LAMP = int(p.Material.STREET_LAMP), int(p.Material.HEAD_LAMP)


class GroundRaster(Protocol):
    """What the sensors need of the ground: see ground.Ground."""

    @property
    def colour(self) -> NDArray[np.uint8]:
        """(H, W, 3) RGB, row = y, column = x."""

    @property
    def material(self) -> NDArray[np.uint8]:
        """(H, W) values of Material."""

    @property
    def origin_xy_m(self) -> NDArray[np.float64] | tuple[float, float]:
        """(2,) world place of the corner of cell (0, 0)."""

    @property
    def cell_m(self) -> float:
        """Cell size."""


@dataclass(frozen=True)
class ShadowMask:
    """Light over an area of ground.

    Attributes:
        height_cm: (H, W) uint16: height up to which the sun's ray that ends in this cell is
            blocked.
        sky: (H, W) uint8: share of sky light that reaches the ground (255 = all).
        lamp: (H, W) uint8: light of street lamps and of other cars' headlights on the ground.
        origin_xy_m: world place of the corner of cell (0, 0).
        cell_m: cell size.
    """

    height_cm: NDArray[np.uint16]
    sky: NDArray[np.uint8]
    lamp: NDArray[np.uint8]
    origin_xy_m: tuple[float, float]
    cell_m: float


def static_mask(rows_static: Rows, ground: GroundRaster, weather: Weather) -> ShadowMask:
    """Shadow of everything that stands still: once a district and weather.

    Args:
        rows_static: (n, NUM_COLUMNS) world rows.
        ground: gives the area.
        weather: gives the sun.

    Returns:
        The mask over the ground's area, cells of 0.2 m.
    """
    height, width = (math.ceil(n * ground.cell_m / CELL_M) for n in ground.material.shape)
    mask = ShadowMask(
        height_cm=np.zeros((height, width), np.uint16),
        sky=np.full((height, width), 255, np.uint8),
        lamp=np.zeros((height, width), np.uint8),
        origin_xy_m=(float(ground.origin_xy_m[0]), float(ground.origin_xy_m[1])),
        cell_m=CELL_M,
    )
    _add(mask, rows_static, weather)
    return mask


def with_moving(
    mask: ShadowMask,
    rows_moving: Rows,
    weather: Weather,
    centre_xy_m: tuple[float, float],
    radius_m: float = 90.0,
) -> ShadowMask:
    """The mask with the shadows of moving objects added near a place: once a key frame.

    Args:
        mask: of the standing world; not changed.
        rows_moving: (n, NUM_COLUMNS) world rows at the time of the picture.
        weather: gives the sun.
        centre_xy_m: the ego car's place.
        radius_m: the result covers this square around it.

    Returns:
        A smaller mask (a crop around the place); where it ends, the sun shines.
    """
    lowest = [
        math.floor((centre_xy_m[k] - radius_m - mask.origin_xy_m[k]) / mask.cell_m) for k in (0, 1)
    ]
    count = math.ceil(2 * radius_m / mask.cell_m)
    x0, y0 = (max(0, n) for n in lowest)
    x1, y1 = max(x0, lowest[0] + count), max(y0, lowest[1] + count)
    crop = ShadowMask(
        height_cm=mask.height_cm[y0:y1, x0:x1].copy(),
        sky=mask.sky[y0:y1, x0:x1].copy(),
        lamp=mask.lamp[y0:y1, x0:x1].copy(),
        origin_xy_m=(
            mask.origin_xy_m[0] + x0 * mask.cell_m,
            mask.origin_xy_m[1] + y0 * mask.cell_m,
        ),
        cell_m=mask.cell_m,
    )
    _add(crop, rows_moving, weather)
    return crop


def _add(mask: ShadowMask, rows: Rows, weather: Weather) -> None:
    rows = np.ascontiguousarray(rows, dtype=np.float32)
    place = (mask.origin_xy_m[0], mask.origin_xy_m[1], mask.cell_m)
    if weather.night:
        _add_lamps(rows, place, mask.lamp)
    else:
        _add_sun(rows, weather.sun_direction, place, mask.height_cm)
    _add_darkness(rows, place, mask.sky)


@kernel
def _blocked_height(
    rows: NDArray[np.float32], i: int, sun: tuple[float, float, float], x: float, y: float
) -> float:
    """Height at which the sun's ray from the ground place (x, y) leaves part i, 0 if it misses."""
    o = to_part(rows, i, x - rows[i, _X], y - rows[i, _Y], -rows[i, _Z])
    d = to_part(rows, i, sun[0], sun[1], sun[2])
    near, far = solid(rows, i, o, d)
    if near > far or far <= 0.0:
        return 0.0
    material = int(rows[i, _MATERIAL])
    if material in (_LEAVES, _SPOKES, _MESH) and cast_unit(rows, i, o, d, 0.12) >= MISS:
        return 0.0
    return far * sun[2]


@kernel
def _add_sun(
    rows: NDArray[np.float32],
    sun: tuple[float, float, float],
    place: tuple[float, float, float],
    height_cm: NDArray[np.uint16],
) -> None:
    slope_x, slope_y = sun[0] / sun[2], sun[1] / sun[2]
    for i in range(rows.shape[0]):
        x0, y0, x1, y1 = 1e30, 1e30, -1e30, -1e30
        for k in range(8):
            sx = rows[i, _HX] if k & 1 else -rows[i, _HX]
            sy = rows[i, _HY] if k & 2 else -rows[i, _HY]
            sz = rows[i, _HZ] if k & 4 else -rows[i, _HZ]
            x, y, z = to_world(rows, i, sx, sy, sz)
            z = max(0.0, z + rows[i, _Z])
            x, y = x + rows[i, _X] - slope_x * z, y + rows[i, _Y] - slope_y * z
            x0, x1, y0, y1 = min(x0, x), max(x1, x), min(y0, y), max(y1, y)
        first_row = max(0, math.floor((y0 - place[1]) / place[2]))
        last_row = min(height_cm.shape[0] - 1, math.floor((y1 - place[1]) / place[2]))
        first = max(0, math.floor((x0 - place[0]) / place[2]))
        last = min(height_cm.shape[1] - 1, math.floor((x1 - place[0]) / place[2]))
        for r in range(first_row, last_row + 1):
            for c in range(first, last + 1):
                x, y = place[0] + (c + 0.5) * place[2], place[1] + (r + 0.5) * place[2]
                cm = min(65000.0, 100.0 * _blocked_height(rows, i, sun, x, y))
                if cm > height_cm[r, c]:
                    height_cm[r, c] = np.uint16(cm)


@kernel
def _add_darkness(
    rows: NDArray[np.float32], place: tuple[float, float, float], sky: NDArray[np.uint8]
) -> None:
    """Contact shadow: less sky under and beside whatever stands near the ground."""
    for i in range(rows.shape[0]):
        material = int(rows[i, _MATERIAL])
        leaves = material == _LEAVES and int(rows[i, _SHAPE]) == 2
        foot = rows[i, _Z] - rows[i, _HZ]
        strength = 0.30 if leaves else 0.72 * math.exp(-max(0.0, foot) / 0.45)
        hx, hy = rows[i, _HX], rows[i, _HY]
        if strength < 0.05 or material == _MESH or min(hx, hy) < 0.04:
            continue
        reach = min(1.6, max(0.15, 0.30 * rows[i, _HZ] + 0.1 * min(hx, hy)))
        around = math.hypot(hx, hy) + 3.0 * reach
        first_row = max(0, int((rows[i, _Y] - around - place[1]) / place[2]))
        last_row = min(sky.shape[0] - 1, int((rows[i, _Y] + around - place[1]) / place[2]))
        first = max(0, int((rows[i, _X] - around - place[0]) / place[2]))
        last = min(sky.shape[1] - 1, int((rows[i, _X] + around - place[0]) / place[2]))
        for r in range(first_row, last_row + 1):
            for c in range(first, last + 1):
                x = place[0] + (c + 0.5) * place[2] - rows[i, _X]
                y = place[1] + (r + 0.5) * place[2] - rows[i, _Y]
                ax = abs(rows[i, _COS] * x + rows[i, _SIN] * y) - hx
                ay = abs(rows[i, _COS] * y - rows[i, _SIN] * x) - hy
                away = math.hypot(max(0.0, ax), max(0.0, ay))
                light = 255.0 * (1.0 - strength * math.exp(-away / reach))
                if light < sky[r, c]:
                    sky[r, c] = np.uint8(light)


@kernel
def _add_lamps(
    rows: NDArray[np.float32], place: tuple[float, float, float], lamp: NDArray[np.uint8]
) -> None:
    """Pools of light below street lamps and in front of moving headlights."""
    for i in range(rows.shape[0]):
        material = int(rows[i, _MATERIAL])
        moving = math.hypot(rows[i, _VX], rows[i, _VY]) > 0.05
        if material != _STREET_LAMP and not (material == _HEAD_LAMP and moving):
            continue
        around = 16.0
        first_row = max(0, int((rows[i, _Y] - around - place[1]) / place[2]))
        last_row = min(lamp.shape[0] - 1, int((rows[i, _Y] + around - place[1]) / place[2]))
        first = max(0, int((rows[i, _X] - around - place[0]) / place[2]))
        last = min(lamp.shape[1] - 1, int((rows[i, _X] + around - place[0]) / place[2]))
        for r in range(first_row, last_row + 1):
            for c in range(first, last + 1):
                x = place[0] + (c + 0.5) * place[2] - rows[i, _X]
                y = place[1] + (r + 0.5) * place[2] - rows[i, _Y]
                if material == _STREET_LAMP:
                    spread = 1.0 + (x * x + y * y) / 30.0
                    light = 150.0 / (spread * spread)
                else:
                    a = rows[i, _COS] * x + rows[i, _SIN] * y
                    b = abs(rows[i, _COS] * y - rows[i, _SIN] * x) / (0.4 + 0.28 * max(a, 0.0))
                    light = (
                        120.0 * math.exp(-a / 7.0) * (1.0 - b * b) if a > 0.3 and b < 1.0 else 0.0
                    )
                if light > 1.0:
                    lamp[r, c] = np.uint8(min(255.0, lamp[r, c] + light))
