"""Convolution that looks where it is told: modulated deformable convolution ("DCNv2")."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class ModulatedDeformConv(nn.Module):
    """Convolution whose taps are displaced and weighted by a convolution of the same input.

    An ordinary convolution predicts, for every output cell and tap, a displacement in cells and,
    through a sigmoid, a weight (arXiv 1811.11168, equation 1). It starts at zero: the taps of an
    ordinary convolution, all weighted by a half. Names of weights as in mmcv
    (``ModulatedDeformConv2dPack``): ``weight``, ``bias``, ``conv_offset.weight`` and ``.bias``.

    Args:
        in_channels, out_channels: of the maps.
        kernel: taps are kernel x kernel.
        stride, padding, dilation: as of ``nn.Conv2d``; padding None keeps the size at stride 1.
        offset_groups: groups of channels with displacements of their own; published for PETR 1.
        bias: add one; ResNets do not.

    Raises:
        ValueError: channels that do not divide into the groups.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel: int = 3,
        stride: int = 1,
        padding: int | None = None,
        dilation: int = 1,
        offset_groups: int = 1,
        bias: bool = False,
    ) -> None:
        super().__init__()
        if offset_groups < 1 or in_channels % offset_groups:
            raise ValueError(
                f"in_channels must divide into offset_groups; found {in_channels} and "
                f"{offset_groups}"
            )
        self.stride, self.dilation = stride, dilation
        self.padding = dilation * (kernel - 1) // 2 if padding is None else padding
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.conv_offset = nn.Conv2d(
            in_channels, 3 * offset_groups * kernel**2, kernel,
            stride=stride, padding=self.padding, dilation=dilation,
        )  # fmt: skip
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Kernel uniform as published, no displacement."""
        bound = 1 / math.sqrt(self.weight[0].numel())
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.zeros_(self.conv_offset.weight)
        nn.init.zeros_(self.conv_offset.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, h, w)."""
        # Thirds: the published order is two thirds of displacements, then the weights.
        first, second, weight = self.conv_offset(x).chunk(3, dim=1)
        return modulated_deform_conv(
            x, torch.cat((first, second), dim=1), weight.sigmoid(), self.weight, self.bias,
            stride=self.stride, padding=self.padding, dilation=self.dilation,
        )  # fmt: skip


