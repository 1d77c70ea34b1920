"""Focal losses: for class logits of queries or anchors, and for heat maps with Gaussian targets."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid


def sigmoid_focal_loss(
    logits: Tensor, target: Tensor, *, alpha: float = 0.25, gamma: float = 2.0
) -> Tensor:
    """Focal loss of independent classes (arXiv 1708.02002, eq. 5), element by element.

    Args:
        logits: (..., K).
        target: (...,) int64 class in 0 .. K - 1; K (or anything else) stands for background: all
            negative.
        alpha: weight of positives; negatives weigh 1 - alpha.
        gamma: focusing power.

    Returns:
        (..., K) float32 losses, not reduced.
    """
    logits = logits.float()
    classes = torch.arange(logits.shape[-1], device=logits.device)
    positive = (target.unsqueeze(-1) == classes).to(logits.dtype)
    p = logits.sigmoid()
    miss = torch.where(positive > 0, 1 - p, p)
    weight = torch.where(positive > 0, alpha, 1 - alpha) * miss.pow(gamma)
    return weight * binary_cross_entropy_with_logits(logits, positive, reduction="none")


def gaussian_focal_loss(
    logits: Tensor, target: Tensor, *, alpha: float = 2.0, gamma: float = 4.0
) -> Tensor:
    """Focal loss of heat maps whose targets fall off around the centres (arXiv 1808.01244, eq. 1).

    Cells with target exactly 1 are positives; the others are negatives whose weight falls by
    (1 - target) ** gamma. Divide the sum by the number of positives (at least 1).

    Args:
        logits: heat map before the sigmoid, any shape.
        target: same shape, in [0, 1].
        alpha: focusing power on the prediction.
        gamma: power of the relief near centres.

    Returns:
        float32 losses of the same shape, not reduced.
    """
    logits, target = logits.float(), target.float()
    p = logits.sigmoid()
    positive = -logsigmoid(logits) * (1 - p).pow(alpha)
    negative = -logsigmoid(-logits) * p.pow(alpha) * (1 - target).pow(gamma)
    return torch.where(target == 1, positive, negative)
