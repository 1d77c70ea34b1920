"""LiDAR point files: reading, rows that are no returns, sweeps moved into one frame."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from perception3d.structures import PointCloud

Floats = NDArray[np.float32]
Array = NDArray[Any]
CloseRule = Literal["all", "past", "none"]

log = logging.getLogger(__name__)

_ROW_TYPE = np.dtype((np.void, 20))
#: Numbers of a row of a nuScenes ``.pcd.bin``: x, y, z, intensity, ring.
ROW = 5
#: Above this share of non-finite rows a file is broken rather than noisy.
MAX_NONFINITE_SHARE = 0.01
#: One turn of the LiDAR.
TURN_S = 0.05
#: Half width of the tube around the sensor's way in which a row is taken for "no return".
NO_RETURN_M = 0.1


@dataclass(frozen=True)
class Sweep:
    """One point file and how to move it.

    Attributes:
        path: ``.pcd.bin`` file.
        ref_T_sensor: (4, 4) float64, from the sensor at the file's time to ``ref``.
        age_s: seconds before the key time, >= 0.
        velocity_mps: (3,) velocity of the sensor along its own axes.
    """

    path: Path
    ref_T_sensor: Array
    age_s: float
    velocity_mps: Array


def read_point_file(path: Path) -> Floats:
    """Rows (N, 5) float32 of a nuScenes LiDAR file: x, y, z (m), intensity (0 to 255), ring.

    Rows that are not finite are dropped with a warning; a file without rows gives one too.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the size is no multiple of 5 floats, or more than 1 % of the rows are not
            finite.
    """
    try:
        values = np.fromfile(path, np.float32)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"point file {path} is missing; unpack the sweeps it belongs to"
        ) from None
    size = path.stat().st_size
    if size % (4 * ROW):
        raise ValueError(
            f"point file {path} has {size} bytes, no multiple of {4 * ROW} (5 float32 a point); "
            "it is cut short or of another format: copy it again"
        )
    rows = values.reshape(-1, ROW)
    if size == 0:
        log.warning(
            "point file %s is empty: its sweep counts as one that saw nothing; if the sensor was "
            "running, copy the file again",
            path,
        )
    # One product instead of a mask over all values: it is non-finite if anything is.
    if not np.isfinite(values @ values):
        rows = _finite_rows(path, rows)
    return rows


def _finite_rows(path: Path, rows: Floats) -> Floats:
    finite = np.isfinite(rows).all(axis=1)
    lost = len(rows) - int(finite.sum())
    if lost == 0:
        return rows
    if lost > MAX_NONFINITE_SHARE * len(rows):
        raise ValueError(
            f"point file {path}: {lost} of {len(rows)} points ({lost / len(rows):.1%}) are NaN or "
            f"infinite, more than {MAX_NONFINITE_SHARE:.0%}; the file is damaged: copy it again"
        )
    log.warning("point file %s: dropped %d of %d points (NaN or infinite)", path, lost, len(rows))
    return rows[finite]


def no_return(rows: Floats, velocity_mps: Array) -> NDArray[np.bool_]:
    """Which rows hold no echo.

    Real files keep a row for every ray. One without echo has range 0, and is compensated for ego
    motion like every other: it lies where the sensor was when the ray left, on the way from
    ``-velocity * TURN_S`` to 0. That is up to 1.7 m away on a motorway, outside the usual 1 m
    square. Nothing real can be there, because the sensor itself was.

    Args:
        rows: (N, >=3) x, y, z in the frame of the sensor at the file's time.
        velocity_mps: (3,) of the sensor along its own axes.

    Returns:
        (N,) bool.
    """
    way = -np.asarray(velocity_mps, np.float32) * np.float32(TURN_S)
    low, high = np.minimum(way, 0) - NO_RETURN_M, np.maximum(way, 0) + NO_RETURN_M
    # Few rows are as high as the sensor, which leaves out the own roof at once.
    middle = (low[2] + high[2]) / 2
    near = np.flatnonzero(np.abs(rows[:, 2] - middle) < high[2] - middle)
    p = rows.take(near, axis=0)[:, :3]
    on_way, way_squared = p @ way, max(float(way @ way), 1e-12)
    along = (on_way / way_squared).clip(0.0, 1.0)
    squared = np.einsum("ij,ij->i", p, p) + along * (along * way_squared - 2 * on_way)
    mask = np.zeros(len(rows), bool)
    mask[near] = squared < NO_RETURN_M**2
    return mask


def merge_sweeps(
    sweeps: list[Sweep], *, close_m: float = 1.0, drop_close: CloseRule = "all", ring: bool = False
) -> PointCloud:
    """Points of several sweeps in ``ref``; the first sweep is the key one.

    Args:
        sweeps: key sweep first, then back in time.
        close_m: half side of the square around the sensor (\\|x\\| and \\|y\\| below it) that
            ``drop_close`` empties.
        drop_close: "all" sweeps as nuscenes-devkit's ``from_file_multisweep``; "past" ones only, as
            mmdetection3d's ``remove_close``; "none" as in CMT.
        ring: keep the beam numbers.

    Raises:
        FileNotFoundError, ValueError: see :func:`read_point_file`; ValueError too when an age is
            negative.
    """
    most = sum(_file_rows(sweep.path) for sweep in sweeps)
    # One sweep at a time into one block: fresh memory costs more than the arithmetic, and the part
    # that dropped rows leave untouched at the end costs nothing.
    merged = np.empty((most, ROW), np.float32)
    rings = np.empty(most, np.int16) if ring else None
    stop = 0
    for number, sweep in enumerate(sweeps):
        if sweep.age_s < 0:
            raise ValueError(
                f"point file {sweep.path} is {-sweep.age_s} s younger than its key frame"
            )
        rows = read_point_file(sweep.path)
        close = drop_close == "all" or (drop_close == "past" and number > 0)
        rows = pick_rows(rows, _wanted(rows, sweep.velocity_mps, close_m if close else 0.0))
        start, stop = stop, stop + len(rows)
        if rings is not None:
            rings[start:stop] = rows[:, 4]
        _move(rows, sweep, out=merged[start:stop])
    return cloud_of(merged[:stop], None if rings is None else torch.from_numpy(rings[:stop]))


def _file_rows(path: Path) -> int:
    """Rows of a point file; 0 when it is missing, which reading it will say."""
    return path.stat().st_size // (4 * ROW) if path.exists() else 0


def cloud_of(rows: Floats, ring: Tensor | None = None) -> PointCloud:
    """A cloud whose fields are views of rows (N, 5) x, y, z, intensity, age."""
    packed = torch.from_numpy(rows)
    return PointCloud(packed[:, :3], packed[:, 3], packed[:, 4], ring)


def rows_of(cloud: PointCloud) -> Floats:
    """Rows (N, 5) x, y, z, intensity, age of a cloud; without a copy when it came from rows.

    Whoever changes them changes the cloud: treat them as read-only.
    """
    xyz, intensity, age = cloud.xyz_m, cloud.intensity, cloud.age_s
    size, start = xyz.element_size(), xyz.data_ptr()
    packed = (
        xyz.dtype == torch.float32
        and xyz.stride() == (ROW, 1)
        and intensity.stride() == age.stride() == (ROW,)
        and (intensity.data_ptr(), age.data_ptr()) == (start + 3 * size, start + 4 * size)
    )
    rows = xyz.as_strided((len(xyz), ROW), (ROW, 1)) if packed else cloud.features()
    return rows.numpy()


def pick_rows(rows: Floats, which: Array) -> Floats:
    """Rows of a bool mask or an index. Each moves as one item, many times as fast as a matrix's."""
    return rows.view(_ROW_TYPE)[:, 0][which].view(np.float32).reshape(-1, ROW)


def select_points(cloud: PointCloud, which: Array) -> PointCloud:
    """As ``cloud.select``, for a NumPy mask or index, and fast."""
    ring = None if cloud.ring is None else cloud.ring[torch.from_numpy(which)]
    return cloud_of(pick_rows(rows_of(cloud), which), ring)


def _wanted(rows: Floats, velocity_mps: Array, close_m: float) -> NDArray[np.bool_]:
    drop = no_return(rows, velocity_mps)
    if close_m > 0:
        drop |= (np.abs(rows[:, 0]) < close_m) & (np.abs(rows[:, 1]) < close_m)
    return ~drop


def _move(rows: Floats, sweep: Sweep, *, out: Floats) -> None:
    """Write x, y, z, intensity, age in ``ref``: one product, in which the ring's column is a 1."""
    M = np.zeros((ROW, ROW), np.float32)
    M[:3, :3] = sweep.ref_T_sensor[:3, :3].T
    M[3, 3] = 1
    M[4] = (*sweep.ref_T_sensor[:3, 3], 0.0, sweep.age_s)
    rows[:, 4] = 1
    np.matmul(rows, M, out=out)
