"""PCGrad (Yu et al., 2001.06782): what contradicts another task's gradient is projected away."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from perception3d.balancing.rule import Rule


class PcGrad(Rule):
    """The sum of all gradients, each projected off those that it conflicts with, in random order.

    Each projection is a combination of the gradients, so the Gram matrix is all that is needed.

    Args:
        tasks: names.
        seed: of the order.
    """

    calls: Tensor

    def __init__(self, tasks: Sequence[str], *, seed: int = 0) -> None:
        super().__init__(tasks)
        self.seed = seed
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def weigh(self, gram: Tensor, active: Tensor) -> Tensor:
        """See :meth:`Rule.weigh`."""
        tasks = len(gram)
        square = torch.where(active, gram.diagonal(), 1.0)
        total = torch.zeros_like(square)
        order = torch.Generator()
        if tasks > 2:  # of two there is one order, and no need to wait for the GPU
            order.manual_seed(self.seed * 1_000_003 + int(self.calls))
            self.calls += 1
        for i in range(tasks):
            made = torch.zeros_like(square)
            made[i] = 1.0
            for j in torch.randperm(tasks, generator=order).tolist():
                if j != i:
                    conflict = (made @ gram[:, j]).clamp(max=0)
                    made[j] = made[j] - conflict / square[j]
            total = total + made
        return total
