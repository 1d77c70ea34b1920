"""What things look like: solid parts of every kind of object."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from perception3d.datasets.town import catalogue_cars as cars
from perception3d.datasets.town import catalogue_construction as construction
from perception3d.datasets.town import catalogue_cycles as cycles
from perception3d.datasets.town import catalogue_furniture as furniture
from perception3d.datasets.town import catalogue_heavy as heavy
from perception3d.datasets.town import catalogue_mobility as mobility
from perception3d.datasets.town import catalogue_people as people
from perception3d.datasets.town import catalogue_scenery as scenery
from perception3d.datasets.town import catalogue_street as street
from perception3d.datasets.town.primitives import Rows, rows_of

# Length, width, height [m] and relative spread (town sheet, section 3; scenery by eye).
SIZES_LWH_M: Final[dict[str, tuple[float, float, float, float]]] = {
    "car": (4.62, 1.95, 1.73, 0.04),
    "truck": (6.9, 2.52, 2.84, 0.12),
    "construction_vehicle": (6.4, 2.82, 3.2, 0.12),
    "bus": (11.2, 2.95, 3.49, 0.06),
    "trailer": (12.3, 2.9, 3.87, 0.12),
    "barrier": (0.5, 2.5, 0.98, 0.06),  # heads across its long side
    "motorcycle": (2.11, 0.77, 1.46, 0.05),
    "bicycle": (1.7, 0.6, 1.28, 0.06),
    "pedestrian": (0.73, 0.67, 1.77, 0.08),
    "traffic_cone": (0.41, 0.41, 1.07, 0.12),
    "ambulance": (6.3, 2.3, 2.7, 0.05),
    "police_car": (4.8, 1.95, 1.7, 0.04),
    "stroller": (0.95, 0.6, 1.05, 0.06),
    "wheelchair": (1.1, 0.7, 1.35, 0.05),
    "personal_mobility": (1.15, 0.6, 1.75, 0.05),
    "debris": (0.8, 0.6, 0.45, 0.2),
    "pushable": (0.9, 0.6, 1.05, 0.1),
    "animal": (0.85, 0.35, 0.65, 0.1),
    "bicycle_rack": (3.4, 1.9, 1.3, 0.1),
    "house": (18.0, 14.0, 12.8, 0.2),
    "tree": (5.0, 5.0, 7.0, 0.2),
    "pole": (0.25, 0.25, 6.0, 0.1),
    "street_light": (2.4, 0.3, 7.5, 0.05),
    "traffic_light": (0.5, 0.5, 4.6, 0.03),
    "hedge": (5.0, 0.9, 1.1, 0.15),
    "bin": (0.5, 0.5, 1.05, 0.08),
    "bollard": (0.22, 0.22, 0.95, 0.08),
    "hydrant": (0.4, 0.4, 0.85, 0.06),
    "sign_post": (0.12, 0.7, 2.6, 0.06),
    "retro_sign": (0.2, 1.6, 3.4, 0.1),
    "low_wall": (3.5, 0.35, 0.9, 0.1),
    "bench": (1.7, 0.6, 0.85, 0.05),
    "fence": (4.0, 0.1, 1.3, 0.08),
    "kerb": (4.0, 0.22, 0.13, 0.0),
    "poster": (0.25, 1.4, 2.7, 0.03),
}


Maker = Callable[[tuple[float, float, float], np.random.Generator, bool, float], list[list[float]]]


def _plain(
    maker: Callable[[tuple[float, float, float], np.random.Generator], list[list[float]]],
) -> Maker:
    """A maker that knows neither rider nor phase."""
    return lambda size, rng, rider, phase: maker(size, rng)


_MAKERS: Final[dict[str, Maker]] = {
    "car": _plain(cars.car),
    "truck": _plain(heavy.truck),
    "construction_vehicle": _plain(construction.construction_vehicle),
    "bus": _plain(heavy.bus),
    "trailer": _plain(heavy.trailer),
    "barrier": _plain(street.barrier),
    "motorcycle": cycles.motorcycle,
    "bicycle": cycles.bicycle,
    "pedestrian": lambda size, rng, rider, phase: people.pedestrian(size, rng, phase),
    "traffic_cone": _plain(street.traffic_cone),
    "ambulance": _plain(cars.ambulance),
    "police_car": _plain(cars.police_car),
    "stroller": _plain(mobility.stroller),
    "wheelchair": lambda size, rng, rider, phase: mobility.wheelchair(size, rng, rider),
    "personal_mobility": lambda size, rng, rider, phase: mobility.personal_mobility(
        size, rng, phase
    ),
    "debris": _plain(street.debris),
    "pushable": _plain(street.pushable),
    "animal": lambda size, rng, rider, phase: people.animal(size, rng, phase),
    "bicycle_rack": _plain(street.bicycle_rack),
    "house": _plain(scenery.house),
    "tree": _plain(scenery.tree),
    "pole": _plain(furniture.pole),
    "street_light": _plain(furniture.street_light),
    "traffic_light": _plain(furniture.traffic_light),
    "hedge": _plain(furniture.hedge),
    "bin": _plain(furniture.litter_bin),
    "bollard": _plain(furniture.bollard),
    "hydrant": _plain(furniture.hydrant),
    "sign_post": _plain(furniture.sign_post),
    "retro_sign": _plain(furniture.retro_sign),
    "low_wall": _plain(furniture.low_wall),
    "bench": _plain(furniture.bench),
    "fence": _plain(furniture.fence),
    "kerb": _plain(furniture.kerb),
    "poster": _plain(furniture.poster),
}

# Kinds that get a box in the tables; the rest is scenery.
ANNOTATED_KINDS: Final[tuple[str, ...]] = tuple(_MAKERS)[:19]


def size_of(kind: str, rng: np.random.Generator) -> tuple[float, float, float]:
    """Draw a size.

    Args:
        kind: a key of SIZES_LWH_M.
        rng: stream; three draws are taken.

    Returns:
        Length, width, height [m].

    Raises:
        ValueError: for an unknown kind.
    """
    if kind not in SIZES_LWH_M:
        raise ValueError(f"unknown kind {kind!r}; known kinds: {', '.join(sorted(SIZES_LWH_M))}")
    *size, spread = SIZES_LWH_M[kind]
    factors = np.clip(1.0 + spread * rng.standard_normal(3), 1 - 2 * spread, 1 + 2 * spread)
    length, width, height = (float(s * f) for s, f in zip(size, factors, strict=True))
    return length, width, height


def parts(
    kind: str,
    size_lwh_m: tuple[float, float, float],
    seed: int,
    *,
    rider: bool = False,
    phase: float = 0.0,
) -> Rows:
    """Solid parts of one object in its own frame (x forward, y left, z up, origin on the ground
    below the centre).

    Args:
        kind: a key of SIZES_LWH_M.
        size_lwh_m: length, width, height of its box.
        seed: picks one of several looks and its colours.
        rider: put a rider on a bicycle, motorcycle, wheelchair or scooter.
        phase: of the walk or of the pedals, radians.

    Returns:
        (n, NUM_COLUMNS) rows without owner; for annotated kinds every part lies at least 5 cm
        inside the box (sides and top).

    Raises:
        ValueError: for an unknown kind or a size that is not positive.
    """
    if kind not in _MAKERS:
        raise ValueError(f"unknown kind {kind!r}; known kinds: {', '.join(sorted(_MAKERS))}")
    if not all(np.isfinite(s) and s > 0 for s in size_lwh_m):
        raise ValueError(f"size_lwh_m of {kind!r} must be positive, found {size_lwh_m}")
    # Texts hash differently in every process, so the stream is seeded by the kind's place in the
    # table.
    rng = np.random.default_rng([list(SIZES_LWH_M).index(kind), seed & 0x7FFFFFFF])
    return rows_of(_MAKERS[kind](size_lwh_m, rng, rider, phase))
