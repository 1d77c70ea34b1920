"""VoVNet V2 image backbones: blocks that concatenate all of their layers, then weigh channels."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from perception3d.backbones.image_stages import (
    check_backbone,
    freeze,
    freeze_norms,
    run_stages,
)

#: Depth -> (3x3 convolutions a block, blocks of the four stages); arXiv 1904.09730, table 1, and
#: arXiv 1911.06667. All published camera models take 99.
VOVNET_DEPTHS = {
    19: (3, (1, 1, 1, 1)),
    39: (5, (1, 1, 2, 2)),
    57: (5, (1, 1, 4, 3)),
    99: (5, (1, 3, 9, 3)),
}
#: Channels inside the blocks of each stage, and behind them, in eighths of the stem's width.
WIDE_EIGHTHS = ((16, 20, 24, 28), (32, 64, 96, 128))
SLIM_EIGHTHS = ((8, 10, 12, 14), (14, 32, 48, 64))


class VoVNet(nn.Module):
    """VoVNet V2 with effective squeeze-and-excitation ("V-99-eSE"), names of weights as published.

    Three 3x3 convolutions (strides 2, 1, 2), then four stages; every stage but the first halves
    the map by a 3x3 maximum of stride 2 without padding, sizes rounded up. So a map of odd size n
    becomes (n - 1) / 2: pad images to a multiple of the largest stride, as published
    (arXiv 1911.06667; junjie18/CMT and megvii-research/PETR, ``vovnet.py``, ``vovnetcp.py``).

    Args:
        depth: 19, 39, 57 or 99.
        out_stages: stages returned, ascending, 0 to 3 ("stage2" to "stage5"); published for CMT
            and PETR 2 and 3. Later stages are not built.
        width: channels of the stem, a multiple of 8; published 64, smaller for small worlds.
        slim: blocks of half the channels; published as V-19-slim-eSE.
        norm_eval: batch norms use and keep their running statistics in training too (published
            for CMT and PETR). Their weights still learn. Leave it off when training from scratch.
        norm_frozen: batch norms neither count nor learn; implies ``norm_eval``.
        frozen_stages: -1 nothing is frozen (published); n freezes the stem and the first n stages.
        checkpointing: recompute blocks in the backward pass to save memory ("VoVNetCP").

    Attributes:
        channels, strides: of each output.

    Raises:
        ValueError: unknown depth or stage, or a width that is no multiple of 8.
    """

    def __init__(
        self,
        *,
        depth: int = 99,
        out_stages: Sequence[int] = (2, 3),
        width: int = 64,
        slim: bool = False,
        norm_eval: bool = False,
        norm_frozen: bool = False,
        frozen_stages: int = -1,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        check_backbone("VoVNet", depth, VOVNET_DEPTHS, out_stages, width, frozen_stages)
        layers, blocks = VOVNET_DEPTHS[depth]
        inner, outer = (
            [width * eighths // 8 for eighths in of_stages]
            for of_stages in (SLIM_EIGHTHS if slim else WIDE_EIGHTHS)
        )
        self.stem = _convs(
            ("stem_1", 3, width, 3, 2), ("stem_2", width, width, 3, 1),
            ("stem_3", width, 2 * width, 3, 2),
        )  # fmt: skip
        in_channels = 2 * width
        for stage in range(max(out_stages) + 1):
            modules: OrderedDict[str, nn.Module] = OrderedDict()
            if stage:
                modules["Pooling"] = nn.MaxPool2d(3, stride=2, ceil_mode=True)
            for i in range(blocks[stage]):
                name = f"OSA{stage + 2}_{i + 1}"
                modules[name] = _Block(name, in_channels, inner[stage], outer[stage], layers, i > 0)
                in_channels = outer[stage]
            self.add_module(f"stage{stage + 2}", nn.Sequential(modules))
        self.out_stages = tuple(out_stages)
        self.norm_eval = norm_eval or norm_frozen
        self.frozen_stages = frozen_stages
        self.checkpointing = checkpointing
        self.channels = tuple(outer[stage] for stage in out_stages)
        self.strides = tuple(4 * 2**stage for stage in out_stages)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
        freeze_norms(self, evaluate=self.norm_eval, fixed=norm_frozen)
        freeze(*self._frozen())

    def train(self, mode: bool = True) -> VoVNet:
        """As ever, but what is frozen, and with ``norm_eval`` batch norms, stay in eval mode."""
        super().train(mode)
        freeze_norms(self, evaluate=self.norm_eval)
        freeze(*self._frozen())
        return self

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(N, 3, H, W) normalised -> maps (N, channels[i], ~H / strides[i], ~W / strides[i])."""
        # Pooling is cheap to keep: its output is the input of the next block.
        recomputed = _Block if self.checkpointing and self.training else ()
        return run_stages(self._stages(), self.stem(images), self.out_stages, recomputed=recomputed)

    def _stages(self) -> list[nn.Sequential]:
        built = range(max(self.out_stages) + 1)
        return [cast(nn.Sequential, getattr(self, f"stage{stage + 2}")) for stage in built]

    def _frozen(self) -> list[nn.Module]:
        return [] if self.frozen_stages < 0 else [self.stem, *self._stages()[: self.frozen_stages]]


class _Block(nn.Module):
    """One-shot aggregation: a chain of 3x3 convolutions, all of them joined at its end.

    Its input is added to its output where ``identity``.
    """

    def __init__(
        self,
        name: str,
        in_channels: int,
        middle: int,
        out_channels: int,
        layers: int,
        identity: bool,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            _convs((f"{name}_{i}", middle if i else in_channels, middle, 3, 1))
            for i in range(layers)
        )
        joined = in_channels + layers * middle
        self.concat = _convs((f"{name}_concat", joined, out_channels, 1, 1))
        self.ese = _ChannelWeights(out_channels)
        self.identity = identity

    def forward(self, x: Tensor) -> Tensor:
        outputs = [x]
        for layer in self.layers:
            outputs.append(layer(outputs[-1]))
        y = self.ese(self.concat(torch.cat(outputs, dim=1)))
        return y + x if self.identity else y


class _ChannelWeights(nn.Module):
    """Effective squeeze-and-excitation: one linear map of the channels' means, unreduced."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * nn.functional.hardsigmoid(self.fc(x.mean(dim=(2, 3), keepdim=True)))


def _convs(*rows: tuple[str, int, int, int, int]) -> nn.Sequential:
    """Convolution, batch norm and ReLU of each row (name, in, out, kernel, stride).

    The slash in the names is that of the published checkpoints.
    """
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    for name, c_in, c_out, kernel, stride in rows:
        modules[f"{name}/conv"] = nn.Conv2d(
            c_in, c_out, kernel, stride=stride, padding=kernel // 2, bias=False
        )
        modules[f"{name}/norm"] = nn.BatchNorm2d(c_out)
        modules[f"{name}/relu"] = nn.ReLU(inplace=True)
    return nn.Sequential(modules)
