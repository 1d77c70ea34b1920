"""Deferred shading: every pixel is coloured once, from the part and the depth that the first pass
found.

All light is linear; the picture stores its square root after a soft shoulder.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from perception3d.datasets.town import primitives as p
from perception3d.datasets.town.camera_rays import SKY
from perception3d.datasets.town.compiled import inline, kernel
from perception3d.datasets.town.ground_look import ground_look
from perception3d.datasets.town.noise import fading
from perception3d.datasets.town.raycast import normal_at, to_part, to_world
from perception3d.datasets.town.sky import look_up
from perception3d.datasets.town.surfaces import street
from perception3d.datasets.town.surfaces_vehicle import is_vehicle_material, vehicle
from perception3d.datasets.town.surfaces_wall import wall

_X, _Y, _Z, _HX, _HY, _HZ, _MATERIAL = p.X, p.Y, p.Z, p.HX, p.HY, p.HZ, p.MATERIAL
_WALL, _LEAVES, _PLASTIC = int(p.Material.WALL), int(p.Material.LEAVES), int(p.Material.PLASTIC)

# Places in the `light` array.
SUN_X, SUN_Y, SUN_Z, SUN_LIGHT, SKY_LIGHT, FOG = range(6)
HAZE_RED, HAZE_GREEN, HAZE_BLUE, NIGHT = range(6, 10)
EGO_X, EGO_Y, EGO_COS, EGO_SIN, EXPOSURE = range(10, 15)
LIGHT_SIZE = 15

_HEADLIGHT = (3.7, 0.65)  # ahead of the ego origin, above the ground [m]
_CLEAR_AIR = 0.0011  # extinction of a clear day [1/m]

Vector = tuple[float, float, float]


@inline
def _shadow(
    height_cm: NDArray[np.uint16], place: tuple[float, float, float], x: float, y: float, z: float
) -> float:
    """Share of sunlight that reaches a height above the ground place (x, y) on the sun's ray;
    bilinear, soft.
    """
    px, py = (x - place[0]) / place[2] - 0.5, (y - place[1]) / place[2] - 0.5
    c, r = math.floor(px), math.floor(py)
    if c < 0 or r < 0 or c + 1 >= height_cm.shape[1] or r + 1 >= height_cm.shape[0]:
        return 1.0
    fu, fv = px - c, py - r
    limit = 100.0 * z
    light = 0.0
    if height_cm[r, c] <= limit:
        light += (1 - fu) * (1 - fv)
    if height_cm[r, c + 1] <= limit:
        light += fu * (1 - fv)
    if height_cm[r + 1, c] <= limit:
        light += (1 - fu) * fv
    if height_cm[r + 1, c + 1] <= limit:
        light += fu * fv
    return light


@inline
def _share(
    layer: NDArray[np.uint8], place: tuple[float, float, float], x: float, y: float, outside: float
) -> float:
    """Bilinear value 0..1 of a light layer."""
    px, py = (x - place[0]) / place[2] - 0.5, (y - place[1]) / place[2] - 0.5
    c, r = math.floor(px), math.floor(py)
    if c < 0 or r < 0 or c + 1 >= layer.shape[1] or r + 1 >= layer.shape[0]:
        return outside
    fu, fv = px - c, py - r
    top = layer[r, c] * (1 - fu) + layer[r, c + 1] * fu
    low = layer[r + 1, c] * (1 - fu) + layer[r + 1, c + 1] * fu
    return (top * (1 - fv) + low * fv) * (1.0 / 255.0)


@inline
def _headlights(light: NDArray[np.float64], x: float, y: float, z: float, n: Vector) -> float:
    """Own low beam: forward only, cut off above, fading with distance."""
    ex, ey = x - light[EGO_X], y - light[EGO_Y]
    ahead = light[EGO_COS] * ex + light[EGO_SIN] * ey - _HEADLIGHT[0]
    if ahead < 0.2:
        return 0.0
    side = light[EGO_COS] * ey - light[EGO_SIN] * ex
    up = z - _HEADLIGHT[1]
    away = math.sqrt(ahead * ahead + side * side + up * up)
    across = abs(side) / (ahead + 0.6)
    beam = fading(across * across * 3.2)
    height = up / ahead
    beam *= 1.0 if height < 0.02 else 0.10 + 0.90 * fading((height - 0.02) * 16.0)
    hx = light[EGO_COS] * ahead - light[EGO_SIN] * side
    hy = light[EGO_SIN] * ahead + light[EGO_COS] * side
    cosine = -(n[0] * hx + n[1] * hy + n[2] * up) / away
    if n[2] > 0.9:  # road: the grains face the light, so it is brighter than its cosine
        cosine = 0.15 + 0.6 * max(0.0, cosine)
    return 60.0 * beam * max(0.0, cosine) / (14.0 + away * away * 0.30)


@inline
def _lit(
    light: NDArray[np.float64],
    height_cm: NDArray[np.uint16],
    sky_share: NDArray[np.uint8],
    lamp: NDArray[np.uint8],
    place: tuple[float, float, float],
    point: Vector,
    n: Vector,
    matt: bool,
) -> tuple[float, float, float, float]:
    """Light on a surface, red green blue, and the share of sunlight there (for highlights)."""
    x, y, z = point
    sun = 0.0
    if light[SUN_LIGHT] > 0.0:
        cosine = n[0] * light[SUN_X] + n[1] * light[SUN_Y] + n[2] * light[SUN_Z]
        if matt:  # foliage lets light through
            cosine = 0.35 + 0.65 * max(0.0, cosine)
        if cosine > 0.0:
            lift = 0.02 if z <= 0.0 else 0.22
            out = 0.0 if z <= 0.0 else 0.12
            px, py = x + out * n[0], y + out * n[1]
            gx = px - light[SUN_X] / light[SUN_Z] * z
            gy = py - light[SUN_Y] / light[SUN_Z] * z
            sun = cosine * _shadow(height_cm, place, gx, gy, z + lift) * light[SUN_LIGHT]
    near_ground = _share(sky_share, place, x + 0.15 * n[0], y + 0.15 * n[1], 1.0)
    low = fading(max(0.0, z) / 0.7)
    sky = light[SKY_LIGHT] * (0.62 + 0.38 * n[2]) * (1.0 - low * (1.0 - near_ground))
    bounce = 0.16 * light[SUN_LIGHT] * light[SUN_Z] * (0.6 - 0.4 * n[2])
    warm = 0.0
    if light[NIGHT] > 0.5:
        pool = (
            _share(lamp, place, x, y, 0.0) * (0.75 + 0.25 * n[2]) * fading(0.5 * max(0.0, z - 4.0))
        )
        warm = 0.85 * pool
    own = _headlights(light, x, y, z, n) if light[NIGHT] > 0.5 else 0.0
    return (
        1.52 * sun + 0.92 * sky + bounce + 1.10 * warm + own,
        1.45 * sun + 1.00 * sky + 0.97 * bounce + 0.86 * warm + 0.97 * own,
        1.31 * sun + 1.16 * sky + 0.90 * bounce + 0.52 * warm + 0.90 * own,
        sun,
    )


@inline
def _mirror(
    picture: NDArray[np.uint8],
    light: NDArray[np.float64],
    d: Vector,
    n: Vector,
    gloss: float,
    sun: float,
) -> tuple[float, float, float, float]:
    """Reflected light and its weight: sky above, dim street below, the sun's glint."""
    facing = -(d[0] * n[0] + d[1] * n[1] + d[2] * n[2])
    if facing < 0.0:
        facing = 0.0
    rx, ry, rz = d[0] + 2.0 * facing * n[0], d[1] + 2.0 * facing * n[1], d[2] + 2.0 * facing * n[2]
    edge = 1.0 - facing
    weight = gloss * (0.07 + 0.93 * edge * edge * edge * edge * edge)
    if rz > 0.0:
        red, green, blue = look_up(picture, rx, ry, rz)
        # Low reflections meet houses and trees, not the sky.
        dim = min(1.0, 0.35 + 2.2 * rz)
        red, green, blue = red * dim, green * dim, blue * dim
    else:
        ground = 0.16 * (light[SUN_LIGHT] * light[SUN_Z] + light[SKY_LIGHT])
        red, green, blue = ground, ground, ground
    if sun > 0.0:
        glint = rx * light[SUN_X] + ry * light[SUN_Y] + rz * light[SUN_Z]
        if glint > 0.97:
            flash = 4.0 * (glint - 0.97) / 0.03
            red, green, blue = (
                red + flash * sun * 4.0,
                green + flash * sun * 3.9,
                blue + flash * sun * 3.6,
            )
    return red, green, blue, weight


