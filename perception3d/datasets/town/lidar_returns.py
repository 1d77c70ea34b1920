"""From a ray's hit to a row of the point file: strength, loss, noise, ego-motion compensation.

The model and its constants were fitted to the table of the real key frame (town sheet, section 4).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from perception3d.datasets.town import facade, rig
from perception3d.datasets.town import primitives as p
from perception3d.datasets.town.compiled import inline, kernel
from perception3d.datasets.town.noise import gaussian, hash3, mixed, uniform
from perception3d.datasets.town.raycast import MISS, normal_at, to_part

_X, _Y, _Z, _HX, _HY, _HZ, _VX, _VY = p.X, p.Y, p.Z, p.HX, p.HY, p.HZ, p.VX, p.VY
_RED, _GREEN, _BLUE, _OWNER, _MATERIAL, _U, _A, _B = (
    p.RED,
    p.GREEN,
    p.BLUE,
    p.OWNER,
    p.MATERIAL,
    p.U,
    p.A,
    p.B,
)
_M = p.Material
_GRASS, _WALKWAY, _CAR_PARK, _ASPHALT, _PAINT = (
    int(_M.GRASS), int(_M.WALKWAY), int(_M.CAR_PARK), int(_M.ASPHALT), int(_M.PAINT)
)  # fmt: skip
_WALL, _CONCRETE, _GLASS, _LEAVES, _CLOTH = (
    int(_M.WALL), int(_M.CONCRETE), int(_M.GLASS), int(_M.LEAVES), int(_M.CLOTH)
)  # fmt: skip
_TYRE, _PLATE, _RETRO, _CONE, _HAIR, _SKIN = (
    int(_M.TYRE), int(_M.PLATE), int(_M.RETRO), int(_M.CONE), int(_M.HAIR), int(_M.SKIN)
)  # fmt: skip
_CAR_PAINT, _BUS, _KERB, _STRIPES = (
    int(_M.CAR_PAINT),
    int(_M.BUS_BODY),
    int(_M.KERB),
    int(_M.STRIPES),
)
_SPOKES, _WHEEL, _METAL, _BARK = int(_M.SPOKES), int(_M.WHEEL), int(_M.METAL), int(_M.BARK)
_RANGE_STEP, _MAX_RANGE = rig.RANGE_STEP_M, rig.MAX_RANGE_M
_NOISE_M = 0.005
_THRESHOLD = 1.8e-5


@kernel
def ground_reflectivity(material: int, x: float, y: float) -> float:
    """Reflectivity of a ground material, with stains of about a metre."""
    stain = 0.8 + 0.4 * uniform(math.floor(x * 1.3), math.floor(y * 1.3), 5)
    if material == _PAINT:
        return 0.55 * stain
    if material == _ASPHALT:
        return 0.075 * stain
    if material == _WALKWAY:
        return 0.14 * stain
    if material == _CAR_PARK:
        return 0.085 * stain
    return 0.3 * stain


@kernel
def _wall_reflectivity(rows: NDArray[np.float32], i: int, x: float, y: float, z: float) -> float:
    """Reflectivity of a facade at a point of the unit frame; 0 where the ray goes through glass."""
    # Along the wall as the cameras count (surfaces_wall.wall), so that doors and windows coincide.
    side = abs(y) > abs(x)
    sign = (1.0 if y > 0.0 else -1.0) if side else (1.0 if x > 0.0 else -1.0)
    along = -sign * x * rows[i, _HX] if side else sign * y * rows[i, _HY]
    half = rows[i, _HX] if side else rows[i, _HY]
    u = rows[i, _U]
    if abs(z) < 0.9999 and rows[i, _A] > 0.0:
        style, seed = int(u * 3.9999), int(u * 65536.0) + (0 if side else 13)
        zone, _, _, _, _ = facade.zone_of(
            style,
            rows[i, _A],
            rows[i, _B],
            along,
            (z + 1.0) * rows[i, _HZ],
            half,
            2.0 * rows[i, _HZ],
            seed,
        )
        if facade.is_glass(zone):
            return -0.04
    fresh = (u * 17.0) % 1.0
    return 0.04 + 0.5 * fresh * fresh


@kernel
def reflectivity(
    rows: NDArray[np.float32], i: int, x: float, y: float, z: float, luck: float
) -> float:
    """Reflectivity of part i at a point of its unit frame; negative for glass."""
    material = int(rows[i, _MATERIAL])
    bright = (rows[i, _RED] + rows[i, _GREEN] + rows[i, _BLUE]) / 3.0
    if material == _WALL:
        return _wall_reflectivity(rows, i, x, y, z)
    if material == _GLASS:
        return -0.03
    if material == _LEAVES:
        return 0.25 + 0.45 * luck
    if material == _CLOTH:
        return 1.6 if rows[i, _A] > 0.5 and abs(z + 0.1) < 0.16 else 0.05 + 0.5 * bright
    if material in (_PLATE, _RETRO):
        return 2.55
    if material in (_TYRE, _SPOKES, _WHEEL):
        return 0.05
    if material == _CONE:
        return 0.9 if math.floor((z + 1.0) * 2.5) % 2 == 1 else 0.25
    if material == _BUS and -0.25 < z < 0.55:
        return -0.05
    if material == _STRIPES:
        return 0.5 * (0.5 + luck)
    if material in (_KERB, _CONCRETE):
        return 0.06 + 0.22 * bright
    if material in (_METAL, _BARK):
        return 0.05 + 0.25 * bright
    if material in (_SKIN, _HAIR):
        return 0.3 if material == _SKIN else 0.1
    return 0.03 + 0.6 * bright * bright


@kernel
def _signal(rho: float, cosine: float, distance: float, fog: float, h: int) -> float:
    """Intensity before rounding; negative when the return is lost."""
    g1, g2 = gaussian(mixed(h + 11)), gaussian(mixed(h + 23))
    c = max(cosine, 0.02)
    air = math.exp(-2.0 * fog * distance)
    reach = max(distance, 3.0)
    if rho * c * air / (reach * reach) < _THRESHOLD * math.exp(0.5 * g2):
        return -1.0
    intensity = 100.0 * rho * math.sqrt(math.sqrt(c)) * math.exp(0.3 * g1) * math.sqrt(air)
    if distance < 6.0:
        intensity *= 0.55 + 0.075 * distance
    return min(255.0, intensity)


@inline
def _sample_part(
    rows: NDArray[np.float32],
    i: int,
    origin: NDArray[np.float64],
    d: NDArray[np.float64],
    t: float,
    age: float,
    h: int,
) -> tuple[float, float]:
    """Reflectivity and cosine of incidence where a ray meets part i; negative reflectivity: lost in
    glass.
    """
    x = origin[0] + t * d[0] - rows[i, _X] - rows[i, _VX] * age
    y = origin[1] + t * d[1] - rows[i, _Y] - rows[i, _VY] * age
    ux, uy, uz = to_part(rows, i, x, y, origin[2] + t * d[2] - rows[i, _Z])
    luck = mixed(h + 37) / 4294967296.0
    rho = reflectivity(rows, i, ux, uy, uz, luck)
    if rho < 0.0:
        if luck < (0.45 if int(rows[i, _MATERIAL]) == _WALL else 0.6):
            return -1.0, 1.0
        rho = -rho
    if int(rows[i, _MATERIAL]) == _LEAVES:
        return rho, 0.7
    n = normal_at(rows, i, ux, uy, uz)
    dx, dy, dz = to_part(rows, i, d[0], d[1], d[2])
    c = abs(n[0] * dx * rows[i, _HX] + n[1] * dy * rows[i, _HY] + n[2] * dz * rows[i, _HZ])
    return rho, 0.3 + 0.7 * c


@kernel
def _own_signal(column: int, ring: int, h: int) -> float:
    """Intensity of the own car; the lowest rings lose a patch straight behind the sensor (real
    frame).
    """
    if ring < 2 and abs(column - 809) < 73 - 24 * ring:
        return -1.0
    return min(255.0, 19.0 * math.exp(0.75 * gaussian(mixed(h + 43))))


@kernel
def _backscatter(fog: float, distance: float, h: int) -> float:
    """Range of a false return from fog droplets, or 0."""
    if fog <= 0.0 or mixed(h + 51) / 4294967296.0 > 2.5 * fog:
        return 0.0
    u = mixed(h + 53) / 4294967296.0
    droplet = 1.5 + 14.0 * u * u
    return droplet if droplet < distance else 0.0


@inline
def _look(
    c: int,
    r: int,
    rows: NDArray[np.float32],
    origins: NDArray[np.float64],
    directions: NDArray[np.float64],
    ages: NDArray[np.float64],
    nearest: NDArray[np.float64],
    hit: NDArray[np.int32],
    own: NDArray[np.float64],
    material: NDArray[np.uint8],
    place: tuple[float, float, float],
    fog: float,
    h: int,
) -> tuple[float, float, int]:
    """Range (0: none), intensity and owner of one ray."""
    t = nearest[c, r]
    d = directions[c, r]
    ground = -origins[c, 2] / d[2] if d[2] < -1e-6 else MISS
    on_ground = ground < t
    if on_ground:
        t = ground
    droplet = _backscatter(fog, min(t, own[c, r]), h)
    if droplet > 0.0:
        return droplet, 1.0 + math.floor(6.0 * (mixed(h + 57) / 4294967296.0)), -1
    if own[c, r] < t:
        signal = _own_signal(c, r, h)
        return (own[c, r], signal, -1) if signal >= 0.0 else (0.0, 0.0, -1)
    if t > _MAX_RANGE:
        return 0.0, 0.0, -1
    owner = -1
    if on_ground:
        x, y = origins[c, 0] + t * d[0], origins[c, 1] + t * d[1]
        column, row = int((x - place[0]) / place[2]), int((y - place[1]) / place[2])
        inside = 0 <= row < material.shape[0] and 0 <= column < material.shape[1]
        what = int(material[row, column]) if inside and x >= place[0] and y >= place[1] else _GRASS
        if what == _GRASS or what == 0:  # blades of grass stand up
            t *= 1.0 - 0.03 * (mixed(h + 61) / 4294967296.0)
        rho, cosine = ground_reflectivity(what, x, y), -d[2]
    else:
        rho, cosine = _sample_part(rows, hit[c, r], origins[c], d, t, ages[c], h)
        owner = int(rows[hit[c, r], _OWNER])
    signal = _signal(rho, cosine, t, fog, h) if rho >= 0.0 else -1.0
    return (t, signal, owner) if signal >= 0.0 else (0.0, 0.0, -1)


@kernel
def write_rows(
    rows: NDArray[np.float32],
    origins: NDArray[np.float64],
    directions: NDArray[np.float64],
    ages: NDArray[np.float64],
    nearest: NDArray[np.float64],
    hit: NDArray[np.int32],
    own: NDArray[np.float64],
    material: NDArray[np.uint8],
    place: tuple[float, float, float],
    fog: float,
    seed: int,
    lidar_T_world: NDArray[np.float64],
    points: NDArray[np.float32],
    owner: NDArray[np.int32],
) -> None:
    """Fill the point file's rows.

    Args:
        rows, origins, directions, ages, nearest, hit: as in and from lidar_rays.cast_turn.
        own: (1084, 32) range of the own car, MISS elsewhere.
        material: ground raster.
        place: x, y of the raster's corner, cell size [m].
        fog: extinction [1/m].
        seed: of the noise.
        lidar_T_world: (4, 4) world -> LIDAR frame at the end of the turn.
        points: (1084 * 32, 5) out.
        owner: (1084 * 32,) out.
    """
    T = lidar_T_world
    for c in range(nearest.shape[0]):
        for r in range(nearest.shape[1]):
            h = hash3(c, r, seed)
            t, signal, who = _look(
                c, r, rows, origins, directions, ages, nearest, hit, own, material, place, fog, h
            )
            if t > 0.0:
                t = (
                    math.floor((t + _NOISE_M * gaussian(mixed(h + 3))) / _RANGE_STEP + 0.5)
                    * _RANGE_STEP
                )
                signal = math.floor(signal + 0.5)
            else:  # lost rays carry an intensity in real files too (median 9)
                signal = min(
                    255.0, max(1.0, math.floor(8.5 * math.exp(1.25 * gaussian(mixed(h + 5))) + 0.5))
                )
            x = origins[c, 0] + t * directions[c, r, 0]
            y = origins[c, 1] + t * directions[c, r, 1]
            z = origins[c, 2] + t * directions[c, r, 2]
            k = c * nearest.shape[1] + r
            for a in range(3):
                points[k, a] = T[a, 0] * x + T[a, 1] * y + T[a, 2] * z + T[a, 3]
            points[k, 3] = signal
            points[k, 4] = r
            owner[k] = who
