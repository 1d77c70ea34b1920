"""Wheelchairs, prams, kick scooters."""

from __future__ import annotations

import numpy as np

from perception3d.datasets.town.catalogue_cars import FOOT_M, MARGIN_M, Parts
from perception3d.datasets.town.catalogue_people import TOPS, bar, pedestrian, pick, seated
from perception3d.datasets.town.primitives import Material, Shape, part


def wheelchair(
    size_lwh_m: tuple[float, float, float], rng: np.random.Generator, rider: bool
) -> Parts:
    """A wheelchair, with or without its user."""
    half, side, top = (
        size_lwh_m[0] / 2 - MARGIN_M,
        size_lwh_m[1] / 2 - MARGIN_M,
        size_lwh_m[2] - MARGIN_M,
    )
    grey, seat = (0.2, 0.2, 0.22), pick(TOPS, rng)
    found: Parts = []
    for s in (-1.0, 1.0):
        y = s * (side - 0.03)
        found.append(
            part(
                Shape.LATERAL,
                (-0.15 * half, y, FOOT_M + 0.30),
                (0.30, 0.022, 0.30),
                grey,
                Material.SPOKES,
            )
        )
        found.append(
            part(
                Shape.LATERAL,
                (0.62 * half, s * (side - 0.08), FOOT_M + 0.10),
                (0.10, 0.02, 0.10),
                grey,
                Material.TYRE,
            )
        )
    found.append(part(Shape.BOX, (0.0, 0, 0.50), (0.24, side - 0.08, 0.03), seat, Material.CLOTH))
    found.append(
        part(
            Shape.BOX,
            (-0.27, 0, 0.74),
            (0.025, side - 0.08, 0.25),
            (0.1, 0.12, 0.2),
            Material.CLOTH,
        )
    )
    if rider:
        found += seated(
            (-0.12, 0.56),
            (0.12, 0.72),
            (min(0.34, half - 0.3), 0.22),
            top,
            side,
            rng,
            0.0,
            helmet=False,
        )
    return found


def stroller(size_lwh_m: tuple[float, float, float], rng: np.random.Generator) -> Parts:
    """A pram."""
    half, side, top = (
        size_lwh_m[0] / 2 - MARGIN_M,
        size_lwh_m[1] / 2 - MARGIN_M,
        size_lwh_m[2] - MARGIN_M,
    )
    colour, grey = pick(TOPS, rng), (0.25, 0.25, 0.26)
    found: Parts = []
    for s in (-1.0, 1.0):
        for x in (-0.6 * half, 0.6 * half):
            found.append(
                part(
                    Shape.LATERAL,
                    (x, s * (side - 0.03), FOOT_M + 0.12),
                    (0.12, 0.025, 0.12),
                    grey,
                    Material.TYRE,
                )
            )
        found.append(
            bar(
                (0.5 * half, 0.2),
                (-0.9 * half, top - 0.03),
                0.014,
                grey,
                Material.METAL,
                s * (side - 0.05),
            )
        )
    found.append(
        part(
            Shape.ELLIPSOID,
            (0.1 * half, 0, 0.50 * top),
            (0.62 * half, 0.8 * side, 0.17),
            colour,
            Material.CLOTH,
        )
    )
    found.append(
        part(
            Shape.ELLIPSOID,
            (-0.12 * half, 0, min(0.72, top - 0.23)),
            (0.38 * half, 0.78 * side, 0.22),
            colour,
            Material.CLOTH,
        )
    )
    return found


def personal_mobility(
    size_lwh_m: tuple[float, float, float], rng: np.random.Generator, phase: float
) -> Parts:
    """A standing rider on a kick scooter."""
    half, top = size_lwh_m[0] / 2 - MARGIN_M, size_lwh_m[2] - MARGIN_M
    dark = (0.1, 0.1, 0.11)
    lwh = (0.62, size_lwh_m[1], size_lwh_m[2] - 0.13)
    person = pedestrian(lwh, rng, 0.0)
    for row in person:
        row[0] -= 0.12
        row[2] += 0.13
    found = [
        part(Shape.BOX, (-0.02, 0, 0.12), (half - 0.12, 0.07, 0.025), dark, Material.PLASTIC),
        bar((half - 0.12, 0.12), (half - 0.26, min(1.08, top - 0.3)), 0.02, dark, Material.METAL),
        part(
            Shape.LATERAL,
            (half - 0.26, 0, min(1.08, top - 0.3)),
            (0.018, 0.2, 0.018),
            dark,
            Material.PLASTIC,
        ),
    ]
    for x in (half - 0.11, -half + 0.11):
        found.append(
            part(Shape.LATERAL, (x, 0, FOOT_M + 0.10), (0.10, 0.025, 0.10), dark, Material.TYRE)
        )
    return found + person
