"""Things that stand in the street: cones, barriers, racks, debris, wheeled bins."""

from __future__ import annotations

import numpy as np

from perception3d.datasets.town.catalogue_cars import FOOT_M, MARGIN_M, Colour, Parts
from perception3d.datasets.town.catalogue_cycles import bicycle
from perception3d.datasets.town.primitives import COS, SIN, Material, Shape, X, Y, part

_DARK: Colour = (0.14, 0.14, 0.15)
_STEEL: Colour = (0.55, 0.56, 0.57)

Size = tuple[float, float, float]


def traffic_cone(size_lwh_m: Size, rng: np.random.Generator) -> Parts:
    """An orange cone with white bands, or a drum-like delineator."""
    radius = min(size_lwh_m[0], size_lwh_m[1]) / 2 - MARGIN_M
    top = size_lwh_m[2] - MARGIN_M
    base = part(Shape.BOX, (0, 0, FOOT_M + 0.025), (radius, radius, 0.025), _DARK, Material.PLASTIC)
    colour = (float(rng.uniform(0.90, 0.98)), float(rng.uniform(0.30, 0.42)), 0.07)
    if rng.random() < 0.15:  # tall tube
        return [
            base,
            part(
                Shape.CYLINDER,
                (0, 0, (0.07 + top) / 2),
                (0.4 * radius, 0.4 * radius, (top - 0.07) / 2),
                colour,
                Material.CONE,
            ),
        ]
    middle, half = (0.06 + top) / 2, (top - 0.06) / 2
    return [
        base,
        part(
            Shape.CYLINDER,
            (0, 0, middle),
            (0.88 * radius, 0.88 * radius, half),
            colour,
            Material.CONE,
            taper=(0, 0, 0.80),
        ),
    ]


def barrier(size_lwh_m: Size, rng: np.random.Generator) -> Parts:
    """A plastic or concrete road barrier, or a striped board on feet; its long side is y."""
    depth, side, top = (
        size_lwh_m[0] / 2 - MARGIN_M,
        size_lwh_m[1] / 2 - MARGIN_M,
        size_lwh_m[2] - MARGIN_M,
    )
    draw = rng.random()
    if draw < 0.62:  # water-filled plastic, red or white, or concrete
        looks = (((0.76, 0.24, 0.16), 0.42), ((0.84, 0.83, 0.80), 0.42), ((0.60, 0.59, 0.56), 0.0))
        colour, groove = looks[int(rng.integers(3))]
        stone = Material.CONCRETE
        foot, half_foot = 0.34 * top, 0.17 * top
        middle, half_upper = (FOOT_M + foot + top) / 2, (top - foot - FOOT_M) / 2
        found = [
            part(
                Shape.TAPERED,
                (0, 0, FOOT_M + half_foot),
                (depth - 0.006, side, half_foot),
                colour,
                stone,
                taper=(0.5, 0.5, 0.0),
                a=groove,
            ),
            part(
                Shape.TAPERED,
                (0, 0, middle),
                (0.5 * depth, side, half_upper),
                colour,
                stone,
                taper=(0.25, 0.25, 0.0),
                a=groove,
            ),
        ]
        for s in (-0.5, 0.5):  # slots for a fork lift
            found.append(
                part(
                    Shape.BOX,
                    (0, s * side, FOOT_M + 0.07),
                    (depth, 0.16, 0.05),
                    (0.03, 0.03, 0.03),
                    Material.PLASTIC,
                )
            )
        return found
    red: Colour = (0.82, 0.14, 0.10) if draw < 0.85 else (0.95, 0.45, 0.08)
    found = [
        part(Shape.BOX, (0, 0, top - 0.14), (0.03, side, 0.14), red, Material.STRIPES, a=0.30),
        part(Shape.BOX, (0, 0, 0.48 * top), (0.025, side, 0.09), red, Material.STRIPES, a=0.30),
    ]
    for s in (-1.0, 1.0):
        y = s * (side - 0.2)
        found.append(
            part(Shape.BOX, (0, y, top / 2), (0.02, 0.03, top / 2 - FOOT_M), _STEEL, Material.METAL)
        )
        found.append(
            part(Shape.BOX, (0, y, FOOT_M + 0.04), (depth, 0.06, 0.04), _DARK, Material.PLASTIC)
        )
    return found


