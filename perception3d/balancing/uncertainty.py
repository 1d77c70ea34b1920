"""Uncertainty weighting (Kendall, Gal, Cipolla, 1705.07115): a learned log variance a task."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from perception3d.balancing.rule import Rule


class Uncertainty(Rule):
    """Sum of L_t / (2 exp(s_t)) + s_t / 2, with s_t learned like weights of the model.

    The optimiser must get ``parameters()``.

    Args:
        tasks: names.
        start: initial s_t; LibMTL starts at -0.5.
    """

    def __init__(self, tasks: Sequence[str], *, start: float = -0.5) -> None:
        super().__init__(tasks)
        self.log_variance = nn.Parameter(torch.full((len(self.tasks),), start))

    def total(self, losses: Tensor) -> Tensor:
        """See the class; a task without a loss leaves its variance alone."""
        terms = losses / (2 * self.log_variance.exp()) + self.log_variance / 2
        return torch.where(losses.isnan(), 0.0, terms).sum()
