"""What the sensors of the recording car deliver during a scene, apart from any file format."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perception3d.datasets.town import camera as cameras
from perception3d.datasets.town import lidar, rig, shadows
from perception3d.datasets.town.compiled import kernel
from perception3d.datasets.town.primitives import Rows, advance
from perception3d.datasets.town.settings import (
    CAMERA_HZ,
    KEY_FRAME_HZ,
    SWEEP_HZ,
    TownSettings,
    number,
)
from perception3d.datasets.town.world import SceneWorld

BOX_RANGE_M = 80.0
SWEEPS_PER_KEY = SWEEP_HZ // KEY_FRAME_HZ
IMAGES_PER_KEY = CAMERA_HZ // KEY_FRAME_HZ


@dataclass(frozen=True, kw_only=True)
class LidarReading:
    """One turn of the LiDAR, stamped with its end.

    Attributes:
        time_us: since the scene's first key frame.
        pose: x, y [m], yaw [rad] of the ego frame at that time.
        points: (34688, 5) float32 x y z intensity ring in the LIDAR frame, with rows without
            return.
        key_frame: its number, or None between key frames.
    """

    time_us: int
    pose: NDArray[np.float64]
    points: NDArray[np.float32]
    key_frame: int | None


@dataclass(frozen=True, kw_only=True)
class CameraReading:
    """One image.

    Attributes:
        time_us: since the scene's first key frame.
        pose: of the ego frame at that time.
        camera: calibration, channel.
        image: (H, W, 3) uint8 RGB.
        key_frame: its number, or None between key frames.
    """

    time_us: int
    pose: NDArray[np.float64]
    camera: rig.Camera
    image: NDArray[np.uint8]
    key_frame: int | None


@dataclass(frozen=True, kw_only=True)
class Label:
    """One box of a key frame.

    Attributes:
        agent: index into the scene's agents.
        pose: x, y [m], yaw [rad] of the box.
        num_points: LiDAR points of the key frame inside it.
        visible: share of its pixels that are seen, over all images (0 where no image could show
            it).
        attribute: name or None.
    """

    agent: int
    pose: tuple[float, float, float]
    num_points: int
    visible: float
    attribute: str | None


@dataclass(frozen=True, kw_only=True)
class Labels:
    """All boxes of a key frame; comes after the frame's readings."""

    key_frame: int
    labels: tuple[Label, ...]


@dataclass(frozen=True, kw_only=True)
class _Instant:
    """What all cameras of one instant share: the world's parts and the shadows on the ground."""

    base_us: int
    standing: Rows
    moving: Rows
    mask: shadows.ShadowMask

    @classmethod
    def of(cls, world: SceneWorld, shadow: shadows.ShadowMask, base_us: int) -> _Instant:
        time_s = base_us * 1e-6
        moving = world.rows_moving(time_s)
        x, y, _ = (float(v) for v in world.ego_poses(np.array([time_s]))[0])
        return cls(
            base_us=base_us,
            standing=world.rows_standing(time_s),
            moving=moving,
            mask=shadows.with_moving(shadow, moving, world.weather, (x, y)),
        )


