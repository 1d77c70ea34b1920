"""Random inputs of the ops, and what is asked of every op."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from perception3d_ops.sparse_sites import SparseSites
from torch import Tensor


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def assert_same_bits(make: Callable[[], Any]) -> None:
    """Twice the same, and the same on one thread and on two."""
    with threads(1):
        first, second = make(), make()
    with threads(2):
        third = make()
    for other in (second, third):
        for a, b in zip(tensors(first), tensors(other)):
            assert torch.equal(a, b)


def tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [t for part in value for t in tensors(part)]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cloud(counts: list[int], seed: int, *, reach_m: float = 12.0) -> tuple[Tensor, Tensor]:
    """Points on borders, outside and not finite among ordinary ones, and their offsets."""
    generator = seeded(seed)
    xyz = (torch.rand(sum(counts), 3, generator=generator) - 0.5) * 2 * reach_m
    if len(xyz):
        on_border = torch.rand(len(xyz), generator=generator) < 0.3
        xyz[on_border] = (xyz[on_border] * 4).round() / 4
        for value in (torch.nan, torch.inf, -torch.inf, 1e30, -1e30):
            row = int(torch.randint(len(xyz), (1,), generator=generator))
            xyz[row, row % 3] = value
    return xyz, torch.tensor([0, *counts]).cumsum(0)


def sites(
    shape: tuple[int, int, int], share: float, batch: int, seed: int, *, empty: int | None = None
) -> SparseSites:
    """Random occupied cells; sample ``empty`` has none."""
    occupied = torch.rand(batch, *shape, generator=seeded(seed)) < share
    if empty is not None:
        occupied[empty] = False
    return SparseSites.of(occupied.nonzero().int(), shape, batch)[0]
