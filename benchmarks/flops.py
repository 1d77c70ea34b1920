"""Floating-point operations of a pass: PyTorch's counter, and what it cannot see.

A multiplication with an addition counts as two. Element-wise work, norms, the reading of displaced
taps and everything integer is left out, as usual.
"""

from __future__ import annotations

from typing import Any

import torch
from perception3d_ops import sparse_conv as _registered  # noqa: F401  (defines the ops below)
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count


def counter() -> FlopCounterMode:
    """A context in which operations are counted; ``get_total_flops`` at any time."""
    aten, own = torch.ops.aten, torch.ops.perception3d
    formulas = {
        own.sparse_conv: pairs_flop,
        own.sparse_conv_affine: pairs_flop,
        aten._scaled_dot_product_flash_attention_for_cpu: attention_flop,
    }
    return FlopCounterMode(display=False, custom_mapping=formulas)


def pairs_flop(features: Tensor, weight: Tensor, table: Tensor, *_: Any, **__: Any) -> int:
    """Of a sparse convolution: the pairs of its map, not the taps that find nothing.

    Args:
        features: (N, Cin).
        weight: (K, Cin, Cout).
        table: (K, M), -1 where a tap finds nothing.
    """
    return 2 * int((table >= 0).sum()) * weight.shape[1] * weight.shape[2]


def attention_flop(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    """Of attention on the CPU, which PyTorch's counter does not know: (B, H, N, C) each."""
    return sdpa_flop_count(query.shape, key.shape, value.shape)


for _formula in (pairs_flop, attention_flop):
    _formula._get_raw = True  # type: ignore[attr-defined]  # tensors come in, not their shapes
