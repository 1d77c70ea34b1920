"""What every rule between tasks offers; one file a rule."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Rule(nn.Module):
    """Decides how much each task's gradient counts in what the tasks share.

    A rule answers at two places, and overrides the one that it is about: by gradients, where tasks
    part (:meth:`weigh`, called by :class:`perception3d.balancing.fork.Fork` in the backward pass),
    or by losses (:meth:`total`, what is to be minimised). State lives in buffers, what is learned
    with the model in parameters.

    Args:
        tasks: names, in the order of all (T,) tensors.

    Attributes:
        needs: what the training loop must give beside one backward pass of ``total``: "losses
            after the step" (:meth:`after_step`), "mean losses of the epoch" (:meth:`after_epoch`).
    """

    needs: tuple[str, ...] = ()

    def __init__(self, tasks: Sequence[str]) -> None:
        super().__init__()
        if not tasks or len(set(tasks)) != len(tasks):
            raise ValueError(f"a rule needs tasks of different names; found {list(tasks)}")
        self.tasks = tuple(tasks)

    def weigh(self, gram: Tensor, active: Tensor) -> Tensor:
        """Weights (T,) of the tasks' gradients; here 1 each.

        Args:
            gram: (T, T) float64, inner products of the gradients; rows of inactive tasks are zero.
            active: (T,) bool, whose gradients there are; at least one. What stands at the others
                is not looked at.
        """
        return torch.ones_like(gram[0])

    def total(self, losses: Tensor) -> Tensor:
        """The scalar to be minimised, of (T,) losses; here their sum. NaN stands for no loss."""
        return torch.where(losses.isnan(), 0.0, losses).sum()

    def after_step(self, losses: Tensor) -> None:
        """Losses (T,) of the same batch after the optimiser's step; for rules that need them."""

    def after_epoch(self, losses: Tensor) -> None:
        """Mean losses (T,) of an epoch; for rules that need them."""
