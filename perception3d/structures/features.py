"""Features that keep their place in the world."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from perception3d.structures.checks import check_same_length, check_tensor, move
from perception3d.structures.grid import BEVGrid


@dataclass(frozen=True)
class Pillars:
    """Occupied cells of a grid.

    Attributes:
        index: (M, 3) int64 sample, row (y), column (x).
        features: (M, C).
        grid: the cells.
        batch_size: number of samples; a sample may own no pillar.
    """

    index: Tensor
    features: Tensor
    grid: BEVGrid
    batch_size: int

    def __post_init__(self) -> None:
        check_tensor("Pillars", "index", self.index, ("M", 3), floating=False)
        check_tensor("Pillars", "features", self.features, ("M", "C"), floating=True)
        check_same_length("Pillars", index=len(self.index), features=len(self.features))

    def dense(self) -> Tensor:
        """(B, C, ny, nx) canvas, zero where no pillar is."""
        ny, nx, channels = self.grid.ny, self.grid.nx, self.features.shape[1]
        sample, row, column = self.index.unbind(1)
        canvas = self.features.new_zeros(self.batch_size * ny * nx, channels)
        canvas = canvas.index_copy(0, (sample * ny + row) * nx + column, self.features)
        return canvas.view(self.batch_size, ny, nx, channels).permute(0, 3, 1, 2)

    def to(self, device: torch.device | str) -> Pillars:
        """A copy on another device."""
        return move(self, device)


@dataclass(frozen=True)
class BEVFeatures:
    """data (B, C, ny, nx) on ``grid``."""

    data: Tensor
    grid: BEVGrid

    def __post_init__(self) -> None:
        check_tensor("BEVFeatures", "data", self.data, ("B", "C", self.grid.ny, self.grid.nx))

    def to(self, device: torch.device | str) -> BEVFeatures:
        """A copy on another device."""
        return move(self, device)


@dataclass(frozen=True)
class ImageFeatures:
    """data (B, V, C, h, w); a cell covers ``stride`` x ``stride`` pixels of the network's input."""

    data: Tensor
    stride: int

    def __post_init__(self) -> None:
        check_tensor("ImageFeatures", "data", self.data, ("B", "V", "C", "h", "w"))

    def to(self, device: torch.device | str) -> ImageFeatures:
        """A copy on another device."""
        return move(self, device)
