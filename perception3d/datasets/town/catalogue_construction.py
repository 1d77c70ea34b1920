"""Construction vehicles: excavators and wheel loaders."""

from __future__ import annotations

import numpy as np

from perception3d.datasets.town.catalogue_cars import (
    FOOT_M,
    MARGIN_M,
    Colour,
    Parts,
    tilt_between,
    wheels,
)
from perception3d.datasets.town.primitives import Material, Shape, part

_DARK: Colour = (0.12, 0.12, 0.13)


def construction_vehicle(size_lwh_m: tuple[float, float, float], rng: np.random.Generator) -> Parts:
    """An excavator on tracks or a wheel loader."""
    length, width, height = (
        size_lwh_m[0] - 2 * MARGIN_M,
        size_lwh_m[1] - 2 * MARGIN_M,
        size_lwh_m[2] - MARGIN_M,
    )
    paint: Colour = ((0.90, 0.62, 0.08), (0.88, 0.45, 0.08), (0.85, 0.68, 0.12))[
        int(rng.integers(3))
    ]
    if rng.random() < 0.55:
        return _excavator(length, width, height, paint)
    return _loader(length, width, height, paint, rng)


def _beam(
    start: tuple[float, float],
    end: tuple[float, float],
    half_width: float,
    half_height: float,
    paint: Colour,
    y: float = 0.0,
) -> list[float]:
    x, z, half, pitch = tilt_between(start, end)
    return part(
        Shape.BOX,
        (x, y, z),
        (half, half_width, half_height),
        paint,
        Material.CAR_PAINT,
        pitch=pitch,
    )


def _excavator(length: float, width: float, height: float, paint: Colour) -> Parts:
    half, side = length / 2, width / 2
    rear_mid = -half + max(0.27 * length, 0.20 * length + 0.37)  # middle of the turntable
    reach = half - 0.25
    top = height - 0.25
    knee = (rear_mid + 0.36 * length, top - 0.10)
    tip = (reach - 0.22, 0.75)
    found = [
        part(
            Shape.TAPERED,
            (rear_mid, 0, 1.22),
            (0.26 * length, side * 0.92, 0.36),
            paint,
            Material.CAR_PAINT,
            taper=(0.0, 0.15, 0.03),
        ),
        part(
            Shape.BOX,
            (rear_mid - 0.19 * length, 0, 1.15),
            (0.07 * length, side * 0.9, 0.42),
            _DARK,
            Material.PLASTIC,
        ),
        part(
            Shape.TAPERED,
            (rear_mid + 0.12 * length, side * 0.45, 1.95),
            (0.12 * length, side * 0.38, min(0.62, (top - 1.3) / 2)),
            paint,
            Material.GLASS,
            taper=(0.15, 0, 0.05),
            a=1.0,
            b=1.0,
        ),
        part(Shape.CYLINDER, (rear_mid, 0, 0.82), (0.5, 0.5, 0.10), _DARK, Material.METAL),
        _beam((rear_mid + 0.16 * length, 1.25), knee, 0.17, 0.20, paint, -0.15 * side),
        _beam(knee, tip, 0.14, 0.15, paint, -0.15 * side),
        _beam(
            (rear_mid + 0.22 * length, 1.15),
            (knee[0] - 0.5, knee[1] - 0.45),
            0.06,
            0.06,
            (0.6, 0.6, 0.6),
            -0.15 * side,
        ),
        part(
            Shape.TAPERED,
            (tip[0] - 0.02, -0.15 * side, 0.48),
            (0.22, 0.48, 0.34),
            _DARK,
            Material.METAL,
            taper=(0.3, 0.5, 0.0),
        ),
    ]
    for s in (-1.0, 1.0):
        y = s * (side - 0.26)
        found.append(
            part(
                Shape.BOX,
                (rear_mid, y, FOOT_M + 0.36),
                (0.20 * length, 0.25, 0.34),
                _DARK,
                Material.TYRE,
            )
        )
        for x in (-0.20, 0.20):
            found.append(
                part(
                    Shape.LATERAL,
                    (rear_mid + x * length, y, FOOT_M + 0.36),
                    (0.36, 0.26, 0.36),
                    _DARK,
                    Material.TYRE,
                )
            )
    return found


def _loader(
    length: float, width: float, height: float, paint: Colour, rng: np.random.Generator
) -> Parts:
    half, side = length / 2, width / 2
    shovel = half - 0.52
    found = [
        part(
            Shape.TAPERED,
            (-half + 0.24 * length, 0, 1.25),
            (0.22 * length, side * 0.62, 0.48),
            paint,
            Material.CAR_PAINT,
            taper=(0, 0.15, 0.05),
        ),
        part(Shape.BOX, (-half + 0.06, 0, 1.1), (0.06, side * 0.6, 0.4), _DARK, Material.PLASTIC),
        part(
            Shape.TAPERED,
            (-half + 0.45 * length, 0, (1.55 + height) / 2),
            (0.12 * length, side * 0.52, (height - 1.62) / 2),
            paint,
            Material.GLASS,
            taper=(0.1, 0.05, 0.06),
            a=1.0,
            b=1.0,
        ),
        part(
            Shape.BOX,
            (-half + 0.45 * length, 0, height - 0.07),
            (0.13 * length, side * 0.55, 0.06),
            paint,
            Material.CAR_PAINT,
        ),
        part(
            Shape.BOX,
            (0.12 * length, 0, 0.95),
            (0.16 * length, side * 0.35, 0.28),
            paint,
            Material.CAR_PAINT,
        ),
        part(
            Shape.TAPERED,
            (shovel, 0, 0.55),
            (0.5, side - 0.02, 0.50),
            (0.28, 0.28, 0.28),
            Material.METAL,
            taper=(0.9, 0.0, 0.0),
        ),
    ]
    for s in (-1.0, 1.0):
        found.append(
            _beam((0.02 * length, 1.5), (shovel - 0.3, 0.75), 0.10, 0.13, paint, s * 0.45 * side)
        )
    found += wheels((-half + 0.27 * length, 0.16 * length), side - 0.08, 0.70, 0.26, rng)
    for s in (-1.0, 1.0):
        found.append(
            part(
                Shape.BOX,
                (-half + 0.04, s * 0.5 * side, 1.25),
                (0.04, 0.12, 0.07),
                (1, 0, 0),
                Material.TAIL_LAMP,
            )
        )
    return found
