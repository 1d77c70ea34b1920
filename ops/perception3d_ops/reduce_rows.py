"""Mean, maximum or sum of the rows of each group, such as the points of a voxel."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from perception3d_ops.checks import check_tensor
from perception3d_ops.group_rows import Groups, group_of_order
from perception3d_ops.library import define, define_gradient

Reduction = Literal["sum", "mean", "max"]
REDUCTIONS: tuple[Reduction, ...] = ("sum", "mean", "max")
SUM, MEAN, MAX = range(3)


def reduce_rows(rows: Tensor, groups: Groups, reduction: Reduction) -> Tensor:
    """One row a group. Deterministic: rows are added in their order, whatever the threads.

    Args:
        rows: (R, C) floating point; half precision is added in float32.
        groups: of the R rows.
        reduction: "sum", "mean" or "max". The gradient of a maximum goes to one row, the lowest
            that attains it, as in mmcv's ``DynamicScatter``.

    Returns:
        (G, C), in the type of ``rows``.

    Raises:
        ValueError: another shape, type or device, other rows than the groups know, or an unknown
            reduction.
    """
    check_tensor("rows", rows, (groups.rows, "C"), floating=True)
    check_tensor("groups.order", groups.order, ("K",), types=(torch.int64,), beside=rows)
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}; found {reduction!r}")
    learns = rows.requires_grad and torch.is_grad_enabled()
    return _op(rows, groups.order, groups.start, REDUCTIONS.index(reduction), learns)[0]


def reduce_rows_twin(
    rows: Tensor, order: Tensor, start: Tensor, reduction: int, with_source: bool
) -> tuple[Tensor, Tensor]:
    """The definition of :func:`reduce_rows`: results, and the rows (G, C) int32 of maxima."""
    count = start.diff()
    group = group_of_order(order, start)
    wide = rows.float() if rows.dtype in (torch.float16, torch.bfloat16) else rows
    sorted_rows = wide[order]
    index = group[:, None].expand_as(sorted_rows)
    shape = (len(count), rows.shape[1])
    if reduction != MAX:
        out = sorted_rows.new_zeros(shape).index_add_(0, group, sorted_rows)
        if reduction == MEAN:
            out = out / count[:, None]
        return out.to(rows.dtype), _no_source(order, rows)
    out = sorted_rows.new_zeros(shape)
    out = out.scatter_reduce(0, index, sorted_rows, "amax", include_self=False)
    if not with_source:
        return out.to(rows.dtype), _no_source(order, rows)
    attained = (sorted_rows == out[group]) | sorted_rows.isnan()
    candidate = torch.where(attained, order[:, None], len(rows))
    source = order.new_zeros(shape)
    source = source.scatter_reduce(0, index, candidate, "amin", include_self=False)
    return out.to(rows.dtype), source.int()


def _no_source(order: Tensor, rows: Tensor) -> Tensor:
    return order.new_empty((0, rows.shape[1]), dtype=torch.int32)


def spread_rows_twin(
    gradient: Tensor, order: Tensor, start: Tensor, source: Tensor, rows: int, reduction: int
) -> Tensor:
    """The derivative of :func:`reduce_rows_twin`: (G, C) to (R, C)."""
    out = gradient.new_zeros(rows, gradient.shape[1])
    if reduction == MAX:
        return out.scatter_(0, source.long(), gradient)
    count = start.diff()
    if reduction == MEAN:
        gradient = gradient / count[:, None]
    return out.index_copy_(0, order, gradient.repeat_interleave(count, dim=0))


def _fake_reduce(
    rows: Tensor, order: Tensor, start: Tensor, reduction: int, with_source: bool
) -> tuple[Tensor, Tensor]:
    groups, channels = start.shape[0] - 1, rows.shape[1]
    tracked = groups if with_source and reduction == MAX else 0
    return rows.new_empty(groups, channels), order.new_empty((tracked, channels), dtype=torch.int32)


def _fake_spread(
    gradient: Tensor, order: Tensor, start: Tensor, source: Tensor, rows: int, reduction: int
) -> Tensor:
    return gradient.new_empty(rows, gradient.shape[1])


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    rows, order, start, ctx.reduction, _ = inputs
    ctx.rows = rows.shape[0]
    ctx.save_for_backward(order, start, output[1])
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, gradient: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    spread = _spread(gradient, *ctx.saved_tensors, ctx.rows, ctx.reduction)
    return spread, None, None, None, None


_op = define(
    "reduce_rows(Tensor rows, Tensor order, Tensor start, int reduction, "
    "bool with_source) -> (Tensor, Tensor)",
    reduce_rows_twin,
    _fake_reduce,
)
_spread = define(
    "spread_rows(Tensor gradient, Tensor order, Tensor start, Tensor source, SymInt rows, "
    "int reduction) -> Tensor",
    spread_rows_twin,
    _fake_spread,
)
define_gradient(_op, _backward, _keep)
