"""Class and box branches of PETR and PETRv2 over the outputs of all decoder layers.

Reference: megvii-research/PETR, ``PETRHead`` (one box branch), ``PETRv2Head`` and ``RegLayer``
(sub-heads, weights of their own for every layer).
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

#: Sizes of PETRv2's sub-heads in the order of the vector: {cx, cy}, {ln w}, {ln l, cz, ln h},
#: {sin, cos}, {vx, vy}.
BOX_GROUPS = (2, 1, 3, 2, 2)

#: Initial score of every class (published).
CLASS_PRIOR = 0.01


class SplitBoxBranch(nn.Module):
    """A shared trunk and one sub-head a group of slots (PETRv2).

    Args:
        channels: C of input and hidden layers.
        groups: outputs of each sub-head.
    """

    def __init__(self, channels: int, groups: tuple[int, ...] = BOX_GROUPS) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, channels), nn.ReLU()
        )
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, size))
            for size in groups
        )

    def forward(self, features: Tensor) -> Tensor:
        """(..., C) -> (..., sum of groups)."""
        trunk = self.trunk(features)
        return torch.cat([head(trunk) for head in self.heads], dim=-1)


class LayerBranches(nn.Module):
    """One branch for L decoder layers: a module that all share, or equal copies that part ways.

    Args:
        branch: maps (..., C) to (..., outputs).
        layers: L copies; None for one shared module.
    """

    def __init__(self, branch: nn.Module, *, layers: int | None) -> None:
        super().__init__()
        count = 1 if layers is None else layers
        # Equal in the beginning (published).
        self.copies = nn.ModuleList(copy.deepcopy(branch) for _ in range(count))
        self.layers = layers

    def forward(self, features: Tensor) -> Tensor:
        """(L, B, Q, C) -> (L, B, Q, outputs) float32."""
        with torch.autocast(features.device.type, enabled=False):
            features = features.float()
            if self.layers is None:
                return self.copies[0](features)
            if len(features) != self.layers:
                raise ValueError(
                    f"branches of {self.layers} decoder layers; found outputs of {len(features)}"
                )
            return torch.stack([branch(x) for branch, x in zip(self.copies, features)])


def class_branch(channels: int, num_classes: int) -> nn.Sequential:
    """Linear, LayerNorm, ReLU twice, then a linear layer that starts at scores of 0.01."""
    last = nn.Linear(channels, num_classes)
    nn.init.constant_(last.bias, -math.log(1 / CLASS_PRIOR - 1))
    return nn.Sequential(
        nn.Linear(channels, channels), nn.LayerNorm(channels), nn.ReLU(),
        nn.Linear(channels, channels), nn.LayerNorm(channels), nn.ReLU(),
        last,
    )  # fmt: skip


def silence(branch: nn.Module) -> None:
    """Let the last linear layers of a branch answer 0, until they have learned otherwise."""
    last = [branch] if isinstance(branch, nn.Sequential) else list(branch.heads)  # type: ignore[arg-type]
    for layers in last:
        linear = layers[-1]  # type: ignore[index]
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)


def box_branch(channels: int) -> nn.Sequential:
    """PETR's: Linear, ReLU twice, then a linear layer to the ten slots."""
    return nn.Sequential(
        nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, channels), nn.ReLU(),
        nn.Linear(channels, sum(BOX_GROUPS)),
    )  # fmt: skip
