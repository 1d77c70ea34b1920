"""Pictures of the six cameras."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from perception3d.datasets.town import shading, sky
from perception3d.datasets.town.camera_rays import draw_parts, start_buffers
from perception3d.datasets.town.develop import add_glow, develop
from perception3d.datasets.town.ground_look import PreparedGround, prepare_ground
from perception3d.datasets.town.primitives import HX, HZ, NUM_COLUMNS, OWNER, Rows, X, Z
from perception3d.datasets.town.rig import Camera, world_SE3_ego
from perception3d.datasets.town.shadows import ShadowMask
from perception3d.datasets.town.weather import Weather

__all__ = ["Picture", "PreparedGround", "prepare_ground", "render", "render_layers"]

FAR_M = 400.0
_PIXEL_NOISE = 1.6


class Picture(NamedTuple):
    """A rendered picture with what lies behind it.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        seen: owner -> (pixels seen, pixels it would cover if nothing stood in front).
        depth_m: (H, W) float32 depth along the optical axis, huge for sky.
        owner: (H, W) int32 owner of each pixel, -1 for scenery, ground and sky.
    """

    image: NDArray[np.uint8]
    seen: dict[int, tuple[int, int]]
    depth_m: NDArray[np.float32]
    owner: NDArray[np.int32]


def render(
    rows: Rows,
    ground: PreparedGround,
    shadow: ShadowMask,
    camera: Camera,
    ego_pose: NDArray[np.float64] | tuple[float, float, float],
    weather: Weather,
    seed: int,
) -> tuple[NDArray[np.uint8], dict[int, tuple[int, int]]]:
    """Render one camera.

    Args:
        rows: (n, NUM_COLUMNS) world rows at the camera's time (primitives.advance moves them
            there); any order.
        ground: from prepare_ground.
        shadow: from shadows.with_moving (or static_mask).
        camera: of rig.scaled(image_scale).
        ego_pose: x [m], y [m], yaw [rad] at the camera's time.
        weather: light and air.
        seed: of the pixel noise.

    Returns:
        image (H, W, 3) uint8 RGB, and for each owner >= 0 that the camera could see: (pixels seen,
        pixels it would cover if nothing stood in front).

    Raises:
        ValueError: on a wrong shape of rows.
    """
    picture = render_layers(rows, ground, shadow, camera, ego_pose, weather, seed)
    return picture.image, picture.seen


def render_layers(
    rows: Rows,
    ground: PreparedGround,
    shadow: ShadowMask,
    camera: Camera,
    ego_pose: NDArray[np.float64] | tuple[float, float, float],
    weather: Weather,
    seed: int,
) -> Picture:
    """As `render`, with depth and owner of every pixel."""
    if rows.ndim != 2 or rows.shape[1] != NUM_COLUMNS:
        raise ValueError(f"rows must be (n, {NUM_COLUMNS}); found {rows.shape}")
    pose = (float(ego_pose[0]), float(ego_pose[1]), float(ego_pose[2]))
    world_SE3_camera = world_SE3_ego(pose) @ camera.ego_SE3_camera
    R = np.ascontiguousarray(world_SE3_camera[:3, :3])
    origin = np.ascontiguousarray(world_SE3_camera[:3, 3])
    lens = (camera.focal_px, *camera.centre_px)
    rows, owners, group = _sorted(rows, origin)
    shape = (camera.height, camera.width)
    depth, hit = np.empty(shape, np.float32), np.empty(shape, np.int32)
    start_buffers(R, float(origin[2]), lens, depth, hit)
    covered = np.zeros(len(owners), np.int64)
    draw_parts(rows, group, R, origin, lens, depth, hit, np.zeros(shape, np.int32), covered)

    light = np.empty((*shape, 3), np.float32)
    place = (shadow.origin_xy_m[0], shadow.origin_xy_m[1], shadow.cell_m)
    shading.shade(
        rows,
        depth,
        hit,
        R,
        origin,
        lens,
        sky.dome(weather),
        ground.mips,
        ground.levels,
        ground.material,
        ground.place,
        shadow.height_cm,
        shadow.sky,
        shadow.lamp,
        place,
        _light(weather, pose),
        light,
    )
    if weather.night:
        add_glow(light)
    image = np.empty((*shape, 3), np.uint8)
    noise = _PIXEL_NOISE * (1.8 if weather.night else 1.0)
    develop(light, hit, noise, int(seed) & 0x7FFFFFFF, image)

    shown = np.append(group, np.int32(-1))[np.maximum(hit, -1)]
    seen = np.bincount(shown[shown >= 0], minlength=len(owners))
    counts = {
        int(owner): (int(s), int(c))
        for owner, s, c in zip(owners, seen, covered, strict=True)
        if c > 0
    }
    owner = np.append(owners, np.int32(-1))[shown].astype(np.int32)
    return Picture(image=image, seen=counts, depth_m=depth, owner=owner)


def _sorted(
    rows: Rows, origin: NDArray[np.float64]
) -> tuple[Rows, NDArray[np.int32], NDArray[np.int32]]:
    """Rows near to far with the parts of one owner together, the owners, and each row's place among
    them (-1: none).
    """
    rows = rows.astype(np.float32, copy=False)
    delta = rows[:, X : Z + 1] - origin.astype(np.float32)
    distance = np.sqrt((delta * delta).sum(axis=1)) - np.abs(rows[:, HX : HZ + 1]).max(
        axis=1, initial=0.0
    )
    keep = np.flatnonzero(distance < FAR_M)
    rows, distance = rows[keep], distance[keep]
    owners, inverse = np.unique(rows[:, OWNER].astype(np.int32), return_inverse=True)
    owned = rows[:, OWNER] >= 0
    nearest = np.full(len(owners), np.inf, np.float32)
    np.minimum.at(nearest, inverse, distance)
    key = np.where(owned, nearest[inverse], distance)
    order = np.lexsort((np.where(owned, inverse, -1), key))
    skip = int(np.searchsorted(owners, 0))
    group = np.where(owned, inverse - skip, -1).astype(np.int32)
    return np.ascontiguousarray(rows[order]), owners[skip:], np.ascontiguousarray(group[order])


def _light(weather: Weather, pose: tuple[float, float, float]) -> NDArray[np.float64]:
    """The light array of shading.shade."""
    light = np.zeros(shading.LIGHT_SIZE)
    light[shading.SUN_X : shading.SUN_Z + 1] = weather.sun_direction
    light[shading.SUN_LIGHT] = weather.sun_light
    light[shading.SKY_LIGHT] = weather.sky_light
    light[shading.FOG] = weather.fog
    light[shading.HAZE_RED : shading.HAZE_BLUE + 1] = sky.haze_rgb(weather)
    light[shading.NIGHT] = float(weather.night)
    light[shading.EGO_X : shading.EGO_Y + 1] = pose[:2]
    light[shading.EGO_COS], light[shading.EGO_SIN] = np.cos(pose[2]), np.sin(pose[2])
    light[shading.EXPOSURE] = 1.15 if weather.night else 1.0
    return light
