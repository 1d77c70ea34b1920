"""Losses of box vectors."""

from __future__ import annotations

import torch
from torch import Tensor


def weighted_l1(prediction: Tensor, target: Tensor, slot_weight: Tensor) -> Tensor:
    """|prediction - target| times a weight a slot, summed over the slots.

    Rows whose target holds a NaN or an infinity get loss 0 and no gradient.

    Args:
        prediction, target: (..., D).
        slot_weight: (D,).

    Returns:
        (...,) float32.
    """
    known = torch.isfinite(target).all(dim=-1)
    # The target is replaced before the difference: 0 * NaN would still be NaN in the gradient.
    safe = torch.where(known.unsqueeze(-1), target.float(), prediction.detach().float())
    loss = ((prediction.float() - safe).abs() * slot_weight).sum(dim=-1)
    return torch.where(known, loss, torch.zeros_like(loss))
