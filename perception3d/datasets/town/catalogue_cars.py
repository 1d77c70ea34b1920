"""Cars: saloon, hatchback, sport utility, van, pick-up, taxi, police car, ambulance."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from perception3d.datasets.town.primitives import Material, Shape, part

Parts = list[list[float]]
Colour = tuple[float, float, float]

# Parts keep this distance from the sides and the top of their box, so that noise stays inside.
MARGIN_M = 0.05
FOOT_M = 0.02  # lowest point of what stands on the ground

PAINTS: tuple[Colour, ...] = (
    (0.93, 0.93, 0.92),
    (0.90, 0.90, 0.89),
    (0.05, 0.05, 0.06),
    (0.10, 0.10, 0.11),
    (0.62, 0.63, 0.65),
    (0.50, 0.51, 0.53),
    (0.32, 0.33, 0.35),
    (0.55, 0.08, 0.08),
    (0.10, 0.17, 0.42),
    (0.08, 0.26, 0.20),
    (0.56, 0.50, 0.42),
    (0.30, 0.45, 0.58),
)

# Cabin: foot (rear, front) as shares of the length, front and rear taper, shoulder height as a
# share of the height.
_SHAPES: dict[str, tuple[float, float, float, float, float]] = {
    "saloon": (-0.36, 0.24, 0.40, 0.34, 0.60),
    "hatchback": (-0.475, 0.25, 0.34, 0.10, 0.58),
    "utility": (-0.48, 0.26, 0.24, 0.07, 0.60),
    "van": (-0.49, 0.36, 0.20, 0.03, 0.54),
    "pickup": (-0.10, 0.25, 0.34, 0.06, 0.60),
}


def wheels(
    xs: Sequence[float],
    y: float,
    radius: float,
    half_width: float,
    rng: np.random.Generator,
    *,
    rim: bool = True,
) -> Parts:
    """Pairs of wheels on the axles at `xs`; y is the outer face's distance from the middle."""
    found: Parts = []
    for x in xs:
        for side in (-1.0, 1.0):
            centre = (x, side * (y - half_width), FOOT_M + radius)
            material = Material.WHEEL if rim else Material.TYRE
            found.append(
                part(
                    Shape.LATERAL,
                    centre,
                    (radius, half_width, radius),
                    (0.1, 0.1, 0.1),
                    material,
                    u=float(rng.random()),
                )
            )
    return found


def lamps_and_plates(front: float, rear: float, half_width: float, height: float) -> Parts:
    """Head and tail lamps and number plates, ending at the end faces at x = front and x = rear."""
    found: Parts = []
    for side in (-1.0, 1.0):
        y = side * half_width * 0.74
        found.append(
            part(
                Shape.BOX,
                (front - 0.04, y, height),
                (0.04, 0.24 * half_width, 0.07),
                (1, 1, 1),
                Material.HEAD_LAMP,
            )
        )
        found.append(
            part(
                Shape.BOX,
                (rear + 0.04, y, height + 0.06),
                (0.04, 0.2 * half_width, 0.09),
                (1, 0, 0),
                Material.TAIL_LAMP,
            )
        )
    low = height - 0.22
    found.append(
        part(Shape.BOX, (front - 0.03, 0, low), (0.03, 0.26, 0.06), (1, 1, 1), Material.PLATE)
    )
    found.append(
        part(Shape.BOX, (rear + 0.03, 0, low + 0.1), (0.03, 0.26, 0.06), (1, 1, 1), Material.PLATE)
    )
    return found


