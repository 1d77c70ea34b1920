"""Gaussian targets of heat maps."""

from __future__ import annotations

import torch
from torch import Tensor

#: Values below this share of the peak count as zero (the float32 epsilon of the published targets).
NEGLIGIBLE = torch.finfo(torch.float32).eps


def gaussian_radius(size_cells: Tensor, *, min_overlap: float) -> Tensor:
    """Radius within which a shifted box still overlaps the true one by ``min_overlap``.

    The published, uncorrected CornerNet formula: the roots are divided by 2, not by 2a. Models
    trained with it (CenterPoint, PillarNeSt, TransFusion) expect just these targets.

    Args:
        size_cells: (N, 2) extent of the boxes in cells.
        min_overlap: IoU in (0, 1).

    Returns:
        (N,) radius in cells, not rounded.
    """
    total, area = size_cells.sum(dim=1), size_cells.prod(dim=1)
    o = min_overlap
    r1 = (total + (total**2 - 4 * area * (1 - o) / (1 + o)).clamp_min(0).sqrt()) / 2
    r2 = (2 * total + (4 * total**2 - 16 * (1 - o) * area).clamp_min(0).sqrt()) / 2
    r3 = (-2 * o * total + (4 * o**2 * total**2 + 16 * o * (1 - o) * area).sqrt()) / 2
    return torch.stack((r1, r2, r3)).amin(dim=0)


def draw_gaussians(
    cell: Tensor, radius: Tensor, label: Tensor, *, shape: tuple[int, int, int]
) -> Tensor:
    """Heat maps with a Gaussian of sigma = (2 r + 1) / 6 at every centre, merged by the maximum.

    Args:
        cell: (N, 2) int64 row, column; all inside the map.
        radius: (N,) int64 half width of the drawn square, in cells.
        label: (N,) int64 class.
        shape: classes, rows, columns.

    Returns:
        (classes, rows, columns) float32 in [0, 1]; exactly 1 at the centres.
    """
    classes, rows, columns = shape
    heat = torch.zeros(classes, rows * columns, device=cell.device)
    if len(cell) == 0:
        return heat.view(shape)
    row_offset = torch.arange(rows, device=cell.device) - cell[:, :1]
    column_offset = torch.arange(columns, device=cell.device) - cell[:, 1:]
    variance = 2 * ((2 * radius.float() + 1) / 6).square()
    along_rows = torch.exp(-row_offset.square() / variance[:, None])
    along_columns = torch.exp(-column_offset.square() / variance[:, None])
    along_rows = along_rows.masked_fill(row_offset.abs() > radius[:, None], 0)
    along_columns = along_columns.masked_fill(column_offset.abs() > radius[:, None], 0)
    blobs = along_rows[:, :, None] * along_columns[:, None, :]
    blobs = blobs.masked_fill(blobs < NEGLIGIBLE, 0).flatten(1)
    heat.scatter_reduce_(0, label[:, None].expand_as(blobs), blobs, "amax")
    return heat.view(shape)
