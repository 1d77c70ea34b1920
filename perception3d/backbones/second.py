"""SECOND's backbone on bird's-eye maps: plain 3 x 3 convolutions."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class SECOND(nn.Module):
    """The 2-D backbone of SECOND (Yan et al., Sensors 2018), as mmdetection3d's ``SECOND`` has it.

    Each stage: a 3x3 convolution with the stage's stride, then ``layers`` more; each without bias
    and followed by batch norm and ReLU. Its neck is :class:`perception3d.nn.fpn.UpsampleConcatNeck`
    with factors that bring the stages to one size.

    Args:
        in_channels: of the map; published for voxels of 0.075 m: 256.
        widths: channels of each stage; published 128, 256.
        layers: convolutions of each stage after its first; published 5, 5.
        steps: stride of each stage's first convolution; published 1, 2.
        eps, momentum: of the batch norms; published 1e-3 and 0.01.

    Attributes:
        channels, strides: of each stage, strides relative to the input.
        in_channels: of the map.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        widths: Sequence[int] = (128, 256),
        layers: Sequence[int] = (5, 5),
        steps: Sequence[int] = (1, 2),
        eps: float = 1e-3,
        momentum: float = 0.01,
    ) -> None:
        super().__init__()
        if not len(widths) == len(layers) == len(steps) or not widths:
            raise ValueError(
                f"one entry a stage is needed; found {len(widths)} widths, {len(layers)} layers, "
                f"{len(steps)} steps"
            )
        self.blocks = nn.ModuleList()
        strides, stride, before = [], 1, in_channels
        for width, count, step in zip(widths, layers, steps):
            block: list[nn.Module] = []
            for i in range(1 + count):
                block += [
                    nn.Conv2d(
                        width if i else before,
                        width,
                        3,
                        stride=1 if i else step,
                        padding=1,
                        bias=False,
                    ),
                    nn.BatchNorm2d(width, eps=eps, momentum=momentum),
                    nn.ReLU(inplace=True),
                ]
            self.blocks.append(nn.Sequential(*block))
            stride, before = stride * step, width
            strides.append(stride)
        self.in_channels = in_channels
        self.channels = tuple(widths)
        self.strides = tuple(strides)

    def forward(self, canvas: Tensor) -> tuple[Tensor, ...]:
        """(B, in_channels, ny, nx) -> maps (B, channels[i], ny / strides[i], nx / strides[i])."""
        outputs = []
        for block in self.blocks:
            canvas = block(canvas)
            outputs.append(canvas)
        return tuple(outputs)
