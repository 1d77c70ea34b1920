"""GradNorm (Chen et al., 1711.02257): gradient norms by how fast a task learns."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from perception3d.balancing.rule import Rule


class GradNorm(Rule):
    """Weights w_t, learned so that w_t n_t becomes mean(w n) r_t^alpha.

    r_t is the task's loss by its first loss, over the tasks' mean of it. Norms are those where
    tasks part instead of the last shared weights', so no backward pass is added; weights act there,
    on what the tasks share.

    Args:
        tasks: names.
        alpha: 0 equal norms, more: slow tasks count more; the paper takes 1.5 where tasks differ.
        lr: of the weights.
        first: steps whose mean loss is the first loss.
    """

    weight: Tensor
    first_loss: Tensor
    seen: Tensor
    rate: Tensor

    def __init__(
        self, tasks: Sequence[str], *, alpha: float = 1.5, lr: float = 0.025, first: int = 20
    ) -> None:
        super().__init__(tasks)
        if alpha < 0 or lr <= 0 or first < 1:
            raise ValueError(
                f"alpha >= 0, lr > 0 and first >= 1 are needed; found {alpha}, {lr}, {first}"
            )
        self.alpha, self.lr, self.first = alpha, lr, first
        count = len(self.tasks)
        self.register_buffer("weight", torch.ones(count, dtype=torch.float64))
        self.register_buffer("first_loss", torch.zeros(count, dtype=torch.float64))
        self.register_buffer("seen", torch.zeros(count, dtype=torch.float64))
        self.register_buffer("rate", torch.ones(count, dtype=torch.float64))

    def total(self, losses: Tensor) -> Tensor:
        """The sum; looks at the losses' progress."""
        with torch.no_grad():
            here = ~losses.isnan()
            loss = torch.where(here, losses, 0.0).double()
            count = self.seen + here
            begins = here & (self.seen < self.first)
            mean = self.first_loss + (loss - self.first_loss) / count.clamp_min(1)
            self.first_loss.copy_(torch.where(begins, mean, self.first_loss))
            self.seen.copy_(count)
            progress = loss / self.first_loss.clamp_min(1e-12)
            average = torch.where(here, progress, 0.0).sum() / here.sum().clamp_min(1)
            self.rate.copy_(torch.where(here, progress / average.clamp_min(1e-12), self.rate))
        return super().total(losses)

    def weigh(self, gram: Tensor, active: Tensor) -> Tensor:
        """See :meth:`Rule.weigh`; moves the weights by one step of the sign of the difference."""
        norm = gram.diagonal().sqrt()
        count = active.sum()
        used = self.weight.clone()
        length = used * norm
        target = length.sum() / count * self.rate**self.alpha
        # The slope of |w n - target| by w, relative to the norms' mean: the loss's scale cancels.
        slope = torch.sign(length - target) * norm / (norm.sum() / count)
        moved = (used - self.lr * slope * active).clamp_min(1e-4)
        moved = torch.where(active, moved, used)
        share = torch.where(active, moved, 0.0)
        self.weight.copy_(torch.where(active, moved * count / share.sum(), used))
        return used
