"""Attention against torch's module."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from perception3d.nn.attention import MultiHeadAttention, attention_kernels


@pytest.mark.parametrize("masked", [False, True])
def test_attention_is_torchs_own(masked: bool) -> None:
    torch.manual_seed(0)
    ours = MultiHeadAttention(12, 3, dropout=0.5).eval()
    nn.init.normal_(ours.in_proj_bias)
    theirs = nn.MultiheadAttention(12, 3, batch_first=True)
    theirs.load_state_dict(ours.state_dict())
    query, key, value = torch.randn(2, 5, 12), torch.randn(2, 7, 12), torch.randn(2, 7, 12)
    blocked = torch.rand(5, 7) > 0.6 if masked else None
    if blocked is not None:
        blocked[:, 0] = False
    want, _ = theirs(query, key, value, attn_mask=blocked, need_weights=False)
    got = ours(query, key, value, blocked=blocked)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
    got.sum().backward()
    want.sum().backward()
    for a, b in zip(ours.parameters(), theirs.parameters()):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5)


def test_dropout_acts_in_training_only() -> None:
    torch.manual_seed(0)
    attention = MultiHeadAttention(8, 2, dropout=0.9)
    x = torch.randn(1, 6, 8)
    assert not torch.equal(attention(x, x, x), attention(x, x, x))
    attention.eval()
    assert torch.equal(attention(x, x, x), attention(x, x, x))


def test_heads_must_divide_channels() -> None:
    with pytest.raises(ValueError, match="5 heads do not divide 12"):
        MultiHeadAttention(12, 5)


def test_the_kernel_that_torch_takes_is_named() -> None:
    model = nn.Sequential(nn.Linear(3, 3), MultiHeadAttention(32, 4))
    found = attention_kernels(model, torch.device("cpu"), torch.float32)
    assert found == {"without mask": "flash", "with mask": "flash"}
    assert attention_kernels(nn.Linear(3, 3), torch.device("cpu"), torch.float32) is None
