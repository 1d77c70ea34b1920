"""Rows that share a key, found by a stable sort."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from perception3d_ops.checks import check_tensor
from perception3d_ops.library import define


@dataclass(frozen=True)
class Groups:
    """G groups of the rows 0 .. R - 1, some of which may belong to none.

    Attributes:
        key: (G,) int64, ascending, each once.
        order: (K,) int64 rows by group, ascending inside a group.
        start: (G + 1,) int64; group g owns order[start[g]:start[g + 1]], never empty.
        rows: R.
    """

    key: Tensor
    order: Tensor
    start: Tensor
    rows: int

    @property
    def count(self) -> Tensor:
        """(G,) int64 rows of each group."""
        return self.start.diff()

    def of_row(self) -> Tensor:
        """(R,) int64 group of each row, -1 where it has none."""
        group = self.key.new_full((self.rows,), -1)
        return group.index_copy_(0, self.order, group_of_order(self.order, self.start))


def group_of_order(order: Tensor, start: Tensor) -> Tensor:
    """(K,) int64 group of each entry of ``order``; both as in :class:`Groups`."""
    numbers = torch.arange(len(start) - 1, device=start.device)
    return numbers.repeat_interleave(start.diff(), output_size=len(order))


def group_rows(key: Tensor) -> Groups:
    """Group rows by key.

    Args:
        key: (R,) int64; rows with a negative key belong to no group.

    Raises:
        ValueError: another shape or type.
    """
    check_tensor("key", key, ("R",), types=(torch.int64,))
    unique, order, start = _op(key)
    return Groups(unique, order, start, key.shape[0])


def group_rows_twin(key: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The definition of :func:`group_rows`: keys, order, start."""
    sorted_key, order = torch.sort(key, stable=True)
    rejected = int((key < 0).sum())
    unique, count = torch.unique_consecutive(sorted_key[rejected:], return_counts=True)
    start = torch.nn.functional.pad(count.cumsum(0), (1, 0))
    return unique, order[rejected:].clone(), start


def _fake(key: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    ctx = torch.library.get_ctx()
    groups, kept = ctx.new_dynamic_size(), ctx.new_dynamic_size()
    return key.new_empty(groups), key.new_empty(kept), key.new_empty(groups + 1)


_op = define("group_rows(Tensor key) -> (Tensor, Tensor, Tensor)", group_rows_twin, _fake)
