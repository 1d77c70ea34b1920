"""LiDAR sweeps of Argoverse 2: reading, and several moved into one frame.

A file holds the returns of both LiDARs (laser numbers 0 to 31 and 32 to 63) in the vehicle's frame,
already undone of ego motion to the file's time, which is the start of the turn. Places are half
floats: steps of 1/16 m beyond 64 m.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from perception3d.datasets.av2.feather import Kind, read_columns
from perception3d.datasets.points import MAX_NONFINITE_SHARE, ROW, Floats, cloud_of
from perception3d.structures import PointCloud

log = logging.getLogger(__name__)

_COLUMNS: dict[str, Kind] = {
    **dict.fromkeys(("x", "y", "z"), "float"),
    "intensity": "int",
    "laser_number": "int",
}


@dataclass(frozen=True)
class SweepFile:
    """One sweep and how to move it.

    Attributes:
        path: feather file.
        ref_T_ego: (4, 4) float64, from the vehicle at the file's time to ``ref``; None: the same.
        age_s: seconds before the key time, >= 0.
    """

    path: Path
    ref_T_ego: NDArray[Any] | None
    age_s: float


def read_sweep(path: Path) -> Floats:
    """Rows (N, 5) float32: x, y, z (m, vehicle's frame), intensity (0 to 255), laser (0 to 63).

    Rows that are not finite are dropped with a warning.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or more than 1 % of the rows are not finite.
    """
    columns = read_columns(path, _COLUMNS)
    rows = np.empty((len(columns["x"]), ROW), np.float32)
    for place, name in enumerate(("x", "y", "z", "intensity", "laser_number")):
        rows[:, place] = columns[name]  # halves become floats here, before any arithmetic
    if len(rows) == 0:
        log.warning("sweep %s is empty: it counts as one that saw nothing", path)
    finite = np.isfinite(rows[:, :3]).all(axis=1)
    lost = len(rows) - int(finite.sum())
    if lost > MAX_NONFINITE_SHARE * len(rows):
        raise ValueError(
            f"sweep {path}: {lost} of {len(rows)} points ({lost / len(rows):.1%}) are NaN or "
            f"infinite, more than {MAX_NONFINITE_SHARE:.0%}; the file is damaged: download it again"
        )
    if lost:
        log.warning("sweep %s: dropped %d of %d points (NaN or infinite)", path, lost, len(rows))
        rows = rows[finite]
    return rows


def merge_sweep_files(sweeps: list[SweepFile], *, ring: bool = False) -> PointCloud:
    """Points of several sweeps in ``ref``, the key one first; all points of a sweep are of one age.

    Raises:
        FileNotFoundError, ValueError: see :func:`read_sweep`; ValueError too for a negative age.
    """
    parts, rings = [], []
    for sweep in sweeps:
        if sweep.age_s < 0:
            raise ValueError(f"sweep {sweep.path} is {-sweep.age_s} s younger than its key sweep")
        rows = read_sweep(sweep.path)
        rings.append(rows[:, 4].astype(np.int16) if ring else np.zeros(0, np.int16))
        rows[:, 4] = sweep.age_s
        if sweep.ref_T_ego is not None:
            R, t = (part.astype(np.float32) for part in np.split(sweep.ref_T_ego[:3], [3], axis=1))
            rows[:, :3] = rows[:, :3] @ R.T + t[:, 0]
        parts.append(rows)
    merged = parts[0] if len(parts) == 1 else np.concatenate(parts)
    return cloud_of(merged, torch.from_numpy(np.concatenate(rings)) if ring else None)
