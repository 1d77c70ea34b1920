"""Position codes of camera-LiDAR transformers: sines of plane coordinates, depths along rays."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def plane_sine_code(xy: Tensor, num_feats: int) -> Tensor:
    """Sine code of normalised plane positions, as the published CMT computes it.

    The frequencies hardly differ (divisors 1 to 2: the usual temperature is unused there), so
    neighbouring channels are similar; the following MLP sorts it out. junjie18/CMT, ``pos2embed``.

    Args:
        xy: (..., 2) x, y in units of the range, usually in [0, 1].
        num_feats: F, even; channel i has divisor 1 + 2 floor(i / 2) / F, sine for even i, cosine
            for odd.

    Returns:
        (..., 2 F) float32: the F channels of y first, then those of x.
    """
    if num_feats % 2:
        raise ValueError(f"num_feats must be even (sine and cosine alternate); found {num_feats}")
    pair = torch.arange(num_feats // 2, dtype=torch.float32, device=xy.device)
    divisor = 2 * pair / num_feats + 1
    angle = (xy.float().flip(-1) * (2 * math.pi)).unsqueeze(-1) / divisor
    return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(-3)


def grid_centers(rows: int, columns: int, *, device: torch.device | None = None) -> Tensor:
    """(rows * columns, 2) x, y of the cell centres of a raster in units of its extent, by row."""
    y = (torch.arange(rows, dtype=torch.float32, device=device) + 0.5) / rows
    x = (torch.arange(columns, dtype=torch.float32, device=device) + 0.5) / columns
    grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
    return torch.stack((grid_x, grid_y), dim=-1).flatten(0, 1)


def uniform_depths(near_m: float, far_m: float, count: int) -> Tensor:
    """(count,) float32 depths near + k (far - near) / count for k = 0 .. count - 1: without far."""
    step = (far_m - near_m) / count
    return near_m + step * torch.arange(count, dtype=torch.float32)


def inverse_sigmoid(x: Tensor, eps: float = 1e-5) -> Tensor:
    """ln(x / (1 - x)) with x clamped to [0, 1] and both terms kept >= eps: always finite."""
    x = x.clamp(0, 1)
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))