@inline
def _part_look(
    rows: NDArray[np.float32], i: int, d: Vector, point: Vector, fine: float, night: bool
) -> tuple[float, float, float, float, float, Vector]:
    """Look of part i at a world point, and the world normal there."""
    material = int(rows[i, _MATERIAL])
    ux, uy, uz = to_part(
        rows, i, point[0] - rows[i, _X], point[1] - rows[i, _Y], point[2] - rows[i, _Z]
    )
    q = (ux * rows[i, _HX], uy * rows[i, _HY], uz * rows[i, _HZ])
    n = normal_at(rows, i, ux, uy, uz)
    if material == _WALL:
        vx, vy, vz = to_part(rows, i, d[0], d[1], d[2])
        view = (vx * rows[i, _HX], vy * rows[i, _HY], vz * rows[i, _HZ])
        red, green, blue, gloss, glow = wall(rows, i, q, n, view, fine, night)
    elif is_vehicle_material(material):
        red, green, blue, gloss, glow = vehicle(rows, i, material, q, n, fine, night)
    else:
        red, green, blue, gloss, glow = street(rows, i, material, q, n, fine, night)
    world_n = to_world(rows, i, n[0], n[1], n[2])
    return red, green, blue, gloss, glow, world_n


@inline
def _pixel(
    rows: NDArray[np.float32],
    i: int,
    t: float,
    d: Vector,
    origin: NDArray[np.float64],
    focal: float,
    picture: NDArray[np.uint8],
    mips: NDArray[np.uint8],
    levels: NDArray[np.int64],
    material: NDArray[np.uint8],
    place: tuple[float, float, float],
    height_cm: NDArray[np.uint16],
    sky_share: NDArray[np.uint8],
    lamp: NDArray[np.uint8],
    mask_place: tuple[float, float, float],
    light: NDArray[np.float64],
) -> tuple[float, float, float]:
    """Linear light that a pixel receives."""
    length = math.sqrt(d[0] * d[0] + d[1] * d[1] + d[2] * d[2])
    ray = (d[0] / length, d[1] / length, d[2] / length)
    if i == SKY:
        return look_up(picture, ray[0], ray[1], ray[2])
    distance = t * length
    fine = t / focal
    night = light[NIGHT] > 0.5
    point = (origin[0] + t * d[0], origin[1] + t * d[1], origin[2] + t * d[2])
    leafy = False
    if i < 0:
        point = (point[0], point[1], 0.0)
        n = (0.0, 0.0, 1.0)
        red, green, blue, gloss = ground_look(
            mips, levels, material, place, point[0], point[1], distance, fine, -ray[2]
        )
        glow = 0.0
    else:
        red, green, blue, gloss, glow, n = _part_look(rows, i, ray, point, fine, night)
        leafy = int(rows[i, _MATERIAL]) == _LEAVES
    lr, lg, lb, sun = _lit(light, height_cm, sky_share, lamp, mask_place, point, n, leafy)
    lr, lg, lb = red * (lr + glow), green * (lg + glow), blue * (lb + glow)
    facing = -(ray[0] * n[0] + ray[1] * n[1] + ray[2] * n[2])
    if gloss > 0.3 or (gloss > 0.0 and facing < 0.35):
        mr, mg, mb, weight = _mirror(picture, light, ray, n, gloss, sun)
        lr, lg, lb = lr + (mr - lr) * weight, lg + (mg - lg) * weight, lb + (mb - lb) * weight
    clear = fading((light[FOG] + _CLEAR_AIR) * distance)
    return (
        light[HAZE_RED] + (lr - light[HAZE_RED]) * clear,
        light[HAZE_GREEN] + (lg - light[HAZE_GREEN]) * clear,
        light[HAZE_BLUE] + (lb - light[HAZE_BLUE]) * clear,
    )


