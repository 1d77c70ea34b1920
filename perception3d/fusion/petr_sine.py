"""Which image cells are padding, and the sine code of view, row and column (PETR).

Reference: PETR, arXiv 2203.05625, section 3.3; megvii-research/PETR,
``SinePositionalEncoding3D``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

#: Base of the geometric row of frequencies, and what keeps an axis without valid cells finite
#: (published).
TEMPERATURE, EPS = 10000.0, 1e-6


def padded_cells(
    valid_hw: Tensor, padded_hw: tuple[int, int], feature_hw: tuple[int, int]
) -> Tensor:
    """Cells whose top left pixel lies in the padding.

    Args:
        valid_hw: (B, V, 2) height and width of the images before padding, in pixels.
        padded_hw: height and width of the network's input.
        feature_hw: (h, w) of the features.

    Returns:
        (B, V, h, w) bool, True = padding.
    """
    (height, width), (h, w) = padded_hw, feature_hw
    v = torch.arange(h, device=valid_hw.device) * height // h
    u = torch.arange(w, device=valid_hw.device) * width // w
    below = v >= valid_hw[..., :1]
    beyond = u >= valid_hw[..., 1:]
    return below.unsqueeze(-1) | beyond.unsqueeze(-2)


def view_sine_code(padded: Tensor, num_feats: int) -> Tensor:
    """Sine code of the place of a cell among the views, rows and columns.

    A coordinate is the running count of valid cells along its axis over the count at the end,
    times 2 pi. With two frames the view's coordinate is all that tells the earlier cameras from the
    current ones: views must keep their order and number.

    Args:
        padded: (B, V, h, w) bool, True = padding; such cells get a code too.
        num_feats: F an axis, even; published 128.

    Returns:
        (B, V, 3 F, h, w) float32: view, row, column; of each F / 2 sines with divisors
        10000^(2 m / F), then as many cosines (not alternating, unlike the code of queries).
    """
    if num_feats % 2:
        raise ValueError(f"num_feats must be even (sines and cosines); found {num_feats}")
    valid = (~padded).float()
    pair = torch.arange(num_feats // 2, device=padded.device, dtype=torch.float32)
    divisor = TEMPERATURE ** (2 * pair / num_feats)
    codes = []
    for axis in (1, 2, 3):
        count = valid.cumsum(axis)
        last = count.narrow(axis, count.shape[axis] - 1, 1)
        angle = (count / (last + EPS) * (2 * math.pi)).unsqueeze(2) / divisor[:, None, None]
        codes += [angle.sin(), angle.cos()]
    return torch.cat(codes, dim=2)
