"""Focal losses by their formulas."""

from __future__ import annotations

import pytest
import torch

from perception3d.losses.focal import gaussian_focal_loss, sigmoid_focal_loss


def test_sigmoid_focal_loss_is_its_formula() -> None:
    torch.manual_seed(0)
    logits = torch.randn(5, 3)
    target = torch.tensor([0, 2, 3, 1, -1])  # 3 and -1: background
    p = logits.sigmoid()
    want = -(1 - p).log() * 0.75 * p.square()
    for row, label in enumerate(target.tolist()):
        if 0 <= label < 3:
            q = p[row, label]
            want[row, label] = -q.log() * 0.25 * (1 - q).square()
    torch.testing.assert_close(sigmoid_focal_loss(logits, target), want)


def test_gaussian_focal_loss_is_its_formula() -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(4, 6), torch.rand(4, 6)
    target[1, 2] = 1.0
    p = logits.sigmoid()
    want = -(1 - p).log() * p.square() * (1 - target).pow(4)
    want[1, 2] = -p[1, 2].log() * (1 - p[1, 2]).square()
    torch.testing.assert_close(gaussian_focal_loss(logits, target), want)


@pytest.mark.parametrize("value", [-200.0, 200.0])
def test_extreme_logits_stay_finite(value: float) -> None:
    logits = torch.full((2, 2), value, requires_grad=True)
    total = sigmoid_focal_loss(logits, torch.tensor([0, 2])).sum()
    total = total + gaussian_focal_loss(logits, torch.tensor([[1.0, 0.0], [0.5, 1.0]])).sum()
    total.backward()
    assert torch.isfinite(total) and torch.isfinite(logits.grad).all()


def test_half_precision_is_computed_in_float32() -> None:
    logits = torch.randn(3, 4).bfloat16()
    assert sigmoid_focal_loss(logits, torch.zeros(3, dtype=torch.int64)).dtype == torch.float32
    assert gaussian_focal_loss(logits, torch.zeros(3, 4)).dtype == torch.float32
