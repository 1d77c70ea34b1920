"""Features that keep their place in the world."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from perception3d_ops.canvas import from_canvas, to_canvas
from torch import Tensor

from perception3d.structures.checks import check_same_length, check_tensor, move
from perception3d.structures.grid import BEVGrid

if TYPE_CHECKING:  # nouns must not load compiled kernels
    from perception3d_ops.sparse_sites import SparseSites


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
        ny, nx, batch = self.grid.ny, self.grid.nx, self.batch_size
        canvas = to_canvas(self.features, self._cell(), batch * ny * nx)
        return canvas.view(batch, ny, nx, -1).permute(0, 3, 1, 2)

    def read(self, canvas: Tensor) -> Pillars:
        """The same pillars with what a (B, C', ny, nx) map holds at their cells."""
        rows = canvas.permute(0, 2, 3, 1).flatten(0, 2)
        return replace(self, features=from_canvas(rows, self._cell()))

    def _cell(self) -> Tensor:
        sample, row, column = self.index.unbind(1)
        return (sample * self.grid.ny + row) * self.grid.nx + column

    def to(self, device: torch.device | str) -> Pillars:
        """A copy on another device."""
        return move(self, device)


@dataclass(frozen=True)
class SparseVoxels:
    """Occupied cells of a 3-D grid.

    Attributes:
        features: (N, C), a row a site.
        sites: which cells (sample, z, y, x), of a grid of how many, in a batch of how many.
        grid: the cells from above, ny x nx of ``sites``; None where features have no place in the
            world.
        stored: what a foreign library wants to keep for these sites; shared by all features there.
    """

    features: Tensor
    sites: SparseSites
    grid: BEVGrid | None = None
    stored: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_tensor("SparseVoxels", "features", self.features, ("N", "C"), floating=True)
        check_same_length("SparseVoxels", sites=len(self.sites), features=len(self.features))
        shape = tuple(self.sites.shape[1:])
        if self.grid is not None and (self.grid.ny, self.grid.nx) != shape:
            raise ValueError(
                f"SparseVoxels.grid has {self.grid.ny} x {self.grid.nx} cells, its sites {shape}"
            )

    def with_features(self, features: Tensor) -> SparseVoxels:
        """Other features (N, C') at the same sites."""
        return replace(self, features=features)

    def dense(self) -> Tensor:
        """(B, C, nz, ny, nx), zero where no site is; the gradient is gathered from there."""
        (nz, ny, nx), batch = self.sites.shape, self.sites.batch_size
        canvas = to_canvas(self.features, self.sites.keys(), batch * nz * ny * nx)
        return canvas.view(batch, nz, ny, nx, self.features.shape[1]).permute(0, 4, 1, 2, 3)

    def bev(self) -> Tensor:
        """(B, C nz, ny, nx) from above: channel c nz + z, as ``dense().flatten(1, 2)``."""
        (nz, ny, nx), batch = self.sites.shape, self.sites.batch_size
        sample, z, y, x = self.sites.index.long().unbind(1)
        count, channels = self.features.shape
        # Each row is widened to all cells above its place, zero but in its own; sums of such rows
        # are exact. Several times as fast as writing single channels to their places.
        place = z[:, None, None].expand(count, channels, 1)
        wide = self.features.new_zeros(count, channels, nz)
        wide = wide.scatter_(2, place, self.features[:, :, None]).flatten(1)
        canvas = self.features.new_zeros(batch * ny * nx, channels * nz)
        canvas = canvas.index_add_(0, (sample * ny + y) * nx + x, wide)
        return canvas.view(batch, ny, nx, channels * nz).permute(0, 3, 1, 2)

    def to(self, device: torch.device | str) -> SparseVoxels:
        """A copy on another device."""
        return SparseVoxels(self.features.to(device), self.sites.to(device), self.grid)


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
