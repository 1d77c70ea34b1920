"""Aligned-MTL (Senushkin et al., 2305.19000): gradients made orthogonal and equally long."""

from __future__ import annotations

import torch
from torch import Tensor

from perception3d.balancing.rule import Rule

#: Eigenvalues below this share of the largest are the null space.
NULL = 1e-10


class Aligned(Rule):
    """sqrt(lambda_min) G^(-1/2) 1: the nearest orthogonal system, as long as its shortest axis.

    Measured where tasks part, the "upper bound" of the paper.
    """

    def weigh(self, gram: Tensor, active: Tensor) -> Tensor:
        """See :meth:`Rule.weigh`."""
        value, vector = torch.linalg.eigh(gram)
        kept = value > NULL * value.max()
        least = torch.where(kept, value, torch.inf).min()
        root = torch.where(kept, (least / value.clamp_min(least * NULL)).sqrt(), 0.0)
        return vector @ (root * (active.to(gram.dtype) @ vector))
