"""IMTL-G (Liu et al., Towards Impartial Multi-Task Learning, ICLR 2021): equal projections.

The gradient that it makes has the same projection on the unit vector of every task's. FULLER (arXiv
2307.16617) calibrates between tasks at the last layer of the shared backbone; that its rule is this
one is inferred: the paper's equations could not be read here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from perception3d.balancing.rule import Rule

Sum = Literal["tasks", "one"]
#: Weights of three and more tasks whose sum is below this share of their magnitudes are noise.
CANCELLED = 1e-6


class ImtlG(Rule):
    """Weights n_2 / (n_1 + n_2) and n_1 / (n_1 + n_2) for two tasks of gradient norms n_t.

    Both then contribute the same norm. In general alpha = G^-1 n / (1' G^-1 n) with the Gram matrix
    G; for two tasks the norms alone are used: a pseudo-inverse of nearly parallel gradients in
    float32 returns the weights reversed.

    Where the weights of three or more tasks cancel, all weigh alike.

    Args:
        tasks: names.
        sum_to: "tasks" (our default): equal norms give weights of 1, so that learning rate and
            clipping keep their meaning; "one": as in the paper.
        least: weights below it become it, before they are summed up; None: three and more tasks
            may get negative weights.
    """

    def __init__(
        self, tasks: Sequence[str], *, sum_to: Sum = "tasks", least: float | None = None
    ) -> None:
        super().__init__(tasks)
        if sum_to not in ("tasks", "one"):
            raise ValueError(f"sum_to must be tasks or one; found {sum_to!r}")
        self.sum_to, self.least = sum_to, least

    def weigh(self, gram: Tensor, active: Tensor) -> Tensor:
        """See :meth:`Rule.weigh`."""
        norm = gram.diagonal().sqrt()
        if len(norm) == 2:
            # An inactive task's norm is 0, which would leave the other with a weight of 0.
            share = torch.where(active.all(), norm.flip(0) / norm.sum(), 1.0)
        else:
            still = torch.diag((~active).to(gram.dtype))
            # Unit vectors' products: gradients of very different length are solved as well.
            scale = torch.where(active, 1 / norm, 1.0)
            cosine = gram * scale[:, None] * scale + still
            solved = torch.linalg.lstsq(cosine, active.to(gram.dtype)[:, None]).solution[:, 0]
            share = solved * scale * active
            # Gradients that cancel each other have no direction with equal projections.
            total = share.sum()
            sound = total.abs() > CANCELLED * share.abs().sum()
            share = torch.where(sound, share / total, active / active.sum())
        if self.least is not None:
            share = share.clamp(min=self.least) * active
            share = share / share.sum()
        return share * active.sum() if self.sum_to == "tasks" else share
