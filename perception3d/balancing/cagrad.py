"""CAGrad (Liu et al., 2110.14048): near the mean gradient, the best for the task worst off."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from perception3d.balancing.rule import Rule
from perception3d.balancing.simplex import minimum_on_simplex

#: Points of a search along one number, and how often it is narrowed around the best.
POINTS, ROUNDS = 33, 8


class CaGrad(Rule):
    """d that maximises the least <g_t, d> within ||d - g_0|| <= c ||g_0||, g_0 the mean gradient.

    The dual is solved: w on the simplex with least <g_w, g_0> + c ||g_0|| ||g_w||, then
    d = g_0 + c ||g_0|| g_w / ||g_w||. With ||g_w|| = min over s of (||g_w||^2 / s + s) / 2 that is
    a quadratic program for each s, and convex in s.

    Args:
        tasks: names.
        c: in [0, 1); 0 is the mean.
        rescale: divide by 1 + c^2, as the authors do.
    """

    def __init__(self, tasks: Sequence[str], *, c: float = 0.4, rescale: bool = True) -> None:
        super().__init__(tasks)
        if not 0 <= c < 1:
            raise ValueError(f"c must be in [0, 1); found {c}")
        self.c, self.rescale = c, rescale

    def weigh(self, gram: Tensor, active: Tensor) -> Tensor:
        """See :meth:`Rule.weigh`. The result has the length of a sum, not of a mean."""
        count = active.sum()
        mean = active.to(gram.dtype) / count
        unit = gram / (mean @ gram @ mean).clamp_min(torch.finfo(gram.dtype).tiny)  # ||g_0|| = 1
        worst = self._worst(unit, mean, active)
        length = (worst @ unit @ worst).clamp_min(0).sqrt()
        weights = mean + torch.where(length > 0, self.c / length, 0.0) * worst
        if self.rescale:
            weights = weights / (1 + self.c**2)
        return weights * count

    def _worst(self, gram: Tensor, mean: Tensor, active: Tensor) -> Tensor:
        if self.c == 0:
            return mean
        top = gram.diagonal().max().sqrt().log() + 1e-9
        low, high = top - 30.0, top
        linear = gram @ mean
        for _ in range(ROUNDS):
            step = (high - low) / (POINTS - 1)
            s = (low + step * torch.arange(POINTS, device=gram.device)).exp()
            quadratic = self.c * gram / s[:, None, None]
            found = minimum_on_simplex(quadratic, linear.expand(POINTS, -1), active)
            square = (found @ gram * found).sum(-1)
            value = found @ linear + self.c * (square / s + s) / 2
            best = value.argmin()
            center = s[best].log()
            low, high = center - step, center + step
        return found[best]
