"""Lengths and inner products of gradients, summed over the processes of a run."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

#: A gradient shorter than this share of the longest takes no part.
INACTIVE = 1e-6
#: Gradients of several tasks or modalities: each a tuple of tensors.
Parts = tuple[Tensor, ...]


def flat(parts: Sequence[Tensor]) -> list[Tensor]:
    """Tensors of one shape as vectors in one order, without a copy where their memory is alike."""
    first = parts[0]
    alike = all(part.stride() == first.stride() for part in parts)
    if alike and _dense(first):
        return [part.as_strided((part.numel(),), (1,)) for part in parts]
    return [part.reshape(-1) for part in parts]


def _dense(tensor: Tensor) -> bool:
    """Whether the numbers fill their stretch of memory, in whatever order of axes."""
    apart = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape)):
        if size != 1:
            if stride != apart:
                return False
            apart *= size
    return True


def gram_matrix(gradients: Sequence[Parts | None], like: Tensor) -> Tensor:
    """(T, T) float64 inner products; None counts as zero.

    Args:
        gradients: of T tasks, each of the same tensors.
        like: for the device.
    """
    count = len(gradients)
    gram = torch.zeros(count, count, dtype=torch.float64, device=like.device)
    here = [task for task in range(count) if gradients[task] is not None]
    sizes = {len(gradients[task] or ()) for task in here}
    for part in range(max(sizes, default=0)):
        vectors = flat([gradients[task][part] for task in here])  # type: ignore[index]
        for place, i in enumerate(here):
            for other, j in zip(vectors[place:], here[place:]):
                gram[i, j] += _dot(vectors[place], other)
    return gram + gram.triu(1).T


def squared_norms(gradients: Sequence[Tensor]) -> Tensor:
    """(M,) float64 squared lengths."""
    return torch.stack([_dot(vector, vector) for (vector,) in (flat([g]) for g in gradients)])


def _dot(a: Tensor, b: Tensor) -> Tensor:
    # Squares of half precision overflow: they are multiplied in float32.
    if a.dtype not in (torch.float32, torch.float64):
        a, b = a.float(), b.float()
    return torch.dot(a, b).double()


def summed_over_processes(numbers: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """The sum over a group's processes; the tensor itself without a group.

    All processes must come here in every backward pass. The group must be one of its own
    (:func:`own_group`): DistributedDataParallel's sums are under way at the same time.
    """
    if group is not None:
        dist.all_reduce(numbers, group=group)
    return numbers


def own_group() -> dist.ProcessGroup | None:
    """A new process group of all processes; None where there is one process. Call it once a run.

    Raises:
        RuntimeError: several processes were started that do not know of each other yet.
    """
    many = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if many and not (dist.is_available() and dist.is_initialized()):
        raise RuntimeError(
            "WORLD_SIZE is above 1, but torch.distributed is not initialised: make the group after "
            "init_process_group, or each process would weigh by its own gradients"
        )
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return None
    group = dist.new_group()
    assert isinstance(group, dist.ProcessGroup)
    return group
