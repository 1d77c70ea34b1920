"""What every rule between modalities offers; one file a rule."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class ModalityRule(Protocol):
    """Says how much the gradient of each modality is scaled before it enters its branch."""

    def scales(self, norms: Tensor) -> Tensor:
        """(M,) factors for gradients of (M,) lengths, all finite and above zero, float64."""
        ...
