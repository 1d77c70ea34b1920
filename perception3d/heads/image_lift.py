"""Image features carried to the bird's-eye map, so that its heat map sees what cameras see.

Each cell looks into the images that show it, at some heights above the ground, and takes the mean
of what it finds there. Depth is not asked for: along a ray all cells see the same, and LiDAR says
in which of them something stands (PointPainting, arXiv 1911.10150, does so for points).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from perception3d.geometry import project_points
from perception3d.structures import Batch, BEVGrid, ImageFeatures

#: Nearer to the image plane than this, a point is not looked at.
NEAR_M = 0.5


class ImageLift(nn.Module):
    """A 1x1 convolution on images, read at the projections of BEV cells.

    Args:
        channels: of the image features.
        lifted: channels of the result.
        heights_m: z at which a cell is looked up, in ``ref``: with a LiDAR on a roof, about the
            middle of cars and people, and of lorries.
    """

    def __init__(
        self,
        *,
        channels: int,
        lifted: int,
        heights_m: Sequence[float] = (-1.2, -0.2),
    ) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, lifted, 1)
        self.norm = nn.BatchNorm2d(lifted)
        self.heights_m, self.lifted = tuple(heights_m), lifted

    def forward(self, images: ImageFeatures, batch: Batch, grid: BEVGrid) -> Tensor:
        """(B, lifted, ny, nx), zero in cells that no camera shows.

        Args:
            images: (B, V, C, h, w).
            batch: its rig and images' size give the projections.
            grid: of the map.
        """
        assert batch.rig is not None and batch.images is not None
        views = torch.relu(self.norm(self.reduce(images.data.flatten(0, 1))))
        (samples, cameras), (h, w) = images.data.shape[:2], images.data.shape[-2:]
        rows = views.permute(0, 2, 3, 1).reshape(samples * cameras * h * w, self.lifted)
        projection = batch.rig.ref_to_image()
        uv, depth = project_points(self._points(grid).to(views.device), projection)
        height, width = batch.images.shape[-2:]
        inside = (uv >= 0).all(dim=-1) & (uv[..., 0] < width) & (uv[..., 1] < height)
        sample, camera, point = (inside & (depth > NEAR_M)).nonzero(as_tuple=True)
        at = uv[sample, camera, point] / images.stride - 0.5
        seen = _between(rows, (sample * cameras + camera) * (h * w), at, h, w)
        # Points of a cell follow one another, cell by cell.
        cells = grid.ny * grid.nx
        cell = sample * cells + point // len(self.heights_m)
        total = seen.new_zeros(samples * cells, self.lifted).index_add(0, cell, seen)
        count = torch.bincount(cell, minlength=samples * cells).clamp(min=1)
        mean = total / count[:, None]
        return mean.view(samples, grid.ny, grid.nx, self.lifted).permute(0, 3, 1, 2)

    def _points(self, grid: BEVGrid) -> Tensor:
        """(cells x heights, 3) in ``ref``."""
        xy = grid.centers_m().flatten(0, 1).repeat_interleave(len(self.heights_m), dim=0)
        z = torch.tensor(self.heights_m).repeat(grid.ny * grid.nx)
        return torch.cat((xy, z[:, None]), dim=1)


def _between(rows: Tensor, first: Tensor, at: Tensor, h: int, w: int) -> Tensor:
    """Bilinear values (P, C) of maps (rows, C), each h x w from ``first`` (P,), at (P, 2) x, y.

    ``grid_sample`` would read every point in every camera, most of which show it not: eight times
    as slow on a CPU.
    """
    corner = at.floor()
    share = at - corner
    out: Tensor | float = 0.0
    for dy in (0, 1):
        for dx in (0, 1):
            x = (corner[:, 0].long() + dx).clamp(0, w - 1)
            y = (corner[:, 1].long() + dy).clamp(0, h - 1)
            weight = (share[:, 0] if dx else 1 - share[:, 0]) * (
                share[:, 1] if dy else 1 - share[:, 1]
            )
            out = out + rows.index_select(0, first + y * w + x) * weight[:, None]
    assert isinstance(out, Tensor)
    return out
