"""Image features carried to the bird's-eye map, so that its heat map sees what cameras see.

Each cell looks into the images that show it, at some heights above the ground, and takes the mean
of what it finds there. Depth is not asked for: along a ray all cells see the same, and LiDAR says
in which of them something stands (PointPainting, arXiv 1911.10150, does so for points).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from perception3d.structures import Batch, BEVGrid, ImageFeatures

#: Nearer to the image plane than this, a point is not looked at.
NEAR_M = 0.5


class ImageLift(nn.Module):
    """A 1x1 convolution on images, read at the projections of BEV cells.

    Args:
        channels: of the image features.
        lifted: channels of the result.
        grid: extent of the map; its cells are given by each call.
        heights_m: z at which a cell is looked up, in ``ref``: with a LiDAR on a roof, about the
            middle of cars and people, and of lorries.
    """

    def __init__(
        self,
        *,
        channels: int,
        lifted: int,
        grid: BEVGrid,
        heights_m: Sequence[float] = (-1.2, -0.2),
    ) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, lifted, 1)
        self.norm = nn.BatchNorm2d(lifted)
        self.grid, self.heights_m, self.lifted = grid, tuple(heights_m), lifted

    def forward(self, images: ImageFeatures, batch: Batch, shape: Sequence[int]) -> Tensor:
        """(B, lifted, rows, columns), zero in cells that no camera shows.

        Args:
            images: (B, V, C, h, w).
            batch: its rig and images' size give the projections.
            shape: rows and columns of the map.
        """
        assert batch.rig is not None and batch.images is not None
        views = torch.relu(self.norm(self.reduce(images.data.flatten(0, 1))))
        (samples, cameras), (h, w) = images.data.shape[:2], images.data.shape[-2:]
        rows = views.permute(0, 2, 3, 1).reshape(samples * cameras * h * w, self.lifted)
        points = self._points(shape, views.device)
        uvd = torch.einsum("bvij,nj->bvni", batch.rig.ref_to_image().float(), points)[..., :3]
        depth = uvd[..., 2]
        uv = uvd[..., :2] / depth.clamp(min=NEAR_M)[..., None]
        height, width = batch.images.shape[-2:]
        inside = (uv >= 0).all(dim=-1) & (uv[..., 0] < width) & (uv[..., 1] < height)
        sample, camera, point = (inside & (depth > NEAR_M)).nonzero(as_tuple=True)
        at = uv[sample, camera, point] / images.stride - 0.5
        seen = _between(rows, (sample * cameras + camera) * (h * w), at, h, w)
        # Points of a cell follow one another, cell by cell.
        cells = shape[0] * shape[1]
        cell = sample * cells + point // len(self.heights_m)
        total = seen.new_zeros(samples * cells, self.lifted).index_add(0, cell, seen)
        count = torch.bincount(cell, minlength=samples * cells).clamp(min=1)
        mean = total / count[:, None]
        return mean.view(samples, *shape, self.lifted).permute(0, 3, 1, 2)

    def _points(self, shape: Sequence[int], device: torch.device) -> Tensor:
        """(cells x heights, 4) homogeneous, in ``ref``."""
        low, high = torch.tensor(self.grid.range_m, device=device).split(3)
        y, x = (
            low[axis] + (torch.arange(n, device=device) + 0.5) * ((high - low)[axis] / n)
            for axis, n in ((1, shape[0]), (0, shape[1]))
        )
        z = torch.tensor(self.heights_m, device=device)
        y, x, z = torch.meshgrid(y, x, z, indexing="ij")
        return torch.stack((x, y, z, torch.ones_like(x)), dim=-1).view(-1, 4)


def _between(rows: Tensor, first: Tensor, at: Tensor, h: int, w: int) -> Tensor:
    """Bilinear values (P, C) of maps (rows, C), each h x w from ``first`` (P,), at (P, 2) x, y."""
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
