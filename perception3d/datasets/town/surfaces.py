"""What a surface looks like at a point: colour, gloss and own light of each material.

Every function gives a look: red, green, blue (linear, 0..1), gloss (0 matt .. 1 mirror glass) and
glow (own light, as a multiple of the colour; only counts at night or for lamps). Detail smaller
than a pixel (`fine`, metres a pixel) is left out, so that far objects do not flicker.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from perception3d.datasets.town import primitives as p
from perception3d.datasets.town.compiled import kernel
from perception3d.datasets.town.noise import fading, smooth2, uniform
from perception3d.datasets.town.raycast import leaf_cell

_HX, _HY, _HZ, _U, _A, _B, _MATERIAL = p.HX, p.HY, p.HZ, p.U, p.A, p.B, p.MATERIAL
_RED, _GREEN, _BLUE = p.RED, p.GREEN, p.BLUE
_M = p.Material
_CONE, _STRIPES, _KERB, _CLOTH = int(_M.CONE), int(_M.STRIPES), int(_M.KERB), int(_M.CLOTH)
_CONCRETE, _BARK, _WOOD, _POSTER = int(_M.CONCRETE), int(_M.BARK), int(_M.WOOD), int(_M.POSTER)
_LEAVES, _RETRO, _SIGNAL, _HAIR = int(_M.LEAVES), int(_M.RETRO), int(_M.SIGNAL), int(_M.HAIR)
_STREET_LAMP, _METAL, _FUR = int(_M.STREET_LAMP), int(_M.METAL), int(_M.FUR)
_CYLINDER = int(p.Shape.CYLINDER)
_LIT_SIGN, _ROOF = int(_M.LIT_SIGN), int(_M.ROOF)

Look = tuple[float, float, float, float, float]
Vector = tuple[float, float, float]


@kernel
def leaves(rows: NDArray[np.float32], i: int, q: Vector, fine: float) -> Look:
    """Foliage: each leaf cell its own green, dark deep inside the crown, in gaps between clumps and
    below.
    """
    a, b, c, _ = leaf_cell(q[0], q[1], q[2], fine, rows[i, _B])
    fa, fb, fc = math.floor(a), math.floor(b), math.floor(c)
    leaf = uniform(int(fa), int(fb), int(fc) + 40503 * int(rows[i, _U] * 65536.0))
    clump = uniform(math.floor(0.2 * fa), math.floor(0.2 * fb), math.floor(0.2 * fc) + 3)
    # A leaf is flat: shade it across its cell, so that close cells do not look like cubes.
    tilt = 0.75 + 0.5 * abs((a - fa) + (b - fb) * (1.0 if leaf > 0.5 else -1.0) - (c - fc))
    rx, ry, rz = q[0] / rows[i, _HX], q[1] / rows[i, _HY], q[2] / rows[i, _HZ]
    deep = min(1.0, math.sqrt(rx * rx + ry * ry + rz * rz))
    tone = (
        (0.35 + 0.85 * leaf + 0.45 * clump)
        * tilt
        * (0.22 + 0.78 * deep * deep)
        * (0.82 + 0.30 * rz)
    )
    warm = 0.10 * (leaf - 0.4)
    return (
        (rows[i, _RED] ** 2 + warm * 0.10) * tone,
        (rows[i, _GREEN] ** 2 + warm * 0.07) * tone,
        rows[i, _BLUE] ** 2 * tone,
        0.04,
        0.0,
    )


@kernel
def _retro_sign(rows: NDArray[np.float32], i: int, q: Vector, n: Vector) -> Look:
    """A traffic sign's face (towards +x); the back is bare metal."""
    disc = (
        int(rows[i, p.SHAPE]) == _CYLINDER
    )  # a round sign is an upright cylinder tipped over by a quarter turn
    if (-n[2] if disc else n[0]) < 0.5:
        return 0.22, 0.22, 0.23, 0.1, 0.0
    style = int(rows[i, _A])
    y, z = q[1] / rows[i, _HY], (q[0] / rows[i, _HX] if disc else q[2] / rows[i, _HZ])
    rim = math.hypot(y, z) if disc else max(abs(y), abs(z))
    if style == 0:  # green direction board with white text
        text = (
            abs(z) < 0.7
            and (abs(z) % 0.5) < 0.22
            and abs(y) < 0.75
            and uniform(int(y * 9.0), int(z * 2.0), 4) > 0.3
        )
        bright = 1.0 if rim > 0.9 or text else 0.0
        return 0.02 + 0.8 * bright, 0.20 + 0.6 * bright, 0.09 + 0.7 * bright, 0.1, 0.35
    if style == 1:  # no entry
        bar = abs(z) < 0.2 and abs(y) < 0.7
        return (0.85, 0.85, 0.85, 0.1, 0.35) if bar else (0.60, 0.02, 0.02, 0.1, 0.35)
    if style == 2:  # blue mandatory sign
        mark = abs(y) < 0.15 or (z > 0.1 and abs(abs(y) + z - 0.6) < 0.16)
        return (0.85, 0.85, 0.85, 0.1, 0.35) if mark else (0.02, 0.10, 0.48, 0.1, 0.35)
    if rim > 0.78:  # white plate with a red rim
        return 0.60, 0.03, 0.03, 0.1, 0.35
    mark = abs(y) < 0.3 and abs(z) < 0.45 and uniform(int(y * 8.0 + 40), int(z * 8.0 + 40), 7) > 0.5
    return (0.03, 0.03, 0.03, 0.1, 0.0) if mark else (0.85, 0.85, 0.82, 0.1, 0.35)


