"""The sensor vehicle: one spinning LiDAR and six cameras, mounted as on the real nuScenes car.

Calibration numbers are those of the v1.0-mini key frame ca9a282c9e77460f8360f564131a8af5
(mmdetection3d, demo/data/nuscenes); rotations are kept as quaternions, so they are orthonormal by
construction.

Ego frame: x forward, y left, z up, origin on the ground below the rear axle. LIDAR frame: x right,
y forward, z up. Camera frame: z forward, x right, y down.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NUM_RINGS = 32
NUM_COLUMNS_OF_A_TURN = 1084
TURN_S = 0.05  # 20 Hz
FIRST_AZIMUTH_DEG = (
    179.6  # of the first column in the LIDAR frame (measured on the real frame): the left side
)
COLUMN_STEP_DEG = -0.33203  # clockwise
RANGE_STEP_M = 0.002
MAX_RANGE_M = 105.0
IMAGE_HW = (900, 1600)

BEAM_ELEVATIONS_RAD: NDArray[np.float64] = np.radians(-30.67 + np.arange(NUM_RINGS) * 41.34 / 31)


def matrix_of(quaternion_wxyz: tuple[float, float, float, float]) -> NDArray[np.float64]:
    """Rotation matrix (3, 3) of a quaternion (w, x, y, z), which need not have unit length."""
    q = np.asarray(quaternion_wxyz, dtype=np.float64)
    w, x, y, z = q / np.linalg.norm(q)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


@dataclass(frozen=True, kw_only=True)
class Lidar:
    """The LiDAR's mounting.

    Attributes:
        channel: name in the tables.
        quaternion_wxyz: rotation of ego_SE3_lidar.
        translation_m: translation of ego_SE3_lidar.
    """

    channel: str
    quaternion_wxyz: tuple[float, float, float, float]
    translation_m: tuple[float, float, float]

    @property
    def ego_SE3_lidar(self) -> NDArray[np.float64]:
        """(4, 4) LIDAR frame -> ego frame."""
        return _rigid(self.quaternion_wxyz, self.translation_m)


@dataclass(frozen=True, kw_only=True)
class Camera:
    """One camera: lens, mounting, time.

    Attributes:
        channel: name in the tables.
        focal_px: focal length (both axes).
        centre_px: (cx, cy), pixel centres at whole numbers.
        width: image width [px].
        height: image height [px].
        quaternion_wxyz: rotation of ego_SE3_camera.
        translation_m: translation of ego_SE3_camera.
        time_offset_us: exposure minus the LiDAR file's time (the END of its turn), in microseconds,
            negative.
    """

    channel: str
    focal_px: float
    centre_px: tuple[float, float]
    width: int
    height: int
    quaternion_wxyz: tuple[float, float, float, float]
    translation_m: tuple[float, float, float]
    time_offset_us: int

    @property
    def K(self) -> NDArray[np.float64]:
        """(3, 3) intrinsic matrix."""
        f, (cx, cy) = self.focal_px, self.centre_px
        return np.array([[f, 0.0, cx], [0.0, f, cy], [0.0, 0.0, 1.0]])

    @property
    def ego_SE3_camera(self) -> NDArray[np.float64]:
        """(4, 4) camera frame -> ego frame."""
        return _rigid(self.quaternion_wxyz, self.translation_m)


def _rigid(
    quaternion_wxyz: tuple[float, float, float, float], translation_m: tuple[float, float, float]
) -> NDArray[np.float64]:
    T = np.eye(4)
    T[:3, :3] = matrix_of(quaternion_wxyz)
    T[:3, 3] = translation_m
    return T


LIDAR_TOP = Lidar(
    channel="LIDAR_TOP",
    quaternion_wxyz=(0.70779551, -0.00649224, 0.01064621, -0.70630731),
    translation_m=(0.943713, 0.0, 1.84023),
)


def _camera(
    channel: str,
    lens: tuple[float, float, float],
    quaternion_wxyz: tuple[float, float, float, float],
    translation_m: tuple[float, float, float],
    time_offset_us: int,
) -> Camera:
    return Camera(
        channel=channel,
        focal_px=lens[0],
        centre_px=(lens[1], lens[2]),
        width=IMAGE_HW[1],
        height=IMAGE_HW[0],
        quaternion_wxyz=quaternion_wxyz,
        translation_m=translation_m,
        time_offset_us=time_offset_us,
    )


CAMERAS: tuple[Camera, ...] = (
    _camera(
        "CAM_FRONT",
        (1266.41720305, 816.26701974, 491.50706579),
        (0.4998015431, -0.5030316163, 0.4997798114, -0.4973708382),
        (1.700791, 0.015946, 1.510958),
        -35491,
    ),
    _camera(
        "CAM_FRONT_RIGHT",
        (1260.8474446, 807.96824453, 495.33442687),
        (0.2060347929, -0.202694054, 0.6824507837, -0.6713610894),
        (1.550848, -0.493405, 1.495748),
        -27612,
    ),
    _camera(
        "CAM_FRONT_LEFT",
        (1272.59794706, 826.61549274, 479.75165386),
        (0.675726504, -0.6736266528, 0.2121401486, -0.2112282692),
        (1.523878, 0.494631, 1.509328),
        -43107,
    ),
    _camera(
        "CAM_BACK",
        (809.22099057, 829.21960033, 481.77842385),
        (0.5037872666, -0.497402498, -0.4941850225, 0.5045496097),
        (0.028326, 0.003451, 1.579103),
        -10426,
    ),
    _camera(
        "CAM_BACK_LEFT",
        (1256.74148121, 792.11257408, 492.77574652),
        (0.6924185586, -0.7031619418, -0.1164834303, 0.1120331814),
        (1.035691, 0.484795, 1.59097),
        -528,
    ),
    _camera(
        "CAM_BACK_RIGHT",
        (1259.51374058, 807.25290538, 501.19579885),
        (0.1228098002, -0.1324008418, -0.7004305823, 0.6904960314),
        (1.014878, -0.480568, 1.562395),
        -20058,
    ),
)


def scaled(image_scale: float) -> tuple[Camera, ...]:
    """The six cameras with smaller images: both rows of K times the scale, whole-number width and
    height.

    Args:
        image_scale: share of 1600 x 900; must give whole sizes (1, 0.5, 0.25 ...).

    Returns:
        Six cameras in the order of CAMERAS.

    Raises:
        ValueError: if 1600 or 900 times the scale is not a whole number.
    """
    size = np.array(IMAGE_HW) * image_scale
    whole = np.rint(size)
    if image_scale <= 0 or np.any(np.abs(size - whole) > 1e-6) or np.any(whole < 1):
        raise ValueError(
            f"image_scale {image_scale} gives images of {size[1]:g} x {size[0]:g} pixels; choose "
            "one with whole numbers, such as 1, 0.5 or 0.25"
        )
    return tuple(
        Camera(
            channel=c.channel,
            focal_px=c.focal_px * image_scale,
            centre_px=(c.centre_px[0] * image_scale, c.centre_px[1] * image_scale),
            width=int(whole[1]),
            height=int(whole[0]),
            quaternion_wxyz=c.quaternion_wxyz,
            translation_m=c.translation_m,
            time_offset_us=c.time_offset_us,
        )
        for c in CAMERAS
    )


def column_times_s() -> NDArray[np.float64]:
    """(1084,) time of each LiDAR column minus the file's time, which is the END of the turn:
    -0.04995 .. 0.
    """
    columns = np.arange(NUM_COLUMNS_OF_A_TURN)
    return (columns - (NUM_COLUMNS_OF_A_TURN - 1)) * (TURN_S / NUM_COLUMNS_OF_A_TURN)


def column_azimuths_rad() -> NDArray[np.float64]:
    """(1084,) azimuth of each column in the LIDAR frame, counter-clockwise from right (x)."""
    return np.radians(FIRST_AZIMUTH_DEG + COLUMN_STEP_DEG * np.arange(NUM_COLUMNS_OF_A_TURN))


def world_SE3_ego(pose: NDArray[np.float64] | tuple[float, float, float]) -> NDArray[np.float64]:
    """(4, 4) ego frame -> world of a planar pose (x [m], y [m], yaw [rad])."""
    c, s = math.cos(pose[2]), math.sin(pose[2])
    T = np.eye(4)
    T[:2, :2] = [[c, -s], [s, c]]
    T[:2, 3] = pose[:2]
    return T
