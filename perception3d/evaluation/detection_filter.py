"""Which boxes count: those within the range of their class, with points, and not in a bike rack.

Rules and order: nuscenes-devkit 1.2.0, `eval/common/loaders.py` and `utils/geometry_utils.py`.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from perception3d.evaluation.detection_boxes import Array, BoxColumns
from perception3d.evaluation.detection_config import RACKED_CLASSES, DetectionConfig
from perception3d.evaluation.detection_rotation import rotation_matrices

_MARGIN_M = 1e-3  # a box this far outside a rack's circle is certainly not inside


@dataclass(frozen=True)
class FilterCounts:
    """Boxes left after each filter.

    Attributes:
        listed: before any.
        in_range, with_points, outside_racks: after range, points, racks.
    """

    listed: int = 0
    in_range: int = 0
    with_points: int = 0
    outside_racks: int = 0

    def __add__(self, other: FilterCounts) -> FilterCounts:
        return FilterCounts(
            self.listed + other.listed,
            self.in_range + other.in_range,
            self.with_points + other.with_points,
            self.outside_racks + other.outside_racks,
        )


def ego_distance_m(center_m: Array, sample: Array, ego_m: Array) -> Array:
    """(N,) horizontal distance between boxes and the vehicle of their samples."""
    offset = center_m[:, :2] - ego_m[sample, :2]
    return np.sqrt(offset[:, 0] * offset[:, 0] + offset[:, 1] * offset[:, 1])


def counted_boxes(
    center_m: Array,
    label: Array,
    listed: Array,
    num_points: Array,
    ego_m: Array,
    racks: BikeRacks,
    config: DetectionConfig,
) -> tuple[Array, FilterCounts]:
    """Rows that count.

    Args:
        center_m: (N, 3) global. label: (N,).
        listed: (N,) sample under which each stands: its vehicle and racks are asked.
        num_points: (N,) 0 removes a box; predictions carry -1.
        ego_m: (S, 3) vehicle positions.
        racks: of the split.
        config: ranges.

    Returns:
        (M,) row numbers in order, and how many each filter left.
    """
    range_m = np.array([value for _, value in config.class_range_m], np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        near = ego_distance_m(center_m, listed, ego_m) < range_m[label]
    kept = np.flatnonzero(near)
    in_range = len(kept)
    kept = kept[num_points[kept] != 0]
    with_points = len(kept)
    if racks.samples:
        racked = [config.classes.index(name) for name in RACKED_CLASSES]
        asked = np.isin(label[kept], racked) & np.isin(listed[kept], racks.samples)
        inside = np.zeros(len(kept), bool)
        for row in np.flatnonzero(asked):
            inside[row] = racks.hold(int(listed[kept[row]]), center_m[kept[row]])
        kept = kept[~inside]
    return kept, FilterCounts(len(label), in_range, with_points, len(kept))


class BikeRacks:
    """The racks of a split, asked whether a point is inside one (faces included)."""

    def __init__(self, racks: BoxColumns) -> None:
        self._of_sample: dict[int, list[_Rack]] = defaultdict(list)
        for sample, rack in zip(racks.sample.tolist(), _racks(racks)):
            self._of_sample[sample].append(rack)

    @property
    def samples(self) -> list[int]:
        """Numbers of the samples that have racks."""
        return list(self._of_sample)

    def hold(self, sample: int, point_m: Array) -> bool:
        """Whether a rack of the sample holds the (3,) point."""
        return any(rack.holds(point_m) for rack in self._of_sample[sample])


@dataclass(frozen=True)
class _Rack:
    center_m: Array
    reach_m: float
    corner_m: Array
    edges_m: tuple[Array, Array, Array]

    def holds(self, point_m: Array) -> bool:
        if np.linalg.norm(point_m - self.center_m) > self.reach_m:
            return False
        # One product a box and edge with the devkit's shapes: rounding decides on the faces.
        offset = point_m.reshape(3, 1) - self.corner_m.reshape(3, 1)
        for edge in self.edges_m:
            along = np.dot(edge, offset)[0]
            if not 0 <= along <= np.dot(edge, edge):
                return False
        return True


def _racks(racks: BoxColumns) -> list[_Rack]:
    out = []
    for row in range(len(racks)):
        width, length, height = racks.size_wlh_m[row] * 1.0
        signs = np.array([[1, 1, 1, 1, -1, -1, -1, -1], [1, -1, -1, 1] * 2, [1, 1, -1, -1] * 2])
        half = np.array([length / 2, width / 2, height / 2])[:, None]
        R = rotation_matrices(racks.rotation_wxyz[row : row + 1])[0]
        corners = np.dot(R, half * signs) + racks.center_m[row][:, None]
        first = corners[:, 0]
        edges = (corners[:, 4] - first, corners[:, 1] - first, corners[:, 3] - first)
        # A zero quaternion, which the devkit lets through, makes a rack of no size: its products
        # are all 0 and every point counts as inside.
        reach = float(np.linalg.norm(half)) + _MARGIN_M if R.any() else np.inf
        out.append(_Rack(racks.center_m[row], reach, first, edges))
    return out
