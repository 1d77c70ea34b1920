"""The bird's-eye raster that pillars, BEV features and maps share."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from perception3d.structures.checks import check_tensor


@dataclass(frozen=True)
class BEVGrid:
    """A rectangle of square cells in the frame ``ref``.

    Rasters have layout (..., ny, nx): row = y, column = x, index 0 at the minimum.

    Attributes:
        x_m, y_m: (low, high) extent in metres.
        z_m: (low, high) height band that belongs to the grid.
        cell_m: side of a cell in metres.
    """

    x_m: tuple[float, float]
    y_m: tuple[float, float]
    z_m: tuple[float, float]
    cell_m: float

    def __post_init__(self) -> None:
        if not self.cell_m > 0:
            raise ValueError(f"BEVGrid.cell_m must be > 0; found {self.cell_m}")
        for name in ("x_m", "y_m", "z_m"):
            low, high = getattr(self, name)
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise ValueError(
                    f"BEVGrid.{name} must be (low, high) with low < high; found {low, high}"
                )
            cells = (high - low) / self.cell_m
            if name != "z_m" and abs(cells - round(cells)) > 1e-3:
                raise ValueError(
                    f"BEVGrid.{name} = {low, high} is {cells:.3f} cells of {self.cell_m} m; "
                    "choose a range that is a whole number of cells"
                )

    @property
    def nx(self) -> int:
        """Number of columns."""
        return round((self.x_m[1] - self.x_m[0]) / self.cell_m)

    @property
    def ny(self) -> int:
        """Number of rows."""
        return round((self.y_m[1] - self.y_m[0]) / self.cell_m)

    @property
    def range_m(self) -> tuple[float, float, float, float, float, float]:
        """x, y, z minima, then x, y, z maxima, in metres."""
        return (self.x_m[0], self.y_m[0], self.z_m[0], self.x_m[1], self.y_m[1], self.z_m[1])

    def centers_m(self) -> Tensor:
        """(ny, nx, 2) float32 x, y of every cell's centre."""
        x = self.x_m[0] + (torch.arange(self.nx, dtype=torch.float64) + 0.5) * self.cell_m
        y = self.y_m[0] + (torch.arange(self.ny, dtype=torch.float64) + 0.5) * self.cell_m
        rows, columns = torch.meshgrid(y, x, indexing="ij")
        return torch.stack((columns, rows), dim=-1).float()

    def index(self, xy_m: Tensor) -> tuple[Tensor, Tensor]:
        """Cells of points.

        Subtraction and division run in float32, as in the published voxelisers: double arithmetic
        puts points at cell borders elsewhere.

        Args:
            xy_m: (N, 2) metres; further columns are not allowed.

        Returns:
            row_column (N, 2) int64, and inside (N,) bool. Rows of outside or non-finite points are
            0.
        """
        check_tensor("BEVGrid.index", "xy_m", xy_m, ("N", 2), floating=True)
        low = torch.tensor([self.x_m[0], self.y_m[0]], dtype=torch.float32, device=xy_m.device)
        cell = torch.tensor(self.cell_m, dtype=torch.float32, device=xy_m.device)
        column_row = torch.floor((xy_m.float() - low) / cell)
        limit = torch.tensor([self.nx, self.ny], dtype=torch.float32, device=xy_m.device)
        inside = ((column_row >= 0) & (column_row < limit)).all(dim=-1)
        safe = torch.where(inside[:, None], column_row, torch.zeros_like(column_row))
        return safe.long().flip(-1), inside

    def stride(self, k: int) -> BEVGrid:
        """The same rectangle in cells k times as large.

        Raises:
            ValueError: k does not divide the number of rows and columns.
        """
        if k < 1 or self.nx % k or self.ny % k:
            raise ValueError(f"stride {k} does not divide a grid of {self.ny} x {self.nx} cells")
        return replace(self, cell_m=self.cell_m * k)
