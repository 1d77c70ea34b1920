"""Districts and scenes put together: streets, ground, traffic, people and standing things, ready
for any sensor and format.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from perception3d.datasets.town.agents import Agent, overlapping_pairs
from perception3d.datasets.town.camera import PreparedGround, prepare_ground
from perception3d.datasets.town.ground import Ground, draw_ground
from perception3d.datasets.town.layout import build_layout
from perception3d.datasets.town.planar import is_inside
from perception3d.datasets.town.plots import Lots, build_lots
from perception3d.datasets.town.population import populate
from perception3d.datasets.town.primitives import (
    COS,
    NUM_COLUMNS,
    OWNER,
    SIN,
    VX,
    VY,
    A,
    Material,
    Rows,
    X,
    Y,
    place,
)
from perception3d.datasets.town.primitives import MATERIAL as MATERIAL_COLUMN
from perception3d.datasets.town.scenery import Thing, build_scenery
from perception3d.datasets.town.settings import ScenePlan, TownSettings, number, stream
from perception3d.datasets.town.signals import Signals
from perception3d.datasets.town.streets import District
from perception3d.datasets.town.traffic import VEHICLES, WARM_UP_S, simulate
from perception3d.datasets.town.walkers import walkers
from perception3d.datasets.town.weather import Weather

SIGHT_M = 130.0  # standing parts farther than this from the whole route are left out
MOVING_SIGHT_M = 110.0
GRID_S = 0.05  # motion is tabulated at the times of the LiDAR's turns
REAR_AXLE_M = 1.35  # behind the middle of the recording car: the ego frame's origin


@dataclass(kw_only=True)
class DistrictWorld:
    """Everything of a district that all its scenes share."""

    layout: District
    lots: Lots
    things: list[Thing]
    ground: Ground

    @cached_property
    def prepared(self) -> PreparedGround:
        """The ground as the cameras want it."""
        return prepare_ground(self.ground)


@dataclass(kw_only=True)
class SceneWorld:
    """One scene. Times count from the scene's first key frame [s].

    Attributes:
        plan: number, name, split, weather flags.
        weather: light and air.
        district: what it shares with other scenes.
        agents: all annotated objects; an owner number in rows and images is an index into this
            list.
        ego: the recording car (not in `agents`).
        signals: traffic lights.
        rows_static: parts of scenery and standing agents near the route.
        light_rows: junction, arm and row numbers in `rows_static` of each traffic light's lenses.
        length_s: from the first to the last key frame.
    """

    plan: ScenePlan
    weather: Weather
    district: DistrictWorld
    agents: list[Agent]
    ego: Agent
    signals: Signals
    rows_static: Rows
    light_rows: list[tuple[int, int, NDArray[np.int64]]]
    length_s: float

    def __post_init__(self) -> None:
        """Evaluate all motion once, at the times of the LiDAR's turns."""
        is_standing = [agent.track.is_standing for agent in self.agents]
        self.moving = np.flatnonzero(~np.array(is_standing, bool))
        steps = round(self.length_s / GRID_S) + 1
        self._clock = WARM_UP_S + GRID_S * np.arange(-1, steps)
        self._poses = np.stack([agent.track.poses(self._clock) for agent in self.agents], 1)
        looks = [self.agents[k].look_numbers(self._clock) for k in self.moving]
        self._looks = np.stack(looks, 1) if looks else np.zeros((len(self._clock), 0), np.int64)

    def ego_poses(self, times_s: NDArray[np.float64]) -> NDArray[np.float64]:
        """(t, 3) pose of the ego frame (ground below the rear axle) at times (t,)."""
        poses = self.ego.track.poses(np.asarray(times_s, np.float64) + WARM_UP_S)
        poses[:, 0] -= REAR_AXLE_M * np.cos(poses[:, 2])
        poses[:, 1] -= REAR_AXLE_M * np.sin(poses[:, 2])
        return poses

    def agent_poses(self, time_s: float) -> NDArray[np.float64]:
        """(n, 3) pose of every agent at a time (exact at the times of the LiDAR's turns, else at
        the nearest one before).
        """
        poses: NDArray[np.float64] = self._poses[self._step(time_s)]
        return poses

    def is_in_rack(self, agent: int) -> bool:
        """Whether a standing agent lies inside a bicycle rack's box (such bicycles are not
        evaluated).
        """
        x, y, _ = (float(v) for v in self._poses[0, agent])
        racks = [rack for rack in self.agents if rack.kind == "bicycle_rack"]
        return any(
            is_inside(rack.outline(rack.track.poses(np.zeros(1))[0]), (x, y)) for rack in racks
        )

    def attribute(self, agent: int, time_s: float) -> str | None:
        """Name of an agent's attribute at a time."""
        return self.agents[agent].attribute(time_s + WARM_UP_S)

    def rows_moving(self, time_s: float) -> Rows:
        """Parts of the moving agents near the ego car as they are at a time.

        Their velocity is the one of the 50 ms before: that of the LiDAR's turn which ends now.
        """
        step = self._step(time_s)
        beyond_s = time_s + WARM_UP_S - self._clock[step]
        ego = self.ego_poses(np.array([time_s]))[0]
        poses, before = self._poses[step, self.moving], self._poses[step - 1, self.moving]
        near = np.flatnonzero(np.hypot(*(poses[:, :2] - ego[:2]).T) < MOVING_SIGHT_M)
        if len(near) == 0:
            return np.zeros((0, NUM_COLUMNS), np.float32)
        velocities = (poses[near, :2] - before[near, :2]) / GRID_S
        poses = poses[near]
        poses[:, :2] += velocities * beyond_s
        owners = self.moving[near]
        parts = [self.agents[k].look(int(self._looks[step, n])) for n, k in zip(near, owners)]
        return place_many(parts, poses, velocities, owners)

    def _step(self, time_s: float) -> int:
        return 1 + int(time_s / GRID_S + 1e-6)

    def rows_standing(self, time_s: float) -> Rows:
        """`rows_static` with the traffic lights lit as at a time."""
        rows = self.rows_static.copy()
        for junction, arm, numbers in self.light_rows:
            rows[numbers, A] = self.signals.state(junction, arm, time_s + WARM_UP_S)
        return rows