def modulated_deform_conv(
    x: Tensor,
    offset: Tensor,
    mask: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
) -> Tensor:
    """Convolution with displaced, weighted taps, as mmcv's ``modulated_deform_conv2d``.

    A tap reads the map by bilinear interpolation, with zeros outside of the map. A tap at -1 or
    less, or at H or W or more, reads zero and has no gradient; so a tap of the padding that is not
    displaced gives none. At whole cells the slope is that to the next greater cell.

    Args:
        x: (N, C, H, W).
        offset: (N, 2 G K, h, w) cells: for each of G groups of channels and K taps (row by row)
            the displacement in y, then in x.
        mask: (N, G K, h, w) weight of each tap.
        weight: (O, C, rows, columns), K = rows columns.
        bias: (O,) or None.
        stride, padding, dilation: as of a convolution; they place the taps before displacement.

    Returns:
        (N, O, h, w), channels last in memory.

    Raises:
        ValueError: shapes that do not fit together.
    """
    groups, (h, w) = _check(x, offset, mask, weight, stride, padding, dilation)
    count, channels, height, width = x.shape
    out_channels, _, rows, columns = weight.shape
    index, share = _corners(
        offset, mask, (height, width), (rows, columns), groups, stride, padding, dilation
    )
    cells = x.permute(0, 2, 3, 1).reshape(count * height * width * groups, channels // groups)
    # A bag is the weighted sum of a tap's four corners: they are never laid out in memory.
    taps = nn.functional.embedding_bag(
        index.view(-1, 4), cells, per_sample_weights=share.view(-1, 4).to(cells.dtype), mode="sum"
    )
    kernel = weight.permute(0, 2, 3, 1).reshape(out_channels, rows * columns * channels)
    out = nn.functional.linear(taps.view(count, h, w, rows * columns * channels), kernel, bias)
    return out.permute(0, 3, 1, 2)


def _corners(
    offset: Tensor,
    mask: Tensor,
    image_hw: tuple[int, int],
    kernel_hw: tuple[int, int],
    groups: int,
    stride: int,
    padding: int,
    dilation: int,
) -> tuple[Tensor, Tensor]:
    """Rows of the four cells around each tap, and their shares: (N, h, w, K, G, 4) int64, float.

    A row is ((n H + y) W + x) G + g.
    """
    height, width = image_hw
    count, _, h, w = offset.shape
    taps = kernel_hw[0] * kernel_hw[1]
    device = offset.device
    # Half precision cannot place taps: beyond 1024 its step is a whole cell.
    at = offset.to(torch.promote_types(offset.dtype, torch.float32))
    dy, dx = at.view(count, groups, taps, 2, h, w).permute(3, 0, 4, 5, 2, 1)
    tap = torch.arange(taps, device=device)
    row = torch.arange(h, device=device) * stride - padding
    column = torch.arange(w, device=device) * stride - padding
    y = dy + (row[:, None] + dilation * (tap // kernel_hw[1])).view(h, 1, taps, 1)
    x = dx + (column[:, None] + dilation * (tap % kernel_hw[1])).view(1, w, taps, 1)
    inside = (y > -1) & (y < height) & (x > -1) & (x < width)
    # Elsewhere, also at NaN, a place that can be read; its share is zero.
    y, x = torch.where(inside, y, 0.0), torch.where(inside, x, 0.0)
    top, left = y.detach().floor(), x.detach().floor()
    down, right = y - top, x - left
    gate = mask.to(at.dtype).view(count, groups, taps, h, w).permute(0, 3, 4, 2, 1) * inside

    sample = torch.arange(count, device=device).view(count, 1, 1, 1, 1)
    group = torch.arange(groups, device=device)
    indices, shares = [], []
    for step_y, share_y in ((0, 1 - down), (1, down)):
        for step_x, share_x in ((0, 1 - right), (1, right)):
            cell_y, cell_x = top.long() + step_y, left.long() + step_x
            here = (cell_y >= 0) & (cell_y < height) & (cell_x >= 0) & (cell_x < width)
            cell = (sample * height + cell_y) * width + cell_x
            indices.append(torch.where(here, cell * groups + group, 0))
            shares.append(share_y * share_x * gate * here)
    return torch.stack(indices, dim=-1), torch.stack(shares, dim=-1)


def _check(
    x: Tensor,
    offset: Tensor,
    mask: Tensor,
    weight: Tensor,
    stride: int,
    padding: int,
    dilation: int,
) -> tuple[int, tuple[int, int]]:
    """Groups of displacements and (h, w) of the output. Raises ValueError."""
    if x.ndim != 4 or weight.ndim != 4 or x.shape[1] != weight.shape[1]:
        raise ValueError(
            f"x (N, C, H, W) and weight (O, C, rows, columns) must share C; found "
            f"{tuple(x.shape)} and {tuple(weight.shape)}"
        )
    taps = weight.shape[2] * weight.shape[3]
    h, w = (
        (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
        for size, kernel in zip(x.shape[2:], weight.shape[2:])
    )
    groups = max(mask.shape[1] // taps, 1) if mask.ndim == 4 else 1
    wanted = ((len(x), 2 * groups * taps, h, w), (len(x), groups * taps, h, w))
    found = (tuple(offset.shape), tuple(mask.shape))
    if found != wanted or x.shape[1] % groups:
        raise ValueError(
            f"for x {tuple(x.shape)} and weight {tuple(weight.shape)}, offset and mask must have "
            f"shapes {wanted[0]} and {wanted[1]}, with C divisible by the groups; found {found[0]} "
            f"and {found[1]}"
        )
    return groups, (h, w)
