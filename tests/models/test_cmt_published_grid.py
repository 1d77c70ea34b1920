"""The published grid that is smaller than its range (CMT, voxel0100_r50): what goes where."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from perception3d.backbones.voxels import VoxelEncoder, short_grid
from perception3d.fusion.tokens import CrossModalTokens
from perception3d.models.lidar_branch import LidarBranch, voxel_branch
from perception3d.nn.position import plane_sine_code
from perception3d.structures import BEVGrid

#: As published: 1,080 cells to a side, of which the sparse convolutions keep 1,024.
GRID = BEVGrid((-54.0, 54.0), (-54.0, 54.0), (-5.0, 3.0), 0.1)
KEPT = 1024


def points(*xy: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """A point of one sample at each place, at one height, its intensity 200 and its number."""
    rows = [[x, y, -1.0, 200.0 + number, 0.0] for number, (x, y) in enumerate(xy)]
    return torch.tensor(rows), torch.tensor([0, len(rows)])


def branch(kept_cells: int | None) -> LidarBranch:
    """The branch of the published strides, thin."""
    torch.manual_seed(0)
    return voxel_branch(
        GRID, kept_cells=kept_cells, widths=(4, 4, 4, 4), blocks=1, out_channels=2,
        bev_widths=(4, 4), bev_layers=(0, 0), neck_channels=4,
    ).eval()  # fmt: skip


def lit(lidar: LidarBranch, cloud: tuple[Tensor, Tensor]) -> set[tuple[int, int]]:
    """(row, column) of the sparse encoder's cells that some point reaches."""
    assert lidar.middle is not None
    with torch.no_grad():
        canvas = lidar.middle(lidar.encoder(*cloud)).data
    return {(row, column) for _, row, column in (canvas != 0).any(dim=1).nonzero().tolist()}


def around(row: int, column: int) -> set[tuple[int, int]]:
    """A cell and its eight neighbours."""
    return {(row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1)}


def test_points_beyond_the_kept_cells_are_dropped_after_they_were_counted() -> None:
    # Cells 0, 540, 1023 (the last that is kept), 1024 and 1079 along x; then 1030 along y.
    places = ((-53.95, 0.05), (0.05, 0.05), (48.35, 0.05), (48.45, 0.05), (53.95, 0.05))
    cloud = points(*places, (0.05, 49.05))
    whole = VoxelEncoder(grid=GRID)(*cloud)
    assert whole.sites.shape == (41, 1080, 1080) and whole.grid == GRID
    # z: (-1 - -5) / 0.2 = 20.
    assert whole.sites.index[:, 1:].tolist() == [
        [20, 540, 0], [20, 540, 540], [20, 540, 1023], [20, 540, 1024], [20, 540, 1079],
        [20, 1030, 540],
    ]  # fmt: skip
    encoder = VoxelEncoder(grid=GRID, kept_cells=KEPT)
    short = encoder(*cloud)
    assert short.sites.shape == (41, KEPT, KEPT)
    assert short.sites.index[:, 1:].tolist() == [[20, 540, 0], [20, 540, 540], [20, 540, 1023]]
    assert short.features[:, 3].tolist() == [200.0, 201.0, 202.0]
    # Those beyond take part in the cap of voxels, as published: here they come first and fill it.
    encoder.max_voxels = (2, 2)
    late = points((48.45, 0.05), (53.95, 0.05), (0.05, 0.05))
    assert len(encoder(*late).sites) == 0


def test_places_are_told_as_if_the_kept_cells_filled_the_range() -> None:
    claimed = short_grid(GRID, KEPT).stride(8)
    assert (claimed.nx, claimed.ny, claimed.cell_m) == (128, 128, 0.84375)
    assert claimed.range_m == GRID.range_m
    # What lies at (x, y) = (48.35, 0.05) is in column 1023 // 8 = 127 and row 540 // 8 = 67.
    assert claimed.centers_m()[67, 127].tolist() == pytest.approx([53.578125, 2.953125])
    honest = GRID.stride(8)
    assert (honest.nx, honest.cell_m) == (135, 0.8)
    assert honest.centers_m()[67, 127].tolist() == pytest.approx([48.0, 0.0], abs=1e-5)