@kernel
def _signal(rows: NDArray[np.float32], i: int, q: Vector, n: Vector) -> Look:
    """A traffic light's head: three lenses on the +x face."""
    if n[0] < 0.5:
        return 0.02, 0.02, 0.02, 0.1, 0.0
    z = q[2] / rows[i, _HZ]
    lens = min(2, int((1.0 - z) * 1.5))  # 0 red on top
    centre = (0.667 - 0.667 * lens) * rows[i, _HZ]
    if math.hypot(q[1], q[2] - centre) > 0.75 * rows[i, _HY]:
        return 0.015, 0.015, 0.015, 0.1, 0.0
    on = lens == int(rows[i, _A])
    level = 1.0 if on else 0.06
    if lens == 0:
        return level, 0.05 * level, 0.03 * level, 0.1, 1.6 if on else 0.0
    if lens == 1:
        return level, 0.55 * level, 0.03 * level, 0.1, 1.6 if on else 0.0
    return 0.05 * level, level, 0.45 * level, 0.1, 1.6 if on else 0.0


@kernel
def _poster(y: float, z: float, seed: int, night: bool) -> Look:
    """An advertisement: a ground colour, a round thing, lines of text."""
    r, g, b = uniform(1, 0, seed), uniform(2, 0, seed), uniform(3, 0, seed)
    cy, cz = 0.5 * (uniform(4, 0, seed) - 0.5), 0.1 + 0.4 * uniform(5, 0, seed)
    inside = (y - cy) ** 2 + ((z - cz) * 1.6) ** 2
    glow = 0.5 if night else 0.0
    if inside < 0.20 + 0.2 * r:
        swirl = 0.6 + 0.4 * smooth2(y * 4.0, z * 5.0, seed)
        return 0.75 * g * swirl, 0.60 * b * swirl, 0.65 * r * swirl, 0.3, glow
    line = -0.85 < z < -0.35 and abs(y) < 0.8 and (z * 9.0) % 1.0 < 0.45
    if line and uniform(int(y * 14.0 + 50), int(z * 9.0 + 50), seed) > 0.25:
        return 0.85, 0.85, 0.80, 0.3, glow
    shade = 0.75 + 0.25 * z
    return 0.55 * r * r * shade, 0.5 * g * g * shade, 0.6 * b * b * shade, 0.3, glow


@kernel
def _bands(rows: NDArray[np.float32], i: int, material: int, q: Vector, n: Vector) -> Look:
    """Painted patterns of street furniture: cone, kerb, boards, vest."""
    red, green, blue = rows[i, _RED] ** 2, rows[i, _GREEN] ** 2, rows[i, _BLUE] ** 2
    z = (q[2] / rows[i, _HZ] + 1.0) * 0.5
    if material == _CONE:
        if (0.30 < z < 0.50) or (0.64 < z < 0.80):
            return 0.80, 0.80, 0.78, 0.05, 0.0
        return red, green, blue, 0.05, 0.0
    if material == _KERB:
        worn = 0.7 + 0.4 * smooth2(q[0] * 3.0, q[2] * 9.0, 17)
        if rows[i, _A] > 0.0 and math.floor(q[0] / rows[i, _A]) % 2 == 0:
            return 0.025 * worn, 0.025 * worn, 0.025 * worn, 0.0, 0.0
        return red * worn, green * worn, blue * worn, 0.0, 0.0
    if material == _STRIPES:
        across = q[1] if abs(n[0]) >= abs(n[1]) else q[0]
        if math.floor((across + q[2]) / rows[i, _A]) % 2 == 0:
            return 0.78, 0.78, 0.76, 0.05, 0.0
        return red, green, blue, 0.05, 0.0
    # Cloth: a reflective vest has two light bands, plain cloth has folds.
    if rows[i, _A] > 0.5 and (0.36 < z < 0.46 or 0.56 < z < 0.64):
        return 0.75, 0.75, 0.72, 0.2, 0.1
    fold = 0.85 + 0.3 * smooth2(q[1] * 22.0 + q[0] * 9.0, q[2] * 7.0, 23)
    return red * fold, green * fold, blue * fold, 0.0, 0.0


