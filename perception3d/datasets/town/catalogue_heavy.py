"""Long vehicles: trucks, buses, trailers.

Bus, box truck and trailer overlap in size and have the same flat flanks, so a LiDAR confuses them;
their surfaces differ.
"""

from __future__ import annotations

import numpy as np

from perception3d.datasets.town.catalogue_cars import (
    MARGIN_M,
    Colour,
    Parts,
    lamps_and_plates,
    wheels,
)
from perception3d.datasets.town.primitives import Material, Shape, part

_CAB_PAINTS: tuple[Colour, ...] = (
    (0.92, 0.92, 0.91),
    (0.90, 0.90, 0.90),
    (0.15, 0.28, 0.55),
    (0.60, 0.12, 0.10),
    (0.85, 0.62, 0.10),
    (0.18, 0.38, 0.24),
)
_DARK: Colour = (0.12, 0.12, 0.13)


def _inner(size_lwh_m: tuple[float, float, float]) -> tuple[float, float, float]:
    return size_lwh_m[0] - 2 * MARGIN_M, size_lwh_m[1] - 2 * MARGIN_M, size_lwh_m[2] - MARGIN_M


def _cab(front: float, length: float, side: float, top: float, paint: Colour) -> Parts:
    """A cab over the engine whose front face is at x = front."""
    x = front - length / 2
    belt = 0.58 * top
    found = [
        part(
            Shape.BOX,
            (x, 0, (0.5 + belt) / 2),
            (length / 2 - 0.02, side - 0.03, (belt - 0.5) / 2),
            paint,
            Material.CAR_PAINT,
            a=1.0,
        ),
        part(
            Shape.TAPERED,
            (x, 0, (belt + top - 0.18) / 2),
            (length / 2 - 0.02, side - 0.05, (top - 0.18 - belt) / 2),
            paint,
            Material.GLASS,
            taper=(0.22, 0.0, 0.08),
            a=1.0,
            b=1.0,
        ),
        part(
            Shape.TAPERED,
            (x - 0.04 * length, 0, top - 0.10),
            (0.46 * length, side - 0.09, 0.10),
            paint,
            Material.CAR_PAINT,
            taper=(0.4, 0.0, 0.1),
        ),
        part(Shape.BOX, (x, 0, 0.46), (length / 2, side - 0.02, 0.14), _DARK, Material.PLASTIC),
        part(Shape.BOX, (front - 0.03, 0, 0.86), (0.03, 0.6 * side, 0.16), _DARK, Material.PLASTIC),
    ]
    for s in (-1.0, 1.0):
        found.append(
            part(
                Shape.BOX,
                (front - 0.18, s * (side - 0.04), belt + 0.32),
                (0.05, 0.04, 0.2),
                _DARK,
                Material.PLASTIC,
            )
        )
    return found


def truck(size_lwh_m: tuple[float, float, float], rng: np.random.Generator) -> Parts:
    """A lorry: box with a logo, canvas, tipper or flat bed behind a cab."""
    length, width, height = _inner(size_lwh_m)
    half, side = length / 2, width / 2
    cab_length = float(np.clip(0.27 * length, 1.35, 2.1))
    draw = rng.random()
    paint = _CAB_PAINTS[int(rng.integers(len(_CAB_PAINTS)))]
    cab_top = min(height, float(np.clip(0.86 * height, 2.1, 2.75)))
    found = _cab(half, cab_length, side, cab_top, paint)
    rear, front = -half, half - cab_length - 0.12
    x, half_bed = (rear + front) / 2, (front - rear) / 2
    found.append(
        part(Shape.BOX, (-0.05, 0, 0.72), (half - 0.1, 0.36, 0.14), _DARK, Material.PLASTIC)
    )
    bed = 0.95
    u = float(rng.random())
    if draw < 0.66:
        white = (0.92, 0.92, 0.90) if rng.random() < 0.7 else paint
        found.append(
            part(
                Shape.BOX,
                (x, 0, (bed + height) / 2),
                (half_bed, side, (height - bed) / 2),
                white,
                Material.BOX_BODY,
                u=u,
                a=float(rng.integers(4)),
            )
        )
    elif draw < 0.82:  # canvas
        tarp = ((0.20, 0.32, 0.50), (0.30, 0.38, 0.28), (0.55, 0.55, 0.52))[int(rng.integers(3))]
        found.append(
            part(
                Shape.TAPERED,
                (x, 0, (bed + 0.4 + height) / 2),
                (half_bed, side, (height - bed - 0.4) / 2),
                tarp,
                Material.CLOTH,
                taper=(0.0, 0.0, 0.06),
            )
        )
        found.append(
            part(Shape.BOX, (x, 0, bed + 0.2), (half_bed, side, 0.22), paint, Material.WOOD)
        )
    else:  # tipper with a load of gravel
        wall = 0.30 * (height - bed)
        found.append(
            part(Shape.BOX, (x, 0, bed + wall), (half_bed, side, wall), paint, Material.CORRUGATED)
        )
        found.append(
            part(
                Shape.ELLIPSOID,
                (x, 0, bed + 2 * wall),
                (0.85 * half_bed, 0.85 * side, 0.3),
                (0.45, 0.40, 0.33),
                Material.CONCRETE,
            )
        )
    axles = [half - 0.75 * cab_length, rear + 0.20 * length]
    if length > 7.4:
        axles.append(rear + 0.20 * length + 1.15)
    found += wheels(axles, side, 0.46, 0.15, rng)
    found += lamps_and_plates(half, rear, side, 0.62)
    found.append(
        part(
            Shape.BOX,
            (rear + 0.06, 0, 0.58),
            (0.05, side * 0.95, 0.10),
            (0.75, 0.10, 0.08),
            Material.STRIPES,
            a=0.22,
        )
    )
    return found


