"""Hierarchical task learning (GUPNet, Lu et al., 2107.13774): first what others build on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from perception3d.balancing.rule import Rule

#: Epochs over which a loss's trend is taken.
WINDOW = 5


class Hierarchical(Rule):
    """A task waits until the losses of its prerequisites stop falling.

    w_t(e) = ((e - 5) / (E - 5))^(1 - kappa_t); kappa_t is the product over its prerequisites of
    1 - relu(trend / first trend), a trend being the mean step of a loss over five epochs. Tasks
    without prerequisites weigh 1 from the start.

    Args:
        tasks: names.
        epochs: E, more than five.
        prerequisites: by task; tasks that are not named have none.
    """

    needs = ("mean losses of the epoch",)
    history: Tensor
    epoch: Tensor
    weight: Tensor

    def __init__(
        self, tasks: Sequence[str], *, epochs: int, prerequisites: Mapping[str, Sequence[str]]
    ) -> None:
        super().__init__(tasks)
        if epochs <= WINDOW:
            raise ValueError(f"a trend takes {WINDOW} epochs, so more are needed; found {epochs}")
        named = {*prerequisites, *(name for names in prerequisites.values() for name in names)}
        if unknown := sorted(named - set(self.tasks)):
            raise ValueError(f"prerequisites name {', '.join(unknown)}; tasks are {self.tasks}")
        self.epochs = epochs
        self.prerequisites = [
            [self.tasks.index(name) for name in prerequisites.get(task, ())] for task in self.tasks
        ]
        self.register_buffer("history", torch.zeros(epochs, len(self.tasks)))
        self.register_buffer("epoch", torch.zeros((), dtype=torch.int64))
        self.register_buffer("weight", self._weights())

    def total(self, losses: Tensor) -> Tensor:
        """Sum with this epoch's weights."""
        return super().total(losses * self.weight)

    @torch.no_grad()
    def after_epoch(self, losses: Tensor) -> None:
        """Take an epoch's mean losses; weights are those of the next one from here on."""
        if int(self.epoch) < self.epochs:
            self.history[int(self.epoch)] = losses
            self.epoch += 1
        self.weight.copy_(self._weights())

    def _weights(self) -> Tensor:
        weights = self.history.new_ones(len(self.tasks))
        epoch = int(self.epoch)
        waiting = [task for task, first in enumerate(self.prerequisites) if first]
        if epoch <= WINDOW:
            weights[waiting] = 0.0
            return weights
        fall = -self.history[:epoch].diff(dim=0)
        trend, start = fall[-WINDOW:].mean(dim=0), fall[:WINDOW].mean(dim=0)
        done = 1 - (trend / start.clamp_min(1e-12)).clamp(0, 1)
        time = min((epoch - WINDOW) / (self.epochs - WINDOW), 1.0)
        for task in waiting:
            kappa = float(done[self.prerequisites[task]].prod())
            weights[task] = time ** (1 - kappa)
        return weights
