"""One turn of the LiDAR, as the real sensor writes it (town sheet, section 4).

Every column is cast at its own time from the ego car's place at that time; the rows are then moved
into the LIDAR frame of the turn's END with the ego poses alone. So the standing world is sharp, and
a moving object lies up to v x 50 ms behind its box.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from perception3d.datasets.town import rig
from perception3d.datasets.town.lidar_rays import cast_turn, world_directions
from perception3d.datasets.town.lidar_returns import write_rows
from perception3d.datasets.town.own_car import own_range_m, ray_directions_ego
from perception3d.datasets.town.primitives import NUM_COLUMNS, VX, VY, Rows, X, Y
from perception3d.datasets.town.raycast import MISS
from perception3d.datasets.town.shadows import GroundRaster
from perception3d.datasets.town.weather import Weather

NUM_POINTS = rig.NUM_COLUMNS_OF_A_TURN * rig.NUM_RINGS


def sweep(
    rows_static: Rows,
    rows_moving: Rows,
    ground: GroundRaster,
    ego_poses: NDArray[np.float64],
    weather: Weather,
    seed: int,
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Cast one turn of 1,084 columns x 32 rings; every column at its own time and place.

    Args:
        rows_static: (n, NUM_COLUMNS) standing world rows.
        rows_moving: (m, NUM_COLUMNS) world rows at the END of the turn; their velocity moves them
            back for earlier columns.
        ground: the ground plane's materials.
        ego_poses: (1084, 3) x [m], y [m], yaw [rad] of the ego car at the columns' times
            (rig.column_times_s()).
        weather: fog shortens the range; light does not matter.
        seed: of the noise; same seed, same bytes.

    Returns:
        points: (34688, 5) float32: x y z [m] in the LIDAR frame at the END of the turn, intensity
            0..255 (whole numbers), ring. Order: column by column, ring 0..31 (lowest first). Rows
            without return lie on the ego car's motion line.
        owner: (34688,) int32 owner of each row's hit, -1 for scenery, ground, own car, no return.

    Raises:
        ValueError: on a wrong shape of ego_poses or rows.
    """
    poses = np.ascontiguousarray(ego_poses, dtype=np.float64)
    if poses.shape != (rig.NUM_COLUMNS_OF_A_TURN, 3):
        raise ValueError(
            f"ego_poses must be ({rig.NUM_COLUMNS_OF_A_TURN}, 3), one a column; found {poses.shape}"
        )
    rows = _near_rows(rows_static, rows_moving, poses[-1, :2])
    origins = _origins(poses)
    directions = np.empty((rig.NUM_COLUMNS_OF_A_TURN, rig.NUM_RINGS, 3))
    world_directions(ray_directions_ego(), poses, directions)
    ages = rig.column_times_s()
    nearest = np.full(directions.shape[:2], MISS)
    hit = np.full(directions.shape[:2], -1, dtype=np.int32)
    cast_turn(rows, origins, poses[:, 2].copy(), directions, ages, rig.MAX_RANGE_M, nearest, hit)
    points = np.empty((NUM_POINTS, 5), dtype=np.float32)
    owner = np.empty(NUM_POINTS, dtype=np.int32)
    place = (float(ground.origin_xy_m[0]), float(ground.origin_xy_m[1]), float(ground.cell_m))
    lidar_T_world = np.linalg.inv(rig.world_SE3_ego(poses[-1]) @ rig.LIDAR_TOP.ego_SE3_lidar)
    write_rows(
        rows,
        origins,
        directions,
        ages,
        nearest,
        hit,
        own_range_m(),
        ground.material,
        place,
        float(weather.fog),
        int(seed) & 0x7FFFFFFF,
        lidar_T_world,
        points,
        owner,
    )
    return points, owner


def _near_rows(rows_static: Rows, rows_moving: Rows, ego_xy_m: NDArray[np.float64]) -> Rows:
    """Both sets in one array, without parts that are out of range; standing rows must not move."""
    for name, rows in (("rows_static", rows_static), ("rows_moving", rows_moving)):
        if rows.ndim != 2 or rows.shape[1] != NUM_COLUMNS:
            raise ValueError(f"{name} must be (n, {NUM_COLUMNS}); found {rows.shape}")
    rows = np.concatenate([rows_static, rows_moving]).astype(np.float32, copy=False)
    rows[: len(rows_static), VX : VY + 1] = 0.0
    reach = np.abs(rows[:, 3:6]).max(axis=1, initial=0.0) * 1.75
    distance = np.hypot(rows[:, X] - ego_xy_m[0], rows[:, Y] - ego_xy_m[1])
    keep = np.flatnonzero(distance - reach < rig.MAX_RANGE_M)
    return np.ascontiguousarray(rows[keep[np.argsort(distance[keep], kind="stable")]])


def _origins(poses: NDArray[np.float64]) -> NDArray[np.float64]:
    """(1084, 3) place of the sensor in the world for each column."""
    x, y, z = rig.LIDAR_TOP.translation_m
    cos, sin = np.cos(poses[:, 2]), np.sin(poses[:, 2])
    return np.stack(
        [poses[:, 0] + cos * x - sin * y, poses[:, 1] + sin * x + cos * y, np.full(len(poses), z)],
        axis=1,
    )
