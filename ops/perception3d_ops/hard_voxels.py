"""Hard voxelisation: points to cells, first come, first served, with caps.

Deterministic. Same rules, and the same integers, as mmcv's ``Voxelization`` and spconv's
``PointToVoxel`` on the CPU; here on every device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from perception3d_ops.group_rows import Groups
from perception3d_ops.library import define
from perception3d_ops.pad_rows import pad_rows
from perception3d_ops.reduce_rows import reduce_rows
from perception3d_ops.voxel_keys import CellGrid, LeftOut, unravel, voxel_keys


@dataclass(frozen=True)
class HardVoxels(LeftOut):
    """V occupied cells and the K points that they keep, ragged.

    Cells are ordered by sample, then by their first point; points by cell, then by input order.

    Attributes:
        index: (V, 4) int64 sample, z, y, x counted from the range's minimum.
        count: (V,) int64 points kept, >= 1; they are rows count.cumsum() - count ... of ``point``.
        point: (K,) int64 row of each kept point in the input.
        voxel: (K,) int64 cell of each kept point, ascending.
        key: (P,) int64 cell of each point, see :func:`~perception3d_ops.voxel_keys.voxel_keys`.
    """

    index: Tensor
    count: Tensor
    point: Tensor
    voxel: Tensor
    key: Tensor

    def slots(self) -> Tensor:
        """(K,) int64 place of each kept point inside its cell."""
        places = torch.arange(len(self.point), device=self.point.device)
        return places - self._start()[self.voxel]

    def padded(self, rows: Tensor, max_points: int) -> Tensor:
        """(V, max_points, C) rows (P, C) of the kept points in their slots, zeros elsewhere."""
        return pad_rows(rows, self.point, self._start(), max_points)

    def mean(self, kept: Tensor) -> Tensor:
        """(V, C) mean over each cell of the rows (K, C) of its kept points, in their order."""
        number, rows = (
            torch.arange(len(part), device=kept.device) for part in (self.count, self.point)
        )
        return reduce_rows(kept, Groups(number, rows, self._start(), len(rows)), "mean")

    def _start(self) -> Tensor:
        return torch.nn.functional.pad(self.count.cumsum(0), (1, 0))


def hard_voxels(
    xyz: Tensor,
    offsets: Tensor,
    *,
    range_m: Sequence[float],
    cell_m: Sequence[float],
    max_points: int,
    max_voxels: int,
) -> HardVoxels:
    """Group points by cell.

    See :func:`~perception3d_ops.voxel_keys.voxel_keys` for which cell holds a point. A cell exists
    from its first point on, unless its sample has ``max_voxels`` already; it keeps its first
    ``max_points`` points, also those that come after the cap of cells is reached.

    Args:
        xyz: (P, 3) metres; rows with NaN or infinity are left out.
        offsets: (B + 1,) int64; sample b owns rows offsets[b]:offsets[b + 1].
        range_m: x, y, z minima, then maxima.
        cell_m: size of a cell along x, y, z.
        max_points: cap of a cell.
        max_voxels: cap of a sample.

    Returns:
        The cells; V may be 0.

    Raises:
        ValueError: wrong shapes, types, devices, offsets, range or caps.
    """
    if max_points < 1 or max_voxels < 1:
        raise ValueError(
            f"max_points and max_voxels must be positive; found {max_points}, {max_voxels}"
        )
    grid = CellGrid.of(range_m, cell_m)
    key = voxel_keys(xyz, offsets, grid)
    index, count, point, voxel = _op(key, offsets, list(grid.cells), max_points, max_voxels)
    return HardVoxels(index, count, point, voxel, key)


def hard_voxels_twin(
    key: Tensor, offsets: Tensor, cells: Sequence[int], max_points: int, max_voxels: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The definition of :func:`hard_voxels` after the keys: index, count, point, voxel."""
    batch = len(offsets) - 1
    point = (key >= 0).nonzero().squeeze(1)
    # A stable sort keeps input order inside a cell, so the first row of a run is the cell's first
    # point.
    key, order = torch.sort(key[point], stable=True)
    point = point[order]
    unique, count = torch.unique_consecutive(key, return_counts=True)
    start = count.cumsum(0) - count
    cell = torch.arange(len(unique), device=key.device)
    cell = cell.repeat_interleave(count, output_size=len(key))
    slot = torch.arange(len(key), device=key.device) - start[cell]
    keep_cell, rank = _first_come(point[start], unique // math.prod(cells), batch, max_voxels)
    row = ((slot < max_points) & keep_cell[cell]).nonzero().squeeze(1)
    voxel, by_voxel = torch.sort(rank[cell[row]], stable=True)
    kept = keep_cell.nonzero().squeeze(1)
    kept = kept[rank[kept].argsort()]
    counts = count[kept].clamp(max=max_points)
    return unravel(unique[kept], cells), counts, point[row][by_voxel], voxel


def _first_come(first: Tensor, sample: Tensor, batch: int, limit: int) -> tuple[Tensor, Tensor]:
    """Which cells exist, and their rank among those, by the input row of their first point.

    ``first`` and ``sample`` are (U,), the latter ascending; rows of a sample are contiguous, so
    ordering by ``first`` orders by sample.
    """
    order = first.argsort()
    begin = torch.searchsorted(sample, torch.arange(batch + 1, device=sample.device))
    begin, of_sample = begin[:-1], begin.diff()
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    keep = place - begin[sample] < limit
    # Ranks close the gaps that capped samples leave.
    allowed = of_sample.clamp(max=limit)
    shift = begin - (allowed.cumsum(0) - allowed)
    return keep, place - shift[sample]


def _fake(key: Tensor, *_: object) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    ctx = torch.library.get_ctx()
    voxels, rows = ctx.new_dynamic_size(), ctx.new_dynamic_size()
    return (
        key.new_empty(voxels, 4),
        key.new_empty(voxels),
        key.new_empty(rows),
        key.new_empty(rows),
    )


_op = define(
    "hard_voxels(Tensor key, Tensor offsets, int[] cells, int max_points, int max_voxels) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
    hard_voxels_twin,
    _fake,
)
