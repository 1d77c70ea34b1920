"""Shapes, sizes and errors of the necks (values: golden cases)."""

from __future__ import annotations

import pytest
import torch

from perception3d.nn.fpn import CPFPN, UpsampleConcatNeck


def test_published_number_of_weights() -> None:
    assert sum(p.numel() for p in CPFPN([768, 1024], 256).parameters()) == 1_049_344
    neck = UpsampleConcatNeck([128, 256], [256, 256], [1, 2])
    assert sum(p.numel() for p in neck.parameters()) == 295_936


def test_unused_levels_are_not_made() -> None:
    levels = [torch.randn(1, 3, 5, 7), torch.randn(1, 4, 3, 4)]
    neck = CPFPN([3, 4], 6)
    assert [tuple(x.shape) for x in neck(levels)] == [(1, 6, 5, 7)]
    with pytest.raises(ValueError, match="takes 2 levels; found 1"):
        neck(levels[:1])
    with pytest.raises(ValueError, match="1 to 2 levels"):
        CPFPN([3, 4], 6, num_outputs=3)


def test_branches_end_at_one_size() -> None:
    neck = UpsampleConcatNeck([2, 3, 4], [5, 6, 7], [1, 2, 4]).eval()
    maps = [torch.randn(1, 2, 8, 12), torch.randn(1, 3, 4, 6), torch.randn(1, 4, 2, 3)]
    assert neck(maps).shape == (1, 18, 8, 12)
    assert neck.channels == 18
    with pytest.raises(ValueError, match="joins 3 maps; found 2"):
        neck(maps[:2])
    with pytest.raises(ValueError, match="one entry a branch"):
        UpsampleConcatNeck([2, 3], [5, 6], [1])
