"""Bird's-eye maps of several sensors side by side, joined by one convolution.

Reference: BEVFusion (arXiv 2205.13542), its convolutional fuser.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class ConcatFuser(nn.Module):
    """Concatenation, 3x3 convolution, batch norm, ReLU.

    Args:
        in_channels: of each sensor's map, in order.
        channels: of the result.
    """

    def __init__(self, in_channels: Sequence[int], channels: int) -> None:
        super().__init__()
        self.in_channels, self.channels = tuple(in_channels), channels
        self.conv = nn.Conv2d(sum(in_channels), channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, *maps: Tensor) -> Tensor:
        """(B, in_channels[i], ny, nx) each -> (B, channels, ny, nx)."""
        found = tuple(one.shape[1] for one in maps)
        if found != self.in_channels:
            raise ValueError(f"maps of {self.in_channels} channels are joined; found {found}")
        return torch.relu(self.norm(self.conv(torch.cat(maps, dim=1))))
