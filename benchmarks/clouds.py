"""The clouds that are measured: a generated street, and a real frame where one is at hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

SWEEPS = 10
#: What the vehicle drives between two sweeps: 10 m/s at 20 Hz.
STEP_M = 0.5


def street_cloud() -> Tensor:
    """(P, 5) ten turns of the town's LiDAR from a moving vehicle, in the frame of the last one.

    Columns: x, y, z in metres, intensity, age in seconds.
    """
    from perception3d.datasets.town.speed import street_sweep

    parts = []
    for turn in range(SWEEPS):
        points = street_sweep(120.0 - STEP_M * turn, seed=turn)
        points[:, 1] -= STEP_M * turn
        parts.append(np.column_stack((points[:, :4], np.full(len(points), 0.05 * turn))))
    return torch.from_numpy(np.concatenate(parts).astype(np.float32))


def real_cloud(frame: Path) -> Tensor:
    """(P, 5) the sweep of one real key frame, ten times with ego shift and 2 cm of noise.

    Args:
        frame: mmdetection3d's info v2 as JSON, as ``tools/overfit.py`` takes it.
    """
    from perception3d.datasets import read_info_json

    points = read_info_json(frame).points
    if points is None:
        raise ValueError(f"{frame} has no points")
    sweep = torch.cat((points.xyz_m, points.intensity[:, None]), dim=1).numpy()
    generator = np.random.default_rng(0)
    parts = []
    for turn in range(SWEEPS):
        moved = sweep.copy()
        moved[:, 1] -= STEP_M * turn
        moved[:, :3] += generator.normal(0, 0.02, (len(sweep), 3))
        parts.append(np.column_stack((moved, np.full(len(sweep), 0.05 * turn))))
    return torch.from_numpy(np.concatenate(parts).astype(np.float32))
