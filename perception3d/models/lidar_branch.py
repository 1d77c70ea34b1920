"""The LiDAR branch of the detectors: points to a bird's-eye map, by pillars or by voxels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor, nn

from perception3d.backbones.bev_convnext import BEVConvNeXt
from perception3d.backbones.pillars import PillarEncoder, natural_units
from perception3d.backbones.second import SECOND
from perception3d.backbones.voxels import POINT_CHANNELS, SparseEncoder, VoxelEncoder
from perception3d.nn.fpn import UpsampleConcatNeck
from perception3d.nn.sparse_convolve import Backend
from perception3d.structures import BEVFeatures, BEVGrid, Pillars, SparseVoxels


class PointEncoder(Protocol):
    """Ragged points to occupied cells of ``grid``."""

    grid: BEVGrid
    channels: int

    def __call__(self, points: Tensor, offsets: Tensor) -> Pillars | SparseVoxels:
        """(P, 5) points and (B + 1,) offsets to cells."""
        ...


class LidarBranch(nn.Module):
    """Points -> pillars -> canvas, or points -> voxels -> sparse encoder; -> BEV backbone -> neck.

    Where a coarse stage of the backbone has no whole number of cells, the canvas gets empty rows
    and columns at the far ends, which are cut off the output again.

    Args:
        encoder: points to pillars, or to voxels.
        middle: voxels to a canvas; None with pillars, which make one themselves.
        backbone: canvas to maps; declares ``in_channels`` and ``strides``.
        neck: maps to one map; declares ``factors`` (upsampling of each map) and ``channels``.

    Attributes:
        channels, grid: of the output.
    """

    def __init__(
        self,
        *,
        encoder: PointEncoder,
        middle: SparseEncoder | None = None,
        backbone: nn.Module,
        neck: nn.Module,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.middle = middle
        self.backbone = backbone
        self.neck = neck
        grid, canvas = encoder.grid, encoder.channels
        if middle is not None:
            grid, canvas = grid.stride(middle.stride), middle.channels
        if canvas != backbone.in_channels:
            raise ValueError(
                f"the canvas has {canvas} channels, the backbone takes {backbone.in_channels}"
            )
        strides: Sequence[int] = backbone.strides  # type: ignore[assignment]
        factors: Sequence[int] = neck.factors  # type: ignore[assignment]
        out = {stride / factor for stride, factor in zip(strides, factors)}
        if len(strides) != len(factors) or len(out) != 1:
            raise ValueError(
                f"the neck's factors {tuple(factors)} do not bring the backbone's strides "
                f"{tuple(strides)} to one stride"
            )
        self.multiple = max(strides)
        self.grid = grid.stride(int(out.pop()))
        self.channels = int(neck.channels)  # type: ignore[arg-type]

    def forward(self, points: Tensor, offsets: Tensor) -> BEVFeatures:
        """(P, 5) points and (B + 1,) offsets -> (B, channels, ny, nx) on ``grid``."""
        cells = self.encoder(points, offsets)
        canvas = cells.dense() if self.middle is None else self.middle(cells).data
        rows, columns = canvas.shape[-2:]
        missing = (0, -columns % self.multiple, 0, -rows % self.multiple)
        if any(missing):
            canvas = nn.functional.pad(canvas, missing)
        joined = self.neck(self.backbone(canvas))
        return BEVFeatures(joined[..., : self.grid.ny, : self.grid.nx], self.grid)


def pillar_branch(
    grid: BEVGrid,
    *,
    max_pillars: tuple[int, int] = (30_000, 40_000),
    natural: bool = False,
    depths: Sequence[int] = (2, 2, 1, 1, 1),
    widths: Sequence[int] = (48, 96, 96, 96, 96),
    out_stages: Sequence[int] = (2, 3, 4),
    neck_channels: int = 96,
    drop_path: float = 0.4,
) -> LidarBranch:
    """PillarNeSt's branch (arXiv 2311.17770); by default its tiny size.

    Args:
        grid: the pillars.
        max_pillars: cap of a sample in training and in evaluation.
        natural: divide inputs by :func:`~perception3d.backbones.pillars.natural_units`.
        depths, widths, out_stages, drop_path: of
            :class:`~perception3d.backbones.bev_convnext.BEVConvNeXt`.
        neck_channels: of each branch of the neck; the output has the stride of the first of
            ``out_stages``.
    """
    return LidarBranch(
        encoder=PillarEncoder(
            grid=grid,
            channels=widths[0],
            max_pillars=max_pillars,
            units=natural_units(grid) if natural else None,
        ),
        backbone=BEVConvNeXt(
            depths=depths, widths=widths, out_stages=out_stages, drop_path=drop_path
        ),
        neck=UpsampleConcatNeck(
            [widths[stage] for stage in out_stages],
            [neck_channels] * len(out_stages),
            tuple(2**i for i in range(len(out_stages))),
        ),
    )


def voxel_branch(
    grid: BEVGrid,
    *,
    height_m: float = 0.2,
    max_voxels: tuple[int, int] = (120_000, 160_000),
    natural: bool = False,
    kept_cells: int | None = None,
    widths: Sequence[int] = (16, 32, 64, 128),
    blocks: int = 2,
    out_channels: int = 128,
    bev_widths: tuple[int, int] = (128, 256),
    bev_layers: tuple[int, int] = (5, 5),
    neck_channels: int = 256,
    backend: Backend = "own",
) -> LidarBranch:
    """SECOND's branch as CMT has it (junjie18/CMT, voxel0075); by default its sizes.

    Args:
        grid: the voxels from above.
        height_m: of a voxel.
        max_voxels: cap of a sample in training and in evaluation.
        natural: divide inputs by about one standard deviation each.
        kept_cells: of :class:`~perception3d.backbones.voxels.VoxelEncoder`.
        widths, blocks, out_channels: of :class:`~perception3d.backbones.voxels.SparseEncoder`;
            the output has a stride of 2 for each of ``widths`` but the last.
        bev_widths, bev_layers: of :class:`~perception3d.backbones.second.SECOND`.
        neck_channels: of each of the neck's two branches.
        backend: whose kernels run the sparse convolutions, "own" or "spconv".
    """
    encoder = VoxelEncoder(
        grid=grid,
        height_m=height_m,
        max_voxels=max_voxels,
        units=natural_units(grid)[:POINT_CHANNELS] if natural else None,
        kept_cells=kept_cells,
    )
    middle = SparseEncoder(
        cells_z=encoder.cells_z,
        widths=widths,
        blocks=blocks,
        out_channels=out_channels,
        backend=backend,
    )
    return LidarBranch(
        encoder=encoder,
        middle=middle,
        backbone=SECOND(in_channels=middle.channels, widths=bev_widths, layers=bev_layers),
        neck=UpsampleConcatNeck(bev_widths, (neck_channels,) * 2, (1, 2)),
    )
