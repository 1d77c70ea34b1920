"""Ragged rows to arrays of one size, as hard voxelization is published."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from perception3d_ops.checks import check_tensor
from perception3d_ops.group_rows import group_of_order
from perception3d_ops.library import define, define_gradient


def pad_rows(rows: Tensor, order: Tensor, start: Tensor, slots: int) -> Tensor:
    """Put the rows of each group into its slots, zeros behind them.

    Args:
        rows: (R, C) floating point.
        order: (K,) int64 rows by group, each at most once.
        start: (G + 1,) int64; group g owns order[start[g]:start[g + 1]].
        slots: S; the first S rows of a group are taken.

    Returns:
        (G, S, C).

    Raises:
        ValueError: wrong shapes, types or devices, or no slot.
    """
    check_tensor("rows", rows, ("R", "C"), floating=True)
    check_tensor("order", order, ("K",), types=(torch.int64,), beside=rows)
    check_tensor("start", start, ("G + 1",), types=(torch.int64,), beside=rows)
    if slots < 1:
        raise ValueError(f"slots must be positive; found {slots}")
    return _op(rows, order, start, slots)


def pad_rows_twin(rows: Tensor, order: Tensor, start: Tensor, slots: int) -> Tensor:
    """The definition of :func:`pad_rows`."""
    group, slot = _places(order, start)
    fits = slot < slots
    out = rows.new_zeros(len(start) - 1, slots, rows.shape[1])
    return out.index_put_((group[fits], slot[fits]), rows[order[fits]])


def _places(order: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """(K,) group and slot of each row of ``order``."""
    group = group_of_order(order, start)
    return group, torch.arange(len(order), device=start.device) - start[group]


def _fake(rows: Tensor, order: Tensor, start: Tensor, slots: int) -> Tensor:
    return rows.new_empty(start.shape[0] - 1, slots, rows.shape[1])


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    rows, order, start, ctx.slots = inputs
    ctx.rows = rows.shape[0]
    ctx.save_for_backward(order, start)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    order, start = ctx.saved_tensors
    group, slot = _places(order, start)
    fits = (slot < ctx.slots)[:, None]
    slope = torch.where(fits, gradient[group, slot.clamp(max=ctx.slots - 1)], 0.0)
    out = gradient.new_zeros(ctx.rows, gradient.shape[2])
    return out.index_copy(0, order, slope), None, None, None


_op = define(
    "pad_rows(Tensor rows, Tensor order, Tensor start, SymInt slots) -> Tensor",
    pad_rows_twin,
    _fake,
)
define_gradient(_op, _backward, _keep)
