"""What the sensors of Argoverse 2's kind deliver during a scene, apart from any file format.

World and kernels are those of the nuScenes rig; only places, beams and times differ.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from perception3d.datasets.town import camera as camera_pictures
from perception3d.datasets.town import rig, rig_av2, shadows
from perception3d.datasets.town.lidar_rays import cast_turn, world_directions
from perception3d.datasets.town.lidar_returns import write_rows
from perception3d.datasets.town.primitives import VX, VY, Rows, X, Y, advance
from perception3d.datasets.town.raycast import MISS
from perception3d.datasets.town.settings import TownSettings, number
from perception3d.datasets.town.world import SceneWorld
from perception3d.geometry import points_in_boxes

BOX_RANGE_M = 105.0
#: Nearer to the sensor than this lies no return, but a ray that came back with none.
_NO_RETURN_M = 0.2


@dataclass(frozen=True, kw_only=True)
class Turn:
    """The returns of both LiDARs in the vehicle's frame at the turn's START.

    Attributes:
        xyz_m: (n, 3) float16.
        intensity: (n,) uint8.
        laser: (n,) uint8, 0 to 63.
        offset_ns: (n,) int32 after the start.
    """

    xyz_m: NDArray[np.float16]
    intensity: NDArray[np.uint8]
    laser: NDArray[np.uint8]
    offset_ns: NDArray[np.int32]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One image; time since the scene's begin, pose of the vehicle (x, y, yaw) then."""

    time_us: int
    pose: NDArray[np.float64]
    camera: rig.Camera
    image: NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Label:
    """One box: the agent's number, its pose in the vehicle's frame, and the points inside."""

    agent: int
    center_m: tuple[float, float, float]
    yaw_rad: float
    num_points: int


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Everything of one sweep.

    Attributes:
        time_us: start of the LiDARs' turn, since the scene's begin.
        pose: x, y [m], yaw [rad] of the vehicle then.
        turn, pictures, labels: what was seen.
    """

    time_us: int
    pose: NDArray[np.float64]
    turn: Turn
    pictures: tuple[Picture, ...]
    labels: tuple[Label, ...]


def record(world: SceneWorld, settings: TownSettings, names: tuple[str, ...]) -> Iterator[Reading]:
    """Drive through a scene and read all sensors, ten times a second.

    Args:
        world: the scene.
        settings: image scale and seed.
        names: cameras.
    """
    views = rig_av2.cameras(settings.image_scale, names)
    shadow = shadows.static_mask(world.rows_static, world.district.ground, world.weather)
    # The last turn must end within the scene.
    sweeps = int((world.length_s - rig.TURN_S) / rig_av2.SWEEP_S + 1e-6) + 1
    for sweep in range(sweeps):
        time_us = round(sweep * rig_av2.SWEEP_S * 1e6)
        pose = world.ego_poses(np.array([time_us * 1e-6]))[0]
        turn = _turn(world, settings, time_us, pose)
        pictures, seen = _pictures(world, settings, views, shadow, time_us)
        yield Reading(
            time_us=time_us,
            pose=pose,
            turn=turn,
            pictures=pictures,
            labels=_labels(world, time_us, pose, turn, seen),
        )


def _turn(
    world: SceneWorld, settings: TownSettings, time_us: int, pose: NDArray[np.float64]
) -> Turn:
    end_s = time_us * 1e-6 + rig.TURN_S
    ages = rig.column_times_s()
    poses = np.ascontiguousarray(world.ego_poses(end_s + ages))
    rows = _near_rows(world.rows_static, world.rows_moving(end_s), poses[-1, :2])
    ego_T_world = np.linalg.inv(rig_av2.world_SE3_ego(pose))
    parts = [
        _unit_turn(
            unit,
            world,
            rows,
            poses,
            ages,
            ego_T_world,
            number(settings, world.plan.name, unit.name, time_us),
        )
        for unit in rig_av2.UNITS
    ]
    return Turn(
        xyz_m=np.concatenate([part.xyz_m for part in parts]),
        intensity=np.concatenate([part.intensity for part in parts]),
        laser=np.concatenate([part.laser for part in parts]),
        offset_ns=np.concatenate([part.offset_ns for part in parts]),
    )


def _unit_turn(
    unit: rig_av2.Unit,
    world: SceneWorld,
    rows: Rows,
    poses: NDArray[np.float64],
    ages: NDArray[np.float64],
    ego_T_world: NDArray[np.float64],
    seed: int,
) -> Turn:
    x, y, z = unit.translation_m
    cos, sin = np.cos(poses[:, 2]), np.sin(poses[:, 2])
    height = np.full(len(poses), z + rig_av2.EGO_HEIGHT_M)
    origins = np.stack(
        (poses[:, 0] + cos * x - sin * y, poses[:, 1] + sin * x + cos * y, height), axis=1
    )
    directions = np.empty(unit.directions.shape)
    world_directions(np.ascontiguousarray(unit.directions), poses, directions)
    nearest = np.full(directions.shape[:2], MISS)
    hit = np.full(directions.shape[:2], -1, dtype=np.int32)
    headings = poses[:, 2].copy()
    cast_turn(rows, origins, headings, directions, ages, rig.MAX_RANGE_M, nearest, hit)
    ground = world.district.ground
    place = (float(ground.origin_xy_m[0]), float(ground.origin_xy_m[1]), float(ground.cell_m))
    points = np.empty((nearest.size, 5), dtype=np.float32)
    owner = np.empty(nearest.size, dtype=np.int32)
    own, fog = unit.own_range_m, float(world.weather.fog)
    write_rows(
        rows, origins, directions, ages, nearest, hit, own, ground.material, place, fog,
        seed & 0x7FFFFFFF, ego_T_world, points, owner,
    )  # fmt: skip
    down = directions[..., 2]
    to_ground = np.where(down < -1e-6, -origins[:, 2, None] / np.minimum(down, -1e-6), MISS)
    on_own_car = (own < np.minimum(nearest, to_ground)).ravel()
    start = origins @ ego_T_world[:3, :3].T + ego_T_world[:3, 3]
    away = np.linalg.norm(points[:, :3] - np.repeat(start, rig.NUM_RINGS, axis=0), axis=1)
    kept = np.flatnonzero((away > _NO_RETURN_M) & ~on_own_car)
    offset = np.round((ages + rig.TURN_S) * 1e9).astype(np.int32)
    return Turn(
        xyz_m=points[kept, :3].astype(np.float16),
        intensity=points[kept, 3].astype(np.uint8),
        laser=(points[kept, 4] + unit.first_laser).astype(np.uint8),
        offset_ns=np.repeat(offset, rig.NUM_RINGS)[kept],
    )


def _near_rows(rows_static: Rows, rows_moving: Rows, ego_xy_m: NDArray[np.float64]) -> Rows:
    """Both sets in one array, near ones first; standing rows must not move."""
    rows = np.concatenate([rows_static, rows_moving]).astype(np.float32, copy=False)
    rows[: len(rows_static), VX : VY + 1] = 0.0
    distance = np.hypot(rows[:, X] - ego_xy_m[0], rows[:, Y] - ego_xy_m[1])
    return np.ascontiguousarray(rows[np.argsort(distance, kind="stable")])


def _pictures(
    world: SceneWorld,
    settings: TownSettings,
    views: tuple[rig.Camera, ...],
    shadow: shadows.ShadowMask,
    time_us: int,
) -> tuple[tuple[Picture, ...], set[int]]:
    """Images around a time, and the agents of which a pixel is seen."""
    time_s = time_us * 1e-6
    moving, standing = world.rows_moving(time_s), world.rows_standing(time_s)
    x, y, _ = (float(v) for v in world.ego_poses(np.array([time_s]))[0])
    mask = shadows.with_moving(shadow, moving, world.weather, (x, y))
    pictures, seen = [], set()
    for view in views:
        exposed_us = time_us + view.time_offset_us
        pose = world.ego_poses(np.array([exposed_us * 1e-6]))[0]
        image, counts = camera_pictures.render(
            np.concatenate([standing, advance(moving, view.time_offset_us * 1e-6)]),
            world.district.prepared,
            mask,
            view,
            pose,
            world.weather,
            number(settings, world.plan.name, view.channel, exposed_us),
        )
        seen |= {owner for owner, (shown, _) in counts.items() if shown}
        pictures.append(Picture(time_us=exposed_us, pose=pose, camera=view, image=image))
    return tuple(pictures), seen


def _labels(
    world: SceneWorld, time_us: int, pose: NDArray[np.float64], turn: Turn, seen: set[int]
) -> tuple[Label, ...]:
    """Boxes within range that have a seen pixel or a LiDAR point; points as the file holds them."""
    poses = world.agent_poses(time_us * 1e-6)
    near = np.flatnonzero(np.hypot(*(poses[:, :2] - pose[:2]).T) < BOX_RANGE_M)
    if not len(near):
        return ()
    size = np.array([world.agents[k].size_lwh_m for k in near])
    in_world = np.column_stack((poses[near, :2], size[:, 2] / 2))
    ego_T_world = np.linalg.inv(rig_av2.world_SE3_ego(pose))
    center = in_world @ ego_T_world[:3, :3].T + ego_T_world[:3, 3]
    yaw = poses[near, 2] - pose[2]
    inside = points_in_boxes(
        torch.from_numpy(turn.xyz_m.astype(np.float32)),
        *(torch.from_numpy(part).float() for part in (center, size, yaw)),
    )
    labels = []
    for number_near, count in enumerate(inside.sum(dim=0).tolist()):
        agent = int(near[number_near])
        if count or agent in seen:
            x, y, z = (float(v) for v in center[number_near])
            labels.append(
                Label(
                    agent=agent,
                    center_m=(x, y, z),
                    yaw_rad=float(yaw[number_near]),
                    num_points=int(count),
                )
            )
    return tuple(labels)