def _body(
    style: str, length: float, width: float, height: float, paint: Colour, rng: np.random.Generator
) -> Parts:
    """Body, cabin, roof and wheels within length x width x height."""
    rear, front, slope_front, slope_rear, shoulder = _SHAPES[style]
    half, side, belt = length / 2, width / 2, shoulder * height
    sill = 0.19
    black = (0.12, 0.12, 0.13)
    middle = 0.72 * belt
    found = [
        part(
            Shape.TAPERED,
            (0, 0, (sill + middle) / 2),
            (half - 0.025, side - 0.02, (middle - sill) / 2),
            paint,
            Material.CAR_PAINT,
            a=1.0,
        ),
        part(
            Shape.TAPERED,
            (0, 0, (middle + belt) / 2),
            (half - 0.025, side - 0.02, (belt - middle) / 2),
            paint,
            Material.CAR_PAINT,
            taper=(0.14 if style != "van" else 0.10, 0.06, 0.06),
        ),
        part(
            Shape.BOX, (0, 0, sill + 0.07), (half, side - 0.06, 0.09), black, Material.PLASTIC
        ),  # bumpers
        part(
            Shape.BOX,
            (half - 0.035, 0, 0.60 * belt),
            (0.035, 0.42 * side, 0.07),
            black,
            Material.PLASTIC,
        ),  # grille
    ]
    x0, x1 = rear * length, front * length
    top = height - 0.035
    cabin = (x1 - x0) / 2
    centre = (x0 + x1) / 2
    found.append(
        part(
            Shape.TAPERED,
            (centre, 0, (belt + top) / 2),
            (cabin, side * 0.94, (top - belt) / 2),
            paint,
            Material.GLASS,
            taper=(slope_front, slope_rear, 0.17),
            a=1.0,
            b=3.0 if style == "van" else 2.0,
        )
    )
    roof_front, roof_rear = centre + cabin * (1 - slope_front), centre - cabin * (1 - slope_rear)
    found.append(
        part(
            Shape.TAPERED,
            ((roof_front + roof_rear) / 2, 0, top - 0.005),
            ((roof_front - roof_rear) / 2 + 0.03, side * 0.94 * 0.845, 0.04),
            paint,
            Material.CAR_PAINT,
            taper=(0.08, 0.06, 0.10),
        )
    )
    for s in (-1.0, 1.0):  # mirrors stay within the width
        found.append(
            part(
                Shape.ELLIPSOID,
                (x1 - 0.28, s * (side - 0.09), belt + 0.06),
                (0.07, 0.09, 0.07),
                paint,
                Material.CAR_PAINT,
            )
        )
    if style == "pickup":
        found.append(
            part(
                Shape.BOX,
                (x0 / 2 - half / 2, 0, belt + 0.01),
                (half / 2 + x0 / 2 - 0.08, side - 0.14, 0.015),
                black,
                Material.PLASTIC,
            )
        )
    radius = 0.335 if style in ("utility", "pickup", "van") else 0.315
    found += wheels((-0.29 * length, 0.305 * length), side, radius, 0.11, rng)
    found += lamps_and_plates(half, -half, side, 0.62 * belt)
    return found


def _inner(size_lwh_m: tuple[float, float, float]) -> tuple[float, float, float]:
    return size_lwh_m[0] - 2 * MARGIN_M, size_lwh_m[1] - 2 * MARGIN_M, size_lwh_m[2] - MARGIN_M


def car(size_lwh_m: tuple[float, float, float], rng: np.random.Generator) -> Parts:
    """A private car or taxi; the taller ones are vans and utility cars."""
    length, width, height = _inner(size_lwh_m)
    draw = rng.random()
    tall = size_lwh_m[2] > 1.72
    if draw < 0.12:
        style = "pickup"
    elif draw < (0.50 if tall else 0.15):
        style = "van" if draw < 0.30 and tall else "utility"
    else:
        style = "saloon" if draw < 0.76 else "hatchback"
    paint = PAINTS[int(rng.integers(len(PAINTS)))]
    taxi = style == "saloon" and rng.random() < 0.22
    if taxi:
        paint = ((0.94, 0.68, 0.06), (0.12, 0.28, 0.62))[int(rng.integers(2))]
    sign = 0.13 if taxi else 0.0
    found = _body(style, length, width, height - sign, paint, rng)
    if taxi:
        found.append(
            part(
                Shape.BOX,
                (-0.06 * length, 0, height - 0.07),
                (0.09, 0.25, 0.065),
                (0.95, 0.9, 0.5),
                Material.LIT_SIGN,
            )
        )
    return found


