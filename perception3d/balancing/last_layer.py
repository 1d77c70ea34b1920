"""Task gradients measured at the weights of the last shared layer instead of at its output.

That is where an optimiser applies them; by the output it is a surrogate that costs less. FULLER's
text says "the backbone's last layer", which may mean either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from perception3d.balancing.measure import Parts, gram_matrix


class LastLayer:
    """For ``Fork(measure=...)``: the layer whose output goes into the fork.

    The layer runs forward once more for the derivatives, a task each, in the precision of its
    weights; the trunk does not. It must run once between two backward passes.

    Args:
        layer: gives one tensor, the features at the fork, from tensors and lists of them; without
            dropout. Batch norms count a batch once.
        weights: of the layer that count; None for all that learn.
        group: sums each task's gradient over the processes, as DistributedDataParallel will.
    """

    def __init__(
        self,
        layer: nn.Module,
        *,
        weights: Sequence[nn.Parameter] | None = None,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        self.layer, self.group = layer, group
        counted = layer.parameters() if weights is None else weights
        self.weights = [p for p in counted if p.requires_grad]
        if not self.weights:
            raise ValueError("the last shared layer has no weights that learn")
        self._inputs: tuple[Any, ...] = ()
        layer.register_forward_pre_hook(self._keep)

    def _keep(self, _: nn.Module, inputs: tuple[Any, ...]) -> None:
        if torch.is_grad_enabled():
            self._inputs = tuple(_each(value, Tensor.detach) for value in inputs)

    def __call__(self, gradients: Sequence[Parts | None]) -> Tensor:
        """(T, T) inner products of the gradients by the layer's weights.

        Raises:
            ValueError: the layer was not run, or the fork parts more than its one output.
        """
        if not self._inputs:
            raise ValueError("the last shared layer was not run before the backward pass")
        like = self.weights[0]
        inputs, self._inputs = self._inputs, ()
        whole = torch.autocast(like.device.type, enabled=False)
        with torch.enable_grad(), whole, _norms_left_alone(self.layer):
            output = self.layer(*(_each(value, lambda x: x.to(like.dtype)) for value in inputs))
        by_weights: list[Parts | None] = []
        for parts in gradients:
            if parts is None and self.group is None:
                by_weights.append(None)
                continue
            if parts is not None and len(parts) != 1:
                raise ValueError(
                    f"the last layer gives one tensor; the fork parts {len(parts)}. Measure those "
                    "by the features"
                )
            # Zeros for a task that this process lacks: all processes come to the same sums.
            gradient = torch.zeros_like(output) if parts is None else parts[0].to(output.dtype)
            found = torch.autograd.grad(output, self.weights, gradient, retain_graph=True)
            if self.group is not None:
                for tensor in found:
                    dist.all_reduce(tensor, group=self.group)
            by_weights.append(found)
        return gram_matrix(by_weights, self.weights[0])


def _each(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A tensor, or a list or tuple of them, changed."""
    if isinstance(value, (list, tuple)):
        return [change(tensor) for tensor in value]
    return change(value)


@contextmanager
def _norms_left_alone(layer: nn.Module) -> Iterator[None]:
    """Batch norms use the batch's statistics inside, and do not add them to their averages."""
    norms = [m for m in layer.modules() if getattr(m, "track_running_stats", False) and m.training]
    for norm in norms:
        setattr(norm, "track_running_stats", False)  # noqa: B010 (to mypy it may be a module)
    try:
        yield
    finally:
        for norm in norms:
            setattr(norm, "track_running_stats", True)  # noqa: B010
