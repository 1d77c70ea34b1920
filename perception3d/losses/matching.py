"""One-to-one matching of predictions and boxes: costs on the device, the assignment by scipy."""

from __future__ import annotations

import torch
from torch import Tensor


def focal_class_cost(
    logits: Tensor, label: Tensor, *, alpha: float = 0.25, gamma: float = 2.0, eps: float = 1e-12
) -> Tensor:
    """What giving a query a box of some class costs: focal loss as positive minus as negative.

    Args:
        logits: (..., Q, K).
        label: (..., N) int64 classes of the boxes, leading dimensions broadcast against those of
            ``logits``.
        alpha, gamma: of the focal loss.
        eps: inside the logarithms (published 1e-12, so costs of extreme scores stay finite).

    Returns:
        (..., Q, N) float32.
    """
    p = logits.float().sigmoid()
    as_negative = -(1 - p + eps).log() * (1 - alpha) * p.pow(gamma)
    as_positive = -(p + eps).log() * alpha * (1 - p).pow(gamma)
    cost = as_positive - as_negative
    shape = (*cost.shape[:-1], label.shape[-1])
    return cost.gather(-1, label.unsqueeze(-2).expand(shape))


def l1_cost(prediction: Tensor, target: Tensor) -> Tensor:
    """Sum of absolute differences of every prediction and every box.

    Args:
        prediction: (..., Q, D).
        target: (..., N, D).

    Returns:
        (..., Q, N) float32.
    """
    # An explicit difference: cdist has no exact p = 1 gradient-free path on every device, and D is
    # small.
    difference = prediction.float().unsqueeze(-2) - target.float().unsqueeze(-3)
    return difference.abs().sum(dim=-1)


def hungarian(cost: Tensor) -> tuple[Tensor, Tensor]:
    """Cheapest one-to-one assignment.

    Args:
        cost: (Q, N), on any device; NaN and infinite costs count as very dear.

    Returns:
        Rows and columns of the min(Q, N) pairs, int64, on the device of ``cost``, rows ascending.
    """
    from scipy.optimize import linear_sum_assignment

    finite = torch.nan_to_num(cost.detach().double(), nan=1e8, posinf=1e8, neginf=-1e8)
    rows, columns = linear_sum_assignment(finite.cpu().numpy())
    pairs = torch.stack((torch.from_numpy(rows), torch.from_numpy(columns))).to(cost.device)
    return pairs[0], pairs[1]
