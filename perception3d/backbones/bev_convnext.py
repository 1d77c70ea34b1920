"""The ConvNeXt backbone of PillarNeSt on dense bird's-eye maps."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from perception3d.nn.convnext import ConvNeXtBlock
from perception3d.nn.norm import ChannelNorm

#: Published sizes (arXiv 2311.17770): blocks and channels of stages 0 to 4, channels of each neck
#: branch.
PILLARNEST_SIZES = {
    "tiny": ((2, 2, 1, 1, 1), (48, 96, 96, 96, 96), 96),
    "small": ((3, 3, 2, 1, 1), (48, 192, 192, 192, 192), 128),
    "base": ((4, 4, 2, 2, 1), (64, 192, 384, 384, 384), 128),
    "large": ((6, 6, 4, 2, 1), (96, 192, 384, 384, 384), 128),
}

#: Norm before a down-sampling convolution; norms inside blocks and at outputs have 1e-6
#: (published).
DOWNSAMPLE_EPS = 1e-5


class BEVConvNeXt(nn.Module):
    """Stages of ConvNeXt blocks without a stem: stage 0 works at the resolution of the canvas.

    Between stages: LayerNorm over channels, then a 2x2 convolution of stride 2 with bias. Every
    output stage ends in a LayerNorm of its own.

    Args:
        depths: blocks of each stage.
        widths: channels of each stage; the first is that of the canvas.
        out_stages: stages that are returned, ascending; published 2, 3, 4.
        drop_path: stochastic depth of the last block, rising linearly from 0; published 0.4.
        layer_scale: initial scale of the blocks' branches; published 1.
        kernel: of the depthwise convolutions.

    Attributes:
        channels, strides: of each output.
        in_channels: of the canvas.
    """

    def __init__(
        self,
        *,
        depths: Sequence[int],
        widths: Sequence[int],
        out_stages: Sequence[int] = (2, 3, 4),
        drop_path: float = 0.4,
        layer_scale: float = 1.0,
        kernel: int = 7,
    ) -> None:
        super().__init__()
        if len(depths) != len(widths):
            raise ValueError(f"one width a stage is needed; found depths {depths}, widths {widths}")
        if not all(0 <= stage < len(depths) for stage in out_stages):
            raise ValueError(
                f"out_stages must name stages 0 to {len(depths) - 1}; found {out_stages}"
            )
        total = sum(depths)
        rates = iter(drop_path * i / max(total - 1, 1) for i in range(total))
        self.downsample = nn.ModuleList()
        self.stages = nn.ModuleList()
        for stage, (depth, width) in enumerate(zip(depths, widths)):
            self.downsample.append(
                nn.Identity() if stage == 0 else _downsample(widths[stage - 1], width)
            )
            self.stages.append(
                nn.Sequential(
                    *(
                        ConvNeXtBlock(
                            width, kernel=kernel, layer_scale=layer_scale, drop_path=next(rates)
                        )
                        for _ in range(depth)
                    )
                )
            )
        self.norms = nn.ModuleDict({str(stage): ChannelNorm(widths[stage]) for stage in out_stages})
        self.in_channels = widths[0]
        self.channels = tuple(widths[stage] for stage in out_stages)
        self.strides = tuple(2**stage for stage in out_stages)

    @classmethod
    def pillarnest(cls, size: str, *, drop_path: float = 0.4) -> BEVConvNeXt:
        """A published size: "tiny", "small", "base" or "large"."""
        if size not in PILLARNEST_SIZES:
            raise ValueError(f"PillarNeSt has sizes {', '.join(PILLARNEST_SIZES)}; found {size!r}")
        depths, widths, _ = PILLARNEST_SIZES[size]
        return cls(depths=depths, widths=widths, drop_path=drop_path)

    def forward(self, canvas: Tensor) -> tuple[Tensor, ...]:
        """(B, C0, ny, nx) -> maps (B, channels[i], ny / strides[i], nx / strides[i])."""
        outputs = []
        x = canvas
        for stage, (downsample, blocks) in enumerate(zip(self.downsample, self.stages)):
            x = blocks(downsample(x))
            if str(stage) in self.norms:
                outputs.append(self.norms[str(stage)](x))
        return tuple(outputs)


def _downsample(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        ChannelNorm(in_channels, eps=DOWNSAMPLE_EPS),
        nn.Conv2d(in_channels, out_channels, 2, stride=2),
    )
