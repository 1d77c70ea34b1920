"""Houses and trees."""

from __future__ import annotations

import math

import numpy as np

from perception3d.datasets.town.catalogue_cars import Colour, Parts
from perception3d.datasets.town.primitives import Material, Shape, part

Size = tuple[float, float, float]

STOREY_M = 3.2

# By facade style: brick, plaster, curtain wall, ribbon windows.
_WALLS: tuple[tuple[Colour, ...], ...] = (
    ((0.56, 0.32, 0.25), (0.62, 0.42, 0.32), (0.48, 0.28, 0.22), (0.66, 0.55, 0.42)),
    (
        (0.84, 0.80, 0.72),
        (0.78, 0.76, 0.72),
        (0.86, 0.85, 0.83),
        (0.72, 0.66, 0.56),
        (0.80, 0.70, 0.58),
    ),
    ((0.50, 0.54, 0.58), (0.60, 0.62, 0.63), (0.40, 0.44, 0.47)),
    ((0.76, 0.75, 0.73), (0.66, 0.66, 0.65), (0.86, 0.86, 0.85), (0.58, 0.56, 0.53)),
)


def house(size_lwh_m: Size, rng: np.random.Generator) -> Parts:
    """A town house: facade of whole storeys, parapet or pitched roof, roof plant, awnings,
    sometimes a set-back top.
    """
    half, side = size_lwh_m[0] / 2, size_lwh_m[1] / 2
    storeys = max(1, round(size_lwh_m[2] / STOREY_M))
    style = int(rng.choice(4, p=(0.28, 0.34, 0.16, 0.22))) if storeys > 2 else int(rng.integers(2))
    walls = _WALLS[style]
    colour = walls[int(rng.integers(len(walls)))]
    # U holds the style in its first quarter digit and the house's seed below.
    u = (style + float(rng.uniform(0.02, 0.98))) / 4.0
    bay = float(rng.choice((2.4, 3.0, 3.6)))
    height = storeys * STOREY_M + 0.4
    found = [
        part(
            Shape.BOX,
            (0, 0, height / 2),
            (half, side, height / 2),
            colour,
            Material.WALL,
            u=u,
            a=STOREY_M,
            b=bay,
        )
    ]
    if storeys <= 3 and style == 0 and rng.random() < 0.75:  # pitched roof
        rise = 0.28 * side * 2
        tile = ((0.42, 0.20, 0.15), (0.25, 0.25, 0.27), (0.36, 0.26, 0.20))[int(rng.integers(3))]
        found.append(
            part(
                Shape.TAPERED,
                (0, 0, height + rise / 2),
                (half + 0.3, side + 0.35, rise / 2),
                tile,
                Material.ROOF,
                taper=(0.12, 0.12, 0.98),
            )
        )
        found.append(
            part(
                Shape.BOX,
                (0.5 * half, 0.25 * side, height + 0.8 * rise),
                (0.4, 0.4, 0.6 * rise),
                colour,
                Material.CONCRETE,
            )
        )
    else:
        found.append(
            part(
                Shape.BOX,
                (0, 0, height + 0.02),
                (half + 0.22, side + 0.22, 0.16),
                (0.62, 0.61, 0.59),
                Material.CONCRETE,
            )
        )
        if storeys > 3 and rng.random() < 0.45:
            found.append(
                part(
                    Shape.BOX,
                    (0.05 * half, 0, height + 1.6),
                    (0.72 * half, 0.72 * side, 1.75),
                    colour,
                    Material.WALL,
                    u=u,
                    a=STOREY_M,
                    b=bay,
                )
            )
        for _ in range(int(rng.integers(1, 4))):
            x, y = float(rng.uniform(-0.6, 0.6)) * half, float(rng.uniform(-0.6, 0.6)) * side
            found.append(
                part(
                    Shape.BOX,
                    (x, y, height + 0.7),
                    (float(rng.uniform(0.6, 1.8)), float(rng.uniform(0.6, 1.5)), 0.7),
                    (0.55, 0.56, 0.57),
                    Material.METAL,
                )
            )
    found += _additions(half, side, storeys, style, rng)
    return found


