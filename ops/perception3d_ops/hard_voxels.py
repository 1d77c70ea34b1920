"""Hard voxelisation in plain torch: points to cells, first come, first served, with caps.

Deterministic. Same rules, and on the CPU the same integers, as mmcv's ``Voxelization`` and spconv's
``PointToVoxel``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class HardVoxels:
    """V occupied cells and the K points that they keep, ragged.

    Cells are ordered by sample, then by their first point; points by cell, then by input order.

    Attributes:
        index: (V, 4) int64 sample, z, y, x counted from the range's minimum.
        count: (V,) int64 points kept, >= 1; they are rows count.cumsum() - count ... of ``point``.
        point: (K,) int64 row of each kept point in the input.
        voxel: (K,) int64 cell of each kept point, ascending.
    """

    index: Tensor
    count: Tensor
    point: Tensor
    voxel: Tensor

    def slots(self) -> Tensor:
        """(K,) int64 place of each kept point inside its cell."""
        start = self.count.cumsum(0) - self.count
        return torch.arange(len(self.point), device=self.point.device) - start[self.voxel]


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

    Cell = floor((p - minimum) / size), subtraction and division in float32; a point counts if its
    cell lies in 0 .. round((maximum - minimum) / size) - 1 on all axes. A cell exists from its
    first point on, unless its sample has ``max_voxels`` already; it keeps its first ``max_points``
    points.

    Args:
        xyz: (P, 3) metres; rows with NaN or infinity are outside.
        offsets: (B + 1,) int64; sample b owns rows offsets[b]:offsets[b + 1].
        range_m: x, y, z minima, then maxima.
        cell_m: size of a cell along x, y, z.
        max_points: cap of a cell.
        max_voxels: cap of a sample.

    Returns:
        The cells; V may be 0.
    """
    batch = len(offsets) - 1
    low = xyz.new_tensor(range_m[:3], dtype=torch.float32)
    size = xyz.new_tensor(cell_m, dtype=torch.float32)
    shape = ((xyz.new_tensor(range_m[3:], dtype=torch.float32) - low) / size).round()
    cell = torch.floor((xyz.float() - low) / size)
    inside = ((cell >= 0) & (cell < shape)).all(dim=1)
    point = inside.nonzero().squeeze(1)
    nx, ny, nz = (int(n) for n in shape.tolist())
    sample = torch.searchsorted(offsets.contiguous(), point, right=True) - 1
    x, y, z = cell[point].long().unbind(1)
    key = ((sample * nz + z) * ny + y) * nx + x
    # A stable sort keeps input order inside a cell, so the first row of a run is the cell's first
    # point.
    key, order = torch.sort(key, stable=True)
    point = point[order]
    unique, count = torch.unique_consecutive(key, return_counts=True)
    start = count.cumsum(0) - count
    slot = torch.arange(len(key), device=key.device) - start.repeat_interleave(count)
    keep_cell, rank = _first_come(point[start], unique // (nz * ny * nx), batch, max_voxels)
    cell_of_row = torch.arange(len(unique), device=key.device).repeat_interleave(count)
    keep_row = (slot < max_points) & keep_cell[cell_of_row]
    voxel, by_voxel = torch.sort(rank[cell_of_row[keep_row]], stable=True)
    kept = unique.new_empty(int(keep_cell.sum()))
    kept[rank[keep_cell]] = unique[keep_cell]
    counts = torch.empty_like(kept)
    counts[rank[keep_cell]] = count[keep_cell].clamp(max=max_points)
    return HardVoxels(_unravel(kept, nz, ny, nx), counts, point[keep_row][by_voxel], voxel)


def _first_come(first: Tensor, sample: Tensor, batch: int, limit: int) -> tuple[Tensor, Tensor]:
    """Which cells exist, and their rank among those, by the input row of their first point.

    ``first`` and ``sample`` are (U,); rows of a sample are contiguous, so ordering by ``first``
    orders by sample.
    """
    order = first.argsort()
    of_sample = torch.bincount(sample, minlength=batch)
    begin = of_sample.cumsum(0) - of_sample
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    keep = place - begin[sample] < limit
    # Ranks close the gaps that capped samples leave.
    allowed = of_sample.clamp(max=limit)
    shift = begin - (allowed.cumsum(0) - allowed)
    return keep, place - shift[sample]


def _unravel(key: Tensor, nz: int, ny: int, nx: int) -> Tensor:
    """(V,) linear cells to (V, 4) sample, z, y, x."""
    column, key = key % nx, key // nx
    row, key = key % ny, key // ny
    return torch.stack((key // nz, key % nz, row, column), dim=1)