@kernel
def street(
    rows: NDArray[np.float32], i: int, material: int, q: Vector, n: Vector, fine: float, night: bool
) -> Look:
    """Look of everything that is neither house nor vehicle."""
    red, green, blue = rows[i, _RED] ** 2, rows[i, _GREEN] ** 2, rows[i, _BLUE] ** 2
    if material == _LEAVES:
        return leaves(rows, i, q, fine)
    if material in (_CONE, _KERB, _STRIPES, _CLOTH):
        return _bands(rows, i, material, q, n)
    if material == _RETRO:
        return _retro_sign(rows, i, q, n)
    if material == _SIGNAL:
        return _signal(rows, i, q, n)
    if material == _STREET_LAMP:
        return (
            (1.0, 0.90, 0.66, 0.0, 2.5)
            if night and n[2] < -0.3
            else (0.55, 0.55, 0.52, 0.2, 0.3 if night else 0.0)
        )
    if material == _LIT_SIGN:
        ink = abs(q[2]) < 0.5 * rows[i, _HZ] and uniform(math.floor(q[1] * 22.0), 3, 5) > 0.45
        return (
            (0.05, 0.05, 0.05, 0.1, 0.0) if ink else (red, green, blue, 0.1, 1.2 if night else 0.3)
        )
    if material == _ROOF:
        row = (q[2] * 5.0 - math.floor(q[2] * 5.0)) * 0.35 + 0.8
        tile = row * (0.85 + 0.3 * uniform(int(q[0] * 4.0), math.floor(q[2] * 5.0), 8))
        return red * tile, green * tile, blue * tile, 0.02, 0.0
    if material == _POSTER:
        if max(abs(q[1]) / rows[i, _HY], abs(q[2]) / rows[i, _HZ]) > 0.93 or abs(n[0]) < 0.5:
            return 0.05, 0.05, 0.05, 0.2, 0.0
        return _poster(q[1] / rows[i, _HY], q[2] / rows[i, _HZ], int(rows[i, _U] * 4096.0), night)
    if material in (_BARK, _WOOD):
        turn = math.atan2(q[1], q[0]) * 5.0 if material == _BARK else q[1] * 24.0
        grain = 0.6 + 0.8 * smooth2(turn, q[2] * 2.2 if material == _BARK else q[0] * 1.5, 41)
        return red * grain, green * grain, blue * grain, 0.0, 0.0
    if material == _CONCRETE:
        across = q[0] + q[1]
        if rows[i, _A] > 0.0:  # moulded plastic: grooves every A metres, scuffs low down
            groove = abs(q[1] / rows[i, _A] - math.floor(q[1] / rows[i, _A]) - 0.5)
            dirt = smooth2(q[1] * 5.0, q[2] * 7.0, 67) - 0.45 - 0.25 * q[2] / rows[i, _HZ]
            shade = (0.72 if groove > 0.44 else 1.0) * (0.92 + 0.16 * smooth2(q[1], q[2], 68))
            dirt = min(0.75, max(0.0, 1.6 * dirt))
            return (
                (red + (0.12 - red) * dirt) * shade,
                (green + (0.11 - green) * dirt) * shade,
                (blue + (0.10 - blue) * dirt) * shade,
                0.04,
                0.0,
            )
        stain = (
            0.80
            + 0.34 * smooth2(across * 1.6, q[2] * 0.9, 61)
            - 0.12 * fading((q[2] + rows[i, _HZ]) / 0.15)
        )
        return red * stain, green * stain, blue * stain, 0.0, 0.0
    if material in (_HAIR, _FUR):
        tone = 0.8 + 0.4 * uniform(int(q[0] * 60.0), int(q[1] * 60.0), int(q[2] * 60.0))
        return red * tone, green * tone, blue * tone, 0.0, 0.0
    return red, green, blue, 0.25 if material == _METAL else 0.04, 0.0
