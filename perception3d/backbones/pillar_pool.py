"""Linear -> ReLU -> maximum and sum over ragged rows, in chunks that stay in the processor's cache.

A LiDAR batch has some hundred thousand rows and a pillar some thirty channels: kept whole, the
activations cost far more time in memory traffic than in arithmetic. They are made chunk by chunk,
pooled at once, and made again in the backward pass. The plain version, which is its definition, is
:func:`pooled_linear_plain`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

#: Pillars of a chunk on the CPU: at 20 rows of 48 channels about 4 MB.
CHUNK = 1024


def pooled_linear_plain(
    rows: Tensor, weight: Tensor, bias: Tensor, segment: Tensor, count: Tensor
) -> tuple[Tensor, Tensor]:
    """The definition of :func:`pooled_linear`."""
    x = torch.relu(torch.nn.functional.linear(rows, weight, bias))
    index = segment.unsqueeze(1).expand_as(x)
    highest = x.new_zeros(len(count), x.shape[1])
    highest = highest.scatter_reduce(0, index, x, "amax", include_self=False)
    return highest, x.new_zeros(len(count), x.shape[1]).index_add(0, segment, x)


def pooled_linear(
    rows: Tensor, weight: Tensor, bias: Tensor, segment: Tensor, count: Tensor
) -> tuple[Tensor, Tensor]:
    """relu(rows @ weight.T + bias), pooled by segment.

    Args:
        rows: (K, D) inputs, which get no gradient.
        weight: (C, D).
        bias: (C,).
        segment: (K,) int64, ascending.
        count: (M,) int64 rows of each segment, all >= 1.

    Returns:
        Maxima (M, C) and sums (M, C). The gradient of a maximum is shared among equal rows.
    """
    return _PooledLinear.apply(rows, weight, bias, segment, count)


class _PooledLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor, segment: Tensor, count: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.chunks = _chunks(count)
        parts = [
            pooled_linear_plain(rows[r], weight, bias, segment[r] - s.start, count[s])
            for r, s in ctx.chunks
        ]
        empty = rows.new_zeros(0, weight.shape[0])
        highest = torch.cat([p[0] for p in parts] or [empty])
        total = torch.cat([p[1] for p in parts] or [empty.clone()])
        ctx.save_for_backward(rows, weight, bias, segment, highest)
        return highest, total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, bias, segment, highest = ctx.saved_tensors
        by_highest, by_total = gradients
        transposed = torch.zeros_like(weight.T)
        by_bias = torch.zeros_like(bias)
        for r, s in ctx.chunks:
            x = torch.relu_(torch.addmm(bias, rows[r], weight.T))
            index = segment[r] - s.start
            top = (x == highest[s].index_select(0, index)).to(x.dtype)
            ties = x.new_zeros(s.stop - s.start, x.shape[1]).index_add_(0, index, top)
            share = by_highest[s] / ties
            g = by_total[s].index_select(0, index).addcmul_(share.index_select(0, index), top)
            g.mul_(x > 0)
            # (D, K) @ (K, C) is several times faster than its transpose in tall, thin products.
            transposed.addmm_(rows[r].T, g)
            by_bias += g.sum(dim=0)
        return None, transposed.T, by_bias, None, None


def _chunks(count: Tensor) -> list[tuple[slice, slice]]:
    """Slices of rows and of segments that belong together; a single one on an accelerator."""
    segments = len(count)
    if segments == 0:
        return []
    starts = list(range(0, segments, CHUNK if count.device.type == "cpu" else segments))
    ends = (count.cumsum(0)[[*(s - 1 for s in starts[1:]), segments - 1]]).tolist()
    begins = [0, *ends[:-1]]
    return [
        (slice(begin, end), slice(start, min(stop, segments)))
        for begin, end, start, stop in zip(begins, ends, starts, [*starts[1:], segments])
    ]
