"""Batch norm over the rows of a batch, addition of a residual and ReLU, with gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import batch_norm

from perception3d_ops.checks import check_tensor
from perception3d_ops.library import define, define_gradient, refuse_gradient

#: Fewer rows have no statistics.
FEWEST_ROWS = 2


def norm_rows(
    rows: Tensor,
    weight: Tensor,
    bias: Tensor,
    running: tuple[Tensor, Tensor],
    *,
    eps: float,
    residual: Tensor | None = None,
    rectify: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """relu((rows - mean) / sqrt(variance + eps) * weight + bias + residual), by the rows' own mean.

    Two passes over memory, and three backward. Sums are made in float32 a block and in float64
    beyond it (float64 for float64); on the CPU the same bits come out for any number of threads.

    Args:
        rows: (N, C) floating point.
        weight, bias: (C,).
        running: mean and variance (C,) that serve instead where there are fewer than two rows.
        eps: added to the variance.
        residual: (N, C) or None.
        rectify: whether negative results become 0.

    Returns:
        (N, C) in the type of ``rows``; the mean and the variance (C,) that served, the latter
        divided by N, in float32 (float64 for float64) and without gradients.

    Raises:
        ValueError: shapes, types or devices that do not fit each other.
    """
    check_tensor("rows", rows, ("N", "C"), floating=True)
    channels = (rows.shape[1],)
    wide = torch.promote_types(rows.dtype, torch.float32)
    given = (
        ("weight", weight),
        ("bias", bias),
        *zip(("running mean", "running variance"), running),
    )
    for name, tensor in given:
        check_tensor(name, tensor, channels, floating=True, beside=rows)
    if residual is not None:
        check_tensor("residual", residual, tuple(rows.shape), floating=True, beside=rows)
        residual = residual.to(rows.dtype)
    mean, variance = (tensor.detach().to(wide) for tensor in running)
    return _op(rows, weight.to(wide), bias.to(wide), mean, variance, residual, eps, rectify)


def norm_rows_twin(
    rows: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_variance: Tensor,
    residual: Tensor | None,
    eps: float,
    rectify: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The definition of :func:`norm_rows`."""
    wide = rows.to(weight.dtype)
    mean, variance = running_mean.clone(), running_variance.clone()
    if len(rows) >= FEWEST_ROWS:
        variance, mean = torch.var_mean(wide, dim=0, correction=0)
    out = batch_norm(wide, mean, variance, weight, bias, training=False, eps=eps)
    if residual is not None:
        out += residual
    if rectify:
        out = torch.relu_(out)
    return out.to(rows.dtype), mean, variance


def norm_rows_gradient_twin(
    gradient: Tensor,
    rows: Tensor,
    out: Tensor,
    weight: Tensor,
    mean: Tensor,
    variance: Tensor,
    eps: float,
    rectify: bool,
    with_residual: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The derivative of :func:`norm_rows_twin` by rows, weight, bias and, if asked, residual."""
    slope = gradient.to(weight.dtype)
    if rectify:
        slope = torch.where(out <= 0, 0, slope)
    by_residual = slope.to(rows.dtype) if with_residual else rows.new_empty(0, rows.shape[1])
    inverse = torch.rsqrt(variance + eps)
    normal = (rows.to(weight.dtype) - mean) * inverse
    by_weight, by_bias = (slope * normal).sum(0), slope.sum(0)
    if len(rows) >= FEWEST_ROWS:
        slope = slope - by_bias / len(rows) - normal * (by_weight / len(rows))
    by_rows = slope * (weight * inverse)
    return by_rows.to(rows.dtype), by_weight, by_bias, by_residual


def _fake(
    rows: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, *_: object
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(rows), torch.empty_like(mean), torch.empty_like(variance)


def _fake_gradient(
    gradient: Tensor, rows: Tensor, out: Tensor, weight: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    by_residual = torch.empty_like(rows) if rest[-1] else rows.new_empty(0, rows.shape[1])
    return torch.empty_like(rows), torch.empty_like(weight), torch.empty_like(weight), by_residual


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    rows, weight, _, _, _, residual, ctx.eps, ctx.rectify = inputs
    out, mean, variance = output
    ctx.with_residual = residual is not None
    ctx.mark_non_differentiable(mean, variance)
    ctx.save_for_backward(rows, out, weight, mean, variance)


def _backward(ctx: Any, gradient: Tensor, *_: object) -> tuple[Tensor | None, ...]:
    with_residual = ctx.with_residual and ctx.needs_input_grad[5]
    by_rows, by_weight, by_bias, by_residual = _gradient(
        gradient, *ctx.saved_tensors, ctx.eps, ctx.rectify, with_residual
    )
    residual = by_residual if with_residual else None
    return by_rows, by_weight, by_bias, None, None, residual, None, None


_op = define(
    "norm_rows(Tensor rows, Tensor weight, Tensor bias, Tensor running_mean, "
    "Tensor running_variance, Tensor? residual, float eps, bool rectify) "
    "-> (Tensor, Tensor, Tensor)",
    norm_rows_twin,
    _fake,
)
_gradient = define(
    "norm_rows_gradient(Tensor gradient, Tensor rows, Tensor out, Tensor weight, Tensor mean, "
    "Tensor variance, float eps, bool rectify, bool with_residual) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
    norm_rows_gradient_twin,
    _fake_gradient,
)
define_gradient(_op, _backward, _keep)
refuse_gradient(_gradient, "the gradient of a norm over rows")
