"""From a model's loss terms to the one scalar that is differentiated.

The single place where tasks meet: whatever weighs tasks against each other goes in here.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

Losses = Mapping[str, Mapping[str, Tensor]]
"""{task: {term: scalar}}, what ``model.loss`` returns."""


def task_losses(losses: Losses) -> dict[str, Tensor]:
    """One scalar a task: the plain sum of its terms (weights are inside the terms).

    Raises:
        ValueError: no task, a task without terms, or a term that is not a scalar.
    """
    if not losses:
        raise ValueError("model.loss returned no task; expected {task: {term: scalar}}")
    sums = {}
    for task, terms in losses.items():
        if not terms:
            raise ValueError(f"model.loss returned no term for task {task!r}")
        for name, term in terms.items():
            if term.ndim != 0:
                raise ValueError(
                    f"loss {task}.{name} must be a scalar; found shape {tuple(term.shape)}"
                )
        sums[task] = torch.stack([term.float() for term in terms.values()]).sum()
    return sums


def total_loss(losses: Losses) -> Tensor:
    """The sum over tasks of ``task_losses``: a scalar with gradient."""
    return torch.stack(list(task_losses(losses).values())).sum()
