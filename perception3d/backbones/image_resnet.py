"""ResNet image backbones, "pytorch" style: a bottleneck's stride sits in its 3x3 convolution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from perception3d.nn.norm import freeze_statistics

#: Depth -> (bottleneck?, blocks of the four stages); arXiv 1512.03385, table 1.
RESNET_DEPTHS = {
    18: (False, (2, 2, 2, 2)),
    34: (False, (3, 4, 6, 3)),
    50: (True, (3, 4, 6, 3)),
    101: (True, (3, 4, 23, 3)),
}


class ResNet(nn.Module):
    """ResNet-18/34/50/101 with names of weights as in torchvision and mmdetection.

    Args:
        depth: 18, 34, 50 or 101.
        out_stages: stages returned, ascending, 0 to 3; published for CMT 2 and 3. Later stages are
            not built.
        width: channels of the stem, a multiple of 8; published 64, smaller for small worlds.
        norm_eval: batch norms use and keep their running statistics in training too (published for
            CMT, whose backbone is pre-trained). Leave it off when training from scratch.
        checkpointing: recompute blocks in the backward pass to save memory.

    Attributes:
        channels, strides: of each output.

    Raises:
        ValueError: unknown depth or stage, or a width that is no multiple of 8.
    """

    def __init__(
        self,
        *,
        depth: int,
        out_stages: Sequence[int] = (2, 3),
        width: int = 64,
        norm_eval: bool = False,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if depth not in RESNET_DEPTHS:
            raise ValueError(
                f"ResNet depths are {', '.join(map(str, RESNET_DEPTHS))}; found {depth}"
            )
        if not all(0 <= stage < 4 for stage in out_stages):
            raise ValueError(f"out_stages must lie in 0 to 3; found {tuple(out_stages)}")
        if width % 8 or width < 8:
            # PyTorch 2.13 on processors with AVX2 and nothing newer writes outside of its buffers
            # in the backward pass of strided 1x1 convolutions of 4 channels-last channels.
            raise ValueError(f"width must be a multiple of 8; found {width}")
        bottleneck, blocks = RESNET_DEPTHS[depth]
        expansion = 4 if bottleneck else 1
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        in_channels = width
        for stage in range(max(out_stages) + 1):
            middle = width * 2**stage
            layer = []
            for i in range(blocks[stage]):
                stride = 2 if i == 0 and stage > 0 else 1
                layer.append(_Block(in_channels, middle, middle * expansion, stride, bottleneck))
                in_channels = middle * expansion
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layer))
        self.out_stages = tuple(out_stages)
        self.norm_eval = norm_eval
        self.checkpointing = checkpointing
        self.channels = tuple(width * 2**stage * expansion for stage in out_stages)
        self.strides = tuple(4 * 2**stage for stage in out_stages)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def train(self, mode: bool = True) -> ResNet:
        """As ever, but with ``norm_eval`` the batch norms stay in eval mode."""
        super().train(mode)
        if self.norm_eval:
            freeze_statistics(self)
        return self

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(N, 3, H, W) normalised -> maps (N, channels[i], ~H / strides[i], ~W / strides[i])."""
        x = torch.relu_(self.bn1(self.conv1(images)))
        x = nn.functional.max_pool2d(x, 3, stride=2, padding=1)
        outputs = []
        for stage in range(max(self.out_stages) + 1):
            for block in cast(nn.Sequential, getattr(self, f"layer{stage + 1}")):
                if self.checkpointing and self.training and torch.is_grad_enabled():
                    x = checkpoint(block, x, use_reentrant=False)
                else:
                    x = block(x)
            if stage in self.out_stages:
                outputs.append(x)
        return tuple(outputs)


class _Block(nn.Module):
    """Basic block (two 3x3) or bottleneck (1x1, 3x3, 1x1) around a residual connection."""

    def __init__(
        self, in_channels: int, middle: int, out_channels: int, stride: int, bottleneck: bool
    ) -> None:
        super().__init__()
        shapes: tuple[tuple[int, int, int, int], ...]
        if bottleneck:
            shapes = (
                (in_channels, middle, 1, 1),
                (middle, middle, 3, stride),
                (middle, out_channels, 1, 1),
            )
        else:
            shapes = ((in_channels, middle, 3, stride), (middle, out_channels, 3, 1))
        for i, (c_in, c_out, kernel, step) in enumerate(shapes, start=1):
            conv = nn.Conv2d(c_in, c_out, kernel, stride=step, padding=kernel // 2, bias=False)
            self.add_module(f"conv{i}", conv)
            self.add_module(f"bn{i}", nn.BatchNorm2d(c_out))
        self.count = len(shapes)
        self.downsample = (
            nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )
            if stride != 1 or in_channels != out_channels
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        residual = x if self.downsample is None else self.downsample(x)
        for i in range(1, self.count + 1):
            x = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(x))
            if i < self.count:
                x = torch.relu_(x)
        return torch.relu_(x + residual)
