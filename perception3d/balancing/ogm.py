"""On-the-fly gradient modulation (OGM, Peng et al., 2203.15332), by gradient lengths.

The paper's ratio is that of unimodal scores, which detectors do not have; here it is how long a
modality's gradient is beside the mean of the others'.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Ogm:
    """Factors 1 - tanh(alpha rho_m) where rho_m > 1, else 1: only what dominates is damped.

    Args:
        alpha: strength.
    """

    def __init__(self, *, alpha: float = 0.1) -> None:
        if not alpha > 0:
            raise ValueError(f"alpha must be positive; found {alpha}")
        self.alpha = alpha

    def scales(self, norms: Tensor) -> Tensor:
        """See :class:`perception3d.balancing.modality.ModalityRule`."""
        others = (norms.sum() - norms) / max(len(norms) - 1, 1)
        ratio = norms / others
        return torch.where(ratio > 1, 1 - torch.tanh(self.alpha * ratio), 1.0)
