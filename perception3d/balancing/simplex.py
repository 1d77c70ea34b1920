"""Quadratic programs on the simplex, exactly, for the few tasks that a model has."""

from __future__ import annotations

import torch
from torch import Tensor

#: 2 ** T faces are tried.
MOST_TASKS = 8


def minimum_on_simplex(quadratic: Tensor, linear: Tensor, active: Tensor) -> Tensor:
    """argmin of w' Q w / 2 + b' w over w >= 0 with sum 1 and w = 0 where inactive.

    Every face of the simplex is tried: on its plane the minimum is the solution of linear
    equations. The least of those that lie inside of their face is the answer.

    Args:
        quadratic: (N, T, T) positive semidefinite.
        linear: (N, T).
        active: (T,) bool, at least one.

    Returns:
        (N, T).

    Raises:
        ValueError: more than eight tasks.
    """
    tasks = len(active)
    if tasks > MOST_TASKS:
        raise ValueError(f"at most {MOST_TASKS} tasks can be weighed by this rule; found {tasks}")
    numbers = torch.arange(1, 2**tasks, device=active.device)
    face = (numbers[:, None] >> torch.arange(tasks, device=active.device)) & 1 == 1  # (F, T)
    member = face.to(quadratic.dtype)
    # [Q on the face, 1; 1', 0] [w; -mu] = [-b; 1]; what is not on the face stays 0.
    system = quadratic.new_zeros(len(quadratic), len(face), tasks + 1, tasks + 1)
    system[..., :tasks, :tasks] = quadratic[:, None] * member[:, :, None] * member[
        :, None, :
    ] + torch.diag_embed(1 - member)
    system[..., :tasks, tasks] = member
    system[..., tasks, :tasks] = member
    right = torch.cat((-linear[:, None] * member, linear.new_ones(len(linear), len(face), 1)), -1)
    solution, info = torch.linalg.solve_ex(system, right)
    weights = solution[..., :tasks]
    inside = (weights >= -1e-12).all(-1) & weights.isfinite().all(-1) & (info == 0)
    allowed = inside & ~(face & ~active).any(-1)
    weights = torch.where(allowed[..., None], weights.clamp(min=0), 0)
    value = (weights @ quadratic * weights).sum(-1) / 2 + (weights * linear[:, None]).sum(-1)
    best = torch.where(allowed, value, torch.inf).argmin(dim=1)
    return weights[torch.arange(len(weights), device=best.device), best]
