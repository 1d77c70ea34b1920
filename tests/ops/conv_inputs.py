"""Kernel maps of every kind, tensors that fit them, and all that a convolution returns."""

from __future__ import annotations

import torch
from perception3d_ops.sparse_conv import sparse_conv
from perception3d_ops.sparse_sites import KernelMap
from torch import Tensor

from tests.ops.op_inputs import seeded

Triple = tuple[int, int, int]
ONE: Triple = (1, 1, 1)
MAPS = {
    "submanifold 3": lambda s: s.submanifold((3, 3, 3)),
    "submanifold 1 3 1": lambda s: s.submanifold((1, 3, 1)),
    "submanifold 1": lambda s: s.submanifold(ONE),
    "strided 3 2 1": lambda s: s.strided((3, 3, 3), (2, 2, 2), ONE),
    "strided 3 2 011": lambda s: s.strided((3, 3, 3), (2, 2, 2), (0, 1, 1)),
    "strided 311": lambda s: s.strided((3, 1, 1), (2, 1, 1), (0, 0, 0)),
    "strided 2": lambda s: s.strided((2, 2, 2), (2, 2, 2), (0, 0, 0)),
    "transposed 3 2": lambda s: s.strided((3, 3, 3), (2, 2, 2), ONE, transposed=True),
    "inverse": lambda s: s.strided((3, 3, 3), (2, 2, 2), ONE).inverse(),
    "inverse submanifold": lambda s: s.submanifold((3, 3, 3)).inverse(),
}


def tensors_for(
    found: KernelMap, channels: tuple[int, int], dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor]:
    generator = seeded(len(found.source) + channels[0])
    features = torch.randn(len(found.source), channels[0], generator=generator).to(dtype)
    weight = torch.randn(len(found.table), *channels, generator=generator).to(dtype)
    slope = torch.randn(len(found.target), channels[1], generator=generator).to(dtype)
    return features, weight / channels[0] ** 0.5, slope


def all_results(found: KernelMap, features: Tensor, weight: Tensor, slope: Tensor) -> list[Tensor]:
    features, weight = features.clone().requires_grad_(), weight.clone().requires_grad_()
    out = sparse_conv(features, weight, found)
    out.backward(slope)
    assert features.grad is not None and weight.grad is not None
    return [out.detach(), features.grad, weight.grad]
