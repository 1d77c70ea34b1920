"""The sensor vehicle of Argoverse 2's kind: two stacked LiDARs, seven cameras around, two ahead.

Places, angles and lenses are those of a real log's calibration, rounded. What differs from the real
car: a LiDAR turns in 50 ms and every second turn is kept (there: 100 ms), and the lower one stands
upright with its beams between those of the upper one (there: upside down).

Vehicle frame: x forward, y left, z up, 0.33 m above the ground. Camera frame: z forward, x right,
y down.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from perception3d.datasets.town import rig
from perception3d.datasets.town.lidar_rays import nearest_of_parts
from perception3d.datasets.town.own_car import own_car
from perception3d.geometry.se3 import quaternion_from_matrix
from perception3d.structures.taxonomy_av2 import AV2_CAMERAS

EGO_HEIGHT_M = 0.33
SWEEP_S = 0.1
#: Azimuth of a turn's first column in the vehicle's frame: the left side. It goes clockwise.
FIRST_AZIMUTH_DEG = rig.FIRST_AZIMUTH_DEG - 90.0
_EXPOSURE_S = 0.05  # cameras run at 20 Hz; the image nearest to a sweep is kept

_RING_STEP_RAD = float(rig.BEAM_ELEVATIONS_RAD[1] - rig.BEAM_ELEVATIONS_RAD[0])


@dataclass(frozen=True, kw_only=True)
class Unit:
    """One LiDAR: upright, turning clockwise.

    Attributes:
        name: of the sensor in the calibration file.
        translation_m: in the vehicle's frame.
        first_laser: number of its lowest beam in the files.
        shift: of its beams up and its columns onwards, in steps of the unit.
    """

    name: str
    translation_m: tuple[float, float, float]
    first_laser: int
    shift: float

    @functools.cached_property
    def directions(self) -> NDArray[np.float64]:
        """(1084, 32, 3) unit directions of a turn's rays in the vehicle's frame; read only."""
        column = np.arange(rig.NUM_COLUMNS_OF_A_TURN) + self.shift
        azimuth = np.radians(FIRST_AZIMUTH_DEG + rig.COLUMN_STEP_DEG * column)[:, None]
        elevation = (rig.BEAM_ELEVATIONS_RAD + self.shift * _RING_STEP_RAD)[None, :]
        xyz = np.stack(
            (
                np.cos(elevation) * np.cos(azimuth),
                np.cos(elevation) * np.sin(azimuth),
                np.broadcast_to(np.sin(elevation), (len(azimuth), elevation.shape[1])),
            ),
            axis=-1,
        )
        xyz.flags.writeable = False
        return xyz

    @functools.cached_property
    def own_range_m(self) -> NDArray[np.float64]:
        """(1084, 32) distance at which each ray meets the own car, else a miss; read only."""
        x, y, z = self.translation_m
        origin = np.array([x, y, z + EGO_HEIGHT_M])
        ranges, _ = nearest_of_parts(own_car(), origin, np.ascontiguousarray(self.directions))
        ranges.flags.writeable = False
        return ranges

    @property
    def ego_SE3_unit(self) -> NDArray[np.float64]:
        """(4, 4) LIDAR frame (x forward) -> vehicle frame."""
        T = np.eye(4)
        T[:3, 3] = self.translation_m
        return T


UNITS = (
    Unit(name="up_lidar", translation_m=(1.35, 0.0, 1.64), first_laser=0, shift=0.0),
    Unit(name="down_lidar", translation_m=(1.35, 0.0, 1.53), first_laser=32, shift=0.5),
)

# Yaw and pitch of the optical axis [degrees, up positive], place [m], focal length [px].
_MOUNTS: dict[str, tuple[float, float, tuple[float, float, float], float]] = {
    "ring_front_center": (0.0, 0.0, (1.64, 0.0, 1.40), 1776.0),
    "ring_front_right": (-45.0, -3.0, (1.55, -0.20, 1.40), 1687.0),
    "ring_front_left": (45.0, -3.0, (1.55, 0.20, 1.40), 1687.0),
    "ring_side_right": (-99.0, -3.0, (1.31, -0.28, 1.40), 1687.0),
    "ring_side_left": (99.0, -3.0, (1.31, 0.28, 1.40), 1687.0),
    "ring_rear_right": (-153.0, 0.0, (1.10, -0.13, 1.42), 1687.0),
    "ring_rear_left": (153.0, 0.0, (1.10, 0.13, 1.42), 1687.0),
    "stereo_front_left": (0.0, 0.0, (1.63, 0.25, 1.19), 1690.0),
    "stereo_front_right": (0.0, 0.0, (1.63, -0.25, 1.19), 1690.0),
}
_LONG_PX, _SHORT_PX = 2048, 1550


def cameras(image_scale: float, names: tuple[str, ...] = AV2_CAMERAS) -> tuple[rig.Camera, ...]:
    """Cameras with images of a share of the real size, rounded to whole pixels.

    Their places are above the ground (as the town's own frame counts), and their times count from
    the START of the sweep's turn: each exposes as the beam passes.
    """
    views = []
    for name in names:
        yaw_deg, pitch_deg, (x, y, z), focal = _MOUNTS[name]
        upright = name == "ring_front_center"
        width, height = (_SHORT_PX, _LONG_PX) if upright else (_LONG_PX, _SHORT_PX)
        passed_s = ((FIRST_AZIMUTH_DEG - yaw_deg) % 360.0) / 360.0 * rig.TURN_S
        if passed_s > _EXPOSURE_S / 2:
            passed_s -= _EXPOSURE_S
        views.append(
            rig.Camera(
                channel=name,
                focal_px=focal * image_scale,
                centre_px=(width / 2 * image_scale, height / 2 * image_scale),
                width=round(width * image_scale),
                height=round(height * image_scale),
                quaternion_wxyz=_looking(math.radians(yaw_deg), math.radians(pitch_deg)),
                translation_m=(x, y, z + EGO_HEIGHT_M),
                time_offset_us=round(passed_s * 1e6),
            )
        )
    return tuple(views)


def _looking(yaw_rad: float, pitch_rad: float) -> tuple[float, float, float, float]:
    """Quaternion (w, x, y, z) of a level camera's pose."""
    c, s = math.cos(yaw_rad), math.sin(yaw_rad)
    forward = np.array([math.cos(pitch_rad) * c, math.cos(pitch_rad) * s, math.sin(pitch_rad)])
    right = np.array([s, -c, 0.0])
    R = np.stack((right, np.cross(forward, right), forward), axis=1)
    w, x, y, z = (float(v) for v in quaternion_from_matrix(torch.from_numpy(R)))
    return w, x, y, z


def world_SE3_ego(pose: NDArray[np.float64]) -> NDArray[np.float64]:
    """(4, 4) vehicle frame -> world of a planar pose (x [m], y [m], yaw [rad])."""
    T = rig.world_SE3_ego(pose)
    T[2, 3] = EGO_HEIGHT_M
    return T
