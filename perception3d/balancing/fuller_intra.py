"""FULLER's intra-gradient calibration (arXiv 2307.16617): modalities leave with one magnitude.

The paper says that magnitudes are calibrated to the same level before gradients go on into the
modality branches. To which level, and in which norm, could not be read: options here.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Tau = Literal["mean", "min", "max", "geo"]


class FullerIntra:
    """Factors tau / n_m.

    Args:
        tau: the common length: the mean of the modalities' (the sum of lengths stays), the least
            (only scales down), the greatest, or the geometric mean.
        clamp: least and greatest factor; None: any.
    """

    def __init__(self, *, tau: Tau = "mean", clamp: tuple[float, float] | None = None) -> None:
        if tau not in ("mean", "min", "max", "geo"):
            raise ValueError(f"tau must be mean, min, max or geo; found {tau!r}")
        if clamp is not None and not 0 < clamp[0] <= 1 <= clamp[1]:
            raise ValueError(f"clamp must hold factors around 1; found {clamp}")
        self.tau, self.clamp = tau, clamp

    def scales(self, norms: Tensor) -> Tensor:
        """See :class:`perception3d.balancing.modality.ModalityRule`."""
        levels: dict[Tau, Tensor] = {
            "mean": norms.mean(),
            "min": norms.min(),
            "max": norms.max(),
            "geo": norms.log().mean().exp(),
        }
        factor = levels[self.tau] / norms
        return factor if self.clamp is None else torch.clamp(factor, *self.clamp)
