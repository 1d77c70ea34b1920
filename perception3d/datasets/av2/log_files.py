"""One log of the Argoverse 2 sensor data set on disk: where its files lie, poses, calibration.

Layout: ``<root>/<split>/<log id>/`` with ``annotations.feather`` (not in the test split),
``city_SE3_egovehicle.feather``, ``calibration/``, ``map/``, ``sensors/lidar/<ns>.feather`` and
``sensors/cameras/<camera>/<ns>.jpg``; times are nanoseconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from perception3d.datasets.av2.feather import Kind, read_columns
from perception3d.geometry.se3 import matrix_from_quaternion, rigid_matrix
from perception3d.structures.taxonomy_av2 import AV2_CAMERAS

Array = NDArray[Any]

_POSE: dict[str, Kind] = dict.fromkeys(("qw", "qx", "qy", "qz", "tx_m", "ty_m", "tz_m"), "float")
_LENS: dict[str, Kind] = {
    **dict.fromkeys(("fx_px", "fy_px", "cx_px", "cy_px"), "float"),
    "height_px": "int",
    "width_px": "int",
}
#: Longest that a quaternion may be off a unit's length before it counts as damage.
UNIT_TOLERANCE = 1e-3


@dataclass(frozen=True)
class LogFolder:
    """The files of one log.

    Attributes:
        path: folder of the log; its name is the log's id.
    """

    path: Path

    @property
    def log_id(self) -> str:
        """Name of the log."""
        return self.path.name

    @property
    def annotations(self) -> Path:
        """Boxes of all sweeps."""
        return self.path / "annotations.feather"

    @property
    def poses(self) -> Path:
        """The vehicle in the city's frame at the times of all sensors."""
        return self.path / "city_SE3_egovehicle.feather"

    @property
    def intrinsics(self) -> Path:
        """Lenses of the cameras."""
        return self.path / "calibration" / "intrinsics.feather"

    @property
    def extrinsics(self) -> Path:
        """Sensors in the vehicle's frame."""
        return self.path / "calibration" / "egovehicle_SE3_sensor.feather"

    @property
    def map(self) -> Path:
        """Folder of the map's files."""
        return self.path / "map"

    def sweep(self, time_ns: int) -> Path:
        """Point file of a time."""
        return self.path / "sensors" / "lidar" / f"{time_ns}.feather"

    def image(self, camera: str, time_ns: int) -> Path:
        """Image of a camera and time."""
        return self.path / "sensors" / "cameras" / camera / f"{time_ns}.jpg"

    def sweep_times(self) -> Array:
        """(N,) int64, ascending."""
        return _times(self.path / "sensors" / "lidar", ".feather")

    def image_times(self, camera: str) -> Array:
        """(N,) int64, ascending; empty when the camera has no folder."""
        return _times(self.path / "sensors" / "cameras" / camera, ".jpg")

    def city(self) -> str:
        """Short name of the city, from the map's file name; empty without a map."""
        for path in sorted(self.map.glob("log_map_archive_*.json")):
            return path.stem.split("____")[-1].split("_")[0]
        return ""


def _times(folder: Path, suffix: str) -> Array:
    if not folder.is_dir():
        return np.zeros(0, np.int64)
    stems = [path.stem for path in folder.iterdir() if path.suffix == suffix]
    strange = sorted(stem for stem in stems if not stem.isdigit())
    if strange:
        raise ValueError(
            f"{folder / strange[0]}{suffix} is not named after a time in nanoseconds; remove it"
        )
    return np.sort(np.array([int(stem) for stem in stems], np.int64))


@dataclass(frozen=True)
class PoseTrack:
    """Poses of the vehicle over a log.

    Attributes:
        path: file they come from.
        time_ns: (N,) int64, ascending.
        city_T_ego: (N, 4, 4) float64.
    """

    path: Path
    time_ns: Array
    city_T_ego: Array

    def find(self, time_ns: Array) -> tuple[Array, Array]:
        """(M, 4, 4) poses at exactly these times (M,), and (M,) bool which of them exist.

        The vehicle's pose is recorded for every sensor's time, so nothing is interpolated.
        """
        row = np.searchsorted(self.time_ns, time_ns).clip(max=max(len(self.time_ns) - 1, 0))
        if not len(self.time_ns):
            return np.zeros((len(time_ns), 4, 4)), np.zeros(len(time_ns), bool)
        return self.city_T_ego[row], self.time_ns[row] == time_ns

    def at(self, time_ns: Array, what: str) -> Array:
        """As :meth:`find`, when all must exist.

        Raises:
            ValueError: a time without pose; names file and time.
        """
        poses, found = self.find(time_ns)
        if not found.all():
            first = int(time_ns[np.flatnonzero(~found)[0]])
            raise ValueError(
                f"{self.path} holds no pose at {int((~found).sum())} of {len(time_ns)} times of "
                f"{what} (first: {first}); the files do not belong together or one is cut short: "
                "download the log again"
            )
        return poses


