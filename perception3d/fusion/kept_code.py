"""Position codes that are made once for evaluation, and again when what they depend on changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class _Kept:
    """A code, and all that it was made from.

    The views of the weights hold their memory, so that no other weight can get the same address.
    """

    weights: tuple[tuple[Tensor, int], ...]
    inputs: tuple[Tensor | int, ...]
    code: Tensor


class KeptCode:
    """The last result of a function of a module's weights and of some inputs.

    It is kept only where no gradient can flow: in evaluation mode with gradients off, and outside
    of ``torch.compile``. What comes back is then the tensor of an earlier call, bit for bit what
    the function would give, and must not be written to.

    A change of weights is told by their version counters and places in memory, which optimisers,
    averaging, ``load_state_dict`` and ``.to`` move; so nothing has to wait for the GPU. Writing
    through ``parameter.data``, which moves no counter, is not noticed. Inputs are compared by
    value.
    """

    def __init__(self) -> None:
        self._kept: _Kept | None = None

    def __call__(
        self, module: nn.Module, inputs: Sequence[Tensor | int], make: Callable[[], Tensor]
    ) -> Tensor:
        """``make()``, or what it gave before.

        Args:
            module: whose weights and buffers ``make`` uses.
            inputs: everything else that it uses.
            make: without side effects or randomness.
        """
        if module.training or torch.is_grad_enabled() or torch.compiler.is_compiling():
            self._kept = None
            return make()
        used = [*module.parameters(), *module.buffers()]
        device = used[0].device.type if used else "cpu"
        if torch.is_autocast_enabled(device):  # the result may have another type
            return make()
        if any(tensor.is_inference() for tensor in used):  # these have no version counters
            return make()
        kept = self._kept
        if kept is None or not (_unchanged(kept.weights, used) and _equal(kept.inputs, inputs)):
            weights = tuple((tensor.detach(), tensor._version) for tensor in used)
            own = tuple(x.clone() if isinstance(x, Tensor) else x for x in inputs)
            kept = self._kept = _Kept(weights, own, make())
        return kept.code

    def __reduce__(self) -> tuple[type[KeptCode], tuple[()]]:
        # Copies and pickles of a model begin without.
        return KeptCode, ()


def _unchanged(kept: Sequence[tuple[Tensor, int]], now: Sequence[Tensor]) -> bool:
    return len(kept) == len(now) and all(
        version == tensor._version
        and before.data_ptr() == tensor.data_ptr()
        and before.device == tensor.device
        and before.dtype == tensor.dtype
        and before.shape == tensor.shape
        and before.stride() == tensor.stride()
        for (before, version), tensor in zip(kept, now)
    )


def _equal(kept: Sequence[Tensor | int], now: Sequence[Tensor | int]) -> bool:
    return len(kept) == len(now) and all(map(_same, kept, now))


def _same(a: Tensor | int, b: Tensor | int) -> bool:
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return a is b or (isinstance(a, int) and isinstance(b, int) and a == b)
    return a.device == b.device and a.dtype == b.dtype and torch.equal(a, b)