def place_many(
    parts: list[Rows],
    poses: NDArray[np.float64],
    velocities_mps: NDArray[np.float64],
    owners: NDArray[np.int64],
) -> Rows:
    """`place` for many objects in one go.

    Args:
        parts: for each of k objects its rows in the object frame.
        poses: (k, 3) x, y [m], yaw [rad].
        velocities_mps: (k, 2).
        owners: (k,) numbers of the objects.

    Returns:
        World rows of all objects, in order.
    """
    counts = [len(rows) for rows in parts]
    rows = np.concatenate(parts)
    x, y, yaw = (np.repeat(poses[:, k], counts) for k in range(3))
    c, s = np.cos(yaw), np.sin(yaw)
    px, py, pc, ps = rows[:, X].copy(), rows[:, Y].copy(), rows[:, COS].copy(), rows[:, SIN].copy()
    rows[:, X], rows[:, Y] = x + c * px - s * py, y + s * px + c * py
    rows[:, COS], rows[:, SIN] = c * pc - s * ps, s * pc + c * ps
    rows[:, VX : VY + 1] = np.repeat(velocities_mps, counts, axis=0)
    rows[:, OWNER] = np.repeat(owners, counts)
    return rows


def build_district(settings: TownSettings, index: int, cache: Path | None = None) -> DistrictWorld:
    """Lay out and furnish a district.

    Args:
        settings: the town.
        index: number of the district.
        cache: folder for the drawn ground (2 s of work): read from there if present, else written.

    Returns:
        The district.
    """
    layout = build_layout(settings, index)
    lots = build_lots(settings, layout)
    things = build_scenery(settings, layout, lots)
    path = None if cache is None else cache / f"ground-{index:02d}.npy"
    if path is not None and path.exists():
        raster = np.load(path, mmap_mode="r", allow_pickle=False)
        colour, material = np.array(raster[..., :3]), np.array(raster[..., 3])
        ground = Ground(colour, material, np.array(layout.origin_m))
    else:
        ground = draw_ground(settings, layout, lots)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
            with temporary.open("wb") as file:
                np.save(file, np.concatenate([ground.colour, ground.material[..., None]], -1))
            temporary.replace(path)
    return DistrictWorld(layout=layout, lots=lots, things=things, ground=ground)


