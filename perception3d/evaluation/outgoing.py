"""What both leaderboards' writers do to a prediction before its boxes become theirs."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any]


def as_array(tensor: Tensor) -> Array:
    """As float64 in NumPy: its small matrix products stay on one thread, PyTorch's wake all of
    them, which costs ten times the work when the CPU is busy."""
    return tensor.detach().cpu().double().numpy()


def turned(wxyz: Array, yaw_rad: Array) -> Array:
    """Quaternions (N, 4) of first a turn about z by each of (N,) angles, then the (4,) one."""
    w, x, y, z = wxyz
    c, s = np.cos(yaw_rad / 2), np.sin(yaw_rad / 2)
    return np.stack((w * c - z * s, x * c + y * s, y * c - x * s, z * c + w * s), axis=1)


def check_labels_and_scores(
    where: str, label: Array, score: Array, num_classes: int, *, noun: str = "class"
) -> None:
    """Raise ValueError for a label outside the classes, or a score outside [0, 1].

    Args:
        where: the sample, as the error names it.
        label, score: (N,).
        num_classes: labels are below it.
        noun: what a label stands for.
    """
    foreign = (label < 0) | (label >= num_classes)
    if foreign.any():
        raise ValueError(
            f"{where}: label {label[foreign][0]} has no {noun}; "
            f"labels must lie in 0..{num_classes - 1}"
        )
    bad = ~((score >= 0) & (score <= 1))
    if bad.any():
        raise ValueError(
            f"{where}: score {score[bad][0]:.6g}; scores must lie in [0, 1] (apply the sigmoid)"
        )
