"""Necks: joining feature maps of several strides."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class CPFPN(nn.Module):
    """Feature pyramid of PETR and CMT: a 3x3 convolution only at the finest level.

    Biased 1x1 laterals; each coarser map is upsampled (nearest) to the size of the next finer one
    and added; the finest sum passes one biased 3x3 convolution. No norm, no activation
    (junjie18/CMT, ``necks/cp_fpn.py``).

    Args:
        in_channels: of each level, finest first.
        out_channels: of every output.
        num_outputs: levels returned. The heads of CMT use the first alone: 1 saves the others'
            final step.
    """

    def __init__(
        self, in_channels: Sequence[int], out_channels: int, *, num_outputs: int = 1
    ) -> None:
        super().__init__()
        if not 1 <= num_outputs <= len(in_channels):
            raise ValueError(
                f"CPFPN can return 1 to {len(in_channels)} levels; asked for {num_outputs}"
            )
        self.laterals = nn.ModuleList(nn.Conv2d(c, out_channels, 1) for c in in_channels)
        self.output = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.channels = out_channels
        self.num_outputs = num_outputs

    def forward(self, levels: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Maps (B, C_i, H_i, W_i), finest first -> ``num_outputs`` maps (B, C, H_i, W_i)."""
        if len(levels) != len(self.laterals):
            raise ValueError(f"this CPFPN takes {len(self.laterals)} levels; found {len(levels)}")
        maps = [lateral(level) for lateral, level in zip(self.laterals, levels)]
        for i in reversed(range(len(maps) - 1)):
            upsampled = nn.functional.interpolate(
                maps[i + 1], size=maps[i].shape[-2:], mode="nearest"
            )
            maps[i] = maps[i] + upsampled
        return (self.output(maps[0]), *maps[1 : self.num_outputs])


class UpsampleConcatNeck(nn.Module):
    """Brings maps to one size and concatenates their channels ("SECONDFPN" in mmdetection3d).

    Each branch: 1x1 convolution where the map has the target's size already, else a transposed
    convolution with kernel = stride = factor; no bias; batch norm; ReLU.

    Args:
        in_channels: of each input map, in order.
        out_channels: of each branch.
        factors: upsampling of each branch, in order; 1 leaves the size.
        eps, momentum: of the batch norms; published 1e-3 and 0.01.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: Sequence[int],
        factors: Sequence[int],
        *,
        eps: float = 1e-3,
        momentum: float = 0.01,
    ) -> None:
        super().__init__()
        if not len(in_channels) == len(out_channels) == len(factors):
            raise ValueError(
                f"one entry a branch is needed; found {len(in_channels)} in_channels, "
                f"{len(out_channels)} out_channels, {len(factors)} factors"
            )
        self.branches = nn.ModuleList()
        for c_in, c_out, factor in zip(in_channels, out_channels, factors):
            resize = (
                nn.Conv2d(c_in, c_out, 1, bias=False)
                if factor == 1
                else nn.ConvTranspose2d(c_in, c_out, factor, stride=factor, bias=False)
            )
            norm = nn.BatchNorm2d(c_out, eps=eps, momentum=momentum)
            self.branches.append(nn.Sequential(resize, norm, nn.ReLU(inplace=True)))
        self.factors = tuple(factors)
        self.channels = sum(out_channels)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps (B, C_i, H / f_i, W / f_i) -> (B, sum of out_channels, H, W)."""
        if len(maps) != len(self.branches):
            raise ValueError(f"this neck joins {len(self.branches)} maps; found {len(maps)}")
        return torch.cat([branch(x) for branch, x in zip(self.branches, maps)], dim=1)