def _additions(
    half: float, side: float, storeys: int, style: int, rng: np.random.Generator
) -> Parts:
    """Awnings over the shops, balconies, pilasters; a little depth on the four fronts."""
    found: Parts = []
    awning = ((0.55, 0.12, 0.10), (0.12, 0.30, 0.20), (0.75, 0.70, 0.60), (0.14, 0.20, 0.40))[
        int(rng.integers(4))
    ]
    for front in range(4):
        along = half if front % 2 == 0 else side
        out = side if front % 2 == 0 else half
        sign = 1.0 if front < 2 else -1.0
        shops = style != 0 and rng.random() < 0.5
        if shops:
            place = float(rng.uniform(-0.4, 0.4)) * along
            size = min(3.0, 0.4 * along)
            centre = (
                (place, sign * (out + 0.5), 2.55)
                if front % 2 == 0
                else (sign * (out + 0.5), place, 2.55)
            )
            shape = (size, 0.55, 0.10) if front % 2 == 0 else (0.55, size, 0.10)
            found.append(
                part(
                    Shape.BOX,
                    centre,
                    shape,
                    awning,
                    Material.STRIPES if rng.random() < 0.4 else Material.CLOTH,
                    a=0.5,
                )
            )
        elif style == 1 and storeys > 2 and rng.random() < 0.7:
            for k in range(1, min(storeys, 7)):
                place = 0.45 * along
                z = k * STOREY_M + 0.62
                centre = (
                    (place, sign * (out + 0.5), z)
                    if front % 2 == 0
                    else (sign * (out + 0.5), place, z)
                )
                shape = (1.6, 0.55, 0.5) if front % 2 == 0 else (0.55, 1.6, 0.5)
                found.append(part(Shape.BOX, centre, shape, (0.70, 0.70, 0.68), Material.CONCRETE))
    return found


def tree(size_lwh_m: Size, rng: np.random.Generator) -> Parts:
    """A street tree: trunk, boughs and a crown of several leafy balls."""
    spread, top = min(size_lwh_m[0], size_lwh_m[1]) / 2, size_lwh_m[2]
    bark = (0.34, 0.28, 0.22)
    stem = float(rng.uniform(0.30, 0.40)) * top
    radius = 0.022 * top + 0.03
    dark = float(rng.uniform(0.78, 1.05))
    green = (
        float(rng.uniform(0.28, 0.42)) * dark,
        float(rng.uniform(0.38, 0.47)) * dark,
        float(rng.uniform(0.19, 0.27)) * dark,
    )
    found = [
        part(
            Shape.CYLINDER,
            (0, 0, 0.5 * (stem + 0.15 * top)),
            (radius, radius, 0.5 * (stem + 0.15 * top)),
            bark,
            Material.BARK,
            taper=(0, 0, 0.35),
        )
    ]
    count = int(rng.integers(4, 7))
    middle = (stem + top) / 2 + 0.04 * top
    start = float(rng.uniform(0, 2 * math.pi))
    for k in range(count):
        turn = start + 2 * math.pi * k / count + float(rng.uniform(-0.3, 0.3))
        away = spread * float(rng.uniform(0.38, 0.50))
        size = spread * float(rng.uniform(0.48, 0.60))
        z = middle + float(rng.uniform(-0.16, 0.12)) * (top - stem)
        flat = min(0.9 * size, top - z, z - 0.8 * stem)
        centre = (away * math.cos(turn), away * math.sin(turn), z)
        found.append(
            part(
                Shape.ELLIPSOID,
                centre,
                (size, size, flat),
                green,
                Material.LEAVES,
                u=float(rng.random()),
            )
        )
        if k < 3:  # a bough towards the ball
            dx = math.hypot(centre[0], centre[1])
            pitch = math.atan2(z - stem, dx)
            length = math.hypot(z - stem, dx) / 2
            found.append(
                part(
                    Shape.CYLINDER,
                    (centre[0] / 2, centre[1] / 2, (stem + z) / 2),
                    (0.45 * radius, 0.45 * radius, length),
                    bark,
                    Material.BARK,
                    yaw=turn,
                    pitch=pitch - math.pi / 2,
                )
            )
    crown = min(0.36 * (top - stem), 0.7 * spread)
    found.append(
        part(
            Shape.ELLIPSOID,
            (0, 0, top - crown),
            (0.68 * spread, 0.68 * spread, crown),
            green,
            Material.LEAVES,
            u=float(rng.random()),
        )
    )
    return found
