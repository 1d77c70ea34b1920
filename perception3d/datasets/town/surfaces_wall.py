"""What a house front looks like at a point: bricks, windows with rooms behind them, shops, signs.

A look is explained in `surfaces`.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from perception3d.datasets.town import facade
from perception3d.datasets.town import primitives as p
from perception3d.datasets.town.compiled import kernel
from perception3d.datasets.town.noise import fading, smooth2, uniform

_HX, _HY, _HZ, _U, _A, _B = p.HX, p.HY, p.HZ, p.U, p.A, p.B
_RED, _GREEN, _BLUE = p.RED, p.GREEN, p.BLUE

Look = tuple[float, float, float, float, float]
Vector = tuple[float, float, float]


@kernel
def _fade(fine: float, size: float) -> float:
    """1 for detail of `size` metres that fills pixels, 0 for detail below a pixel."""
    return min(1.0, max(0.0, 1.6 - 1.2 * fine / size))


@kernel
def _brick(along: float, z: float, fine: float, seed: int) -> float:
    """Shade of brickwork: courses of 8 cm, joints, single dark bricks."""
    keep = _fade(fine, 0.09)
    if keep <= 0.0:
        return 0.96
    row = math.floor(z / 0.085)
    column = along / 0.25 + 0.5 * (row % 2)
    brick = 0.84 + 0.28 * uniform(math.floor(column), int(row), seed)
    if (z / 0.085 - row) < 0.14 or (column - math.floor(column)) < 0.06:
        brick = 1.25
    return 0.96 + (brick - 0.96) * keep


@kernel
def _shop(j: int, u: float, v: float, seed: int, night: bool) -> Look:
    """Behind a shop window: shelves with goods, or a counter, under ceiling light."""
    tone, open_late = uniform(j, 90, seed), uniform(j, 91, seed) < 0.7
    shelf = v * (7.0 + 3.0 * tone)
    row = math.floor(shelf)
    goods = uniform(math.floor(u * 24.0), row, seed + 5)
    low = shelf - row < 0.25 + 0.6 * goods and v < 0.60
    red = 0.20 + (0.22 * (goods - 0.4) if low else 0.10 * tone)
    green = 0.19 + (0.18 * (uniform(row, 7, seed) - 0.4) if low else 0.08 * tone)
    blue = 0.17 + (0.18 * (0.6 - goods) if low else 0.05 * tone)
    depth = 0.45 + 0.55 * v + 0.25 * smooth2(u * 5.0, v * 4.0, seed)
    red, green, blue = max(red, 0.02) * depth, max(green, 0.02) * depth, max(blue, 0.02) * depth
    if night:
        if not open_late:
            return 0.1 * red, 0.1 * green, 0.1 * blue, 0.6, 0.0
        return red, 0.93 * green, (0.70 + 0.25 * tone) * blue, 0.25, 2.2
    return 0.45 * red, 0.45 * green, 0.45 * blue, 0.8, 0.0


@kernel
def _pane(j: int, k: int, u: float, v: float, zone: int, seed: int, night: bool) -> Look:
    """A window or shop window: dark glass, blinds and curtains behind it, light at night."""
    luck = uniform(j, k, seed + 31)
    tone = uniform(j, k, seed + 77)
    red, green, blue = 0.020, 0.026, 0.034
    if zone == facade.SHOP:
        return _shop(j, u, v, seed, night)
    if luck < 0.45 and v > 0.80 - 0.5 * tone:  # blind
        red, green, blue = 0.30, 0.29, 0.26
    elif 0.45 <= luck < 0.65 and (u < 0.33 or u > 0.67):  # curtain
        red, green, blue = 0.16 + 0.1 * tone, 0.15, 0.14
    if night:
        lit = luck * 7.3 % 1.0
        if lit < 0.34:
            return (
                1.0,
                0.76 + 0.1 * tone,
                0.42 + 0.3 * tone,
                0.2,
                (0.50 if red < 0.1 else 0.28) * (0.5 + 0.5 * tone) * (0.35 + 0.8 * v),
            )
    return red, green, blue, 0.95, 0.0


@kernel
def _sign_board(u: float, v: float, j: int, seed: int, night: bool) -> Look:
    """A shop's name: a coloured board with a row of letters."""
    hue = uniform(j, 21, seed)
    red, green, blue = 0.5, 0.05, 0.05
    if hue < 0.2:
        red, green, blue = 0.04, 0.10, 0.32
    elif hue < 0.4:
        red, green, blue = 0.03, 0.22, 0.10
    elif hue < 0.6:
        red, green, blue = 0.75, 0.72, 0.66
    elif hue < 0.75:
        red, green, blue = 0.03, 0.03, 0.03
    elif hue < 0.88:
        red, green, blue = 0.70, 0.42, 0.04
    letter = (u - 0.2) * 18.0
    ink = uniform(int(letter), j + 5, seed + 9)
    stroke = 0.80 < v < 0.885 and 0.0 < letter < 10.8 and (letter % 1.0) < 0.72 and ink > 0.12
    if stroke and (
        (letter % 1.0) < 0.2 or (letter % 1.0) > 0.52 or (v > 0.868) or (ink > 0.55 and v < 0.815)
    ):
        bright = 0.85 if hue < 0.4 or hue >= 0.6 else 0.05
        return bright, bright, bright * 0.95, 0.05, 1.0 if night else 0.0
    return red, green, blue, 0.15, 0.30 if night else 0.0


