"""Rotated suppression: of boxes that overlap from above, the best scored stays."""

from __future__ import annotations

from torch import Tensor

from perception3d_ops.box_overlap import box_overlap_twin
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


def rotated_nms(
    boxes: Tensor,
    scores: Tensor,
    threshold: float,
    *,
    labels: Tensor | None = None,
    offsets: Tensor | None = None,
    pre_limit: int | None = None,
    post_limit: int | None = None,
) -> Tensor:
    """Rows that no better scored, kept row overlaps by more than the threshold.

    mmcv's ``nms_rotated`` drops overlap >= threshold on the CPU and overlap > threshold on CUDA;
    here it is > on both. Among equal scores the lowest row counts as better.

    Args:
        boxes: (N, 5) x, y, length, width, yaw as in :mod:`perception3d_ops.box_overlap`. A box that
            is not finite overlaps nothing, and is kept.
        scores: (N,) any floating type. Rows scored NaN are never kept and suppress nothing.
        threshold: in [0, 1], of the intersection over union.
        labels: (N,) int64; if given, only rows of one label suppress each other.
        offsets: (B + 1,) int64 of a batch: sample b owns rows offsets[b]:offsets[b + 1], and only
            rows of one sample suppress each other. None for one sample.
        pre_limit: best rows of each sample that take part, whatever their label; None for all.
        post_limit: best kept rows of each sample that are returned; None for all.

    Returns:
        (K,) int64 kept rows: sample by sample, by falling score in each.

    Raises:
        ValueError: wrong shapes, types, devices or offsets, a negative limit, or a threshold
            outside [0, 1].
    """
    check_tensor("boxes", boxes, ("N", 5), floating=True)
    asked = request(boxes, scores, threshold, 1.0, labels, offsets, pre_limit, post_limit)
    return _op(boxes.detach(), *asked)


def rotated_bits_twin(
    boxes: Tensor, labels: Tensor, first: Tensor, alive: Tensor, threshold: float, words: int
) -> Tensor:
    """Which later rows each row suppresses; see :func:`perception3d_ops.suppression.pack_bits`."""
    hit = box_overlap_twin(boxes.double(), boxes.double(), False, False) > threshold
    return pack_bits(hit, Ranking(first, first, alive, words), labels)


_bits = define(
    "rotated_bits(Tensor boxes, Tensor labels, Tensor first, Tensor alive, float threshold, "
    "SymInt words) -> Tensor",
    rotated_bits_twin,
    fake_bits,
)
#: The definition of :func:`rotated_nms`, and how it is done without a kernel for the whole.
rotated_nms_by_bits = by_bits(_bits)
_op = define(
    "rotated_nms(Tensor boxes, Tensor scores, Tensor labels, Tensor offsets, float threshold, "
    "int pre_limit, int post_limit) -> Tensor",
    rotated_nms_by_bits,
    fake_kept,
)
