"""FAMO (Liu et al., 2306.03792): all log losses fall at one rate, seen from the losses alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from perception3d.balancing.rule import Rule

EPS = 1e-8
BETAS = (0.9, 0.999)


class Famo(Rule):
    """Minimises c sum z_t log(L_t - b_t), z = softmax(xi), c = 1 / sum(z_t / (L_t - b_t)).

    After the step, xi moves by how much each log loss of the same batch fell, so the loop must
    evaluate the losses once more and call :meth:`after_step`.

    Args:
        tasks: names.
        lr, decay: of Adam, which moves xi.
        least: b_t, below every loss.
    """

    needs = ("losses after the step",)
    xi: Tensor
    before: Tensor
    weight: Tensor
    moments: Tensor
    steps: Tensor

    def __init__(
        self, tasks: Sequence[str], *, lr: float = 0.025, decay: float = 1e-3, least: float = 0.0
    ) -> None:
        super().__init__(tasks)
        self.lr, self.decay, self.least = lr, decay, least
        count = len(self.tasks)
        self.register_buffer("xi", torch.zeros(count))
        self.register_buffer("before", torch.full((count,), torch.nan))
        self.register_buffer("weight", torch.ones(count))
        self.register_buffer("moments", torch.zeros(2, count))
        self.register_buffer("steps", torch.zeros(()))

    def total(self, losses: Tensor) -> Tensor:
        """See the class. The gradient is that of the losses with weights that sum to one."""
        here = ~losses.isnan()
        gap = torch.where(here, losses - self.least + EPS, 1.0)
        share = torch.where(here, self.xi, -torch.inf).softmax(0)
        with torch.no_grad():
            scale = 1 / (share / gap).sum()
            self.before.copy_(torch.where(here, losses, torch.nan))
            self.weight.copy_(scale * share / gap)
        return scale * (share * gap.log()).sum()

    @torch.no_grad()
    def after_step(self, losses: Tensor) -> None:
        """One step of Adam on xi, as the authors' code makes it."""
        here = ~(losses.isnan() | self.before.isnan())
        fell = (self.before - self.least + EPS).log() - (losses - self.least + EPS).log()
        fell = torch.where(here, fell, 0.0)
        share = torch.where(here, self.xi, -torch.inf).softmax(0)
        slope = torch.where(here, share * (fell - (share * fell).sum()), 0.0)
        slope = slope + self.decay * self.xi
        self.steps += 1
        first, second = self.moments
        first.lerp_(slope, 1 - BETAS[0])
        second.lerp_(slope.square(), 1 - BETAS[1])
        mean = first / (1 - BETAS[0] ** self.steps)
        spread = (second / (1 - BETAS[1] ** self.steps)).sqrt()
        self.xi.sub_(self.lr * mean / (spread + EPS))