def bus(size_lwh_m: tuple[float, float, float], rng: np.random.Generator) -> Parts:
    """A city bus: one body with a window band, doors, destination board; roof unit."""
    length, width, height = _inner(size_lwh_m)
    half, side = length / 2, width / 2
    paints: tuple[Colour, ...] = (
        (0.88, 0.88, 0.86),
        (0.62, 0.14, 0.12),
        (0.16, 0.42, 0.30),
        (0.85, 0.60, 0.12),
        (0.20, 0.30, 0.58),
    )
    paint = paints[int(rng.integers(len(paints)))]
    roof = height - 0.28
    found = [
        part(
            Shape.TAPERED,
            (0, 0, (0.30 + roof) / 2),
            (half - 0.01, side - 0.02, (roof - 0.30) / 2),
            paint,
            Material.BUS_BODY,
            taper=(0.012, 0.006, 0.03),
            u=float(rng.random()),
        ),
        part(
            Shape.TAPERED,
            (-0.1 * length, 0, roof + 0.13),
            (0.28 * length, 0.6 * side, 0.15),
            (0.85, 0.85, 0.85),
            Material.PLASTIC,
            taper=(0.1, 0.1, 0.2),
        ),
    ]
    for s in (-1.0, 1.0):
        found.append(
            part(
                Shape.BOX,
                (half - 0.1, s * (side - 0.06), 0.62 * height),
                (0.05, 0.05, 0.2),
                _DARK,
                Material.PLASTIC,
            )
        )
    axles = (half - 2.3, -half + 2.9) if length > 9 else (half - 2.0, -half + 2.0)
    found += wheels(axles, side, 0.48, 0.14, rng)
    return found + lamps_and_plates(half, -half, side, 0.72)


def trailer(size_lwh_m: tuple[float, float, float], rng: np.random.Generator) -> Parts:
    """A semi-trailer without its tractor: container or curtain on a frame, three axles, landing
    legs.
    """
    length, width, height = _inner(size_lwh_m)
    half, side = length / 2, width / 2
    bed = 1.20
    paints: tuple[Colour, ...] = (
        (0.58, 0.22, 0.14),
        (0.18, 0.32, 0.52),
        (0.62, 0.62, 0.60),
        (0.24, 0.42, 0.32),
        (0.85, 0.84, 0.80),
        (0.80, 0.48, 0.12),
    )
    paint = paints[int(rng.integers(len(paints)))]
    found = [
        part(
            Shape.BOX,
            (0, 0, (bed + height) / 2),
            (half, side, (height - bed) / 2),
            paint,
            Material.CORRUGATED,
            u=float(rng.random()),
        ),
        part(Shape.BOX, (0, 0, bed - 0.12), (half - 0.05, 0.45, 0.12), _DARK, Material.PLASTIC),
        part(
            Shape.BOX,
            (-half + 0.06, 0, 0.62),
            (0.05, side * 0.95, 0.10),
            (0.75, 0.10, 0.08),
            Material.STRIPES,
            a=0.25,
        ),
    ]
    for s in (-1.0, 1.0):
        found.append(
            part(
                Shape.BOX,
                (half - 2.4, s * 0.7, 0.57),
                (0.08, 0.08, 0.55),
                (0.3, 0.3, 0.3),
                Material.METAL,
            )
        )
        found.append(
            part(
                Shape.BOX,
                (-0.02 * length, s * (side - 0.08), 0.75),
                (0.18 * length, 0.03, 0.2),
                (0.35, 0.35, 0.36),
                Material.METAL,
            )
        )
        found.append(
            part(
                Shape.BOX,
                (-half + 0.04, s * 0.75 * side, 0.86),
                (0.04, 0.2, 0.09),
                (1, 0, 0),
                Material.TAIL_LAMP,
            )
        )
    axles = [-half + 1.2 + 1.25 * k for k in range(3 if length > 9 else 2)]
    return found + wheels(axles, side, 0.48, 0.17, rng)
