"""Task gradients measured at the weights of the last shared layer instead of at its output.

That is where an optimiser applies them; by the output it is a surrogate that costs less. FULLER's
text says "the backbone's last layer", which may mean either.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from perception3d.balancing.measure import Parts, gram_matrix


class LastLayer:
    """For ``Fork(measure=...)``: the layer whose output goes into the fork.

    The layer runs forward once more for the derivatives, a task each, in the precision of its
    weights; the trunk does not. It must run once between two backward passes.

    Args:
        layer: gives one tensor, the features at the fork; without dropout or batch statistics.
        group: sums each task's gradient over the processes, as DistributedDataParallel will.
    """

    def __init__(self, layer: nn.Module, *, group: dist.ProcessGroup | None = None) -> None:
        self.layer, self.group = layer, group
        self.weights = [p for p in layer.parameters() if p.requires_grad]
        if not self.weights:
            raise ValueError("the last shared layer has no weights that learn")
        self._inputs: tuple[Tensor, ...] = ()
        layer.register_forward_pre_hook(self._keep)

    def _keep(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if torch.is_grad_enabled():
            self._inputs = tuple(tensor.detach() for tensor in inputs)

    def __call__(self, gradients: Sequence[Parts | None]) -> Tensor:
        """(T, T) inner products of the gradients by the layer's weights."""
        if not self._inputs:
            raise ValueError("the last shared layer was not run before the backward pass")
        like = self.weights[0]
        inputs, self._inputs = self._inputs, ()
        with torch.enable_grad(), torch.autocast(like.device.type, enabled=False):
            output = self.layer(*(x.to(like.dtype) for x in inputs))
        by_weights: list[Parts | None] = []
        for parts in gradients:
            if parts is None:
                by_weights.append(None)
                continue
            found = torch.autograd.grad(
                output, self.weights, parts[0].to(output.dtype), retain_graph=True
            )
            if self.group is not None:
                for tensor in found:
                    dist.all_reduce(tensor, group=self.group)
            by_weights.append(found)
        return gram_matrix(by_weights, self.weights[0])
