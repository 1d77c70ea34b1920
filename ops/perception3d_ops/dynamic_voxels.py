"""Dynamic voxelisation: every point of the grid, no caps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from perception3d_ops.group_rows import Groups, group_rows
from perception3d_ops.reduce_rows import Reduction, reduce_rows
from perception3d_ops.voxel_keys import CellGrid, LeftOut, voxel_keys


@dataclass(frozen=True)
class DynamicVoxels(LeftOut):
    """V occupied cells and all their points.

    Attributes:
        index: (V, 4) int64 sample, z, y, x, in lexicographic order.
        groups: the points of each cell.
        key: (P,) int64 cell of each point, see
            :func:`~perception3d_ops.voxel_keys.voxel_keys`.
        grid: the cells.
    """

    index: Tensor
    groups: Groups
    key: Tensor
    grid: CellGrid

    def point_index(self) -> Tensor:
        """(P, 4) int64 sample, z, y, x of each point; -1 in all columns where it has no cell."""
        return torch.where((self.key < 0)[:, None], -1, self.grid.unravel(self.key))

    def voxel_of_point(self) -> Tensor:
        """(P,) int64 row of ``index``, -1 where the point has no cell."""
        return self.groups.of_row()

    def reduce(self, rows: Tensor, reduction: Reduction) -> Tensor:
        """(P, C) features of points to (V, C) "mean", "max" or "sum" of each cell."""
        return reduce_rows(rows, self.groups, reduction)


def dynamic_voxels(
    xyz: Tensor, offsets: Tensor, *, range_m: Sequence[float], cell_m: Sequence[float]
) -> DynamicVoxels:
    """Group all points by cell.

    Args:
        xyz: (P, 3) metres; rows that are not finite, or outside, belong to no cell.
        offsets: (B + 1,) int64; sample b owns rows offsets[b]:offsets[b + 1].
        range_m: x, y, z minima, then maxima.
        cell_m: size of a cell along x, y, z.

    Raises:
        ValueError: wrong shapes, types, devices, offsets or range.
    """
    grid = CellGrid.of(range_m, cell_m)
    key = voxel_keys(xyz, offsets, grid)
    groups = group_rows(key)
    return DynamicVoxels(grid.unravel(groups.key), groups, key, grid)
