"""Blocks of sparse encoders: convolution, batch norm, ReLU, and the residual block."""

from __future__ import annotations

from typing import TypeGuard

import torch
from perception3d_ops.norm_rows import norm_rows
from perception3d_ops.sparse_conv import sparse_conv_affine
from torch import Tensor, nn
from torch.nn.functional import batch_norm, relu

from perception3d.nn.sparse import SparseConv3d, SubMConv3d
from perception3d.nn.sparse_convolve import Backend, check_same_sites, convolve
from perception3d.structures import SparseVoxels

#: Published batch norm of sparse encoders.
NORM_EPS, NORM_MOMENTUM = 1e-3, 0.01


def conv_norm_relu(
    conv: SubMConv3d | SparseConv3d,
    norm: nn.Module,
    voxels: SparseVoxels,
    residual: SparseVoxels | None = None,
) -> SparseVoxels:
    """Convolution, batch norm over the sites of the whole batch, + residual, ReLU.

    Fewer than two sites have no statistics to train with: then the running ones serve, and stay
    (the published code fails there).

    Args:
        conv: whose output is normalised.
        norm: BatchNorm1d of the output's channels.
        voxels: (N, Cin).
        residual: (M, Cout) at the output's sites.

    Raises:
        ValueError: ``residual`` stands elsewhere.
    """
    if isinstance(norm, nn.BatchNorm1d) and _can_fuse(conv, norm, voxels):
        return _fused(conv, norm, voxels, residual)
    out = conv(voxels)
    if residual is not None:
        check_same_sites("a sum with a residual", residual.sites, out.sites)
    added = None if residual is None else residual.features
    if _learns_by_rows(norm) and out.features.device.type == "cpu":
        return out.with_features(_trained(norm, out.features, added))
    rows = _normalized(norm, out.features)
    return out.with_features(relu(rows if added is None else rows + added))


def _can_fuse(conv: SubMConv3d | SparseConv3d, norm: nn.BatchNorm1d, voxels: SparseVoxels) -> bool:
    """Whether the norm is a fixed affine map and nobody asks for gradients."""
    if norm.training or not norm.track_running_stats:
        return False
    if conv.convolve is not convolve or conv.bias is not None:
        return False
    taking_part = (voxels.features, conv.weight, norm.weight, norm.bias)
    return not (torch.is_grad_enabled() and any(t.requires_grad for t in taking_part))


def _fused(
    conv: SubMConv3d | SparseConv3d,
    norm: nn.BatchNorm1d,
    voxels: SparseVoxels,
    residual: SparseVoxels | None,
) -> SparseVoxels:
    """The same in one pass over memory: the norm's scale goes into the weights."""
    assert norm.running_mean is not None and norm.running_var is not None
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    shift = norm.bias - norm.running_mean * scale
    found = conv.reach.map(voxels.sites)
    if residual is not None:
        check_same_sites("a sum with a residual", residual.sites, found.target)
    weight = conv.weight * scale.to(conv.weight.dtype)[:, None, None, None, None]
    rows = sparse_conv_affine(
        voxels.features,
        weight.flatten(1, 3).permute(1, 2, 0),
        found,
        shift=shift,
        residual=None if residual is None else residual.features,
    )
    if found.target is voxels.sites:
        return voxels.with_features(rows)
    return SparseVoxels(rows, found.target, conv.reach.grid(voxels.grid, found.target.shape))


def _learns_by_rows(norm: nn.Module) -> TypeGuard[nn.BatchNorm1d]:
    """Whether it is the usual batch norm in training, which one op can do with what follows."""
    usual = type(norm) is nn.BatchNorm1d and norm.affine and norm.track_running_stats
    return usual and norm.training and norm.momentum is not None


def _trained(norm: nn.BatchNorm1d, rows: Tensor, residual: Tensor | None) -> Tensor:
    """The norm by the rows' own statistics, which move the running ones; sum and ReLU with it."""
    assert norm.running_mean is not None and norm.running_var is not None
    assert norm.num_batches_tracked is not None and norm.momentum is not None
    out, mean, variance = norm_rows(
        rows,
        norm.weight,
        norm.bias,
        (norm.running_mean, norm.running_var),
        eps=norm.eps,
        residual=residual,
    )
    with torch.no_grad():
        count = rows.shape[0]
        # With fewer than two rows mean and variance are the running ones, which then stay.
        unbiased = variance * (torch.sym_max(count, 1) / torch.sym_max(count - 1, 1))
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(unbiased, norm.momentum)
        norm.num_batches_tracked += torch.sym_min(torch.sym_max(count - 1, 0), 1)
    return out


def _normalized(norm: nn.Module, rows: Tensor) -> Tensor:
    # A SyncBatchNorm counts the rows of all processes and must be called by all of them.
    if isinstance(norm, nn.BatchNorm1d) and norm.training and len(rows) < 2:
        return batch_norm(
            rows, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, eps=norm.eps
        )
    return norm(rows)


class SparseConvBlock(nn.Module):
    """A convolution, a batch norm, ReLU."""

    def __init__(self, conv: SubMConv3d | SparseConv3d) -> None:
        super().__init__()
        self.conv = conv
        self.norm = sparse_norm(conv.weight.shape[0])

    def forward(self, voxels: SparseVoxels) -> SparseVoxels:
        """(N, Cin) -> (M, Cout)."""
        return conv_norm_relu(self.conv, self.norm, voxels)


class SparseResidualBlock(nn.Module):
    """Two submanifold convolutions of 3 x 3 x 3; the input is added before the last ReLU."""

    def __init__(self, channels: int, *, backend: Backend = "own") -> None:
        super().__init__()
        self.conv1 = SubMConv3d(channels, channels, 3, backend=backend)
        self.norm1 = sparse_norm(channels)
        self.conv2 = SubMConv3d(channels, channels, 3, backend=backend)
        self.norm2 = sparse_norm(channels)

    def forward(self, voxels: SparseVoxels) -> SparseVoxels:
        """(N, C) -> (N, C)."""
        inner = conv_norm_relu(self.conv1, self.norm1, voxels)
        return conv_norm_relu(self.conv2, self.norm2, inner, residual=voxels)


def sparse_norm(channels: int) -> nn.BatchNorm1d:
    """Batch norm with the published settings."""
    return nn.BatchNorm1d(channels, eps=NORM_EPS, momentum=NORM_MOMENTUM)
