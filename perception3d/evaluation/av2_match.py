"""Detections against truth in one Argoverse 2 log, by the official rules (av2 0.3.6,
`evaluation/detection/utils.py`), of which these surprise:

* A detection goes to the object nearest in three dimensions, taken or not, and only the best of
  those that go to an object can be right. So a confident one 3 m off blocks a perfect one behind
  it, and there is no falling back to a free object beside.
* Equal scores of one sweep and category are ordered by NumPy's unstable sort, which is therefore
  called as the official code calls it.
* The limit of 100 counts detections in range, before the region of interest is looked at.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception3d.evaluation.av2_rules import (
    AV2_CATEGORIES,
    ERROR_THRESHOLD_M,
    MAX_PER_CATEGORY,
    MAX_RANGE_M,
    THRESHOLDS_M,
    WORST_ERRORS,
)

Array = NDArray[Any]

Region = Callable[["Rows", Array], Array]
"""Of rows and (N,) bool, which are asked: (N,) bool, which lie in the region of interest."""


@dataclass(frozen=True)
class Rows:
    """N boxes of one log, in the order of their file.

    Attributes:
        time_ns: (N,) int64, the sweep.
        category: (N,) int64 index into `AV2_CATEGORIES`.
        box: (N, 10) float64, `BOX_COLUMNS`, ego frame.
        value: (N,) float64: score of a detection, number of interior points of truth.
    """

    time_ns: Array
    category: Array
    box: Array
    value: Array

    def __len__(self) -> int:
        return len(self.time_ns)

    def select(self, keep: Array) -> Rows:
        """Rows of a mask or an index."""
        return Rows(self.time_ns[keep], self.category[keep], self.box[keep], self.value[keep])


@dataclass(frozen=True)
class Matches:
    """What became of every row, in the order of `Rows`.

    Attributes:
        order: (N,) rows of detections by sweep, category and place in the file.
        evaluated: (N,) bool, counted at all.
        right: (N, 4) bool, true positive at each of `THRESHOLDS_M`.
        errors: (N, 3) float64 ATE (m), ASE, AOE (rad) of true positives at 2 m; `WORST_ERRORS` for
            others in a sweep with truth of their category, else zeros (the official columns).
        truth_evaluated: (M,) bool.
        truth_claimed: (M,) bool: some detection's nearest, at whatever distance.
    """

    order: Array
    evaluated: Array
    right: Array
    errors: Array
    truth_evaluated: Array
    truth_claimed: Array


def match_log(detections: Rows, truth: Rows, region: Region | None = None) -> Matches:
    """Filters and matches the boxes of one log.

    Args:
        detections: N rows, `value` is the score.
        truth: M rows, `value` is the number of interior points.
        region: which boxes lie in the region of interest; None leaves none out.

    Returns:
        What became of each.
    """
    from perception3d.evaluation.av2_kernels import assign, cap, in_range

    sweeps = np.unique(np.concatenate((detections.time_ns, truth.time_ns)))
    group = _group(detections, sweeps)
    truth_group = _group(truth, sweeps)
    groups = np.unique(np.concatenate((group, truth_group)))
    in_file = np.argsort(group, kind="stable")
    order = _best_first(group, detections.value)
    truth_order = np.argsort(truth_group, kind="stable")
    begin = _begin(group[order], groups)
    truth_begin = _begin(truth_group[truth_order], groups)

    evaluated = cap(in_range(detections.box, MAX_RANGE_M), order, begin, MAX_PER_CATEGORY)
    truth_evaluated = in_range(truth.box, MAX_RANGE_M) & (truth.value.astype(np.int64) > 0)
    if region is not None:
        evaluated = region(detections, evaluated)
        truth_evaluated = region(truth, truth_evaluated)

    nearest, distance_m, first = assign(
        detections.box, order, begin, evaluated,
        truth.box, truth_order, truth_begin, truth_evaluated,
    )  # fmt: skip
    right = first[:, None] & (distance_m[:, None] < np.array(THRESHOLDS_M))
    errors = np.zeros((len(detections), 3))
    errors[nearest >= 0] = WORST_ERRORS
    rows = np.flatnonzero(first & (distance_m < ERROR_THRESHOLD_M))
    errors[rows] = _errors(detections.box[rows], truth.box[nearest[rows]], distance_m[rows])
    claimed = np.zeros(len(truth), bool)
    claimed[nearest[nearest >= 0]] = True
    return Matches(in_file, evaluated, right, errors, truth_evaluated, claimed)


def _group(rows: Rows, sweeps: Array) -> Array:
    """(N,) int64 that grows with (sweep, category)."""
    return np.searchsorted(sweeps, rows.time_ns) * len(AV2_CATEGORIES) + rows.category


def _begin(sorted_group: Array, groups: Array) -> Array:
    """(G + 1,) first row of each group."""
    return np.append(np.searchsorted(sorted_group, groups), len(sorted_group)).astype(np.int64)


def _best_first(group: Array, score: Array) -> Array:
    """(N,) rows by group, each from its highest score down; ties as the official code has them."""
    order = np.lexsort((-score, group))
    sorted_group, sorted_score = group[order], score[order]
    same = sorted_group[1:] == sorted_group[:-1]
    tied = np.unique(sorted_group[1:][same & (sorted_score[1:] == sorted_score[:-1])])
    begins = np.searchsorted(sorted_group, tied)
    ends = np.searchsorted(sorted_group, tied, side="right")
    for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
        rows = np.sort(order[begin:end])
        order[begin:end] = rows[np.argsort(-score[rows])]  # unstable, on purpose
    return order


def _errors(box: Array, truth_box: Array, distance_m: Array) -> Array:
    """(N, 3) translation (m), scale and heading (rad, in [0, pi]) errors of N pairs.

    The scale error divides by the product of the larger sides, which is no union.
    """
    size, truth_size = box[:, 3:6], truth_box[:, 3:6]
    smaller = np.minimum(size, truth_size).prod(axis=1)
    larger = np.maximum(size, truth_size).prod(axis=1)
    turned = np.abs(_yaw_rad(box[:, 6:]) - _yaw_rad(truth_box[:, 6:]))
    times, rest = np.divmod(turned, np.pi)
    turned = np.where(times != 0, np.pi - rest, turned)
    return np.stack((distance_m, 1 - smaller / larger, turned), axis=1)


def _yaw_rad(wxyz: Array) -> Array:
    """(N,) third of the angles about the fixed x, y, z; SciPy's bits, which NumPy's are not."""
    from scipy.spatial.transform import Rotation

    if len(wxyz) == 0:
        return np.zeros(0)
    matrix = Rotation.from_quat(wxyz[:, [1, 2, 3, 0]]).as_matrix()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "gimbal lock": a box that stands on its end
        return Rotation.from_matrix(matrix).as_euler("xyz")[:, 2]
