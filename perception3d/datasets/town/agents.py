"""Everything that gets a box: what it is, how it moves, what is said about it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from perception3d.datasets.town import catalogue
from perception3d.datasets.town.planar import corners_of, rectangles_overlap
from perception3d.datasets.town.primitives import MATERIAL, A, Material, Rows
from perception3d.datasets.town.tracks import Track

STEP_LENGTH_M = 0.75
PHASES = 8  # looks of a walking figure between two steps of the same foot
MOVING_MPS = 0.25

# Catalogue kind -> raw category of the data set; pedestrians and buses are told apart in
# `raw_category`.
CATEGORIES = {
    "car": "vehicle.car",
    "truck": "vehicle.truck",
    "construction_vehicle": "vehicle.construction",
    "bus": "vehicle.bus.rigid",
    "trailer": "vehicle.trailer",
    "barrier": "movable_object.barrier",
    "motorcycle": "vehicle.motorcycle",
    "bicycle": "vehicle.bicycle",
    "pedestrian": "human.pedestrian.adult",
    "traffic_cone": "movable_object.trafficcone",
    "ambulance": "vehicle.emergency.ambulance",
    "police_car": "vehicle.emergency.police",
    "stroller": "human.pedestrian.stroller",
    "wheelchair": "human.pedestrian.wheelchair",
    "personal_mobility": "human.pedestrian.personal_mobility",
    "debris": "movable_object.debris",
    "pushable": "movable_object.pushable_pullable",
    "animal": "animal",
    "bicycle_rack": "static_object.bicycle_rack",
}
VEHICLES = frozenset(
    {"car", "truck", "construction_vehicle", "bus", "trailer", "ambulance", "police_car"}
)


@dataclass(frozen=True, kw_only=True)
class Agent:
    """One annotated object of a scene.

    Attributes:
        kind: of the catalogue.
        size_lwh_m: length, width, height of its box; the box stands on the ground.
        track: where it is at any time.
        seed: picks its look.
        role: "", "child", "construction_worker" or "police_officer" for pedestrians.
        has_rider: for cycles.
        is_sitting: for pedestrians.
        distance_m: driven within the scene (vehicles in traffic).
    """

    kind: str
    size_lwh_m: tuple[float, float, float]
    track: Track
    seed: int
    role: str = ""
    has_rider: bool = False
    is_sitting: bool = False
    distance_m: float = 0.0
    _looks: dict[int, Rows] = field(default_factory=dict, repr=False, compare=False)

    @property
    def raw_category(self) -> str:
        """Name in the data set's category table."""
        if self.role:
            return f"human.pedestrian.{self.role}"
        return CATEGORIES[self.kind]

    def attribute(self, time_s: float) -> str | None:
        """Name of its attribute at a time, None where its category has none."""
        if self.kind in VEHICLES:
            if self.track.is_standing:
                return "vehicle.parked"
            is_moving = self.track.speed(time_s) > MOVING_MPS
            return "vehicle.moving" if is_moving else "vehicle.stopped"
        if self.kind in ("bicycle", "motorcycle"):
            return "cycle.with_rider" if self.has_rider else "cycle.without_rider"
        if self.kind == "pedestrian":
            if self.is_sitting:
                return "pedestrian.sitting_lying_down"
            is_moving = self.track.speed(time_s) > MOVING_MPS
            return "pedestrian.moving" if is_moving else "pedestrian.standing"
        return None

    @cached_property
    def takes_steps(self) -> bool:
        """Whether its look changes as it moves."""
        return not self.track.is_standing and (
            self.kind in ("pedestrian", "animal") or self.has_rider
        )

    def look_numbers(self, times_s: NDArray[np.float64]) -> NDArray[np.int64]:
        """(t,) number of its look at times: 0 for who takes no steps, else the step's phase."""
        if not self.takes_steps:
            return np.zeros(len(times_s), np.int64)
        walked = self.track.distances(times_s) / (2 * STEP_LENGTH_M)
        numbers: NDArray[np.int64] = np.floor(walked * PHASES).astype(np.int64) % PHASES
        return numbers

    def look(self, number: int) -> Rows:
        """Its parts in the object frame (a shared array: do not change it)."""
        if number not in self._looks:
            self._looks[number] = catalogue.parts(
                self.kind,
                self.size_lwh_m,
                self.seed,
                rider=self.has_rider,
                phase=2 * math.pi * number / PHASES,
            )
        return self._looks[number]

    def outline(
        self, pose: NDArray[np.float64] | tuple[float, float, float]
    ) -> NDArray[np.float64]:
        """(4, 2) corners of the box on the ground at a pose."""
        x, y, yaw = (float(v) for v in pose)
        return corners_of((x, y, yaw), self.size_lwh_m[0], self.size_lwh_m[1])


def dressed(person: Agent, rng: np.random.Generator) -> Agent:
    """A pedestrian whose clothes and role agree: who wears a reflective vest is a construction
    worker, and the reverse.

    Args:
        person: a pedestrian; any other agent is returned as it is.
        rng: stream for trying other looks.

    Returns:
        The same person, perhaps in another look.
    """
    if person.kind != "pedestrian":
        return person
    for _ in range(60):
        rows = person.look(0)
        has_vest = bool(np.any((rows[:, MATERIAL] == Material.CLOTH) & (rows[:, A] == 1.0)))
        if has_vest == (person.role == "construction_worker"):
            break
        if not person.role:
            return replace(person, role="construction_worker", _looks={})
        person = replace(person, seed=int(rng.integers(1 << 31)), _looks={})
    return person


def overlapping_pairs(
    agents: list[Agent], times_s: NDArray[np.float64], *, with_standing: bool = True
) -> list[tuple[int, int]]:
    """Pairs of agents whose boxes share ground at some time (bicycles stand inside their rack and
    do not count).

    Args:
        agents: of one scene.
        times_s: (t,) times to look at.
        with_standing: also compare standing agents with each other.

    Returns:
        Index pairs, lower index first, in order.
    """
    poses = np.stack([agent.track.poses(times_s) for agent in agents], 1)  # (t, n, 3)
    reach = np.array([math.hypot(*agent.size_lwh_m[:2]) / 2 for agent in agents])
    moving = np.array(
        [k for k, agent in enumerate(agents) if not agent.track.is_standing], np.int64
    )
    everyone = np.arange(len(agents))
    found: set[tuple[int, int]] = set()
    for step, now in enumerate(poses):
        first = everyone if with_standing and step == 0 else moving
        delta = now[first, None, :2] - now[None, :, :2]
        near = (delta**2).sum(-1) < (reach[first, None] + reach[None]) ** 2
        for row, j in zip(*np.nonzero(near), strict=True):
            i = int(first[row])
            pair = (min(i, int(j)), max(i, int(j)))
            kinds = {agents[i].kind, agents[j].kind}
            if i == j or pair in found or kinds == {"bicycle", "bicycle_rack"}:
                continue
            if rectangles_overlap(agents[i].outline(now[i]), agents[j].outline(now[j])):
                found.add(pair)
    return sorted(found)
