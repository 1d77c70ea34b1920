"""Outputs of queries to boxes, without suppression: each query answers for one object."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from perception3d.heads.box_code import decode_boxes, decode_centers, decode_sizes
from perception3d.structures import Boxes3D

#: Boxes whose centre lies outside are dropped when decoding (published): x, y, z minima, then
#: maxima.
DECODED_RANGE_M = (-61.2, -61.2, -10.0, 61.2, 61.2, 10.0)


@torch.no_grad()
def decode_queries(
    box: Tensor,
    logits: Tensor,
    *,
    max_boxes: int,
    range_m: tuple[float, float, float, float, float, float] = DECODED_RANGE_M,
    build: Callable[[Tensor, Tensor], Boxes3D] = decode_boxes,
) -> list[tuple[Boxes3D, Tensor]]:
    """Boxes and scores (n,) of every sample by falling score, on the CPU.

    The best ``max_boxes`` pairs of query and class; one query may appear with several classes. No
    score threshold. Dropped: gravity centres outside of ``range_m``, and (a guard: published coders
    have none) vectors that are not finite or whose size overflows.

    Args:
        box: (B, Q, 10) vectors; places and sizes as in :mod:`perception3d.heads.box_code`.
        logits: (B, Q, K) of the classes.
        max_boxes: kept of a sample.
        range_m: x, y, z minima, then maxima.
        build: boxes of vectors (n, 10) and labels (n,); another code of sizes and angles has its
            own.
    """
    results = []
    classes = logits.shape[-1]
    for vectors, scores in zip(box.cpu(), logits.float().sigmoid().cpu()):
        score, flat = scores.flatten().topk(min(max_boxes, scores.numel()))
        vector = vectors[flat // classes].float()
        keep = _decodable(vector, range_m) & torch.isfinite(score)
        results.append((build(vector[keep], (flat % classes)[keep]), score[keep]))
    return results


def _decodable(vector: Tensor, range_m: tuple[float, float, float, float, float, float]) -> Tensor:
    low, high = vector.new_tensor(range_m).split(3)
    center, size = decode_centers(vector), decode_sizes(vector)
    inside = ((center >= low) & (center <= high)).all(dim=-1)
    sized = (torch.isfinite(size) & (size > 0)).all(dim=-1)
    return inside & sized & torch.isfinite(vector).all(dim=-1)
