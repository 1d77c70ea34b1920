"""Greedy suppression (NMS) of rows in samples: what rotated and circle suppression share.

Rows are taken by falling score; a row is kept unless a kept row of its sample and label suppresses
it. Where there is no kernel for the whole (on CUDA, or without compiled kernels) it is done in
three steps without a loop over rows on the host: sort, a bit for each pair, sweep of the bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from perception3d_ops.checks import check_tensor
from perception3d_ops.library import define
from perception3d_ops.voxel_keys import check_offsets

NO_LIMIT = -1
WORD_BITS = 64


class Request(NamedTuple):
    """What every suppression takes, checked and filled in; the arguments of the ops."""

    scores: Tensor
    labels: Tensor
    offsets: Tensor
    threshold: float
    pre_limit: int
    post_limit: int


def request(
    rows: Tensor,
    scores: Tensor,
    threshold: float,
    highest: float,
    labels: Tensor | None,
    offsets: Tensor | None,
    pre_limit: int | None,
    post_limit: int | None,
) -> Request:
    """Check what the public functions of suppression share.

    Raises:
        ValueError: scores, labels or offsets that do not fit the rows, a negative limit, or a
            threshold that is not in [0, highest].
    """
    count = rows.shape[0]
    check_tensor("scores", scores, (count,), floating=True, beside=rows)
    if labels is None:
        labels = torch.zeros(count, dtype=torch.int64, device=rows.device)
    check_tensor("labels", labels, (count,), types=(torch.int64,), beside=rows)
    if offsets is None:
        offsets = torch.tensor([0, count], device=rows.device)
    check_offsets(offsets, rows)
    if not (math.isfinite(threshold) and 0 <= threshold <= highest):
        wanted = "finite and >= 0" if math.isinf(highest) else f"in [0, {highest:g}]"
        raise ValueError(f"threshold must be {wanted}; found {threshold}")
    limits = [NO_LIMIT if limit is None else limit for limit in (pre_limit, post_limit)]
    for name, given, limit in zip(("pre_limit", "post_limit"), (pre_limit, post_limit), limits):
        if given is not None and limit < 0:
            raise ValueError(f"{name} must be None or >= 0; found {given}")
    return Request(scores.detach(), labels, offsets, float(threshold), *limits)


class Ranking(NamedTuple):
    """Rows sorted: sample by sample, by falling score, the lowest row first among equals.

    Attributes:
        order: (N,) int64 row at each place.
        first: (N,) int64 place where the sample of this place begins.
        alive: (N,) bool places that take part: scored by a number, and within the limit.
        words: words of 64 bits that hold one bit for every row of a sample that takes part.
    """

    order: Tensor
    first: Tensor
    alive: Tensor
    words: int


def rank_rows(scores: Tensor, offsets: Tensor, pre_limit: int) -> Ranking:
    """Sort rows; those scored NaN come last in their sample and do not take part."""
    place = torch.arange(len(scores), device=scores.device)
    sample = torch.searchsorted(offsets.contiguous(), place, right=True) - 1
    unscored = scores.isnan()
    order = scores.masked_fill(unscored, -torch.inf).argsort(descending=True, stable=True)
    order = order[(2 * sample + unscored)[order].argsort(stable=True)]
    first = offsets[sample]
    alive = ~unscored[order]
    most = len(scores)
    if pre_limit != NO_LIMIT:
        alive &= place - first < pre_limit
        most = min(most, pre_limit)
    return Ranking(order, first, alive, -(-most // WORD_BITS))


def kept_of(ranking: Ranking, bits: Tensor, offsets: Tensor, post_limit: int) -> Tensor:
    """(K,) rows that survive: sample by sample, by falling score."""
    kept = _sweep(bits, ranking.alive, offsets)
    if post_limit != NO_LIMIT:
        before = kept.cumsum(0) - kept.long()
        kept = kept & (before - before[ranking.first] < post_limit)
    return ranking.order[kept]


def by_bits(compare: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A suppression from the op that compares its sorted rows, such as ``rotated_bits``.

    Returns:
        The function of rows and the fields of :class:`Request` that gives the kept rows.
    """

    def suppress(
        rows: Tensor,
        scores: Tensor,
        labels: Tensor,
        offsets: Tensor,
        threshold: float,
        pre_limit: int,
        post_limit: int,
    ) -> Tensor:
        ranking = rank_rows(scores, offsets, pre_limit)
        order, first, alive, words = ranking
        bits = compare(rows[order], labels[order], first, alive, threshold, words)
        return kept_of(ranking, bits, offsets, post_limit)

    return suppress


def pack_bits(hit: Tensor, ranking: Ranking, labels: Tensor) -> Tensor:
    """(N, N) bool "the row suppresses the column" to (N, words) int64, as :func:`rotated_bits`.

    Bit k of a row's words is the k-th row of its sample; bits stand only behind the row itself,
    within sample and label, and between rows that take part.
    """
    first, alive, words = ranking.first, ranking.alive, ranking.words
    place = torch.arange(len(labels), device=labels.device)
    hit = hit & (labels[:, None] == labels) & (first[:, None] == first)
    hit = hit & alive[:, None] & alive & (place > place[:, None])
    row, column = hit.nonzero(as_tuple=True)
    rank = column - first[column]
    bits = labels.new_zeros(len(labels) * words)
    # Distinct bits: adding them is setting them. The highest one is the sign.
    bits.index_add_(0, row * words + rank // WORD_BITS, torch.ones_like(rank) << rank % WORD_BITS)
    return bits.view(len(labels), words)


def sweep_bits_twin(bits: Tensor, alive: Tensor, offsets: Tensor) -> Tensor:
    """Which sorted rows survive, (N,) bool: those that no surviving row before them suppresses."""
    kept = alive.tolist()
    columns = torch.arange(bits.shape[1] * WORD_BITS, device=bits.device)
    ends = offsets.tolist()
    for begin, end in zip(ends, ends[1:]):
        removed = torch.zeros(len(columns), dtype=torch.bool, device=bits.device)
        for row in range(begin, end):
            kept[row] = kept[row] and not bool(removed[row - begin])
            if kept[row]:
                removed |= (bits[row, columns // WORD_BITS] >> columns % WORD_BITS & 1).bool()
    return torch.tensor(kept, dtype=torch.bool, device=bits.device)


def fake_kept(rows: Tensor, *_: object) -> Tensor:
    """Of a suppression: some rows."""
    kept = torch.library.get_ctx().new_dynamic_size()
    return rows.new_empty(kept, dtype=torch.int64)


def fake_bits(
    rows: Tensor, labels: Tensor, first: Tensor, alive: Tensor, threshold: float, words: int
) -> Tensor:
    """Of the ops that compare sorted rows."""
    return labels.new_empty(labels.shape[0], words)


_sweep = define(
    "sweep_bits(Tensor bits, Tensor alive, Tensor offsets) -> Tensor",
    sweep_bits_twin,
    lambda bits, alive, offsets: alive.new_empty(alive.shape[0]),
)
