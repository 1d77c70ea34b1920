"""Which cell of a grid holds a point: the arithmetic that all voxelisation shares."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from perception3d_ops.checks import check_tensor
from perception3d_ops.library import define

#: Keys of points that have no cell.
OUTSIDE, NOT_FINITE = -1, -2
#: Along an axis, float32 tells no more cells apart; in all, keys must not overflow in a batch of
#: 2^15 samples.
MOST_CELLS, MOST_KEYS = 2**24, 2**48


class LeftOut:
    """Counts of the points that have no cell, for what holds the keys of all points."""

    key: Tensor

    @property
    def outside(self) -> Tensor:
        """() int64 finite points outside of the grid; points beyond caps are not among them."""
        return (self.key == OUTSIDE).sum()

    @property
    def not_finite(self) -> Tensor:
        """() int64 points with a coordinate that is NaN or infinite."""
        return (self.key == NOT_FINITE).sum()


@dataclass(frozen=True)
class CellGrid:
    """A box cut into cells. x, y, z minima and sizes, rounded to float32, and counts of cells.

    Attributes:
        low: (3,) minima in metres.
        size: (3,) metres of a cell.
        cells: (3,) number of cells along x, y, z.
    """

    low: tuple[float, float, float]
    size: tuple[float, float, float]
    cells: tuple[int, int, int]

    @staticmethod
    def of(range_m: Sequence[float], cell_m: Sequence[float]) -> CellGrid:
        """Cells of ``cell_m`` (x, y, z) in ``range_m`` (x, y, z minima, then maxima).

        There are round((maximum - minimum) / size) of them, in float32 as published.

        Raises:
            ValueError: not 6 and 3 numbers, a size that is not positive, or a range without cells.
        """
        if len(range_m) != 6 or len(cell_m) != 3:
            raise ValueError(
                f"range_m must hold 6 numbers and cell_m 3; found {len(range_m)} and {len(cell_m)}"
            )
        numbers = (*range_m, *cell_m)
        # Not math.isfinite, which torch.compile cannot follow; NaN is less than nothing.
        if not all(abs(number) < math.inf for number in numbers):
            raise ValueError(
                f"range and cells must be finite; found {tuple(range_m)}, {tuple(cell_m)}"
            )
        low, high = ([float32(value) for value in part] for part in (range_m[:3], range_m[3:]))
        size = [float32(value) for value in cell_m]
        if min(size) <= 0:
            raise ValueError(f"cells must have positive sizes; found {tuple(cell_m)}")
        # A double holds more than twice the digits of a float32, so rounding its results to float32
        # gives what arithmetic in float32 gives.
        x, y, z = (
            round(float32(float32(top - bottom) / step))
            for bottom, top, step in zip(low, high, size)
        )
        if min(x, y, z) < 1:
            raise ValueError(f"range {tuple(range_m)} holds no cell of {tuple(cell_m)}")
        if max(x, y, z) > MOST_CELLS or x * y * z > MOST_KEYS:
            raise ValueError(
                f"range {tuple(range_m)} holds {x} x {y} x {z} cells of {tuple(cell_m)}: more than "
                f"{MOST_CELLS} along an axis, or than keys can number"
            )
        return CellGrid((low[0], low[1], low[2]), (size[0], size[1], size[2]), (x, y, z))

    @property
    def cells_of_sample(self) -> int:
        """Number of cells in the box."""
        return self.cells[0] * self.cells[1] * self.cells[2]

    def unravel(self, key: Tensor) -> Tensor:
        """(V,) keys >= 0 to (V, 4) int64 sample, z, y, x."""
        return unravel(key, self.cells)


def float32(value: float) -> float:
    """The nearest float32, ties to even: plain arithmetic, which ``torch.compile`` can follow."""
    mantissa, exponent = math.frexp(value)
    return math.ldexp(round(mantissa * 2**24), exponent - 24)


def unravel(key: Tensor, cells: Sequence[int]) -> Tensor:
    """(V,) keys >= 0 of a grid of ``cells`` (x, y, z) to (V, 4) int64 sample, z, y, x."""
    nx, ny, nz = cells
    column, key = key % nx, key // nx
    row, key = key % ny, key // ny
    return torch.stack((key // nz, key % nz, row, column), dim=1)


def voxel_keys(xyz: Tensor, offsets: Tensor, grid: CellGrid) -> Tensor:
    """Cells of points.

    Cell = floor((p - minimum) / size) with subtraction and division in float32, as in mmcv and
    spconv; it exists if it lies in the grid on all axes (the range itself is not looked at).

    Args:
        xyz: (P, 3) metres, any floating type; taken as float32.
        offsets: (B + 1,) int64; sample b owns rows offsets[b]:offsets[b + 1].
        grid: the cells.

    Returns:
        (P,) int64 ((sample nz + z) ny + y) nx + x, or ``OUTSIDE``, or ``NOT_FINITE`` where a
        coordinate is NaN or infinite.

    Raises:
        ValueError: wrong shapes, types or devices, or offsets that do not cover the points.
    """
    check_tensor("xyz", xyz, ("P", 3), floating=True)
    check_offsets(offsets, xyz)
    return _op(xyz, offsets, list(grid.low), list(grid.size), list(grid.cells))


def check_offsets(offsets: Tensor, rows: Tensor) -> None:
    """Offsets are int64, ascend from 0 and end at the number of rows (on the CPU; no sync else)."""
    check_tensor("offsets", offsets, ("B + 1",), types=(torch.int64,), beside=rows)
    if len(offsets) < 2:
        raise ValueError(f"offsets must hold two numbers or more; found {len(offsets)}")
    if torch.compiler.is_compiling() or offsets.device.type != "cpu":
        return
    values = offsets.tolist()
    if values[0] != 0 or values[-1] != len(rows) or values != sorted(values):
        raise ValueError(
            f"offsets must ascend from 0 to the number of rows, {len(rows)}; found {values}"
        )


def voxel_keys_twin(
    xyz: Tensor, offsets: Tensor, low: Sequence[float], size: Sequence[float], cells: Sequence[int]
) -> Tensor:
    """The definition of :func:`voxel_keys`."""
    xyz = xyz.float()
    cell = torch.floor((xyz - xyz.new_tensor(low)) / xyz.new_tensor(size))
    inside = ((cell >= 0) & (cell < cell.new_tensor(cells))).all(dim=1)
    x, y, z = torch.where(inside[:, None], cell, 0.0).long().unbind(1)
    rows = torch.arange(len(xyz), device=xyz.device)
    sample = torch.searchsorted(offsets.contiguous(), rows, right=True) - 1
    nx, ny, nz = cells
    key = ((sample * nz + z) * ny + y) * nx + x
    key = torch.where(inside, key, OUTSIDE)
    return torch.where(torch.isfinite(xyz).all(dim=1), key, NOT_FINITE)


def _fake(xyz: Tensor, *_: object) -> Tensor:
    return xyz.new_empty(xyz.shape[0], dtype=torch.int64)


_op = define(
    "voxel_keys(Tensor xyz, Tensor offsets, float[] low, float[] size, int[] cells) -> Tensor",
    voxel_keys_twin,
    _fake,
)