@kernel
def shade(
    rows: NDArray[np.float32],
    depth: NDArray[np.float32],
    hit: NDArray[np.int32],
    R: NDArray[np.float64],
    origin: NDArray[np.float64],
    lens: tuple[float, float, float],
    picture: NDArray[np.uint8],
    mips: NDArray[np.uint8],
    levels: NDArray[np.int64],
    material: NDArray[np.uint8],
    place: tuple[float, float, float],
    height_cm: NDArray[np.uint16],
    sky_share: NDArray[np.uint8],
    lamp: NDArray[np.uint8],
    mask_place: tuple[float, float, float],
    light: NDArray[np.float64],
    out: NDArray[np.float32],
) -> None:
    """Colour every pixel of `out` (H, W, 3), linear light times the exposure.

    Args:
        rows, depth, hit, R, origin, lens: as in and from camera_rays.draw_parts.
        picture: sky dome.
        mips, levels, material, place: of ground_look.PreparedGround.
        height_cm, sky_share, lamp, mask_place: of shadows.ShadowMask.
        light: LIGHT_SIZE numbers.
        out: (H, W, 3) result.
    """
    f, cx, cy = lens
    for v in range(depth.shape[0]):
        b = (v - cy) / f
        for u in range(depth.shape[1]):
            a = (u - cx) / f
            d = (
                R[0, 0] * a + R[0, 1] * b + R[0, 2],
                R[1, 0] * a + R[1, 1] * b + R[1, 2],
                R[2, 0] * a + R[2, 1] * b + R[2, 2],
            )
            red, green, blue = _pixel(
                rows, hit[v, u], depth[v, u], d, origin, f, picture, mips, levels, material, place,
                height_cm, sky_share, lamp, mask_place, light,
            )  # fmt: skip
            out[v, u, 0] = red * light[EXPOSURE]
            out[v, u, 1] = green * light[EXPOSURE]
            out[v, u, 2] = blue * light[EXPOSURE]
