"""Sparse 3-D convolution over a kernel map, with gradients of features and weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from perception3d_ops.checks import check_tensor
from perception3d_ops.library import (
    define,
    define_gradient,
    define_on_cuda,
    refuse_gradient,
    triton_kernel,
)
from perception3d_ops.sparse_sites import KernelMap

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def sparse_conv(features: Tensor, weight: Tensor, kernel_map: KernelMap) -> Tensor:
    """out[m] = sum over taps k of features[table[k, m]] @ weight[k], where the table is not -1.

    Sums are made in float32 (float64 for float64), whatever the type; on the CPU the same bits come
    out for any number of threads. Under autocast both tensors take its type.

    Args:
        features: (N, Cin) of the map's source sites.
        weight: (K, Cin, Cout), any strides.
        kernel_map: from :meth:`SparseSites.submanifold`, ``strided``, or an inverse of these.

    Returns:
        (M, Cout) of the target sites.

    Raises:
        ValueError: shapes, types or devices that do not fit each other.
    """
    features, weight = _checked(features, weight, kernel_map)
    derived = features.requires_grad and torch.is_grad_enabled()
    back = kernel_map.back if derived else None
    return _op(features, weight, kernel_map.table, back, False)


def sparse_conv_affine(
    features: Tensor,
    weight: Tensor,
    kernel_map: KernelMap,
    *,
    shift: Tensor,
    residual: Tensor | None = None,
    rectify: bool = True,
) -> Tensor:
    """Convolution, then shift, addition of a residual and ReLU, without gradients.

    What a layer with batch norm is in evaluation, once the norm's scale is multiplied into the
    weights: one pass over memory instead of four.

    Args:
        features, weight, kernel_map: as of :func:`sparse_conv`.
        shift: (Cout,) added to every row.
        residual: (M, Cout) added as well.
        rectify: whether negative results become 0.

    Returns:
        (M, Cout) of the target sites.

    Raises:
        ValueError: shapes, types or devices that do not fit each other.
    """
    features, weight = _checked(features, weight, kernel_map)
    channels = weight.shape[2]
    check_tensor("shift", shift, (channels,), floating=True, beside=features)
    if residual is not None:
        shape = (len(kernel_map.target), channels)
        check_tensor("residual", residual, shape, floating=True, beside=features)
    # Double precision is for checks: the compiled kernel adds in float32.
    op = sparse_conv_affine_twin if features.dtype == torch.float64 else _affine
    with torch.no_grad():
        return op(features, weight, kernel_map.table, shift, residual, rectify)


def _checked(features: Tensor, weight: Tensor, kernel_map: KernelMap) -> tuple[Tensor, Tensor]:
    """Both tensors, in the type of autocast where that is on."""
    check_tensor("features", features, (len(kernel_map.source), "Cin"), types=FLOATS)
    shape = (kernel_map.table.shape[0], features.shape[1], "Cout")
    check_tensor("weight", weight, shape, types=FLOATS, beside=features)
    check_tensor("kernel_map.table", kernel_map.table, ("K", "M"), beside=features)
    device = features.device.type
    # As PyTorch's own products do: double precision stays.
    if torch.is_autocast_enabled(device) and torch.float64 not in (features.dtype, weight.dtype):
        dtype = torch.get_autocast_dtype(device)
        features, weight = features.to(dtype), weight.to(dtype)
    if features.dtype != weight.dtype:
        raise ValueError(
            f"features and weight must have one type; found {features.dtype} and {weight.dtype}"
        )
    return features, weight


def sparse_conv_twin(
    features: Tensor, weight: Tensor, table: Tensor, back: Tensor | None, mirrored: bool
) -> Tensor:
    """The definition of :func:`sparse_conv`.

    Args:
        features: (N, Cin).
        weight: (K, Cin, Cout).
        table: (K, M) int32.
        back: (K, N) int32 or None, used by the gradient alone.
        mirrored: tap k of the table uses weight K - 1 - k.
    """
    wide = torch.promote_types(features.dtype, torch.float32)
    out = features.new_zeros((table.shape[1], weight.shape[2]), dtype=wide)
    if mirrored:
        weight = weight.flip(0)
    for tap, source in enumerate(table):
        target = (source >= 0).nonzero().squeeze(1)
        rows = features.index_select(0, source.index_select(0, target))
        out.index_add_(0, target, rows.to(wide) @ weight[tap].to(wide))
    return out.to(features.dtype)


def sparse_conv_affine_twin(
    features: Tensor,
    weight: Tensor,
    table: Tensor,
    shift: Tensor,
    residual: Tensor | None,
    rectify: bool,
) -> Tensor:
    """The definition of :func:`sparse_conv_affine`."""
    wide = torch.promote_types(features.dtype, torch.float32)
    out = sparse_conv_twin(features.to(wide), weight.to(wide), table, None, False) + shift
    if residual is not None:
        out = out + residual
    return (torch.relu(out) if rectify else out).to(features.dtype)


def sparse_conv_weight_gradient_twin(features: Tensor, gradient: Tensor, table: Tensor) -> Tensor:
    """(K, Cin, Cout) sums over m of outer(features[table[k, m]], gradient[m])."""
    wide = torch.promote_types(features.dtype, torch.float32)
    out = []
    for source in table:
        target = (source >= 0).nonzero().squeeze(1)
        rows = features.index_select(0, source.index_select(0, target)).to(wide)
        out.append(rows.T @ gradient.index_select(0, target).to(wide))
    return torch.stack(out).to(features.dtype)


def _fake(
    features: Tensor, weight: Tensor, table: Tensor, back: Tensor | None, mirrored: bool
) -> Tensor:
    return features.new_empty(table.shape[1], weight.shape[2])


def _fake_weight_gradient(features: Tensor, gradient: Tensor, table: Tensor) -> Tensor:
    return features.new_empty(table.shape[0], features.shape[1], gradient.shape[1])


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    features, weight, table, back, ctx.mirrored = inputs
    ctx.save_for_backward(features, weight, table, back)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    features, weight, table, back = ctx.saved_tensors
    by_features = by_weight = None
    if ctx.needs_input_grad[0]:
        # The same sum with the roles of inputs and outputs exchanged; where both stand at the same
        # sites, the table is its own counterpart with its taps in reverse.
        turned = weight.transpose(1, 2)
        if back is None:
            by_features = _op(gradient, turned, table, None, not ctx.mirrored)
        else:
            by_features = _op(gradient, turned, back, table, ctx.mirrored)
    if ctx.needs_input_grad[1]:
        by_weight = _weight_gradient(features, gradient, table)
        if ctx.mirrored:
            by_weight = by_weight.flip(0)
    return by_features, by_weight, None, None, None


_op = define(
    "sparse_conv(Tensor features, Tensor weight, Tensor table, Tensor? back, bool mirrored) "
    "-> Tensor",
    sparse_conv_twin,
    _fake,
)
_affine = define(
    "sparse_conv_affine(Tensor features, Tensor weight, Tensor table, Tensor shift, "
    "Tensor? residual, bool rectify) -> Tensor",
    sparse_conv_affine_twin,
    lambda features, weight, table, *_: features.new_empty(table.shape[1], weight.shape[2]),
)
_weight_gradient = define(
    "sparse_conv_weight_gradient(Tensor features, Tensor gradient, Tensor table) -> Tensor",
    sparse_conv_weight_gradient_twin,
    _fake_weight_gradient,
)
define_gradient(_op, _backward, _keep)
refuse_gradient(_weight_gradient, "the gradient of a sparse convolution's weight")

TRITON = "sparse_conv_triton"
define_on_cuda(_op, triton_kernel(TRITON, "sparse_conv", sparse_conv_twin))
define_on_cuda(_affine, triton_kernel(TRITON, "sparse_conv_affine", sparse_conv_affine_twin))
define_on_cuda(
    _weight_gradient,
    triton_kernel(TRITON, "sparse_conv_weight_gradient", sparse_conv_weight_gradient_twin),
)
