"""Modulated deformable convolution against loops over taps, and at its edges."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from perception3d.nn.deform import ModulatedDeformConv, modulated_deform_conv


def read(image: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """(C, H, W) at a place between cells: (C,), zeros outside."""
    height, width = image.shape[-2:]
    total = image.new_zeros(len(image))
    if not (-1 < y < height and -1 < x < width):
        return total
    top, left = math.floor(y.item()), math.floor(x.item())
    for row, share_y in ((top, top + 1 - y), (top + 1, y - top)):
        for column, share_x in ((left, left + 1 - x), (left + 1, x - left)):
            if 0 <= row < height and 0 <= column < width:
                total = total + image[:, row, column] * share_y * share_x
    return total


def by_loops(
    x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, *, stride: int, padding: int,
    dilation: int,
) -> Tensor:  # fmt: skip
    """The definition, a tap at a time."""
    rows, columns = weight.shape[2:]
    taps = rows * columns
    groups = mask.shape[1] // taps
    h, w = mask.shape[-2:]
    samples = []
    for n in range(len(x)):
        cells = []
        for i in range(h):
            for j in range(w):
                total = x.new_zeros(len(weight))
                for g, part in enumerate(x[n].chunk(groups)):
                    kernel = weight.chunk(groups, dim=1)[g]
                    for tap in range(taps):
                        a, b = divmod(tap, columns)
                        place = 2 * (g * taps + tap)
                        y = i * stride - padding + a * dilation + offset[n, place, i, j]
                        u = j * stride - padding + b * dilation + offset[n, place + 1, i, j]
                        value = read(part, y, u) * mask[n, g * taps + tap, i, j]
                        total = total + kernel[:, :, a, b] @ value
                cells.append(total)
        samples.append(torch.stack(cells, dim=1).view(-1, h, w))
    return torch.stack(samples)


def inputs(
    *, groups: int = 1, kernel: tuple[int, int] = (3, 3), out_hw: tuple[int, int],
    hw: tuple[int, int] = (6, 7), spread: float = 1.5, seed: int = 0,
) -> list[Tensor]:  # fmt: skip
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    taps = kernel[0] * kernel[1]
    return [
        normal(2, 4, *hw),
        normal(2, 2 * groups * taps, *out_hw) * spread,
        normal(2, groups * taps, *out_hw).sigmoid(),
        normal(3, 4, *kernel),
    ]


CASES: list[tuple[dict[str, Any], dict[str, int]]] = [
    ({"out_hw": (6, 7)}, {"stride": 1, "padding": 1, "dilation": 1}),
    ({"out_hw": (3, 4)}, {"stride": 2, "padding": 1, "dilation": 1}),
    ({"out_hw": (6, 7), "groups": 2}, {"stride": 1, "padding": 2, "dilation": 2}),
    ({"out_hw": (6, 5), "kernel": (1, 3)}, {"stride": 1, "padding": 0, "dilation": 1}),
    ({"out_hw": (6, 7), "spread": 0.0}, {"stride": 1, "padding": 1, "dilation": 1}),
    ({"out_hw": (6, 7), "spread": 30.0}, {"stride": 1, "padding": 1, "dilation": 1}),
]


@pytest.mark.parametrize(("shape", "placing"), CASES)
def test_values_and_gradients_are_those_of_the_loops(
    shape: dict[str, Any], placing: dict[str, int]
) -> None:
    tensors = [tensor.requires_grad_() for tensor in inputs(**shape)]
    out = modulated_deform_conv(*tensors, **placing)
    want = by_loops(*tensors, **placing)
    torch.testing.assert_close(out, want, rtol=1e-12, atol=1e-12)
    slope = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view_as(out)
    got = torch.autograd.grad((out * slope).sum(), tensors)
    expected = torch.autograd.grad((want * slope).sum(), tensors)
    for a, b in zip(got, expected):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


def test_gradients_are_differences() -> None:
    tensors = [tensor.requires_grad_() for tensor in inputs(out_hw=(2, 3), hw=(4, 5), seed=1)]
    assert torch.autograd.gradcheck(
        lambda *t: modulated_deform_conv(*t, stride=2, padding=1), tensors, fast_mode=True
    )


def test_taps_in_place_are_a_convolution() -> None:
    x, offset, mask, weight = inputs(out_hw=(3, 4))
    out = modulated_deform_conv(
        x, torch.zeros_like(offset), torch.ones_like(mask), weight, torch.arange(3.0).double(),
        stride=2, padding=1,
    )  # fmt: skip
    want = nn.functional.conv2d(x, weight, torch.arange(3.0).double(), stride=2, padding=1)
    torch.testing.assert_close(out, want)


def test_slopes_at_whole_cells_and_at_the_edge() -> None:
    """A 1x1 tap on the row 10, 13, 17: up to the next cell; none from -1 or from the width on."""
    row = torch.tensor([10.0, 13.0, 17.0]).view(1, 1, 1, 3)
    for at, value, slope in (
        (-1.5, 0, 0), (-1.0, 0, 0), (-0.5, 5, 10), (0.0, 10, 3), (1.0, 13, 4), (1.5, 15, 4),
        (2.0, 17, -17), (2.5, 8.5, -17), (3.0, 0, 0), (math.nan, 0, 0), (1e30, 0, 0),
    ):  # fmt: skip
        offset = torch.tensor([0.0, at]).view(1, 2, 1, 1).requires_grad_()
        mask, weight = torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1, 1)
        padded = torch.cat((offset, torch.zeros(1, 2, 1, 2)), dim=3)
        out = modulated_deform_conv(row, padded, mask.expand(1, 1, 1, 3), weight)[0, 0, 0, 0]
        assert out.item() == value
        (gradient,) = torch.autograd.grad(out, offset)
        assert gradient[0, 1].item() == slope, at


def test_the_layer_starts_as_half_a_convolution_and_holds_the_published_names() -> None:
    layer = ModulatedDeformConv(8, 6, stride=2)
    assert {k: tuple(v.shape) for k, v in layer.state_dict().items()} == {
        "weight": (6, 8, 3, 3), "conv_offset.weight": (27, 8, 3, 3), "conv_offset.bias": (27,),
    }  # fmt: skip
    x = torch.randn(2, 8, 9, 12)
    want = nn.functional.conv2d(x, layer.weight, stride=2, padding=1) / 2
    torch.testing.assert_close(layer(x), want)
    assert set(ModulatedDeformConv(2, 2, bias=True).state_dict()) > {"bias"}


def test_the_layer_reads_displacements_before_weights() -> None:
    """Channels 2 k, 2 k + 1 of the first 18 displace tap k in y, x; the last 9 weigh the taps."""
    layer = ModulatedDeformConv(1, 1)
    x = torch.arange(25.0).view(1, 1, 5, 5)
    with torch.no_grad():
        layer.weight.zero_()[0, 0, 1, 1] = 1.0
        layer.conv_offset.bias.zero_()[2 * 4] = 1.0
        layer.conv_offset.bias[2 * 4 + 1] = 0.5
        layer.conv_offset.bias[18 + 4] = math.log(3)
        assert float(layer(x)[0, 0, 1, 1]) == pytest.approx(0.75 * (x[0, 0, 2, 1] + 0.5))


def test_memory_format_and_precision_change_little() -> None:
    layer = ModulatedDeformConv(8, 8)
    nn.init.normal_(layer.conv_offset.weight, std=0.1)
    x = torch.randn(2, 8, 9, 12)
    want = layer(x)
    torch.testing.assert_close(layer(x.contiguous(memory_format=torch.channels_last)), want)
    with torch.autocast("cpu", torch.bfloat16):
        half = layer(x)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), want, rtol=0.0, atol=0.1)


@pytest.mark.parametrize("part", [0, 1, 2, 3])
def test_shapes_that_do_not_fit_are_refused(part: int) -> None:
    tensors = inputs(out_hw=(6, 7))
    tensors[part] = tensors[part][:, :-1]
    with pytest.raises(ValueError, match="must"):
        modulated_deform_conv(*tensors, padding=1)


def test_groups_must_divide_the_channels() -> None:
    with pytest.raises(ValueError, match="found 4 and 3"):
        ModulatedDeformConv(4, 4, offset_groups=3)
