"""Bicycles and motorcycles, with or without a rider."""

from __future__ import annotations

import numpy as np

from perception3d.datasets.town.catalogue_cars import FOOT_M, MARGIN_M, Colour, Parts
from perception3d.datasets.town.catalogue_people import bar, seated
from perception3d.datasets.town.primitives import Material, Shape, part

_DARK: Colour = (0.10, 0.10, 0.11)


def bicycle(
    size_lwh_m: tuple[float, float, float], rng: np.random.Generator, rider: bool, phase: float
) -> Parts:
    """A diamond frame on spoked wheels."""
    half = size_lwh_m[0] / 2 - MARGIN_M
    side = size_lwh_m[1] / 2 - MARGIN_M
    top = size_lwh_m[2] - MARGIN_M
    radius = min(0.34, 0.42 * half)
    saddle = min(0.98, top - 0.04) if not rider else min(0.95, 0.58 * top)
    handle = min(1.08, top - 0.03) if not rider else min(1.05, 0.64 * top)
    paint = (
        (0.75, 0.10, 0.10),
        (0.10, 0.25, 0.60),
        (0.08, 0.08, 0.09),
        (0.85, 0.85, 0.85),
        (0.15, 0.5, 0.3),
        (0.9, 0.6, 0.1),
    )[int(rng.integers(6))]
    hub = FOOT_M + radius
    rear, front = (-half + radius, hub), (half - radius, hub)
    pedal, seat_foot = (-0.06 * half, hub - 0.06), (-0.30 * half, saddle - 0.10)
    head = (front[0] - 0.17, handle - 0.16)
    tube = 0.019
    found = [
        bar(rear, pedal, tube, paint, Material.METAL),
        bar(pedal, seat_foot, tube, paint, Material.METAL),
        bar(rear, seat_foot, 0.014, paint, Material.METAL),
        bar(seat_foot, head, tube, paint, Material.METAL),
        bar(pedal, (head[0] + 0.03, head[1] - 0.12), tube, paint, Material.METAL),
        bar(front, (head[0], handle), 0.017, paint, Material.METAL),
        part(
            Shape.LATERAL,
            (head[0] + 0.03, 0, handle),
            (0.018, min(0.26, side), 0.018),
            (0.1, 0.1, 0.1),
            Material.PLASTIC,
        ),
        part(
            Shape.ELLIPSOID,
            (seat_foot[0] - 0.02, 0, saddle - 0.02),
            (0.13, 0.065, 0.04),
            (0.06, 0.05, 0.05),
            Material.PLASTIC,
        ),
        part(
            Shape.LATERAL,
            (pedal[0], 0, pedal[1]),
            (0.09, 0.02, 0.09),
            (0.35, 0.35, 0.36),
            Material.METAL,
        ),
    ]
    for x, z in (rear, front):
        found.append(
            part(
                Shape.LATERAL, (x, 0, z), (radius, 0.024, radius), (0.1, 0.1, 0.1), Material.SPOKES
            )
        )
    if rng.random() < 0.3:
        found.append(
            part(
                Shape.BOX,
                (front[0], 0, handle - 0.16),
                (0.15, 0.16, 0.10),
                (0.45, 0.35, 0.22),
                Material.WOOD,
            )
        )
    if rider:
        found += seated(
            (seat_foot[0], saddle),
            (head[0] + 0.02, handle + 0.02),
            pedal,
            top,
            side,
            rng,
            phase,
            helmet=rng.random() < 0.6,
        )
    return found


def _scooter_body(half: float, front: float, paint: Colour) -> Parts:
    """Seat box, leg shield and foot board."""
    found: Parts = []
    found.append(
        part(
            Shape.TAPERED,
            (-0.32 * half, 0, 0.55),
            (0.40 * half, 0.17, 0.22),
            paint,
            Material.CAR_PAINT,
            taper=(0.15, 0.1, 0.1),
        )
    )
    found.append(
        part(
            Shape.TAPERED,
            (front - 0.34, 0, 0.62),
            (0.06, 0.20, 0.30),
            paint,
            Material.CAR_PAINT,
            taper=(0.0, 0.0, 0.2),
        )
    )
    found.append(
        part(Shape.BOX, (0.12 * half, 0, 0.33), (0.3 * half, 0.15, 0.05), _DARK, Material.PLASTIC)
    )
    return found


