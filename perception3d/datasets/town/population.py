"""Standing things of a scene: parked vehicles, work sites, racks, people who stand, and distractors
without boxes.

Near the route of the recording car the classes are balanced: at each free place the class furthest
behind its share is the most likely one. Without this rule whole scenes have no bus and no barrier
within its class range.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from perception3d.datasets.town.agents import VEHICLES, Agent, dressed
from perception3d.datasets.town.catalogue import size_of
from perception3d.datasets.town.planar import Occupancy, Points, arc_lengths, corners_of
from perception3d.datasets.town.plots import Lots, Shelf
from perception3d.datasets.town.scenery import Thing
from perception3d.datasets.town.settings import TownSettings
from perception3d.datasets.town.tracks import Track

NEAR_M = 34.0  # of the route: here classes are balanced

REACH_M = 100.0  # nothing is put down farther away: no box lies there

# Wanted share of each class among the boxes that stand near the route.
SHARES = {
    "car": 0.24,
    "truck": 0.1,
    "bus": 0.17,
    "trailer": 0.16,
    "construction_vehicle": 0.16,
    "motorcycle": 0.05,
    "bicycle": 0.09,
    "barrier": 0.12,
    "traffic_cone": 0.055,
    "pedestrian": 0.04,
}


@dataclass(frozen=True, kw_only=True)
class Holding:
    """What a kind of shelf can hold, and how often it stays empty or takes something outside the
    ten classes.
    """

    classes: tuple[str, ...]
    gaps: float
    distractors: float = 0.0
    ignored: float = 0.0


HOLDS = {
    "strip": Holding(
        classes=(
            "car",
            "truck",
            "bus",
            "trailer",
            "construction_vehicle",
            "motorcycle",
            "barrier",
            "traffic_cone",
        ),
        gaps=0.16,
        ignored=0.03,
    ),
    "kerb": Holding(
        classes=("bicycle", "traffic_cone", "pedestrian", "motorcycle"),
        gaps=0.55,
        distractors=0.24,
        ignored=0.04,
    ),
    "verge": Holding(
        classes=("bicycle", "motorcycle", "barrier", "pedestrian", "traffic_cone"),
        gaps=0.36,
        distractors=0.30,
        ignored=0.10,
    ),
    "row": Holding(classes=("car", "motorcycle"), gaps=0.25, ignored=0.03),
    "bay": Holding(classes=("trailer", "bus", "truck", "construction_vehicle"), gaps=0.12),
    "front": Holding(
        classes=("barrier", "traffic_cone", "pedestrian"), gaps=0.1, distractors=0.1, ignored=0.06
    ),
}
BIG = frozenset({"truck", "bus", "trailer", "construction_vehicle"})
VIEW_M = 9.0  # kept between big vehicles in a parking strip, or a narrow street becomes a canyon
FAR_SHARES = {"strip": "car", "row": "car"}
DISTRACTORS = ("bin", "bollard", "hydrant", "sign_post", "low_wall", "hedge", "bench", "poster")
SLIM_DISTRACTORS = ("bin", "bollard", "hydrant", "sign_post")  # fit between kerb and walkers
IGNORED = ("debris", "pushable", "animal", "stroller", "wheelchair", "bicycle_rack")
GROUPS = {  # how many stand together
    "motorcycle": (1, 3),
    "bicycle": (1, 3),
    "barrier": (3, 6),
    "traffic_cone": (3, 6),
    "pedestrian": (1, 3),
}


@dataclass(frozen=True, kw_only=True)
class Population:
    """Standing agents (with boxes) and things (without)."""

    agents: list[Agent]
    things: list[Thing]


def populate(
    settings: TownSettings, lots: Lots, route_m: Points, rng: np.random.Generator
) -> Population:
    """Put things down on a district's shelves for one scene.

    Args:
        settings: density and quotas.
        lots: shelves and free ground (not changed).
        route_m: (n, 2) places of the recording car.
        rng: stream of this scene's population.

    Returns:
        What stands there; no two boxes overlap (bicycles stand inside their rack).
    """
    hand = _Hand(settings, lots.occupancy.copy(), route_m, rng)
    order = rng.permutation(len(lots.shelves))
    # The nearest shelves first: balancing starts where it counts.
    distance = [hand.distance_to_route(shelf.line) for shelf in lots.shelves]
    for k in sorted(order, key=lambda k: round(distance[k] / 10.0)):
        if distance[k] < REACH_M:
            hand.fill(lots.shelves[k])
    return Population(agents=hand.agents, things=hand.things)


class _Hand:
    """Puts one thing after the other on free ground."""

    def __init__(
        self, settings: TownSettings, ground: Occupancy, route_m: Points, rng: np.random.Generator
    ) -> None:
        self.settings = settings
        self.ground = ground
        self.route = route_m
        self.rng = rng
        self.agents: list[Agent] = []
        self.things: list[Thing] = []
        quotas = settings.quotas
        self.shares = {k: v * getattr(quotas, k, 1.0) for k, v in SHARES.items()}
        total = sum(self.shares.values())
        self.shares = {k: v / total for k, v in self.shares.items()}
        self.placed = dict.fromkeys(SHARES, 0)

    def distance_to_route(self, points: Points) -> float:
        """Smallest distance from any of the points to the route [m]."""
        d = points[:, None] - self.route[None]
        return float(np.sqrt((d**2).sum(-1).min()))

    def fill(self, shelf: Shelf) -> None:
        """Go along a shelf and put something down wherever there is room."""
        s = arc_lengths(shelf.line)
        cursor = float(self.rng.uniform(0.0, 1.5))
        small_until_m = 0.0
        holding = HOLDS[shelf.kind]
        quotas = self.settings.quotas
        to_gap = min(0.95, holding.gaps / max(self.settings.density, 0.05) ** 0.5)
        to_distractor = to_gap + holding.distractors * quotas.distractor
        to_ignored = to_distractor + holding.ignored * quotas.ignored
        while cursor < s[-1] - 0.4:
            here = np.array([[np.interp(cursor, s, shelf.line[:, k]) for k in (0, 1)]])
            is_near = self.distance_to_route(here) < NEAR_M
            draw = float(self.rng.random())
            classes = holding.classes
            if cursor < small_until_m:
                classes = tuple(c for c in classes if c not in BIG)
            kind = self._choose(shelf, classes, is_near)
            if draw < to_gap or (draw >= to_ignored and kind is None):
                cursor += float(self.rng.uniform(1.5, 4.5))
            elif draw < to_distractor:
                cursor += self._distractor(shelf, cursor)
            elif draw < to_ignored:
                cursor += self._ignored(shelf, cursor)
            else:
                assert kind is not None
                cursor += self._group(shelf, cursor, kind)
                if kind in BIG and shelf.kind == "strip":
                    small_until_m = cursor + VIEW_M

    def _choose(self, shelf: Shelf, classes: tuple[str, ...], is_near: bool) -> str | None:
        """The class of the next group, None for a gap: near the route mostly a class that is behind
        its share.
        """
        allowed = [c for c in classes if self.shares[c] > 0]
        if not is_near and shelf.kind in FAR_SHARES and self.rng.random() < 0.8:
            return FAR_SHARES[shelf.kind]
        if not allowed:
            return None
        weights = np.array([self.shares[c] for c in allowed])
        if is_near:
            total = sum(self.placed.values()) + 12
            weights = np.array([max(0.0, self.shares[c] - self.placed[c] / total) for c in allowed])
            if weights.sum() < 0.02 and self.rng.random() < 0.75:
                return None
            weights += 0.004
        return str(self.rng.choice(allowed, p=weights / weights.sum()))

    def _group(self, shelf: Shelf, start_m: float, kind: str) -> float:
        """One vehicle, or a row of small things; returns the length used."""
        low, high = GROUPS.get(kind, (1, 1))
        count = int(self.rng.integers(low, high + 1))
        if kind == "construction_vehicle" and shelf.kind == "strip":
            return self._work_site(shelf, start_m)
        used = 0.0
        spacing = {
            "traffic_cone": self.rng.uniform(0.9, 2.0),
            "barrier": self.rng.uniform(0.1, 0.5),
        }
        gap = float(spacing.get(kind, self.rng.uniform(0.35, 1.2)))
        row = float(self.rng.uniform(-0.45, 0.45))  # a row of small things is straight
        for _ in range(count):
            step = self._agent(shelf, start_m + used, kind, row)
            used += step + gap
        return used + float(self.rng.uniform(0.2, 0.8))

    def _work_site(self, shelf: Shelf, start_m: float) -> float:
        """A machine in the parking strip between cones."""
        used = 0.0
        edge = 0.42 * shelf.lane_side
        for kind, row in (
            ("traffic_cone", edge),
            ("construction_vehicle", 0.0),
            ("traffic_cone", edge),
        ):
            used += self._agent(shelf, start_m + used, kind, row) + 0.5
        return used + 0.5

    def _agent(self, shelf: Shelf, start_m: float, kind: str, row: float = 0.0) -> float:
        """One agent whose near end is at `start_m` along the shelf; returns the length it takes
        there.

        `row` places it across the shelf: -0.5 right edge, 0.5 left edge.
        """
        size = size_of(kind, self.rng)
        if kind in VEHICLES:
            size = (size[0], min(size[1], shelf.depth_m - 0.08), size[2])
        is_long_way = kind == "barrier"  # heads across its long side
        along = size[1] if (shelf.is_across or is_long_way) else size[0]
        across = size[0] if (shelf.is_across or is_long_way) else size[1]
        turn = 0.0
        if shelf.is_across or is_long_way:
            # A barrier looks the same from both sides: its heading can only be known if it faces
            # the lane.
            to_the_left = self.rng.random() < 0.5 or is_long_way
            turn = math.pi / 2 if to_the_left else -math.pi / 2
        if kind == "pedestrian" and not shelf.is_across:
            turn = float(self.rng.uniform(-math.pi, math.pi))
            along = across = max(size[0], size[1]) * 1.15
        slack = shelf.depth_m - across
        side = (row + self.rng.normal(0, 0.03)) * max(0.0, slack) * 0.9
        if slack < 0.4:
            # Too wide for the strip: it may stand over the kerb, never in the lane.
            side = -shelf.lane_side * (0.32 - slack / 2)
        if kind == "car" and shelf.kind == "strip":
            side = -shelf.lane_side * float(self.rng.uniform(0.1, 0.35))
        pose = self._pose(shelf, start_m + along / 2, float(side), turn)
        role = ""
        if kind == "pedestrian" and shelf.is_beside_yard:
            role = "construction_worker"
        clearance = 0.05 if slack < 0.4 else 0.12
        if not self._is_free(pose, size, clearance):
            return 0.6
        self._add(kind, size, pose, role=role)
        return along

    def _pose(
        self, shelf: Shelf, at_m: float, left_m: float, turn: float
    ) -> tuple[float, float, float]:
        s = arc_lengths(shelf.line)
        a, b = max(0.0, at_m - 0.5), min(float(s[-1]), at_m + 0.5)
        p = [np.array([np.interp(t, s, shelf.line[:, k]) for k in (0, 1)]) for t in (a, at_m, b)]
        ahead = p[2] - p[0]
        yaw = math.atan2(ahead[1], ahead[0])
        xy = p[1] + left_m * np.array([-math.sin(yaw), math.cos(yaw)])
        # Right-hand traffic: parked vehicles head as the lane beside them.
        heading = yaw if shelf.lane_side > 0 else yaw + math.pi
        heading += turn + float(self.rng.normal(0, 0.005 if shelf.kind == "strip" else 0.015))
        return (float(xy[0]), float(xy[1]), math.remainder(heading, 2 * math.pi))

    def _is_free(
        self, pose: tuple[float, float, float], size: tuple[float, float, float], clearance_m: float
    ) -> bool:
        outline = corners_of(pose, size[0] + 2 * clearance_m, size[1] + 2 * clearance_m)
        if not self.ground.is_free(outline):
            return False
        self.ground.mark(corners_of(pose, size[0], size[1]))
        return True

    def _add(
        self,
        kind: str,
        size: tuple[float, float, float],
        pose: tuple[float, float, float],
        role: str = "",
    ) -> None:
        agent = Agent(
            kind=kind,
            size_lwh_m=size,
            track=Track.standing(pose),
            seed=int(self.rng.integers(1 << 31)),
            role=role,
        )
        self.agents.append(dressed(agent, self.rng))
        if kind in self.placed and self.distance_to_route(np.array([pose[:2]])) < NEAR_M:
            self.placed[kind] += 1

    def _distractor(self, shelf: Shelf, start_m: float) -> float:
        kinds = DISTRACTORS if shelf.depth_m > 1.2 else SLIM_DISTRACTORS
        kind = str(self.rng.choice(kinds))
        used = 0.0
        for _ in range(
            int(self.rng.integers(2, 5)) if kind in ("bollard", "low_wall", "hedge") else 1
        ):
            size = size_of(kind, self.rng)
            faces_traffic = math.pi if kind == "sign_post" else 0.0
            pose = self._pose(shelf, start_m + used + size[0] / 2, 0.0, faces_traffic)
            if self._is_free(pose, size, 0.1):
                seed = int(self.rng.integers(1 << 31))
                self.things.append(Thing(kind=kind, pose=pose, size_lwh_m=size, seed=seed))
            used += size[0] + (1.3 if kind == "bollard" else 0.25)
        return used + 0.4

    def _ignored(self, shelf: Shelf, start_m: float) -> float:
        if shelf.kind in ("strip", "row"):
            kind = "police_car" if self.rng.random() < 0.6 or shelf.kind == "row" else "ambulance"
            return self._agent(shelf, start_m, kind) + 0.6
        kind = str(self.rng.choice(IGNORED, p=(0.2, 0.2, 0.12, 0.08, 0.05, 0.35)))
        if kind == "bicycle_rack":
            return self._rack(shelf, start_m) if shelf.depth_m > 1.2 else 0.5
        return self._agent(shelf, start_m, kind) + 0.5

    def _rack(self, shelf: Shelf, start_m: float) -> float:
        """A rack along the shelf with bicycles across, all inside the rack's box."""
        length, width, height = size_of("bicycle_rack", self.rng)
        size = (length, max(width, 1.9), height)
        pose = self._pose(shelf, start_m + length / 2, 0.0, 0.0)
        if not self._is_free(pose, size, 0.08):
            return 0.6
        self._add("bicycle_rack", size, pose)
        x, y, yaw = pose
        for at in np.arange(-length / 2 + 0.45, length / 2 - 0.4, 0.68):
            if self.rng.random() < 0.75:
                bicycle = size_of("bicycle", self.rng)
                bicycle = (min(bicycle[0], size[1] - 0.1), min(bicycle[1], 0.62), bicycle[2])
                spot = (x + float(at) * math.cos(yaw), y + float(at) * math.sin(yaw))
                self.agents.append(
                    Agent(
                        kind="bicycle",
                        size_lwh_m=bicycle,
                        track=Track.standing((*spot, yaw + math.pi / 2)),
                        seed=int(self.rng.integers(1 << 31)),
                    )
                )
        return length + 0.5
