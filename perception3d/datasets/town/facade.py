"""The drawing of a house front: which point of a wall is window, frame, shop, sign or plain wall.

Both sensors ask the same function, so that glass is dark in the pictures where the LiDAR loses its
returns.
"""

from __future__ import annotations

import math

from perception3d.datasets.town.compiled import kernel
from perception3d.datasets.town.noise import uniform

PLAIN, WINDOW, FRAME, SHOP, SIGN, DOOR, LEDGE, PANEL = range(8)

BRICK, PLASTER, CURTAIN, RIBBON = range(4)  # styles


@kernel
def _ground_floor(style: int, j: int, u: float, v: float, seed: int) -> int:
    if v < 0.06:
        return LEDGE
    luck = uniform(j, 71, seed)
    if style == BRICK and seed % 3 == 0:  # a dwelling: doors and windows
        if j % 4 == 1:
            return DOOR if 0.3 < u < 0.68 and v < 0.7 else PLAIN
        if 0.25 < u < 0.75 and 0.3 < v < 0.78:
            return FRAME if u < 0.28 or u > 0.72 or v < 0.33 or abs(u - 0.5) < 0.012 else WINDOW
        return PLAIN
    if v > 0.95:
        return LEDGE
    if v > 0.76:
        return SIGN if luck > 0.35 and 0.05 < u < 0.95 and v < 0.92 else PLAIN
    if 0.06 < u < 0.94 and v < 0.74:
        if luck < 0.16:
            return DOOR if v < 0.66 and 0.15 < u < 0.85 else PLAIN  # roller door
        if (
            u < 0.085
            or u > 0.915
            or v < 0.085
            or v > 0.715
            or abs(u - 0.5) < 0.012
            or abs(v - 0.58) < 0.008
        ):
            return FRAME
        return SHOP
    return PLAIN


@kernel
def _upper_floor(style: int, u: float, v: float) -> int:
    if style == BRICK:
        if 0.27 < u < 0.73 and 0.24 < v < 0.80:
            if u < 0.30 or u > 0.70 or v < 0.27 or v > 0.775 or abs(v - 0.53) < 0.012:
                return FRAME
            return WINDOW
        return (
            LEDGE
            if (0.24 < u < 0.76 and 0.205 < v <= 0.24) or (0.24 < u < 0.76 and 0.8 <= v < 0.85)
            else PLAIN
        )
    if style == PLASTER:
        if 0.16 < u < 0.84 and 0.27 < v < 0.83:
            if u < 0.18 or u > 0.82 or v < 0.295 or v > 0.81 or abs(u - 0.5) < 0.014:
                return FRAME
            return WINDOW
        return LEDGE if v < 0.05 else PLAIN
    if style == CURTAIN:
        if v > 0.78 or v < 0.02:
            return PANEL
        return FRAME if u < 0.03 or u > 0.97 or abs(v - 0.3) < 0.012 else WINDOW
    if 0.3 < v < 0.82:
        return FRAME if u < 0.035 or v < 0.325 or v > 0.80 else WINDOW
    return LEDGE if 0.25 < v <= 0.3 else PLAIN


@kernel
def zone_of(
    style: int,
    storey: float,
    bay: float,
    along: float,
    z: float,
    half_length: float,
    height: float,
    seed: int,
) -> tuple[int, int, int, float, float]:
    """What lies at a point of a facade.

    Args:
        style: BRICK, PLASTER, CURTAIN or RIBBON.
        storey: storey height [m].
        bay: wanted width of a bay [m]; bays fill the wall evenly.
        along: place along the wall, 0 in its middle [m].
        z: height above the wall's foot [m].
        half_length: half the wall's length [m].
        height: of the wall [m].
        seed: of the house.

    Returns:
        zone, bay number, storey number, place within bay and storey (both 0..1).
    """
    count = max(1.0, math.floor(2.0 * half_length / bay + 0.5))
    place = (along + half_length) / (2.0 * half_length) * count
    j, k = math.floor(place), math.floor(z / storey)
    u, v = place - j, z / storey - k
    if z > height - 0.4:
        zone = LEDGE
    elif k < 1.0:
        zone = _ground_floor(style, int(j), u, v, seed)
    else:
        zone = _upper_floor(style, u, v)
    return zone, int(j), int(k), u, v


@kernel
def is_glass(zone: int) -> bool:
    """True for window and shop window."""
    return zone in (WINDOW, SHOP)
