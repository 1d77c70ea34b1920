"""What every op looks at before its kernel runs: errors say what was found."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def check_tensor(
    name: str,
    tensor: Tensor,
    shape: Sequence[int | str],
    *,
    floating: bool = False,
    types: Sequence[torch.dtype] = (),
    beside: Tensor | None = None,
) -> None:
    """Raise unless a tensor is what an op takes.

    Args:
        name: how the message names it.
        tensor: what was given.
        shape: sizes; a string stands for any size.
        floating: whether it must hold floating-point numbers.
        types: the types it may have; any when empty.
        beside: a tensor whose device it must share.

    Raises:
        TypeError: not a tensor.
        ValueError: another shape, type or device.
    """
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a tensor; found {type(tensor).__name__}")
    fits = tensor.dim() == len(shape) and all(
        isinstance(want, str) or want == found for want, found in zip(shape, tensor.shape)
    )
    if not fits:
        wanted = ", ".join(map(str, shape))
        raise ValueError(f"{name} must have shape ({wanted}); found {tuple(tensor.shape)}")
    if floating and not tensor.is_floating_point():
        raise ValueError(f"{name} must hold floating-point numbers; found {tensor.dtype}")
    if types and tensor.dtype not in types:
        raise ValueError(f"{name} must be {' or '.join(map(str, types))}; found {tensor.dtype}")
    if beside is not None and tensor.device != beside.device:
        raise ValueError(f"{name} must be on {beside.device}; found {tensor.device}")
