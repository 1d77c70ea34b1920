"""Circle suppression: of centres that are close to each other, the best scored stays."""

from __future__ import annotations

import torch
from torch import Tensor

from perception3d_ops.checks import check_tensor
from perception3d_ops.library import define
from perception3d_ops.suppression import (
    Ranking,
    by_bits,
    fake_bits,
    fake_kept,
    pack_bits,
    request,
)

#: Rows of a sample that are returned at most, unless said otherwise (mmdetection3d ``circle_nms``).
PUBLISHED_POST_LIMIT = 83


def circle_nms(
    centers: Tensor,
    scores: Tensor,
    threshold_sq: float,
    *,
    labels: Tensor | None = None,
    offsets: Tensor | None = None,
    pre_limit: int | None = None,
    post_limit: int | None = PUBLISHED_POST_LIMIT,
) -> Tensor:
    """Rows that lie farther than a distance from every better scored, kept row.

    As in mmdetection3d's ``circle_nms`` (core/post_processing/box3d_nms.py) the threshold is a
    squared distance, and a row exactly at it is dropped: a published "radius" of 4 is 2 m. Unlike
    there, among equal scores the lowest row counts as better.

    Args:
        centers: (N, 2) x, y in metres. One that is not finite is near nothing, and is kept.
        scores: (N,) any floating type. Rows scored NaN are never kept and suppress nothing.
        threshold_sq: square metres, >= 0.
        labels, offsets, pre_limit, post_limit: as of
            :func:`perception3d_ops.box_nms.rotated_nms`; the published limit is 83.

    Returns:
        (K,) int64 kept rows: sample by sample, by falling score in each.

    Raises:
        ValueError: wrong shapes, types, devices or offsets, a negative limit, or a threshold that
            is negative or not finite.
    """
    check_tensor("centers", centers, ("N", 2), floating=True)
    asked = request(
        centers, scores, threshold_sq, torch.inf, labels, offsets, pre_limit, post_limit
    )
    return _op(centers.detach(), *asked)


def circle_bits_twin(
    centers: Tensor, labels: Tensor, first: Tensor, alive: Tensor, threshold_sq: float, words: int
) -> Tensor:
    """Which later rows each row suppresses; see :func:`perception3d_ops.suppression.pack_bits`."""
    wide = centers.double()
    hit = (wide[:, None] - wide).square().sum(dim=-1) <= threshold_sq
    return pack_bits(hit, Ranking(first, first, alive, words), labels)


_bits = define(
    "circle_bits(Tensor centers, Tensor labels, Tensor first, Tensor alive, float threshold_sq, "
    "SymInt words) -> Tensor",
    circle_bits_twin,
    fake_bits,
)
#: The definition of :func:`circle_nms`, and how it is done without a kernel for the whole.
circle_nms_by_bits = by_bits(_bits)
_op = define(
    "circle_nms(Tensor centers, Tensor scores, Tensor labels, Tensor offsets, float threshold_sq, "
    "int pre_limit, int post_limit) -> Tensor",
    circle_nms_by_bits,
    fake_kept,
)
