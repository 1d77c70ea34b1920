"""From uint8 pixels to what image backbones see: normalisation, padding, GridMask."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

#: Published for CMT (Caffe statistics of ImageNet, blue first, as its pre-trained VoVNet expects).
BGR_MEAN = (103.53, 116.28, 123.675)
BGR_STD = (57.375, 57.12, 58.395)
#: Published for PETR-R50, whose msra weights expect blue first, centred and not scaled.
CAFFE_STD = (1.0, 1.0, 1.0)
#: Published for ResNets in PyTorch style that look at red first (PETR, branch "flash").
RGB_MEAN = BGR_MEAN[::-1]
RGB_STD = BGR_STD[::-1]


class ImageNormalize(nn.Module):
    """Normalises RGB pixels on the device and pads them to whole cells.

    Args:
        mean, std: of each channel, in the order that the network sees.
        bgr: hand blue first to the network (published); red first if False.
        multiple: height and width are padded with zeros, after normalising, at the bottom and the
            right to a multiple of this; published 32.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        *,
        mean: Sequence[float] = BGR_MEAN,
        std: Sequence[float] = BGR_STD,
        bgr: bool = True,
        multiple: int = 32,
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)
        self.bgr = bgr
        self.multiple = multiple

    def forward(self, images: Tensor) -> Tensor:
        """(..., 3, H, W) uint8 RGB -> (..., 3, H', W') float32."""
        if self.bgr:
            images = images.flip(-3)
        x = (images.float() - self.mean) / self.std
        height, width = x.shape[-2:]
        return nn.functional.pad(x, (0, -width % self.multiple, 0, -height % self.multiple))


class GridMask(nn.Module):
    """Random grid of visible bands (arXiv 2001.04086), as published camera models train with.

    One mask for the whole batch, with probability ``probability``: period d uniform in [2, H),
    bands of d / 2 (rounded, 1 to d - 1) pixels at random offsets; a pixel stays where a row band
    or a column band covers it, and becomes 0 elsewhere. Drawn from torch's global generator;
    nothing happens in eval mode.
    """

    def __init__(self, *, probability: float = 0.7) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) normalised images -> the same shape."""
        if not self.training or float(torch.rand(())) >= self.probability:
            return images
        height, width = images.shape[-2:]
        period = int(torch.randint(2, max(height, 3), ()))
        row_offset, column_offset = torch.randint(0, period, (2,)).tolist()
        return images * grid_mask(height, width, period, row_offset, column_offset).to(images)


def grid_mask(height: int, width: int, period: int, row_offset: int, column_offset: int) -> Tensor:
    """(height, width) bool, True inside the bands of half a period that start at the offsets."""
    band = min(max(int(period * 0.5 + 0.5), 1), period - 1)
    rows = (torch.arange(height) - row_offset) % period < band
    columns = (torch.arange(width) - column_offset) % period < band
    return rows[:, None] | columns[None]