def police_car(size_lwh_m: tuple[float, float, float], rng: np.random.Generator) -> Parts:
    """A white saloon with chequered flanks and a light bar."""
    length, width, height = _inner(size_lwh_m)
    found = _body("saloon", length, width, height - 0.14, (0.93, 0.93, 0.93), rng)
    found.append(
        part(
            Shape.BOX,
            (-0.05 * length, 0, height - 0.07),
            (0.14, 0.55, 0.06),
            (0.2, 0.2, 0.9),
            Material.BEACON,
        )
    )
    for s in (-1.0, 1.0):
        found.append(
            part(
                Shape.BOX,
                (-0.04 * length, s * (width / 2 - 0.02), 0.34 * height),
                (0.30 * length, 0.015, 0.09),
                (0.10, 0.16, 0.62),
                Material.STRIPES,
                a=0.16,
            )
        )
    return found


def ambulance(size_lwh_m: tuple[float, float, float], rng: np.random.Generator) -> Parts:
    """A white box on a van's front, red boards on the flanks, light bars."""
    length, width, height = _inner(size_lwh_m)
    half, side = length / 2, width / 2
    white = (0.95, 0.95, 0.93)
    top = height - 0.14
    nose = 0.27 * length
    found = [
        part(
            Shape.BOX,
            (-nose / 2, 0, (0.45 + top) / 2),
            (half - nose / 2, side - 0.02, (top - 0.45) / 2),
            white,
            Material.CAR_PAINT,
        ),
        part(
            Shape.TAPERED,
            (half - nose / 2 - 0.02, 0, 0.30 + 0.45),
            (nose / 2, side - 0.06, 0.45),
            white,
            Material.CAR_PAINT,
            taper=(0.25, 0, 0.04),
        ),
        part(
            Shape.TAPERED,
            (half - nose * 0.68, 0, 1.55),
            (nose * 0.42, side - 0.12, 0.37),
            white,
            Material.GLASS,
            taper=(0.75, 0.0, 0.10),
            a=1.0,
            b=1.0,
        ),
        part(
            Shape.BOX,
            (0, 0, 0.38),
            (half - 0.02, side - 0.1, 0.14),
            (0.1, 0.1, 0.1),
            Material.PLASTIC,
        ),
        part(
            Shape.BOX,
            (half - nose, 0, height - 0.07),
            (0.14, side * 0.7, 0.06),
            (0.2, 0.2, 0.9),
            Material.BEACON,
        ),
        part(
            Shape.BOX,
            (-half + 0.15, 0, height - 0.07),
            (0.1, side * 0.6, 0.06),
            (0.2, 0.2, 0.9),
            Material.BEACON,
        ),
    ]
    for s in (-1.0, 1.0):
        found.append(
            part(
                Shape.BOX,
                (-nose / 2, s * (side - 0.015), 1.15),
                (half - nose / 2 - 0.05, 0.012, 0.18),
                (0.82, 0.10, 0.08),
                Material.STRIPES,
                a=0.45,
            )
        )
        found.append(
            part(
                Shape.BOX,
                (-nose, s * (side - 0.015), 1.75),
                (0.5, 0.012, 0.22),
                (1, 1, 1),
                Material.GLASS,
            )
        )
    found += wheels((-0.30 * length, 0.33 * length), side, 0.36, 0.12, rng)
    return found + lamps_and_plates(half, -half, side, 0.78)


def tilt_between(
    start: tuple[float, float], end: tuple[float, float]
) -> tuple[float, float, float, float]:
    """Middle x and z, half length and pitch of a bar from start to end, both (x, z)."""
    dx, dz = end[0] - start[0], end[1] - start[1]
    return (
        (start[0] + end[0]) / 2,
        (start[1] + end[1]) / 2,
        math.hypot(dx, dz) / 2,
        math.atan2(dz, dx),
    )
