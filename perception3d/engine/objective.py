"""From a model's loss terms to the one scalar that is differentiated.

The single place where tasks meet: whatever weighs tasks against each other goes in here.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from perception3d.balancing import Rule

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


def total_loss(losses: Losses, rule: Rule | None = None) -> Tensor:
    """A scalar with gradient: what ``rule`` makes of its tasks' losses, plus those of no task.

    Without a rule, the sum over ``task_losses``. (A rule that weighs gradients leaves the sum as it
    is, and does its part in the backward pass.)
    """
    sums = task_losses(losses)
    if rule is None:
        return torch.stack(list(sums.values())).sum()
    if not sums.keys() & set(rule.tasks):
        raise ValueError(
            f"the rule weighs {', '.join(rule.tasks)}; model.loss returned {', '.join(sums)}"
        )
    plain = torch.stack(list(sums.values())).sum()
    if not bool(torch.isfinite(plain)):
        return plain  # NaN stands for no loss below: what is really NaN must be seen
    absent = plain.new_full((), torch.nan)
    own = rule.total(torch.stack([sums.pop(task, absent) for task in rule.tasks]))
    return torch.stack([own, *sums.values()]).sum()


def refuse_needs(rule: Rule | None) -> None:
    """Raise ValueError for a rule that asks for more than one backward pass of ``total_loss``."""
    if rule is not None and rule.needs:
        raise ValueError(
            f"{type(rule).__name__} needs {' and '.join(rule.needs)}, which training does not "
            "give; choose another rule, or use it in a loop of your own (perception3d.balancing)"
        )
