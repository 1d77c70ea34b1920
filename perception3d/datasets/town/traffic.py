"""Vehicles that follow lanes: car following (IDM), lights, junctions kept free, no collisions.

What keeps bodies apart (each rule was needed): a body counts on every lane that any part of it
covers; vehicles that merge into or come from the same lane count as leaders; a junction is entered
only when no conflicting vehicle or tail is in it and its exit lane has room; long bodies turn
alone.

Source of the car-following law: Treiber, Hennecke, Helbing, "Congested traffic states in empirical
observations and microscopic simulations", 2000.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from perception3d.datasets.town.agents import Agent
from perception3d.datasets.town.catalogue import size_of
from perception3d.datasets.town.planar import Points, arc_lengths, offset_polyline
from perception3d.datasets.town.signals import GREEN, Signals
from perception3d.datasets.town.streets import District, Lane
from perception3d.datasets.town.tracks import Track

STEP_S = 0.1
WARM_UP_S = 18.0
ACCELERATION, BRAKING = 1.6, 2.5  # IDM [m/s2]
GAP_M, HEADWAY_S = 2.2, 1.3
LOOK_AHEAD_M = 55.0
WIDEST_M = 3.0  # in lanes of 3.5 m
LONG_M = 7.5
HITCH_M = 1.3  # between a lorry and its trailer
VEHICLES = 56  # in a district at density 1
SHARES = {
    "car": 0.56,
    "truck": 0.09,
    "bus": 0.10,
    "trailer": 0.06,  # a lorry that pulls one
    "motorcycle": 0.09,
    "bicycle": 0.05,
    "construction_vehicle": 0.03,
    "police_car": 0.01,
    "ambulance": 0.01,
}


@dataclass(kw_only=True, eq=False)
class Vehicle:
    """One vehicle (or lorry with trailer) in the simulation; `s` is the centre of the whole body
    along its route.
    """

    kind: str
    sizes: list[tuple[float, float, float]]  # of the body, or of lorry and trailer
    length: float
    eagerness: float
    left_m: float
    route: list[int]
    starts: list[float]
    s: float
    v: float
    entering: int = (
        -1
    )  # the connector that it has decided to take, while its front is before the stop line
    history: list[tuple[float, float]] = field(default_factory=list)
    lanes: list[tuple[int, float, float]] = field(default_factory=list)  # lane, front, tail in it


class Traffic:
    """The simulation of one district.

    Args:
        district: streets and lanes.
        signals: lights.
        rng: stream of this scene's traffic.
        count: number of vehicles to try to place.
    """

    def __init__(
        self, district: District, signals: Signals, rng: np.random.Generator, count: int
    ) -> None:
        self.lanes = district.lanes
        self.signals = signals
        self.rng = rng
        self.lengths = [float(arc_lengths(lane.centre_m)[-1]) for lane in self.lanes]
        self.vehicles: list[Vehicle] = []
        self.time = 0.0
        self.on_lane: dict[int, list[tuple[float, float, Vehicle]]] = {}
        self.inside: dict[int, list[Vehicle]] = {}  # junction -> vehicles on its connectors
        self.deciding: dict[int, list[Vehicle]] = {}  # junction -> vehicles about to enter
        self._spawn(count)

    def run(self, seconds: float) -> None:
        """Simulate and record every vehicle's distance and speed at each step."""
        for _ in range(round(seconds / STEP_S) + 1):
            for vehicle in self.vehicles:
                vehicle.history.append((vehicle.s, vehicle.v))
            self._step()

    def movers(self, start_s: float) -> list[Agent]:
        """The recorded vehicles, with the distance that each drove from `start_s` on."""
        movers: list[Agent] = []
        for vehicle in self.vehicles:
            path, arc = self._path(vehicle)
            s = np.array([h[0] for h in vehicle.history])
            v = np.array([h[1] for h in vehicle.history])
            t = np.arange(len(s)) * STEP_S
            first = round(start_s / STEP_S)
            shift = vehicle.length / 2
            for number, size in enumerate(vehicle.sizes):
                is_last = number == len(vehicle.sizes) - 1
                centre = (-shift + size[0] / 2) if is_last else (shift - size[0] / 2)
                centre = 0.0 if len(vehicle.sizes) == 1 else centre
                kind = "truck" if vehicle.kind == "trailer" and not is_last else vehicle.kind
                track = Track(
                    path_m=path,
                    arc_m=arc,
                    times_s=t,
                    distance_m=s + centre,
                    speed_mps=v,
                    base_m=size[0] / 2,
                )
                movers.append(
                    Agent(
                        kind=kind,
                        size_lwh_m=size,
                        track=track,
                        seed=int(self.rng.integers(1 << 31)),
                        has_rider=kind in ("bicycle", "motorcycle"),
                        distance_m=float(s[-1] - s[first]),
                    )
                )
        return movers

    def _path(self, vehicle: Vehicle) -> tuple[Points, NDArray[np.float64]]:
        """The driven line, and the distance along the lanes' middle at each of its points."""
        pieces = [self.lanes[k].centre_m[1 if n else 0 :] for n, k in enumerate(vehicle.route)]
        path = np.concatenate(pieces)
        arc = arc_lengths(path)
        return (offset_polyline(path, vehicle.left_m) if vehicle.left_m else path), arc

    def _spawn(self, count: int) -> None:
        streets = [lane for lane in self.lanes if not lane.is_connector and lane.entries]
        taken: dict[int, list[tuple[float, float]]] = {}
        names, shares = list(SHARES), np.array(list(SHARES.values()))
        for _ in range(count):
            kind = str(self.rng.choice(names, p=shares / shares.sum()))
            sizes = [size_of(kind, self.rng)]
            if kind == "trailer":
                sizes.insert(0, size_of("truck", self.rng))
            sizes = [(size[0], min(size[1], WIDEST_M), size[2]) for size in sizes]
            length = sum(s[0] for s in sizes) + HITCH_M * (len(sizes) - 1)
            eagerness = float(self.rng.uniform(0.85, 1.12)) * (0.5 if kind == "bicycle" else 1.0)
            for _ in range(12):
                lane = streets[int(self.rng.integers(len(streets)))]
                s = float(
                    self.rng.uniform(length / 2 + 0.5, self.lengths[lane.index] - length / 2 - 4)
                )
                others = taken.setdefault(lane.index, [])
                if all(abs(s - o) > (length + w) / 2 + 7 for o, w in others):
                    others.append((s, length))
                    self.vehicles.append(
                        Vehicle(
                            kind=kind,
                            sizes=sizes,
                            length=length,
                            eagerness=eagerness,
                            left_m=-0.95 if kind == "bicycle" else 0.0,
                            route=[lane.index],
                            starts=[0.0],
                            s=s,
                            v=float(self.rng.uniform(0, 5)),
                        )
                    )
                    break

    def _extend(self, vehicle: Vehicle) -> None:
        """Choose lanes until the route reaches beyond the look-ahead."""
        while vehicle.starts[-1] < vehicle.s + vehicle.length / 2 + LOOK_AHEAD_M:
            last = self.lanes[vehicle.route[-1]]
            exits = last.exits
            if vehicle.length > LONG_M:
                straight = [k for k in exits if self.lanes[k].turn == "straight"]
                exits = straight or exits
            vehicle.starts.append(vehicle.starts[-1] + self.lengths[last.index])
            vehicle.route.append(exits[int(self.rng.integers(len(exits)))])

    def _step(self) -> None:
        self._list_bodies()
        accelerations = [self._acceleration(vehicle) for vehicle in self.vehicles]
        for vehicle, a in zip(self.vehicles, accelerations, strict=True):
            new = max(0.0, vehicle.v + a * STEP_S)
            vehicle.s += (vehicle.v + new) / 2 * STEP_S
            vehicle.v = new
        self.time += STEP_S

    def _list_bodies(self) -> None:
        """Every lane that any part of a body covers knows it, and so does every junction."""
        self.on_lane, self.inside, self.deciding = {}, {}, {}
        for vehicle in self.vehicles:
            self._extend(vehicle)
            front, tail = vehicle.s + vehicle.length / 2, vehicle.s - vehicle.length / 2
            vehicle.lanes = []
            for k, start in zip(vehicle.route, vehicle.starts, strict=True):
                if start >= front:
                    break
                if start + self.lengths[k] > tail:
                    self.on_lane.setdefault(k, []).append((front - start, tail - start, vehicle))
                    vehicle.lanes.append((k, front - start, tail - start))
                    if self.lanes[k].is_connector:
                        self.inside.setdefault(self.lanes[k].junction, []).append(vehicle)
                        if k == vehicle.entering:
                            vehicle.entering = -1
            if vehicle.entering >= 0:
                junction = self.lanes[vehicle.entering].junction
                self.deciding.setdefault(junction, []).append(vehicle)

    def _acceleration(self, me: Vehicle) -> float:
        front = me.s + me.length / 2
        desired = 14.0
        nearest, closing = LOOK_AHEAD_M, 0.0
        for k, start in zip(me.route, me.starts, strict=True):
            lane, length = self.lanes[k], self.lengths[k]
            if start + length < front:
                if start + length > me.s - me.length / 2:
                    desired = min(desired, lane.speed_mps * me.eagerness)
                continue
            if start - front > nearest:
                break
            limit = lane.speed_mps * me.eagerness
            ahead = max(0.0, start - front)
            desired = min(desired, math.sqrt(limit * limit + 2 * 1.6 * ahead))
            for gap, speed in self._leaders(me, lane, start - front):
                if gap < nearest:
                    nearest, closing = gap, me.v - speed
            to_line = start + length - front
            if not lane.is_connector and to_line >= 0 and not self._may_enter(me, lane, to_line):
                gap = to_line - 0.7
                if gap < nearest:
                    nearest, closing = gap, me.v
                break
        free = 1.0 - (me.v / max(desired, 0.3)) ** 4
        wanted = GAP_M + max(
            0.0, me.v * HEADWAY_S + me.v * closing / (2 * math.sqrt(ACCELERATION * BRAKING))
        )
        a = ACCELERATION * (free - (wanted / max(nearest, 0.1)) ** 2)
        return max(-8.0, a)

    def _leaders(self, me: Vehicle, lane: Lane, offset: float) -> list[tuple[float, float]]:
        """(gap, speed) of the bodies before me on a lane that starts `offset` ahead of my front
        (negative: I am on it).
        """
        found = []
        for front, tail, other in self.on_lane.get(lane.index, ()):
            if other is not me and (front > -offset or (front == -offset and other.s > me.s)):
                found.append((offset + tail, other.v))
        if lane.is_connector:
            exit_lane, entry = self.lanes[lane.exits[0]], self.lanes[lane.entries[0]]
            mine = offset + self.lengths[lane.index]  # from my front to the exit lane
            for k in exit_lane.entries:
                if k != lane.index:
                    for front, tail, other in self.on_lane.get(k, ()):
                        left = self.lengths[k] - front
                        if other is not me and left < mine and front > 0:
                            found.append((mine - (self.lengths[k] - tail), other.v))
            for k in entry.exits:
                if k != lane.index:
                    for front, tail, other in self.on_lane.get(k, ()):
                        if other is not me and tail < 5.0 and front > -offset:
                            found.append((offset + tail, other.v))
        return found

    def _may_enter(self, me: Vehicle, lane: Lane, to_line: float) -> bool:
        """Whether the light, the junction and the exit lane let me cross the stop line."""
        if me.entering >= 0:
            return True
        if to_line > max(12.0, me.v * me.v / 3.0 + 6.0):
            return True  # too far away to care yet
        if self.signals.state(lane.junction, lane.arm, self.time) != GREEN:
            return False
        connector = self.lanes[me.route[me.route.index(lane.index) + 1]]
        incoming = 0.0
        for theirs, other in self._junction_users(lane.junction):
            if other is me:
                continue
            if self._excludes(me, connector, other, theirs):
                return False
            if theirs.exits[0] == connector.exits[0]:
                incoming += other.length + GAP_M
        room = self.lengths[connector.exits[0]]
        for _, tail, other in self.on_lane.get(connector.exits[0], ()):
            if tail > 0:
                room = min(room, tail + 0.5 * other.v**2 / BRAKING)
        if room < me.length + GAP_M + 1.0 + incoming:
            return False
        # From here on braking would be hard: the decision stands, and others must know it.
        if to_line < me.v * me.v / (2 * 3.0) + 0.7:
            me.entering = connector.index
            self.deciding.setdefault(lane.junction, []).append(me)
        return True

    def _junction_users(self, junction: int) -> list[tuple[Lane, Vehicle]]:
        """Vehicles in a junction or bound to enter it, each with its connector."""
        users = [(self.lanes[v.entering], v) for v in self.deciding.get(junction, ())]
        for vehicle in self.inside.get(junction, ()):
            for k, _, _ in vehicle.lanes:
                if self.lanes[k].is_connector and self.lanes[k].junction == junction:
                    users.append((self.lanes[k], vehicle))
        return users

    def _excludes(self, me: Vehicle, mine: Lane, other: Vehicle, theirs: Lane) -> bool:
        """Whether another vehicle in the junction keeps me out of it."""
        if theirs.arm in self.signals.conflicting(mine.junction, mine.arm):
            return True
        if mine.index == theirs.index or (mine.turn == "straight" and theirs.turn == "straight"):
            return False
        # Long bodies swing out of their lane in a bend.
        i_swing = mine.turn != "straight" and me.length > LONG_M
        they_swing = theirs.turn != "straight" and other.length > LONG_M
        return i_swing or they_swing


def simulate(
    district: District,
    signals: Signals,
    rng: np.random.Generator,
    *,
    count: int,
    scene_length_s: float,
) -> list[Agent]:
    """Vehicles of one scene.

    Args:
        district: streets.
        signals: lights.
        rng: stream of the scene's traffic.
        count: vehicles in the district.
        scene_length_s: simulated after the warm-up.

    Returns:
        All vehicles; times of their tracks count from 0 = start of the warm-up, the scene starts at
        WARM_UP_S.
    """
    traffic = Traffic(district, signals, rng, count)
    traffic.run(WARM_UP_S + scene_length_s + 1.0)
    return traffic.movers(WARM_UP_S)
