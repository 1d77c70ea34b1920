"""The voxel branch of CenterPoint, SECOND and CMT: points to voxels, sparse convolutions, BEV."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from perception3d_ops.hard_voxels import hard_voxels
from perception3d_ops.sparse_sites import SparseSites
from torch import Tensor, nn

from perception3d.nn.sparse import SparseConv3d, SubMConv3d
from perception3d.nn.sparse_blocks import SparseConvBlock, SparseResidualBlock
from perception3d.nn.sparse_convolve import Backend
from perception3d.structures import BEVFeatures, BEVGrid, SparseVoxels

#: x, y, z, intensity, age.
POINT_CHANNELS = 5


class VoxelEncoder(nn.Module):
    """Points to voxels with the mean of their points (mmdetection3d's ``HardSimpleVFE``).

    It has no weights.

    Args:
        grid: cells from above and height band; points outside are left out. Published 0.075 m.
        height_m: of a voxel; divides the height band. Published 0.2.
        max_points: of a voxel; the first points in input order are kept. Published 10.
        max_voxels: cap of a sample in training and in evaluation; published 120,000 and 160,000.
        units: 5 numbers that the features are divided by, kept with the weights; None is published:
            metres, raw intensities and seconds as they come.
        kept_cells: along x and along y; voxels beyond are dropped once they are counted, and those
            that stay are handed on as if they filled the whole range. That misplaces them: it is
            for weights that were trained so, see :func:`short_grid`. None keeps all where they are.

    Attributes:
        grid: the cells that voxels are handed on in.
        cells_z: layers of the grid that voxels are put into: one more than the band has, as
            published, which makes four halvings come out.
        channels: of the features.
    """

    units: Tensor | None

    def __init__(
        self,
        *,
        grid: BEVGrid,
        height_m: float = 0.2,
        max_points: int = 10,
        max_voxels: tuple[int, int] = (120_000, 160_000),
        units: Sequence[float] | None = None,
        kept_cells: int | None = None,
    ) -> None:
        super().__init__()
        band_m = grid.z_m[1] - grid.z_m[0]
        layers = round(band_m / height_m) if height_m > 0 else 0
        if layers < 1 or abs(band_m / height_m - layers) > 1e-3:
            raise ValueError(
                f"the height band {grid.z_m} must be a whole number of voxels high; found "
                f"{height_m} m"
            )
        if units is not None and len(units) != POINT_CHANNELS:
            raise ValueError(f"units must be {POINT_CHANNELS} numbers; found {len(units)}")
        self.register_buffer("units", None if units is None else torch.tensor(units))
        self.points_grid = grid
        self.grid = grid if kept_cells is None else short_grid(grid, kept_cells)
        self.height_m = height_m
        self.max_points = max_points
        self.max_voxels = max_voxels
        self.cells_z = layers + 1
        self.channels = POINT_CHANNELS

    def forward(self, points: Tensor, offsets: Tensor) -> SparseVoxels:
        """Group a ragged batch.

        Args:
            points: (P, 5) x, y, z in metres, intensity, age in seconds.
            offsets: (B + 1,) int64, rows of each sample.

        Returns:
            Voxels with (N, 5) float32 features, sorted by place. A sample, or all of them, may have
            none.
        """
        grid = self.points_grid
        points = points.float()
        voxels = hard_voxels(
            points[:, :3],
            offsets,
            range_m=grid.range_m,
            cell_m=(grid.cell_m, grid.cell_m, self.height_m),
            max_points=self.max_points,
            max_voxels=self.max_voxels[0 if self.training else 1],
        )
        features = voxels.mean(points[voxels.point])
        if self.units is not None:
            features = features / self.units
        index = voxels.index
        if self.grid != grid:
            kept = (index[:, 2:] < self.grid.nx).all(dim=1)
            index, features = index[kept], features[kept]
        shape = (self.cells_z, self.grid.ny, self.grid.nx)
        sites, order = SparseSites.of(index, shape, len(offsets) - 1)
        return SparseVoxels(features if order is None else features[order], sites, self.grid)


def short_grid(grid: BEVGrid, cells: int) -> BEVGrid:
    """``grid``'s range in ``cells`` x ``cells`` cells, fewer than it has: larger ones.

    junjie18/CMT, configuration voxel0100_r50_800x320: points are put into 1,080 x 1,080 voxels of
    0.1 m, the sparse convolutions know 1,024 x 1,024 of them, and the head takes what they return
    for a map of the whole range, in cells of 0.84375 m that are in truth 0.8 m wide. LiDAR ends at
    48.4 m in x and y, and a place is off by 5.5 % of its distance from the range's minimum, up to
    5.6 m. There, voxels beyond also collide with those of other rows in the table that
    submanifold convolutions look neighbours up in, by chance; here, none of them is seen at all.

    Raises:
        ValueError: more cells than ``grid`` has.
    """
    if grid.nx != grid.ny or not 0 < cells <= grid.nx:
        raise ValueError(
            f"a square grid of at least as many cells is needed to keep {cells} x {cells} of; "
            f"found {grid.ny} x {grid.nx}"
        )
    return replace(grid, cell_m=(grid.x_m[1] - grid.x_m[0]) / cells)


class SparseEncoder(nn.Module):
    """SECOND's encoder with residual blocks (mmdetection3d's ``SparseEncoder``, "basicblock").

    A submanifold convolution; stages of residual blocks, each but the last followed by a strided
    convolution that halves all sizes; a convolution of 3 cells along z with stride 2. Every one
    with batch norm and ReLU. The remaining layers become channels of a bird's-eye map.

    Args:
        cells_z: layers of the input grid; published 41.
        in_channels: of the voxels.
        widths: channels of each stage; published 16, 32, 64, 128.
        blocks: residual blocks a stage; published 2.
        out_channels: of the last convolution; published 128.
        mixed: whether autocast reaches the encoder; published: it computes in float32.
        backend: whose kernels run the convolutions, "own" or "spconv".

    Attributes:
        channels: of the map: ``out_channels`` times the layers that remain.
        stride: of the map, 2 for each stage but the last.
    """

    def __init__(
        self,
        *,
        cells_z: int = 41,
        in_channels: int = POINT_CHANNELS,
        widths: Sequence[int] = (16, 32, 64, 128),
        blocks: int = 2,
        out_channels: int = 128,
        mixed: bool = False,
        backend: Backend = "own",
    ) -> None:
        super().__init__()
        if not widths or blocks < 0:
            raise ValueError(f"at least one stage is needed; found {widths}, {blocks} blocks each")
        self.input = SparseConvBlock(SubMConv3d(in_channels, widths[0], 3, backend=backend))
        # Numbered from 1, as published.
        self.stages = nn.ModuleDict()
        layers = cells_z
        for i, width in enumerate(widths, start=1):
            stage: list[nn.Module] = [
                SparseResidualBlock(width, backend=backend) for _ in range(blocks)
            ]
            if i < len(widths):
                # The last halving drops the outermost layers instead of padding them.
                pad_z = 0 if i == len(widths) - 1 else 1
                conv = SparseConv3d(
                    width, widths[i], 3, stride=2, padding=(pad_z, 1, 1), backend=backend
                )
                stage.append(SparseConvBlock(conv))
                layers = (layers + 2 * pad_z - 3) // 2 + 1
            self.stages[str(i)] = nn.Sequential(*stage)
        last = SparseConv3d(widths[-1], out_channels, (3, 1, 1), stride=(2, 1, 1), backend=backend)
        self.output = SparseConvBlock(last)
        layers = (layers - 3) // 2 + 1
        if layers < 1:
            raise ValueError(f"{cells_z} layers are too few for {len(widths)} stages")
        self.cells_z = cells_z
        self.in_channels = in_channels
        self.channels = out_channels * layers
        self.stride = 2 ** (len(widths) - 1)
        self.mixed = mixed

    def forward(self, voxels: SparseVoxels) -> BEVFeatures:
        """(N, in_channels) voxels -> (B, channels, ny, nx) on their grid by ``stride``.

        Channel = c * layers + layer, as published.

        Raises:
            ValueError: voxels without a grid, or of another height.
        """
        if voxels.grid is None:
            raise ValueError("the encoder needs voxels with a grid; found None")
        if voxels.sites.shape[0] != self.cells_z:
            raise ValueError(
                f"the encoder is built for {self.cells_z} layers; found {voxels.sites.shape[0]}"
            )
        device = voxels.features.device.type
        with torch.autocast(device, enabled=self.mixed and torch.is_autocast_enabled(device)):
            return BEVFeatures(
                self.output(self.stage_outputs(voxels)[-1]).bev(), voxels.grid.stride(self.stride)
            )

    def stage_outputs(self, voxels: SparseVoxels) -> list[SparseVoxels]:
        """What each stage returns; the last one goes into the final convolution."""
        outputs = []
        voxels = self.input(voxels)
        for stage in self.stages.values():
            voxels = stage(voxels)
            outputs.append(voxels)
        return outputs
