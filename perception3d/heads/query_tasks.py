"""Task branches of the query heads: one set of weights a decoder layer, evaluated all at once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, pad

#: Norm inside the branches (junjie18/CMT); the decoder's norms have 1e-5.
BRANCH_NORM_EPS = 1e-6


class PackedBranch(nn.Module):
    """Parameters of one branch for L layers: C -> hidden, norm, ReLU, hidden -> outputs.

    Layer l owns rows [hidden l, hidden (l + 1)) of the first tensors and [outputs l, outputs (l +
    1)) of the last ones, as in the grouped convolutions of the published checkpoints.
    """

    def __init__(
        self, channels: int, hidden: int, outputs: int, *, layers: int, kernel: int
    ) -> None:
        super().__init__()
        self.hidden_weight = nn.Parameter(torch.empty(layers * hidden, channels, kernel))
        self.norm_weight = nn.Parameter(torch.ones(layers * hidden))
        self.norm_bias = nn.Parameter(torch.zeros(layers * hidden))
        self.output_weight = nn.Parameter(torch.empty(layers * outputs, hidden, kernel))
        self.output_bias = nn.Parameter(torch.empty(layers * outputs))
        self.outputs = outputs
        # What torch gives a convolution: the published initialisation is skipped by an oversight
        # there.
        nn.init.kaiming_uniform_(self.hidden_weight, a=math.sqrt(5))
        nn.init.kaiming_uniform_(self.output_weight, a=math.sqrt(5))
        bound = 1 / math.sqrt(hidden * kernel)
        nn.init.uniform_(self.output_bias, -bound, bound)


class PackedTaskHeads(nn.Module):
    """Branches "center", "dim", ... over the decoder's outputs.

    Args:
        channels: C of the decoder.
        branches: name -> number of outputs.
        layers: L of the decoder.
        hidden: channels between the two layers of a branch; published 64.
        kernel: taps along the query axis, odd. 1 treats every query by itself. The published
            LiDAR-only model has 3, which mixes neighbouring queries (and denoising queries with
            the first real one): only for loading its weights.
    """

    def __init__(
        self,
        channels: int,
        branches: Mapping[str, int],
        *,
        layers: int,
        hidden: int = 64,
        kernel: int = 1,
    ) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(f"the kernel of the task heads must be odd; found {kernel}")
        self.branches = nn.ModuleDict(
            {
                name: PackedBranch(channels, hidden, outputs, layers=layers, kernel=kernel)
                for name, outputs in branches.items()
            }
        )
        self.layers = layers
        self.hidden = hidden
        self.kernel = kernel

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """Raw outputs of all branches.

        Args:
            features: (L, B, Q, C) decoder outputs.

        Returns:
            name -> (L, B, Q, outputs) float32.
        """
        with torch.autocast(features.device.type, enabled=False):
            x = self._taps(features.float())
            hidden = self._hidden(x)
            outputs = {}
            for i, (name, branch) in enumerate(self._branches()):
                taps = self._taps(hidden[..., i, :])
                weight = branch.output_weight.unflatten(0, (self.layers, -1)).flatten(2)
                bias = branch.output_bias.unflatten(0, (self.layers, 1, -1))
                flat = torch.baddbmm(bias, taps.flatten(1, 2), weight.transpose(1, 2))
                outputs[name] = flat.unflatten(1, features.shape[1:3])
            return outputs

    def _branches(self) -> list[tuple[str, PackedBranch]]:
        return [(name, cast(PackedBranch, branch)) for name, branch in self.branches.items()]

    def _hidden(self, taps: Tensor) -> Tensor:
        """(L, B, Q, C k) -> (L, B, Q, branches, hidden): one product a layer, norm, ReLU."""
        split = (self.layers, 1, 1, self.hidden)
        weights, scales, shifts = [], [], []
        for _, branch in self._branches():
            weights.append(branch.hidden_weight.unflatten(0, (self.layers, -1)).flatten(2))
            scales.append(branch.norm_weight.view(split))
            shifts.append(branch.norm_bias.view(split))
        weight = torch.cat(weights, dim=1)
        x = torch.bmm(taps.flatten(1, 2), weight.transpose(1, 2))
        x = x.unflatten(-1, (len(weights), self.hidden))
        x = layer_norm(x, (self.hidden,), eps=BRANCH_NORM_EPS)
        x = torch.relu(x * torch.cat(scales, dim=2) + torch.cat(shifts, dim=2))
        return x.unflatten(1, taps.shape[1:3])

    def _taps(self, x: Tensor) -> Tensor:
        """(L, B, Q, C) -> (L, B, Q, C k): each query with its neighbours, zeros beyond the ends."""
        if self.kernel == 1:
            return x
        reach = self.kernel // 2
        return pad(x, (0, 0, reach, reach)).unfold(2, self.kernel, 1).flatten(3)
