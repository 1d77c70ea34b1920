"""Exponential moving average of a model's weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """A running average of parameters and floating buffers; other buffers are copied.

    After n updates the average keeps ``min(decay, (1 + n) / (10 + n))`` of itself, so that early
    averages are not dominated by the initial weights.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"the decay of a weight average lies in (0, 1); found {decay}")
        self.decay = decay
        self.updates = 0
        self.average = {name: value.detach().clone() for name, value in _values(model).items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take one step towards the model's present weights."""
        keep = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        averages: list[Tensor] = []
        targets: list[Tensor] = []
        for name, value in _values(model).items():
            if value.is_floating_point():
                averages.append(self.average[name])
                targets.append(value.detach())
            else:
                self.average[name].copy_(value)
        torch._foreach_lerp_(averages, targets, 1.0 - keep)

    @contextmanager
    def applied_to(self, model: nn.Module) -> Iterator[None]:
        """Inside, the model holds the average; afterwards its own weights, bit for bit."""
        own = {name: value.detach().clone() for name, value in _values(model).items()}
        _fill(model, self.average)
        try:
            yield
        finally:
            _fill(model, own)

    def state_dict(self) -> dict[str, object]:
        """Tensors and counters to save."""
        return {"updates": self.updates, "average": self.average}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Restore what ``state_dict`` gave, onto the devices the average lives on."""
        average = state["average"]
        assert isinstance(average, dict)
        for name, value in self.average.items():
            value.copy_(average[name])
        updates = state["updates"]
        assert isinstance(updates, int)
        self.updates = updates


def _values(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


@torch.no_grad()
def _fill(model: nn.Module, values: dict[str, Tensor]) -> None:
    for name, value in _values(model).items():
        value.copy_(values[name])
