"""Boxes of many samples as columns, in the global frame: what the evaluator computes with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class BoxColumns:
    """N boxes; rows are in the order in which the official code lists them.

    Attributes:
        sample: (N,) int32 number of the sample in the split; -1 = a sample elsewhere.
        label: (N,) int8 class, index into `DetectionConfig.classes`.
        attribute: (N,) int8 index into `ATTRIBUTES`, -1 = none.
        center_m, size_wlh_m: (N, 3) float64; global position, width length height.
        rotation_wxyz: (N, 4) float64, as written: not normalised.
        velocity_mps: (N, 2) float64, global; NaN = unknown.
    """

    sample: Array
    label: Array
    attribute: Array
    center_m: Array
    size_wlh_m: Array
    rotation_wxyz: Array
    velocity_mps: Array

    def __len__(self) -> int:
        return len(self.sample)

    def select(self, rows: Array) -> BoxColumns:
        """Some rows: a mask or their numbers."""
        return BoxColumns(*(getattr(self, field.name)[rows] for field in fields(self)))

    @staticmethod
    def concatenate(parts: Sequence[BoxColumns]) -> BoxColumns:
        """Rows of all parts, one after the other."""
        parts = parts or [BoxColumns.empty()]
        return BoxColumns(
            *(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(BoxColumns))
        )

    @staticmethod
    def empty() -> BoxColumns:
        """No box."""
        return BoxColumns(
            sample=np.zeros(0, np.int32),
            label=np.zeros(0, np.int8),
            attribute=np.zeros(0, np.int8),
            center_m=np.zeros((0, 3)),
            size_wlh_m=np.zeros((0, 3)),
            rotation_wxyz=np.zeros((0, 4)),
            velocity_mps=np.zeros((0, 2)),
        )
