"""The ConvNeXt block against plain functions, stochastic depth, channel norms."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, gelu

from perception3d.nn.convnext import ConvNeXtBlock, StochasticDepth
from perception3d.nn.norm import ChannelNorm, freeze_statistics


def normalised(x: Tensor, norm: nn.LayerNorm, eps: float) -> Tensor:
    """Over dimension 1, with the given eps: not the module's own."""
    mean = x.mean(dim=1, keepdim=True)
    variance = (x - mean).square().mean(dim=1, keepdim=True)
    x = (x - mean) / torch.sqrt(variance + eps)
    return x * norm.weight[:, None, None] + norm.bias[:, None, None]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_block(memory_format: torch.memory_format) -> None:
    torch.manual_seed(0)
    block = ConvNeXtBlock(6, layer_scale=0.5)
    nn.init.normal_(block.norm.bias)
    # Small inputs show which eps stands under the root.
    x = (torch.randn(2, 6, 9, 11) * 1e-2).to(memory_format=memory_format)
    y = conv2d(x, block.depthwise.weight, padding=3, groups=6)
    with torch.no_grad():
        block.depthwise.bias.zero_()
    y = normalised(y, block.norm, 1e-6)
    y = torch.einsum("bchw,dc->bdhw", y, block.expand.weight) + block.expand.bias[:, None, None]
    y = (
        torch.einsum("bdhw,cd->bchw", gelu(y), block.reduce.weight)
        + block.reduce.bias[:, None, None]
    )
    torch.testing.assert_close(block(x), x + 0.5 * y, rtol=1e-4, atol=1e-5)


def test_channel_norm_has_the_eps_it_is_given() -> None:
    x = torch.randn(1, 5, 2, 3) * 1e-3
    for eps in (1e-5, 1e-6):
        norm = ChannelNorm(5, eps=eps)
        torch.testing.assert_close(norm(x), normalised(x, norm, eps))


def test_stochastic_depth_drops_whole_samples_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    drop = StochasticDepth(0.25)
    out = drop(torch.ones(4000, 2, 3))
    assert torch.equal(out, out[:, :1, :1].expand_as(out))
    assert set(out[:, 0, 0].unique().tolist()) == {0.0, float(torch.tensor(1.0) / 0.75)}
    assert float(out.mean()) == pytest.approx(1.0, abs=0.03)
    assert torch.equal(drop.eval()(torch.ones(3)), torch.ones(3))
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        StochasticDepth(1.0)


def test_frozen_statistics_stay_while_weights_learn() -> None:
    module = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3)).train()
    freeze_statistics(module)
    module(torch.randn(4, 2, 5, 5) + 3).sum().backward()
    norm = module[1]
    assert isinstance(norm, nn.BatchNorm2d)
    assert torch.equal(norm.running_mean, torch.zeros(3))
    assert norm.weight.grad is not None
