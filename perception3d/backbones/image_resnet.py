"""ResNet image backbones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn

from perception3d.backbones.image_stages import (
    check_backbone,
    freeze,
    freeze_norms,
    run_stages,
)
from perception3d.nn.deform import ModulatedDeformConv

#: Depth -> (bottleneck?, blocks of the four stages); arXiv 1512.03385, table 1.
RESNET_DEPTHS = {
    18: (False, (2, 2, 2, 2)),
    34: (False, (3, 4, 6, 3)),
    50: (True, (3, 4, 6, 3)),
    101: (True, (3, 4, 23, 3)),
}
#: Where the stride of a bottleneck sits: "pytorch" in its 3x3, "caffe" in its first 1x1
#: convolution (as in the weights that were trained with Caffe: msra, detectron).
ResNetStyle = Literal["pytorch", "caffe"]


class ResNet(nn.Module):
    """ResNet-18/34/50/101 with names of weights as in torchvision and mmdetection.

    Published: CMT takes "pytorch", ``norm_eval``; PETR-R50 takes "caffe", ``norm_frozen`` and
    deformable stages 2 and 3 (megvii-research/PETR, petr_r50dcn_*; mmdet, ``resnet.py``).

    Args:
        depth: 18, 34, 50 or 101.
        out_stages: stages returned, ascending, 0 to 3; published for CMT 2 and 3. Later stages are
            not built.
        width: channels of the stem, a multiple of 8; published 64, smaller for small worlds.
        style: where bottlenecks have their stride; without bottlenecks it changes nothing.
        norm_eval: batch norms use and keep their running statistics in training too (published for
            CMT, whose backbone is pre-trained). Leave it off when training from scratch.
        norm_frozen: batch norms neither count nor learn; implies ``norm_eval``.
        frozen_stages: -1 nothing is frozen (published); n freezes the stem and the first n stages.
        deformable_stages: stages (0 to 3) in which the 3x3 convolution of every bottleneck is a
            :class:`ModulatedDeformConv`, strided ones too.
        checkpointing: recompute blocks in the backward pass to save memory.

    Attributes:
        channels, strides: of each output.

    Raises:
        ValueError: unknown depth, stage or style, a width that is no multiple of 8, or deformable
            stages without bottlenecks.
    """

    def __init__(
        self,
        *,
        depth: int,
        out_stages: Sequence[int] = (2, 3),
        width: int = 64,
        style: ResNetStyle = "pytorch",
        norm_eval: bool = False,
        norm_frozen: bool = False,
        frozen_stages: int = -1,
        deformable_stages: Sequence[int] = (),
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        # Width: PyTorch 2.13 on processors with AVX2 and nothing newer writes outside of its
        # buffers in the backward pass of strided 1x1 convolutions of 4 channels-last channels.
        check_backbone("ResNet", depth, RESNET_DEPTHS, out_stages, width, frozen_stages)
        bottleneck, blocks = RESNET_DEPTHS[depth]
        _check_style(depth, style, out_stages, deformable_stages)
        expansion = 4 if bottleneck else 1
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        in_channels = width
        for stage in range(max(out_stages) + 1):
            middle = width * 2**stage
            layer = []
            for i in range(blocks[stage]):
                stride = 2 if i == 0 and stage > 0 else 1
                shapes = _shapes(in_channels, middle, stride, bottleneck, style)
                layer.append(_Block(shapes, stride, deformable=stage in deformable_stages))
                in_channels = middle * expansion
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layer))
        self.out_stages = tuple(out_stages)
        self.norm_eval = norm_eval or norm_frozen
        self.frozen_stages = frozen_stages
        self.checkpointing = checkpointing
        self.channels = tuple(width * 2**stage * expansion for stage in out_stages)
        self.strides = tuple(4 * 2**stage for stage in out_stages)
        for name, module in self.named_modules():
            # Displacements start at zero.
            if isinstance(module, nn.Conv2d) and not name.endswith("conv_offset"):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        freeze_norms(self, evaluate=self.norm_eval, fixed=norm_frozen)
        freeze(*self._frozen())

    def train(self, mode: bool = True) -> ResNet:
        """As ever, but what is frozen, and with ``norm_eval`` batch norms, stay in eval mode."""
        super().train(mode)
        freeze_norms(self, evaluate=self.norm_eval)
        freeze(*self._frozen())
        return self

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(N, 3, H, W) normalised -> maps (N, channels[i], ~H / strides[i], ~W / strides[i])."""
        x = torch.relu_(self.bn1(self.conv1(images)))
        x = nn.functional.max_pool2d(x, 3, stride=2, padding=1)
        recomputed = _Block if self.checkpointing and self.training else ()
        return run_stages(self._stages(), x, self.out_stages, recomputed=recomputed)

    def _stages(self) -> list[nn.Sequential]:
        built = range(max(self.out_stages) + 1)
        return [cast(nn.Sequential, getattr(self, f"layer{stage + 1}")) for stage in built]

    def _frozen(self) -> list[nn.Module]:
        if self.frozen_stages < 0:
            return []
        return [self.conv1, self.bn1, *self._stages()[: self.frozen_stages]]


#: (channels in, channels out, kernel, stride) of each convolution of a block.
_Shapes = tuple[tuple[int, int, int, int], ...]


def _shapes(
    in_channels: int, middle: int, stride: int, bottleneck: bool, style: ResNetStyle
) -> _Shapes:
    if not bottleneck:
        return ((in_channels, middle, 3, stride), (middle, middle, 3, 1))
    first, second = (stride, 1) if style == "caffe" else (1, stride)
    return (
        (in_channels, middle, 1, first),
        (middle, middle, 3, second),
        (middle, 4 * middle, 1, 1),
    )


class _Block(nn.Module):
    """Basic block (two 3x3) or bottleneck (1x1, 3x3, 1x1) around a residual connection."""

    def __init__(self, shapes: _Shapes, stride: int, *, deformable: bool) -> None:
        super().__init__()
        for i, (c_in, c_out, kernel, step) in enumerate(shapes, start=1):
            conv: nn.Module
            if deformable and kernel == 3:
                conv = ModulatedDeformConv(c_in, c_out, stride=step)
                nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            else:
                conv = nn.Conv2d(c_in, c_out, kernel, stride=step, padding=kernel // 2, bias=False)
            self.add_module(f"conv{i}", conv)
            self.add_module(f"bn{i}", nn.BatchNorm2d(c_out))
        self.count = len(shapes)
        in_channels, out_channels = shapes[0][0], shapes[-1][1]
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


def _check_style(
    depth: int, style: str, out_stages: Sequence[int], deformable_stages: Sequence[int]
) -> None:
    if style not in ("pytorch", "caffe"):
        raise ValueError(f'style must be "pytorch" or "caffe"; found {style!r}')
    if deformable_stages and not RESNET_DEPTHS[depth][0]:
        raise ValueError(
            f"deformable_stages {tuple(deformable_stages)} need bottlenecks, which ResNet-{depth} "
            "does not have; take depth 50 or 101"
        )
    if not set(deformable_stages) <= set(range(max(out_stages) + 1)):
        raise ValueError(
            f"deformable_stages must lie in 0 to {max(out_stages)}, the last stage that is built; "
            f"found {tuple(deformable_stages)}"
        )