def record(
    world: SceneWorld, settings: TownSettings
) -> Iterator[LidarReading | CameraReading | Labels]:
    """Drive through a scene and read all sensors, in the order of their times within a channel.

    Args:
        world: the scene.
        settings: image scale, sweeps kept, camera sweeps.

    Yields:
        Readings; after those of a key frame its labels.
    """
    views = rig.scaled(settings.image_scale)
    prepared = world.district.prepared
    shadow = shadows.static_mask(world.rows_static, world.district.ground, world.weather)
    key_us = 1_000_000 // KEY_FRAME_HZ
    for key in range(settings.key_frames_per_scene):
        turn = _turn(world, settings, key * SWEEPS_PER_KEY, key)
        yield turn
        seen: dict[int, tuple[int, int]] = {}
        instant = _Instant.of(world, shadow, key * key_us)
        for view in views:
            reading, counts = _picture(world, settings, prepared, view, instant, key)
            yield reading
            for owner, (shown, whole) in counts.items():
                a, b = seen.get(owner, (0, 0))
                seen[owner] = (a + shown, b + whole)
        yield Labels(key_frame=key, labels=_labels(world, turn, seen))
        if key == settings.key_frames_per_scene - 1:
            break
        for between in range(1, IMAGES_PER_KEY if settings.camera_sweeps else 1):
            instant = _Instant.of(world, shadow, key * key_us + between * 1_000_000 // CAMERA_HZ)
            for view in views:
                yield _picture(world, settings, prepared, view, instant, None)[0]
        for step in range(settings.keep_sweep_every, SWEEPS_PER_KEY, settings.keep_sweep_every):
            yield _turn(world, settings, key * SWEEPS_PER_KEY + step, None)


def read_once(world: SceneWorld, settings: TownSettings, sensor: str) -> None:
    """Read one sensor once and forget it: its kernels are compiled then, and kept on disk.

    Args:
        world, settings: any scene.
        sensor: "lidar" or "cameras".
    """
    if sensor == "lidar":
        _turn(world, settings, 0, None)
        return
    shadow = shadows.static_mask(world.rows_static, world.district.ground, world.weather)
    view = rig.scaled(settings.image_scale)[0]
    instant = _Instant.of(world, shadow, 0)
    _picture(world, settings, world.district.prepared, view, instant, None)


def _turn(world: SceneWorld, settings: TownSettings, sweep: int, key: int | None) -> LidarReading:
    time_us = sweep * (1_000_000 // SWEEP_HZ)
    time_s = time_us * 1e-6
    poses = world.ego_poses(time_s + rig.column_times_s())
    points, _ = lidar.sweep(
        world.rows_static,
        world.rows_moving(time_s),
        world.district.ground,
        poses,
        world.weather,
        number(settings, world.plan.name, "sweep", sweep),
    )
    return LidarReading(time_us=time_us, pose=poses[-1], points=points, key_frame=key)


def _picture(
    world: SceneWorld,
    settings: TownSettings,
    prepared: cameras.PreparedGround,
    view: rig.Camera,
    instant: _Instant,
    key: int | None,
) -> tuple[CameraReading, dict[int, tuple[int, int]]]:
    time_us = instant.base_us + view.time_offset_us
    pose = world.ego_poses(np.array([time_us * 1e-6]))[0]
    moving = advance(instant.moving, view.time_offset_us * 1e-6)
    image, counts = cameras.render(
        np.concatenate([instant.standing, moving]),
        prepared,
        instant.mask,
        view,
        pose,
        world.weather,
        number(settings, world.plan.name, view.channel, time_us),
    )
    reading = CameraReading(time_us=time_us, pose=pose, camera=view, image=image, key_frame=key)
    return reading, counts


def _labels(
    world: SceneWorld, turn: LidarReading, seen: dict[int, tuple[int, int]]
) -> tuple[Label, ...]:
    """Boxes within range that have a seen pixel or a LiDAR point."""
    time_s = turn.time_us * 1e-6
    poses = world.agent_poses(time_s)
    distance = np.hypot(poses[:, 0] - turn.pose[0], poses[:, 1] - turn.pose[1])
    xyz = _world_points(turn)
    labels = []
    near = np.flatnonzero(distance < BOX_RANGE_M)
    sizes = np.array([world.agents[k].size_lwh_m for k in near]).reshape(-1, 3)
    counts = points_inside(xyz, np.ascontiguousarray(poses[near]), sizes)
    for k, count in zip(near, counts, strict=True):
        shown, whole = seen.get(int(k), (0, 0))
        if count or shown:
            x, y, yaw = (float(v) for v in poses[k])
            labels.append(
                Label(
                    agent=int(k),
                    pose=(x, y, yaw),
                    num_points=int(count),
                    visible=shown / whole if whole else 0.0,
                    attribute=world.attribute(int(k), time_s),
                )
            )
    return tuple(labels)


def _world_points(turn: LidarReading) -> NDArray[np.float64]:
    """(n, 3) world coordinates of the file's rows beyond the own car."""
    world_T_lidar = rig.world_SE3_ego(turn.pose) @ rig.LIDAR_TOP.ego_SE3_lidar
    xyz = turn.points[:, :3].astype(np.float64)
    xyz = xyz[(np.abs(xyz[:, :2]) > 0.8).any(1)]
    result: NDArray[np.float64] = xyz @ world_T_lidar[:3, :3].T + world_T_lidar[:3, 3]
    return result


@kernel
def points_inside(
    xyz_m: NDArray[np.float64], poses: NDArray[np.float64], sizes_lwh_m: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Count points in boxes that stand on the ground; points on the faces count.

    Args:
        xyz_m: (n, 3) points in the world.
        poses: (k, 3) x, y [m], yaw [rad] of the boxes.
        sizes_lwh_m: (k, 3).

    Returns:
        (k,) number of points inside each box.
    """
    counts = np.zeros(len(poses), np.int64)
    for k in range(len(poses)):
        length, width, height = sizes_lwh_m[k, 0] / 2, sizes_lwh_m[k, 1] / 2, sizes_lwh_m[k, 2]
        c, s = math.cos(poses[k, 2]), math.sin(poses[k, 2])
        reach = math.sqrt(length * length + width * width)
        for n in range(len(xyz_m)):
            dx, dy, z = xyz_m[n, 0] - poses[k, 0], xyz_m[n, 1] - poses[k, 1], xyz_m[n, 2]
            if abs(dx) > reach or abs(dy) > reach or z < 0.0 or z > height:
                continue
            if abs(c * dx + s * dy) <= length and abs(c * dy - s * dx) <= width:
                counts[k] += 1
    return counts
