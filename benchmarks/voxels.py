"""Voxelization and reductions against spconv, a numba loop over a table of the grid, and torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from perception3d_ops.dynamic_voxels import dynamic_voxels
from perception3d_ops.group_rows import group_rows
from perception3d_ops.hard_voxels import HardVoxels, hard_voxels, hard_voxels_twin
from perception3d_ops.reduce_rows import reduce_rows
from perception3d_ops.voxel_keys import CellGrid, voxel_keys, voxel_keys_twin
from torch import Tensor

from benchmarks.peers import mmcv_ops, spconv_or_none
from benchmarks.timing import Case

RANGE_M = (-54.0, -54.0, -5.0, 54.0, 54.0, 3.0)
#: Cell, cap of points, cap of voxels.
SETTINGS = {
    "voxels 0.075 x 0.075 x 0.2, 10 points, 160k": ((0.075, 0.075, 0.2), 10, 160_000),
    "pillars 0.15, 20 points, 40k": ((0.15, 0.15, 8.0), 20, 40_000),
}
Ways = dict[str, Callable[[], Any]]


def voxel_cases(points: Tensor) -> Iterator[Case]:
    """Cases and the ways to do them."""
    xyz = points[:, :3]
    offsets = torch.tensor([0, len(points)], device=points.device)
    for name, (cell_m, max_points, max_voxels) in SETTINGS.items():
        grid = CellGrid.of(RANGE_M, cell_m)
        hard = _hard_ways(points, offsets, grid, cell_m, max_points, max_voxels)
        yield Case(f"hard {name}", hard)
        yield Case(f"dynamic {name}", _dynamic_ways(xyz, offsets, grid, cell_m))
    yield from _reductions(points, offsets)


def _hard_ways(
    points: Tensor,
    offsets: Tensor,
    grid: CellGrid,
    cell_m: tuple[float, float, float],
    max_points: int,
    max_voxels: int,
) -> Ways:
    xyz, device = points[:, :3], points.device

    def own() -> HardVoxels:
        return hard_voxels(
            xyz, offsets, range_m=RANGE_M, cell_m=cell_m, max_points=max_points,
            max_voxels=max_voxels,
        )  # fmt: skip

    def twin() -> Any:
        key = voxel_keys_twin(xyz, offsets, grid.low, grid.size, grid.cells)
        return hard_voxels_twin(key, offsets, grid.cells, max_points, max_voxels)

    ways: Ways = {
        "own": own,
        "own, padded arrays": lambda: own().padded(points, max_points),
        "twin": twin,
    }
    if device.type == "cpu":
        ways["numba"] = numba_voxels(points, grid, max_points, max_voxels)
    if spconv_or_none(device) is not None:
        from spconv.pytorch.utils import PointToVoxel

        make = PointToVoxel(
            vsize_xyz=list(cell_m), coors_range_xyz=list(RANGE_M), num_point_features=5,
            max_num_voxels=max_voxels, max_num_points_per_voxel=max_points, device=device,
        )  # fmt: skip
        ways["spconv"] = lambda: make(points)
    if (ops := mmcv_ops()) is not None:
        layer = ops.Voxelization(list(cell_m), list(RANGE_M), max_points, max_voxels)
        ways["mmcv"] = lambda: layer(points)
    return ways


def _dynamic_ways(
    xyz: Tensor, offsets: Tensor, grid: CellGrid, cell_m: tuple[float, float, float]
) -> Ways:
    def unique() -> Any:
        key = voxel_keys_twin(xyz, offsets, grid.low, grid.size, grid.cells)
        return torch.unique(key, return_inverse=True)

    return {
        "own": lambda: dynamic_voxels(xyz, offsets, range_m=RANGE_M, cell_m=cell_m),
        "torch unique": unique,
    }


def _reductions(points: Tensor, offsets: Tensor) -> Iterator[Case]:
    grid = CellGrid.of(RANGE_M, SETTINGS["pillars 0.15, 20 points, 40k"][0])
    groups = group_rows(voxel_keys(points[:, :3], offsets, grid))
    inside = groups.of_row() >= 0
    segment = groups.of_row()[inside]
    groups = group_rows(segment)
    rows = torch.randn(len(segment), 64, device=points.device)
    cells = len(groups.key)

    def add() -> Tensor:
        total = rows.new_zeros(cells, 64).index_add_(0, segment, rows)
        return total / groups.count[:, None]

    def highest() -> Tensor:
        index = segment[:, None].expand_as(rows)
        return rows.new_zeros(cells, 64).scatter_reduce_(0, index, rows, "amax", include_self=False)

    mean: Ways = {"own": lambda: reduce_rows(rows, groups, "mean"), "torch index_add": add}
    gbyte = 1e-9 * (rows.numel() + cells * 64) * rows.element_size()
    yield Case("mean of 64 channels by pillar", mean, gbyte=gbyte)
    most: Ways = {
        "own": lambda: reduce_rows(rows, groups, "max"),
        "torch scatter_reduce": highest,
    }
    yield Case("maximum of 64 channels by pillar", most, gbyte=gbyte)


def numba_voxels(
    points: Tensor, grid: CellGrid, max_points: int, max_voxels: int
) -> Callable[[], Any]:
    """The usual formulation: a table of the whole grid, and one loop over the points."""
    import numba

    @numba.njit(cache=False)
    def loop(
        points: Any, low: Any, size: Any, cells: Any, table: Any, slots: Any, index: Any, count: Any
    ) -> int:
        found = 0
        for i in range(points.shape[0]):
            x = int(np.floor((points[i, 0] - low[0]) / size[0]))
            y = int(np.floor((points[i, 1] - low[1]) / size[1]))
            z = int(np.floor((points[i, 2] - low[2]) / size[2]))
            if x < 0 or y < 0 or z < 0 or x >= cells[0] or y >= cells[1] or z >= cells[2]:
                continue
            voxel = table[z, y, x]
            if voxel < 0:
                if found == slots.shape[0]:
                    continue
                voxel = found
                found += 1
                table[z, y, x] = voxel
                index[voxel, 0], index[voxel, 1], index[voxel, 2] = z, y, x
            if count[voxel] < slots.shape[1]:
                slots[voxel, count[voxel]] = points[i]
                count[voxel] += 1
        return found

    low, size = np.array(grid.low, np.float32), np.array(grid.size, np.float32)
    cells, data = np.array(grid.cells), points.numpy()
    table = np.full(grid.cells[::-1], -1, np.int32)  # kept between calls, as mmdetection3d's

    def run() -> Any:
        slots = np.zeros((max_voxels, max_points, data.shape[1]), np.float32)
        index, count = np.zeros((max_voxels, 3), np.int32), np.zeros(max_voxels, np.int32)
        found = loop(data, low, size, cells, table, slots, index, count)
        z, y, x = index[:found].T
        table[z, y, x] = -1
        return slots[:found], index[:found], count[:found]

    return run
