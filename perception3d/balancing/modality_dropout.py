"""Modality dropout: now and then a sample is seen without one of its sensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class ModalityDropout(nn.Module):
    """In training zeroes one modality of a sample at most; those that stay are not scaled.

    Args:
        probabilities: of each modality to be the one that is missing; their sum is at most 1.
    """

    def __init__(self, probabilities: Sequence[float]) -> None:
        super().__init__()
        if any(p < 0 for p in probabilities) or sum(probabilities) > 1:
            raise ValueError(
                f"probabilities must be >= 0 and sum to at most 1; found {list(probabilities)}"
            )
        self.probabilities = tuple(probabilities)

    def forward(self, *features: Tensor) -> tuple[Tensor, ...]:
        """Features (B, ...), one tensor a modality, in the order of the probabilities.

        Raises:
            ValueError: another number of modalities.
        """
        if len(features) != len(self.probabilities):
            raise ValueError(
                f"{len(self.probabilities)} modalities were announced; found {len(features)}"
            )
        if not self.training:
            return features
        draw = torch.rand(len(features[0]), device=features[0].device)
        result, passed = [], 0.0
        for tensor, probability in zip(features, self.probabilities):
            gone = (draw >= passed) & (draw < passed + probability)
            passed += probability
            result.append(tensor * (~gone).view(-1, *[1] * (tensor.ndim - 1)).to(tensor.dtype))
        return tuple(result)
