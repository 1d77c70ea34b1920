"""Map segmentation on a bird's-eye map: the features read at the map's cells, three convolutions.

Reference: BEVFusion (arXiv 2205.13542; mit-han-lab/bevfusion, ``BEVSegmentationHead``).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import grid_sample

from perception3d.losses.focal import sigmoid_focal_loss
from perception3d.nn.conv import conv_norm_relu
from perception3d.structures import BEVFeatures, BEVGrid

#: Width of the light head's convolutions beside the features': 0.7^2 + 0.7 is 0.6 of 1 + 1.
LIGHT = 0.7


class BevMapHead(nn.Module):
    """Logits of several classes that may overlap.

    Args:
        in_channels: of the features.
        grid: of the features.
        map_grid: of the map; must lie within ``grid``.
        classes: names, in the order of the map's layers.
        light: narrower convolutions, 40 % fewer weights (:data:`LIGHT`); FULLER (arXiv 2307.16617)
            saves that share with heads that its text does not describe.

    Raises:
        ValueError: the map reaches beyond the features.
    """

    at: Tensor

    def __init__(
        self,
        *,
        in_channels: int,
        grid: BEVGrid,
        map_grid: BEVGrid,
        classes: Sequence[str],
        light: bool = False,
    ) -> None:
        super().__init__()
        for axis in ("x_m", "y_m"):
            (low, high), (first, last) = getattr(grid, axis), getattr(map_grid, axis)
            if first < low or last > high:
                raise ValueError(
                    f"the map's {axis} {first, last} reaches beyond the features' {low, high}"
                )
        self.grid, self.map_grid, self.classes = grid, map_grid, tuple(classes)
        width = round(in_channels * LIGHT / 8) * 8 if light else in_channels
        self.layers = nn.Sequential(
            *conv_norm_relu(in_channels, width),
            *conv_norm_relu(width, width),
            nn.Conv2d(width, len(classes), 1),
        )
        low = torch.tensor((grid.x_m[0], grid.y_m[0]))
        extent = torch.tensor((grid.x_m[1] - grid.x_m[0], grid.y_m[1] - grid.y_m[0]))
        at = (map_grid.centers_m() - low) / extent * 2 - 1
        self.register_buffer("at", at[None], persistent=False)

    def forward(self, features: BEVFeatures) -> Tensor:
        """(B, in_channels, ny, nx) on ``grid`` -> (B, K, rows, columns) logits on ``map_grid``.

        Raises:
            ValueError: the features have another grid.
        """
        if features.grid != self.grid:
            raise ValueError(f"the head was built for {self.grid}; found {features.grid}")
        data = features.data
        at = self.at.expand(len(data), -1, -1, -1)
        # Places in half precision would be off by a fifth of a cell.
        read = grid_sample(data.float(), at, mode="bilinear", align_corners=False)
        return self.layers(read.to(data.dtype))

    def loss(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Focal loss (gamma 2, positives and negatives alike), mean over cells, by class.

        Args:
            logits: of :meth:`forward`.
            target: (B, K, rows, columns) bool.

        Raises:
            ValueError: the map has another shape.
        """
        if target.shape != logits.shape:
            raise ValueError(
                f"the head draws {tuple(logits.shape)} (samples, classes, rows, columns); found a "
                f"target of {tuple(target.shape)}"
            )
        index = (~target.bool()).long()  # 0 = the class, 1 = background
        # alpha weighs both sides by a half: twice the loss is that without alpha.
        focal = 2 * sigmoid_focal_loss(logits.unsqueeze(-1), index, alpha=0.5).squeeze(-1)
        return dict(zip(self.classes, focal.mean(dim=(0, 2, 3))))

    @torch.no_grad()
    def decode(self, logits: Tensor) -> Tensor:
        """(B, K, rows, columns) probabilities, on the CPU."""
        return logits.float().sigmoid().cpu()
