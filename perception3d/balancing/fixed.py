"""Losses with weights that a person chose."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from perception3d.balancing.rule import Rule


class Fixed(Rule):
    """Each loss, and so all of its gradients, the head's included, times a number.

    Args:
        weights: by task.
    """

    weight: Tensor

    def __init__(self, weights: Mapping[str, float]) -> None:
        super().__init__(tuple(weights))
        if bad := {name: w for name, w in weights.items() if not 0 <= w < float("inf")}:
            raise ValueError(f"weights must be finite and not negative; found {bad}")
        self.register_buffer("weight", torch.tensor([float(w) for w in weights.values()]))

    def total(self, losses: Tensor) -> Tensor:
        """Weighted sum."""
        return super().total(losses * self.weight)