def test_cells_that_points_reach() -> None:
    """A voxel is seen in its own cell of the map, and none beyond 48.4 m is seen at all."""
    short, whole = branch(KEPT), branch(None)
    for lidar in (short, whole):
        assert lidar.middle is not None
        for weight in lidar.middle.parameters():
            # Nothing cancels, and no ReLU hides a cell: intensities outweigh coordinates.
            nn.init.constant_(weight, 0.5)
    assert (short.grid.nx, short.grid.ny, short.grid.cell_m) == (128, 128, 0.84375)
    assert (whole.grid.nx, whole.grid.ny, whole.grid.cell_m) == (135, 135, 0.8)
    middle = points((0.05, 0.05))
    assert lit(short, middle) == lit(whole, middle)
    assert (67, 67) in lit(short, middle) and lit(short, middle) <= around(67, 67)
    for edge in ((50.0, 0.0), (0.0, 50.0), (53.9, 53.9)):
        assert lit(short, points(edge)) == set()
        row, column = (int((v + 54) / 0.8) for v in edge[::-1])
        seen = lit(whole, points(edge))
        assert (row, column) in seen and seen <= around(row, column)
    # Nothing of the right edge turns up at the left one.
    both = points((0.05, 0.05), (50.0, 0.0), (0.0, 50.0))
    assert lit(short, both) == lit(short, middle)


def test_maps_of_a_scene() -> None:
    generator = torch.Generator().manual_seed(0)
    cloud = torch.rand(3000, 5, generator=generator)
    cloud[:, :3] = cloud[:, :3] * torch.tensor([108.0, 108.0, 4.0]) - torch.tensor([54.0, 54.0, 3])
    offsets = torch.tensor([0, 3000])
    inside = (cloud[:, :2] < 48.4).all(dim=1)
    kept = cloud[inside]
    with torch.no_grad():
        short, whole = branch(KEPT)(cloud, offsets), branch(None)(cloud, offsets)
        alone = branch(KEPT)(kept, torch.tensor([0, len(kept)]))
    assert tuple(short.data.shape) == (1, 8, 128, 128)
    assert tuple(whole.data.shape) == (1, 8, 135, 135)
    assert torch.equal(short.data, alone.data)
    # Away from the border the same cells hold the same: only what is said of their place differs.
    inner = (..., slice(0, 124), slice(0, 124))
    torch.testing.assert_close(short.data[inner], whole.data[inner], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(short.data[..., 127], whole.data[..., :128, 127])


@pytest.mark.parametrize(("kept_cells", "cells"), [(KEPT, 128), (None, 135)])
def test_position_codes_of_the_map(kept_cells: int | None, cells: int) -> None:
    """Codes are those of (column + 0.5) / cells, whatever the cells' true places are."""
    torch.manual_seed(0)
    tokens = CrossModalTokens(channels=16, range_m=GRID.range_m, bev_channels=8, cameras=False)
    cloud = points((0.05, 0.05))
    with torch.no_grad():
        shared = tokens.eval().share(branch(kept_cells)(*cloud))
        position = tokens.memory(shared, None, None).position
        xy = torch.tensor([(67 + 0.5) / cells, (127 + 0.5) / cells])[[1, 0]]
        wanted = tokens.plane.embedding(plane_sine_code(xy, 16))
    assert position.shape == (1, cells * cells, 16)
    torch.testing.assert_close(position[0, 67 * cells + 127], wanted, rtol=1e-4, atol=1e-5)
    # In metres: x = 48.0 (true centre of the cell) against 53.6 as published.
    assert float(xy[0]) * 108 - 54 == pytest.approx(
        48.0 if kept_cells is None else 53.578, abs=1e-3
    )


def test_impossible_grids_are_refused() -> None:
    with pytest.raises(ValueError, match="to keep 1081 x 1081 of; found 1080 x 1080"):
        short_grid(GRID, 1081)
    with pytest.raises(ValueError, match="found 20 x 40"):
        VoxelEncoder(
            grid=BEVGrid((-2.0, 2.0), (-1.0, 1.0), (-5.0, 3.0), 0.1), kept_cells=10
        )  # fmt: skip
    with pytest.raises(ValueError, match="stride 8 does not divide a grid of 1020 x 1020"):
        branch(1020)
