"""Means of loss terms between two log lines, kept on the device."""

from __future__ import annotations

import torch
from torch import Tensor

from perception3d.engine.objective import Losses


class LossMeter:
    """Adds up loss terms without waiting for the device; reading the means waits once."""

    def __init__(self) -> None:
        self._sums: dict[tuple[tuple[str, str], ...], tuple[Tensor, int]] = {}

    def add(self, losses: Losses) -> None:
        """Take the terms of one batch."""
        names = tuple((task, name) for task, terms in losses.items() for name in terms)
        values = torch.stack(
            [t.detach().float() for terms in losses.values() for t in terms.values()]
        )
        total, count = self._sums.get(names, (torch.zeros_like(values), 0))
        self._sums[names] = (total + values, count + 1)

    def take(self) -> dict[str, dict[str, float]]:
        """{task: {term: mean over the batches that had it}}; starts over."""
        totals: dict[tuple[str, str], tuple[float, int]] = {}
        for names, (values, count) in self._sums.items():
            for key, value in zip(names, values.tolist(), strict=True):
                total, seen = totals.get(key, (0.0, 0))
                totals[key] = (total + value, seen + count)
        self._sums = {}
        means: dict[str, dict[str, float]] = {}
        for (task, name), (total, seen) in totals.items():
            means.setdefault(task, {})[name] = total / seen
        return means