def _motorcycle_body(half: float, axle: tuple[float, float], seat: float, paint: Colour) -> Parts:
    """Tank, engine and rear fork."""
    found: Parts = []
    found.append(
        part(
            Shape.ELLIPSOID,
            (0.10 * half, 0, seat + 0.03),
            (0.30 * half, 0.16, 0.14),
            paint,
            Material.CAR_PAINT,
        )
    )
    found.append(
        part(
            Shape.TAPERED,
            (0.02, 0, 0.50),
            (0.26, 0.17, 0.20),
            (0.30, 0.30, 0.31),
            Material.METAL,
            taper=(0.2, 0.2, 0.2),
        )
    )
    found.append(bar(axle, (0.0, 0.5), 0.035, (0.3, 0.3, 0.3), Material.METAL))
    return found


def motorcycle(
    size_lwh_m: tuple[float, float, float], rng: np.random.Generator, rider: bool, phase: float
) -> Parts:
    """A motorcycle or scooter."""
    half = size_lwh_m[0] / 2 - MARGIN_M
    side = size_lwh_m[1] / 2 - MARGIN_M
    top = size_lwh_m[2] - MARGIN_M
    radius = 0.30
    paint = (
        (0.70, 0.08, 0.08),
        (0.08, 0.08, 0.09),
        (0.10, 0.22, 0.55),
        (0.9, 0.9, 0.88),
        (0.20, 0.45, 0.25),
    )[int(rng.integers(5))]
    seat = min(0.84, top - 0.30)
    handle = min(1.12, top - 0.10)
    rear, front = -half + radius, half - radius
    scooter = rng.random() < 0.45
    hub = FOOT_M + radius
    found = [
        part(Shape.LATERAL, (rear, 0, hub), (radius, 0.075, radius), _DARK, Material.WHEEL),
        part(Shape.LATERAL, (front, 0, hub), (radius, 0.06, radius), _DARK, Material.WHEEL),
        bar((front, hub), (front - 0.26, handle), 0.035, (0.5, 0.5, 0.5), Material.METAL),
        part(
            Shape.LATERAL,
            (front - 0.27, 0, handle),
            (0.025, min(0.34, side - 0.01), 0.025),
            _DARK,
            Material.PLASTIC,
        ),
        part(
            Shape.ELLIPSOID,
            (front - 0.12, 0, handle - 0.14),
            (0.12, 0.13, 0.13),
            paint,
            Material.CAR_PAINT,
        ),
        part(
            Shape.ELLIPSOID,
            (front - 0.01, 0, handle - 0.14),
            (0.04, 0.085, 0.075),
            (1, 1, 1),
            Material.HEAD_LAMP,
        ),
        part(
            Shape.ELLIPSOID,
            (-0.30 * half, 0, seat - 0.04),
            (0.42 * half, 0.15, 0.085),
            _DARK,
            Material.PLASTIC,
        ),
        part(
            Shape.BOX,
            (rear - 0.14, 0, seat - 0.16),
            (0.035, 0.09, 0.045),
            (1, 0, 0),
            Material.TAIL_LAMP,
        ),
        part(
            Shape.BOX, (rear - 0.12, 0, seat - 0.34), (0.02, 0.09, 0.06), (1, 1, 1), Material.PLATE
        ),
        part(
            Shape.LATERAL,
            (rear + 0.24, -min(0.17, side - 0.05), hub - 0.04),
            (0.05, 0.05, 0.05),
            (0.6, 0.6, 0.6),
            Material.METAL,
        ),
    ]
    if scooter:
        found += _scooter_body(half, front, paint)
    else:
        found += _motorcycle_body(half, (rear, hub), seat, paint)
    if rng.random() < 0.35 and not rider:
        found.append(
            part(
                Shape.BOX,
                (rear - 0.02, 0, seat + 0.18),
                (0.18, 0.19, 0.16),
                paint,
                Material.PLASTIC,
            )
        )
    if rider:
        found += seated(
            (-0.25 * half, seat + 0.03),
            (front - 0.3, handle + 0.02),
            (0.0, 0.38),
            top,
            side,
            rng,
            0.0,
            helmet=True,
        )
    return found
