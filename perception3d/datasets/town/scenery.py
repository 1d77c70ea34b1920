"""What stands for good in a district: houses, trees, lamps, traffic lights, signs, kerbs, hedges.
None of it gets a box.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from perception3d.datasets.town import catalogue
from perception3d.datasets.town.planar import Occupancy, Points, corners_of, is_inside
from perception3d.datasets.town.plots import Lots, Plot
from perception3d.datasets.town.primitives import NUM_COLUMNS, Rows, place
from perception3d.datasets.town.settings import TownSettings, stream
from perception3d.datasets.town.streets import JUNCTION_M, SPACING_M, District

STOREY_M = 3.2  # house heights are multiples of it, or a row of windows is cut
TRUNK_M = 0.3  # side of the square that a trunk or pole takes on the ground


@dataclass(frozen=True, kw_only=True)
class Thing:
    """One standing object without a box.

    Attributes:
        kind: of the catalogue.
        pose: world x, y [m] and yaw [rad].
        size_lwh_m: length, width, height.
        seed: picks its look.
    """

    kind: str
    pose: tuple[float, float, float]
    size_lwh_m: tuple[float, float, float]
    seed: int

    def rows(self) -> Rows:
        """Its solid parts in the world."""
        parts = catalogue.parts(self.kind, self.size_lwh_m, self.seed)
        return place(parts, self.pose[:2], self.pose[2])


class _Placer:
    """Puts things on free ground, each with a size and a look of its own."""

    def __init__(self, ground: Occupancy, rng: np.random.Generator) -> None:
        self.ground = ground
        self.rng = rng
        self.things: list[Thing] = []

    def put(
        self,
        kind: str,
        pose: tuple[float, float, float],
        *,
        size: tuple[float, float, float] | None = None,
        footprint_m: tuple[float, float] | None = None,
        is_forced: bool = False,
    ) -> bool:
        chosen = size or catalogue.size_of(kind, self.rng)
        outline = corners_of(pose, *(footprint_m or chosen[:2]))
        if not is_forced and not self.ground.is_free(outline):
            return False
        self.ground.mark(outline)
        seed = int(self.rng.integers(1 << 31))
        self.things.append(Thing(kind=kind, pose=pose, size_lwh_m=chosen, seed=seed))
        return True


def build_scenery(settings: TownSettings, district: District, lots: Lots) -> list[Thing]:
    """Furnish a district. The ground that the things take is marked in `lots.occupancy`.

    Args:
        settings: gives the seed and the share of distractors.
        district: the streets.
        lots: plots; its occupancy is changed.

    Returns:
        The things, houses first.
    """
    rng = stream(settings, "district", district.index, "scenery")
    placer = _Placer(lots.occupancy, rng)
    for plot in lots.plots:
        _furnish_plot(placer, plot)
    _traffic_lights(placer, district)
    driveways = [plot.driveway for plot in lots.plots if plot.driveway is not None]
    for street in district.streets:
        w = street.section.half_width_m
        for side in (-1, 1):
            _kerbs(placer, district, street.index, side, driveways)
            offset = float(rng.uniform(0, 9))
            for k, along in enumerate(
                np.arange(JUNCTION_M + 2.5 + offset, SPACING_M - JUNCTION_M - 2, 9.5)
            ):
                at = float(along + rng.uniform(-1.2, 1.2))
                inward = street.direction() if side > 0 else street.direction(is_backward=True)
                pose = district.warp.pose(street.canonical(at, side * (w + 0.72)), inward)
                if k % 3 == 0:
                    # A lamp's arm reaches over the road: heading from the walkway to the street.
                    pose = (pose[0], pose[1], pose[2] - np.pi / 2)
                    placer.put("street_light", pose, footprint_m=(TRUNK_M, TRUNK_M))
                elif rng.random() < 0.75:
                    crown = float(rng.uniform(3.2, 5.2))
                    size = (crown, crown, float(rng.uniform(5.2, 8.5)))
                    placer.put("tree", pose, size=size, footprint_m=(TRUNK_M, TRUNK_M))
                elif rng.random() < 0.5 * min(1.0, settings.quotas.distractor):
                    kind = str(rng.choice(["sign_post", "pole", "retro_sign"], p=[0.6, 0.25, 0.15]))
                    # On both sides this heading faces the traffic that drives there.
                    placer.put(kind, pose, footprint_m=(TRUNK_M, TRUNK_M))
    _grass_trees(placer, lots)
    return placer.things


def scenery_rows(things: list[Thing]) -> Rows:
    """All parts of the things in one array."""
    rows = [thing.rows() for thing in things]
    return np.concatenate(rows) if rows else np.zeros((0, NUM_COLUMNS), np.float32)


def _furnish_plot(placer: _Placer, plot: Plot) -> None:
    rng = placer.rng
    if plot.kind in ("house", "tall_house"):
        storeys = int(
            rng.choice([1, 2, 3, 4, 5, 6, 8], p=[0.08, 0.16, 0.26, 0.22, 0.14, 0.09, 0.05])
        )
        storeys += 3 if plot.kind == "tall_house" else 0
        size = (plot.length_m, plot.depth_m, STOREY_M * storeys)
        placer.put("house", plot.pose, size=size, is_forced=True)
        return
    x, y, yaw = plot.pose
    ahead, left = np.array([np.cos(yaw), np.sin(yaw)]), np.array([-np.sin(yaw), np.cos(yaw)])
    if plot.kind == "garden":
        for _ in range(3):
            a, b = rng.uniform(-0.4, 0.4, 2) * (plot.length_m, plot.depth_m)
            at = np.array([x, y]) + a * ahead + b * left
            crown = float(rng.uniform(3.0, 5.5))
            size = (crown, crown, float(rng.uniform(4.5, 8.0)))
            placer.put("tree", (float(at[0]), float(at[1]), yaw), size=size, footprint_m=(1.2, 1.2))
        return
    # Car parks and yards: a fence or hedge on the three sides away from the street. Which side that
    # is follows from the driveway's place.
    assert plot.driveway is not None
    away = np.sign((np.array([x, y]) - plot.driveway.mean(0)) @ left)
    kind = "fence" if plot.kind == "yard" or rng.random() < 0.5 else "hedge"
    step = 4.0 if kind == "fence" else 5.0
    width, height = (0.1, 1.8) if kind == "fence" else (0.9, 1.2)
    half_l, half_d = plot.length_m / 2 + 0.6, plot.depth_m / 2 + 0.6
    for a in np.arange(-half_l + step / 2, half_l, step):
        at = np.array([x, y]) + a * ahead + away * half_d * left
        placer.put(kind, (float(at[0]), float(at[1]), yaw), size=(step - 0.1, width, height))
    for b in np.arange(-half_d + 2.5 + step / 2, half_d - 0.5, step):
        for side in (-1, 1):
            at = np.array([x, y]) + side * half_l * ahead + away * b * left
            pose = (float(at[0]), float(at[1]), yaw + np.pi / 2)
            placer.put(kind, pose, size=(step - 0.1, width, height))


def _traffic_lights(placer: _Placer, district: District) -> None:
    for stop in district.stop_lines:
        placer.put("traffic_light", stop.light_pose, footprint_m=(TRUNK_M, TRUNK_M), is_forced=True)


def _kerbs(
    placer: _Placer, district: District, street_index: int, side: int, driveways: list[Points]
) -> None:
    """Kerb stones along one side, left out where a driveway meets the street."""
    street = district.streets[street_index]
    size = catalogue.size_of("kerb", placer.rng)
    step = size[0]
    w = street.section.half_width_m
    for along in np.arange(JUNCTION_M + step / 2, SPACING_M - JUNCTION_M - step / 2 + 0.01, step):
        pose = district.warp.pose(
            street.canonical(float(along), side * (w + 0.1)), street.direction()
        )
        x, y = pose[:2]
        ends = [
            (x + k * np.cos(pose[2]), y + k * np.sin(pose[2])) for k in (-0.4 * step, 0, 0.4 * step)
        ]
        if any(is_inside(driveway, point) for driveway in driveways for point in ends):
            continue
        placer.things.append(
            Thing(kind="kerb", pose=pose, size_lwh_m=size, seed=street_index * 2 + (side > 0))
        )


def _grass_trees(placer: _Placer, lots: Lots) -> None:
    """Trees on the grass inside the blocks and outside the grid."""
    rng = placer.rng
    grass = placer.ground.copy()
    for plot in lots.plots:
        grass.mark(plot.polygon)
    for _ in range(170):
        xy: Points = np.array(grass.origin_m) + rng.uniform(12, 328, 2)
        crown = float(rng.uniform(3.5, 6.5))
        size = (crown, crown, float(rng.uniform(5.5, 10.0)))
        pose = (float(xy[0]), float(xy[1]), float(rng.uniform(-np.pi, np.pi)))
        if grass.is_free(corners_of(pose, crown, crown)):
            placer.put("tree", pose, size=size, footprint_m=(1.0, 1.0))