def debris(size_lwh_m: Size, rng: np.random.Generator) -> Parts:
    """Rubbish bags, boxes, a branch."""
    half, side, top = (
        size_lwh_m[0] / 2 - MARGIN_M,
        size_lwh_m[1] / 2 - MARGIN_M,
        size_lwh_m[2] - MARGIN_M,
    )
    return [
        part(
            Shape.ELLIPSOID,
            (-0.3 * half, 0.1 * side, FOOT_M + 0.45 * top),
            (0.65 * half, 0.7 * side, 0.45 * top),
            (0.08, 0.08, 0.09),
            Material.PLASTIC,
        ),
        part(
            Shape.BOX,
            (0.45 * half, -0.2 * side, FOOT_M + 0.3 * top),
            (0.30 * half, 0.42 * side, 0.3 * top),
            (0.55, 0.42, 0.26),
            Material.WOOD,
            yaw=float(rng.uniform(-0.3, 0.3)),
        ),
        part(
            Shape.ELLIPSOID,
            (0.1 * half, 0.45 * side, FOOT_M + 0.3 * top),
            (0.4 * half, 0.4 * side, 0.3 * top),
            (0.75, 0.75, 0.73),
            Material.PLASTIC,
        ),
    ]


def pushable(size_lwh_m: Size, rng: np.random.Generator) -> Parts:
    """A wheeled bin or a shopping trolley."""
    half, side, top = (
        size_lwh_m[0] / 2 - MARGIN_M,
        size_lwh_m[1] / 2 - MARGIN_M,
        size_lwh_m[2] - MARGIN_M,
    )
    if rng.random() < 0.5:
        colour = ((0.15, 0.32, 0.18), (0.18, 0.26, 0.45), (0.3, 0.3, 0.3))[int(rng.integers(3))]
        found = [
            part(
                Shape.TAPERED,
                (0, 0, 0.12 + (top - 0.2) / 2),
                (0.8 * half, 0.85 * side, (top - 0.2) / 2),
                colour,
                Material.PLASTIC,
                taper=(-0.15, -0.15, -0.12),
            ),
            part(
                Shape.BOX,
                (0, 0, top - 0.04),
                (0.95 * half, 0.98 * side, 0.035),
                colour,
                Material.PLASTIC,
            ),
        ]
    else:
        found = [
            part(
                Shape.TAPERED,
                (0, 0, 0.62 * top),
                (0.85 * half, 0.85 * side, 0.30 * top),
                _STEEL,
                Material.MESH,
                taper=(-0.1, 0.1, -0.1),
                a=0.07,
            ),
            part(
                Shape.BOX, (0.05, 0, 0.28), (0.8 * half, 0.7 * side, 0.03), _STEEL, Material.METAL
            ),
            part(
                Shape.LATERAL,
                (-half + 0.03, 0, top - 0.03),
                (0.02, 0.9 * side, 0.02),
                (0.7, 0.1, 0.1),
                Material.PLASTIC,
            ),
        ]
    for s in (-1.0, 1.0):
        found.append(
            part(
                Shape.LATERAL,
                (-0.55 * half, s * 0.75 * side, FOOT_M + 0.10),
                (0.10, 0.03, 0.10),
                _DARK,
                Material.TYRE,
            )
        )
        found.append(
            part(
                Shape.LATERAL,
                (0.55 * half, s * 0.75 * side, FOOT_M + 0.10),
                (0.10, 0.03, 0.10),
                _DARK,
                Material.TYRE,
            )
        )
    return found


def bicycle_rack(size_lwh_m: Size, rng: np.random.Generator) -> Parts:
    """A row of steel hoops along x, with bicycles leaning across it."""
    half, side, top = (
        size_lwh_m[0] / 2 - MARGIN_M,
        size_lwh_m[1] / 2 - MARGIN_M,
        size_lwh_m[2] - MARGIN_M,
    )
    hoop = min(0.85, top)
    places = max(2, int(2 * half / 0.75))
    found: Parts = []
    for k in range(places):
        x = -half + (k + 0.5) * (2 * half / places)
        for s in (-1.0, 1.0):
            found.append(
                part(
                    Shape.CYLINDER,
                    (x, s * 0.4, FOOT_M + hoop / 2),
                    (0.025, 0.025, hoop / 2),
                    _STEEL,
                    Material.METAL,
                )
            )
        found.append(part(Shape.BOX, (x, 0, hoop), (0.025, 0.42, 0.025), _STEEL, Material.METAL))
        if rng.random() < 0.7 and x + 0.4 < half:
            machine = bicycle(
                (min(1.75, 2 * side + 0.1), 0.55, min(1.15, top + 0.05)), rng, False, 0.0
            )
            for row in machine:  # a quarter turn to the left, beside the hoop
                row[X], row[Y] = x + 0.12 - row[Y], row[X]
                row[COS], row[SIN] = -row[SIN], row[COS]
            found += machine
    return found