@kernel
def _trim(
    zone: int,
    j: int,
    u: float,
    v: float,
    z: float,
    colour: Vector,
    seed: int,
    shade: float,
    night: bool,
) -> Look:
    """Everything of a facade that is neither glass nor plain wall."""
    red, green, blue = colour
    if zone == facade.FRAME:
        tone = 0.06 if uniform(1, 2, seed) < 0.6 else 0.55
        return tone, tone, tone, 0.1, 0.0
    if zone == facade.PANEL:
        tone = 0.10 + 0.25 * uniform(3, 4, seed)
        return (
            tone * (0.7 + 0.6 * red),
            tone * (0.7 + 0.6 * green),
            tone * (0.7 + 0.6 * blue),
            0.35,
            0.0,
        )
    if zone == facade.SIGN:
        return _sign_board(u, v, j, seed, night)
    if zone == facade.DOOR:
        slat = 0.8 + 0.2 * math.floor(z * 9.0) % 2
        tone = (0.12 + 0.25 * uniform(j, 8, seed)) * slat
        return tone * 0.95, tone, tone * 1.05, 0.15, 0.0
    return (
        shade * (0.35 * red + 0.33),
        shade * (0.35 * green + 0.32),
        shade * (0.35 * blue + 0.30),
        0.0,
        0.0,
    )


@kernel
def wall(
    rows: NDArray[np.float32], i: int, q: Vector, n: Vector, view: Vector, fine: float, night: bool
) -> Look:
    """A facade; windows lie 14 cm behind it, so the reveal shows at a slant.

    Args:
        rows: parts.
        i: which.
        q: point in the part's axes [m].
        n: outward normal in the part's axes.
        view: ray direction in the part's axes (unit length).
        fine: metres a pixel.
        night: light the windows.

    Returns:
        The look.
    """
    red, green, blue = rows[i, _RED], rows[i, _GREEN], rows[i, _BLUE]
    if abs(n[2]) > 0.6 or rows[i, _A] <= 0.0:
        grain = 0.85 + 0.3 * smooth2(q[0] * 0.8, q[1] * 0.8, 3)
        return 0.16 * grain, 0.155 * grain, 0.15 * grain, 0.0, 0.0
    side = abs(n[1]) > abs(n[0])
    sign = (1.0 if n[1] > 0.0 else -1.0) if side else (1.0 if n[0] > 0.0 else -1.0)
    along, half = (-sign * q[0], rows[i, _HX]) if side else (sign * q[1], rows[i, _HY])
    slide = (-sign * view[0] if side else sign * view[1]) / max(
        0.05, abs(view[1] if side else view[0])
    )
    drop = view[2] / max(0.05, abs(view[1] if side else view[0]))
    style, seed = int(rows[i, _U] * 3.9999), int(rows[i, _U] * 65536.0)
    seed += 0 if side else 13
    z, height = q[2] + rows[i, _HZ], 2.0 * rows[i, _HZ]
    zone, j, k, u, v = facade.zone_of(style, rows[i, _A], rows[i, _B], along, z, half, height, seed)
    shade = 1.0
    if facade.is_glass(zone) and style != facade.CURTAIN:
        depth = 0.14
        zone2, j2, k2, u, v = facade.zone_of(
            style,
            rows[i, _A],
            rows[i, _B],
            along + depth * slide,
            z + depth * drop,
            half,
            height,
            seed,
        )
        if facade.is_glass(zone2) and j2 == j and k2 == k:
            return _pane(j, k, u, v, zone, seed, night)
        zone, shade = (facade.PLAIN, 0.55) if not facade.is_glass(zone2) else (facade.FRAME, 0.8)
    elif facade.is_glass(zone):
        return _pane(j, k, u, v, zone, seed, night)
    if zone != facade.PLAIN:
        return _trim(zone, j, u, v, z, (red, green, blue), seed, shade, night)
    if style == facade.BRICK:
        shade *= _brick(along, z, fine, seed)
    # Rain streaks and soot: darker near the ground and below the eaves.
    stain = 0.86 + 0.26 * smooth2(along * 0.9, z * 0.12, seed) - 0.16 * fading(z / 0.5)
    shade *= stain * (
        0.94 + 0.12 * uniform(math.floor(along * 25.0), math.floor(z * 25.0), 5) * _fade(fine, 0.05)
    )
    return red * red * shade, green * green * shade, blue * blue * shade, 0.0, 0.0
