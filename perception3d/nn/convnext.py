"""The ConvNeXt block (arXiv 2201.03545) in its first version, with stochastic depth."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class StochasticDepth(nn.Module):
    """Zeroes the branch of a sample with probability ``rate`` in training; rescales the others."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"the rate of stochastic depth must lie in [0, 1); found {rate}")
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """(B, ...) -> the same shape."""
        if not self.training or self.rate == 0:
            return x
        keep = torch.rand(x.shape[0], *[1] * (x.ndim - 1), device=x.device) >= self.rate
        return x * (keep.to(x.dtype) / (1 - self.rate))

    def extra_repr(self) -> str:
        """Shown by print."""
        return f"rate={self.rate}"


class ConvNeXtBlock(nn.Module):
    """A residual block whose branch is a depthwise convolution and a channel MLP.

    Depthwise -> LayerNorm -> Linear C to rC -> exact GELU -> Linear rC to C -> scale -> + input.

    Args:
        channels: C.
        kernel: side of the depthwise kernel, odd.
        expansion: r.
        layer_scale: initial value of the learnt scale of each channel.
        drop_path: probability of dropping the branch of a sample in training.
    """

    def __init__(
        self,
        channels: int,
        *,
        kernel: int = 7,
        expansion: int = 4,
        layer_scale: float = 1.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.expand = nn.Linear(channels, expansion * channels)
        self.reduce = nn.Linear(expansion * channels, channels)
        self.gamma = nn.Parameter(torch.full((channels,), layer_scale))
        self.drop_path = StochasticDepth(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same. Fastest in channels-last memory, where permutes are free."""
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.reduce(nn.functional.gelu(self.expand(y))) * self.gamma
        return x + self.drop_path(y.permute(0, 3, 1, 2))