def read_poses(path: Path) -> PoseTrack:
    """Poses of ``city_SE3_egovehicle.feather``, by time.

    Raises:
        FileNotFoundError, ValueError: the file is missing or damaged, a rotation is no unit
            quaternion, or a time occurs twice with different poses.
    """
    columns = read_columns(path, {"timestamp_ns": "int", **_POSE})
    time_ns = columns["timestamp_ns"].astype(np.int64)
    T = rigid_matrices(path, columns)
    order = np.argsort(time_ns, kind="stable")
    time_ns, T = time_ns[order], T[order]
    again = np.flatnonzero(time_ns[1:] == time_ns[:-1])
    if len(again) and not np.array_equal(T[again], T[again + 1]):
        raise ValueError(f"{path} holds two poses at {time_ns[again[0]]}; download it again")
    return PoseTrack(path, time_ns, T)


def rigid_matrices(path: Path, columns: dict[str, Array]) -> Array:
    """(N, 4, 4) float64 of the columns qw, qx, qy, qz, tx_m, ty_m, tz_m; normalised here.

    Raises:
        ValueError: a number is not finite or a quaternion not of unit length; names file and row.
    """
    q = np.stack([columns[name] for name in ("qw", "qx", "qy", "qz")], axis=1).astype(np.float64)
    t = np.stack([columns[name] for name in ("tx_m", "ty_m", "tz_m")], axis=1).astype(np.float64)
    good = np.isfinite(t).all(axis=1) & (
        np.abs(np.linalg.norm(q, axis=1) - 1) < UNIT_TOLERANCE
    )  # also False for NaN
    if not good.all():
        row = int(np.flatnonzero(~good)[0])
        raise ValueError(
            f"{path}: row {row} is no pose: quaternion (w, x, y, z) {q[row].tolist()}, place "
            f"{t[row].tolist()} ({int((~good).sum())} such rows); the file is damaged: download it "
            "again"
        )
    R = matrix_from_quaternion(torch.from_numpy(q))
    return rigid_matrix(R, torch.from_numpy(t)).numpy()


@dataclass(frozen=True)
class Calibration:
    """Cameras of a log, in the order of AV2_CAMERAS.

    Released images are undistorted: K alone projects, and the distortion terms of the file stay
    unread.

    Attributes:
        K: (9, 3, 3) float64 pixels.
        ego_T_camera: (9, 4, 4) float64.
        hw: (9, 2) int64 height and width; 0 for a camera that the files do not hold.
    """

    K: Array
    ego_T_camera: Array
    hw: Array


def read_calibration(log: LogFolder) -> Calibration:
    """Lenses and places of the cameras.

    Raises:
        FileNotFoundError, ValueError: a file is missing or damaged, or a camera is in one only.
    """
    lens = read_columns(log.intrinsics, {"sensor_name": "text", **_LENS})
    place = read_columns(log.extrinsics, {"sensor_name": "text", **_POSE})
    T = rigid_matrices(log.extrinsics, place)
    row_of = {str(name): row for row, name in enumerate(place["sensor_name"])}
    found = empty_calibration()
    for row, name in enumerate(lens["sensor_name"]):
        if name not in AV2_CAMERAS:
            continue
        if name not in row_of:
            raise ValueError(
                f"{log.extrinsics} holds no camera {name}, which {log.intrinsics.name} has; the "
                "files do not belong together: download the log's calibration again"
            )
        view = AV2_CAMERAS.index(str(name))
        fx, fy, cx, cy = (float(lens[n][row]) for n in ("fx_px", "fy_px", "cx_px", "cy_px"))
        hw = (int(lens["height_px"][row]), int(lens["width_px"][row]))
        if not (np.isfinite((fx, fy, cx, cy)).all() and min(fx, fy, *hw) > 0):
            raise ValueError(
                f"{log.intrinsics}: {name} has focal lengths {fx, fy}, centre {cx, cy} and size "
                f"{hw}, which is no camera; download the log's calibration again"
            )
        found.K[view] = ((fx, 0.0, cx), (0.0, fy, cy), (0.0, 0.0, 1.0))
        found.ego_T_camera[view] = T[row_of[str(name)]]
        found.hw[view] = hw
    return found


def empty_calibration() -> Calibration:
    """Of a log whose cameras are not known."""
    views = len(AV2_CAMERAS)
    return Calibration(
        np.zeros((views, 3, 3)), np.tile(np.eye(4), (views, 1, 1)), np.zeros((views, 2), np.int64)
    )