def build_scene(settings: TownSettings, plan: ScenePlan, district: DistrictWorld) -> SceneWorld:
    """Let a scene happen: traffic and people first, then the ego car is chosen, then standing
    things along its route.

    Args:
        settings: the town.
        plan: the scene.
        district: its district.

    Returns:
        The scene; no two agents' boxes overlap at any key frame (bicycles stand inside their rack).

    Raises:
        RuntimeError: if no car drives at all (density 0 is lifted to a few vehicles, so this does
            not happen).
    """
    length_s = settings.key_frames_per_scene / 2
    signals = Signals.draw(district.layout.junctions, stream(settings, plan.name, "signals"))
    count = max(8, round(VEHICLES * settings.density))
    rng = stream(settings, plan.name, "traffic")
    movers = simulate(district.layout, signals, rng, count=count, scene_length_s=length_s)
    on_foot = walkers(
        district.layout,
        signals,
        stream(settings, plan.name, "walkers"),
        density=settings.density,
        end_s=WARM_UP_S + length_s + 1.0,
        ignored=settings.quotas.ignored,
    )
    times = WARM_UP_S + np.arange(0, length_s + 0.01, 0.25)
    moving = _without_overlaps(movers + on_foot, times)
    cars = [agent for agent in moving if agent.kind == "car"]
    if not cars:
        raise RuntimeError(f"{plan.name}: no car in traffic; raise the density")
    ego = max(cars, key=lambda agent: agent.distance_m)
    moving = [agent for agent in moving if agent is not ego]
    route = ego.track.poses(times)[:, :2]
    standing = populate(settings, district.lots, route, stream(settings, plan.name, "population"))
    agents = _without_overlaps([*moving, *standing.agents, ego], times)[:-1]
    weather = Weather.from_seed(
        number(settings, plan.name, "weather") % (1 << 31), night=plan.night, fog=plan.fog
    )
    rows, light_rows = _static_rows(district, agents, standing.things, route)
    return SceneWorld(
        plan=plan,
        weather=weather,
        district=district,
        agents=agents,
        ego=ego,
        signals=signals,
        rows_static=rows,
        light_rows=light_rows,
        length_s=length_s,
    )


def _without_overlaps(agents: list[Agent], times_s: NDArray[np.float64]) -> list[Agent]:
    """Drop the few agents that touch another one: of a pair the standing one, else the one with the
    lower index stays.

    The last agent of the list is never dropped if it moves and its partner stands or comes earlier.
    """
    dropped: set[int] = set()
    last = len(agents) - 1
    for i, j in overlapping_pairs(agents, times_s, with_standing=False):
        if i in dropped or j in dropped:
            continue
        if j == last or (agents[i].track.is_standing and not agents[j].track.is_standing):
            dropped.add(i)
        else:
            dropped.add(j)
    return [agent for k, agent in enumerate(agents) if k not in dropped]


def _static_rows(
    district: DistrictWorld, agents: list[Agent], things: list[Thing], route_m: NDArray[np.float64]
) -> tuple[Rows, list[tuple[int, int, NDArray[np.int64]]]]:
    """Standing parts near the route, and where each traffic light's lenses are among them."""
    low, high = route_m.min(0) - SIGHT_M, route_m.max(0) + SIGHT_M
    blocks: list[Rows] = []
    lights: list[tuple[int, int, NDArray[np.int64]]] = []
    total = 0
    stops = iter(district.layout.stop_lines)
    for thing in [*district.things, *things]:
        stop = next(stops) if thing.kind == "traffic_light" else None
        x, y = thing.pose[:2]
        if not (low[0] < x < high[0] and low[1] < y < high[1]):
            continue
        rows = thing.rows()
        if stop is not None:
            lenses = np.flatnonzero(rows[:, MATERIAL_COLUMN] == Material.SIGNAL) + total
            lights.append((stop.junction, stop.arm, lenses))
        blocks.append(rows)
        total += len(rows)
    for k, agent in enumerate(agents):
        if agent.track.is_standing:
            pose = agent.track.poses(np.zeros(1))[0]
            if low[0] < pose[0] < high[0] and low[1] < pose[1] < high[1]:
                blocks.append(place(agent.look(0), pose[:2], float(pose[2]), (0.0, 0.0), k))
    rows = np.concatenate(blocks)
    assert np.isfinite(rows[:, [X, Y]]).all()
    return rows, lights
