"""Position codes of PETR's queries: sines of reference points, then an MLP.

Reference: arXiv 2203.05625, section 3.4; megvii-research/PETR, ``pos2posemb3d`` and
``pos2posemb2d``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

#: Base of the geometric row of frequencies (published).
TEMPERATURE = 10000.0


def reference_sine_code(points: Tensor, num_feats: int) -> Tensor:
    """Sine code of normalised points.

    Args:
        points: (..., D) x, y (and z) in units of the range, D 2 or 3.
        num_feats: F an axis, even; channel 2 m is the sine, 2 m + 1 the cosine of
            2 pi p / 10000^(2 m / F): alternating, unlike the code of image cells.

    Returns:
        (..., D F) float32: the channels of y first, then x (then z).
    """
    if num_feats % 2:
        raise ValueError(f"num_feats must be even (sine and cosine alternate); found {num_feats}")
    pair = torch.arange(num_feats // 2, dtype=torch.float32, device=points.device)
    divisor = TEMPERATURE ** (2 * pair / num_feats)
    order = [1, 0, *range(2, points.shape[-1])]
    angle = (points.float()[..., order] * (2 * math.pi)).unsqueeze(-1) / divisor
    return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(-3)


class QueryCode(nn.Module):
    """Position codes (..., C) of reference points (..., D).

    Args:
        channels: C; an axis has C / 2 sine channels (published: 128 of 256).
        axes: D.
    """

    def __init__(self, channels: int, *, axes: int) -> None:
        super().__init__()
        self.embedding = nn.Sequential(
            nn.Linear(axes * (channels // 2), channels), nn.ReLU(), nn.Linear(channels, channels)
        )
        self.num_feats = channels // 2

    def forward(self, points: Tensor) -> Tensor:
        """(..., D) in [0, 1] -> (..., C) float32."""
        with torch.autocast(points.device.type, enabled=False):
            return self.embedding(reference_sine_code(points, self.num_feats))
