"""Rows of occupied cells to a dense map and back.

Both are one pass over memory in PyTorch already (a copy of rows by index, and its gather), with the
gradient of each the other; a kernel of ours was no faster, so there is none.
"""

from __future__ import annotations

import torch
from torch import Tensor

from perception3d_ops.checks import check_tensor


def to_canvas(rows: Tensor, cell: Tensor, cells: int) -> Tensor:
    """Put rows into the cells of an empty map.

    Args:
        rows: (N, C) floating point.
        cell: (N,) int64 cell of each row, 0 to cells - 1, each at most once.
        cells: size of the map, such as B ny nx.

    Returns:
        (cells, C), zero where no row is. Its gradient is gathered from the cells.

    Raises:
        ValueError: wrong shapes, types or devices.
        IndexError: a cell beyond the map.
    """
    check_tensor("rows", rows, ("N", "C"), floating=True)
    check_tensor("cell", cell, (rows.shape[0],), types=(torch.int64,), beside=rows)
    # In place on the new map: the copying form would copy all of it once more.
    return rows.new_zeros(cells, rows.shape[1]).index_copy_(0, cell, rows)


def from_canvas(canvas: Tensor, cell: Tensor) -> Tensor:
    """Read the rows of some cells.

    Args:
        canvas: (cells, C).
        cell: (N,) int64, 0 to cells - 1; may repeat.

    Returns:
        (N, C). Its gradient is added up in the cells.

    Raises:
        ValueError: wrong shapes, types or devices.
        IndexError: a cell beyond the map.
    """
    check_tensor("canvas", canvas, ("cells", "C"), floating=True)
    check_tensor("cell", cell, ("N",), types=(torch.int64,), beside=canvas)
    return canvas.index_select(0, cell)
