"""Checks at the door of every noun: errors say what was expected and what was found."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def check_tensor(
    owner: str,
    name: str,
    value: Tensor,
    shape: tuple[int | str, ...],
    *,
    floating: bool | None = None,
) -> None:
    """Raise ValueError unless ``value`` is a tensor of the stated shape.

    Args:
        owner, name: the noun and its field, for the message.
        shape: one entry a dimension: a number must match, a letter ("N") may be anything; a leading
        "..."
            allows any number of dimensions before the rest.
        floating: True asks for a floating dtype, False for an integer or bool one.
    """
    if not isinstance(value, Tensor):
        raise ValueError(f"{owner}.{name} must be a torch tensor; found {type(value).__name__}")
    found = tuple(value.shape)
    expected = shape[1:] if shape[:1] == ("...",) else shape
    tail = found[len(found) - len(expected) :] if shape[:1] == ("...",) else found
    fits = len(tail) == len(expected) and all(
        isinstance(want, str) or want == have for want, have in zip(expected, tail)
    )
    if not fits:
        text = ", ".join(str(s) for s in shape)
        raise ValueError(f"{owner}.{name} must have shape ({text}); found {found}")
    if floating is not None and value.dtype.is_floating_point != floating:
        kind = "floating-point" if floating else "integer"
        raise ValueError(f"{owner}.{name} must be {kind}; found {value.dtype}")


def check_same_length(owner: str, **lengths: int) -> None:
    """Raise ValueError unless all lengths are equal."""
    counts = list(lengths.values())
    # Compared, not put into a set: torch.compile may know of two lengths only that they are equal.
    if any(count != counts[0] for count in counts):
        listed = ", ".join(f"{name} {n}" for name, n in lengths.items())
        raise ValueError(f"{owner}: fields must have one length; found {listed}")


def check_finite(owner: str, name: str, value: Tensor) -> None:
    """Raise ValueError with the first bad row if a value is NaN or infinite."""
    finite = torch.isfinite(value)
    if not bool(finite.all()):
        row = int((~finite).nonzero()[0, 0]) if value.ndim else 0
        raise ValueError(
            f"{owner}.{name} has {int((~finite).sum())} non-finite values, first in row {row}: "
            f"{value[row].tolist() if value.ndim else value.item()}; drop or repair them before"
        )


def move(noun: T, device: torch.device | str, *, leave: tuple[str, ...] = ()) -> T:
    """A copy of a frozen dataclass with every tensor, noun and tuple of them on ``device``.

    The values were checked when the noun was made and are not checked again: on a GPU every look at
    one would wait for the copy. Fields named in ``leave`` stay where they are.
    """
    copy = object.__new__(type(noun))
    for field in dataclasses.fields(noun):  # type: ignore[arg-type]
        value = getattr(noun, field.name)
        moved = value if field.name in leave else _moved(value, device)
        object.__setattr__(copy, field.name, moved)
    return copy


def _moved(value: Any, device: torch.device | str) -> Any:
    if isinstance(value, Tensor):
        # A copy to the host must have arrived when it is read; one to the device may still fly.
        return value.to(device, non_blocking=torch.device(device).type == "cuda")
    if isinstance(value, tuple):
        return tuple(_moved(item, device) for item in value)
    if dataclasses.is_dataclass(value) and hasattr(value, "to"):
        return value.to(device)  # type: ignore[union-attr]
    return value
