"""Hard voxelisation against a loop over points."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from perception3d_ops.hard_voxels import hard_voxels
from torch import Tensor

RANGE_M = (-2.0, -1.0, 0.0, 2.0, 1.0, 1.0)
CELL_M = (1.0, 0.5, 0.5)


def by_loop(
    xyz: Tensor, offsets: list[int], max_points: int, max_voxels: int
) -> tuple[list[tuple[int, ...]], list[list[int]]]:
    index: list[tuple[int, ...]] = []
    kept: list[list[int]] = []
    for sample in range(len(offsets) - 1):
        cells: dict[tuple[int, ...], int] = {}
        for row in range(offsets[sample], offsets[sample + 1]):
            x, y, z = (
                int(torch.floor((xyz[row, axis] - RANGE_M[axis]) / CELL_M[axis]))
                if bool(torch.isfinite(xyz[row, axis]))
                else -1
                for axis in range(3)
            )
            if not (0 <= x < 4 and 0 <= y < 4 and 0 <= z < 2):
                continue
            if (z, y, x) not in cells:
                if len(cells) == max_voxels:
                    continue
                cells[z, y, x] = len(index)
                index.append((sample, z, y, x))
                kept.append([])
            rows = kept[cells[z, y, x]]
            if len(rows) < max_points:
                rows.append(row)
    return index, kept


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(0, 60), min_size=1, max_size=4),
    max_points=st.integers(1, 4),
    max_voxels=st.integers(1, 20),
    seed=st.integers(0, 10_000),
)
def test_voxels_are_those_of_the_loop(
    counts: list[int], max_points: int, max_voxels: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    xyz = torch.rand(sum(counts), 3, generator=generator) * torch.tensor([5.0, 2.4, 1.2])
    xyz = (xyz - torch.tensor([2.5, 1.2, 0.1])) * 8
    xyz = xyz.round() / 8  # many points on borders
    xyz[torch.rand(len(xyz), generator=generator) < 0.05] = torch.nan
    offsets = torch.tensor([0, *counts]).cumsum(0)
    index, kept = by_loop(xyz, offsets.tolist(), max_points, max_voxels)
    got = hard_voxels(
        xyz, offsets, range_m=RANGE_M, cell_m=CELL_M, max_points=max_points, max_voxels=max_voxels
    )
    assert [tuple(row) for row in got.index.tolist()] == index
    assert got.count.tolist() == [len(rows) for rows in kept]
    assert got.point.tolist() == [row for rows in kept for row in rows]
    assert got.voxel.tolist() == [v for v, rows in enumerate(kept) for _ in rows]
    assert got.slots().tolist() == [slot for rows in kept for slot in range(len(rows))]


@pytest.mark.parametrize("points", [0, 3])
def test_no_point_inside(points: int) -> None:
    got = hard_voxels(
        torch.full((points, 3), 100.0),
        torch.tensor([0, points, points]),
        range_m=RANGE_M,
        cell_m=CELL_M,
        max_points=2,
        max_voxels=5,
    )
    assert got.index.shape == (0, 4) and len(got.point) == len(got.count) == 0
