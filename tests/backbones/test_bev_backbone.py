"""Shapes, sizes and small print of the BEV backbone (values: golden cases)."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from perception3d.backbones.bev_convnext import PILLARNEST_SIZES, BEVConvNeXt
from perception3d.nn.convnext import StochasticDepth
from perception3d.nn.fpn import UpsampleConcatNeck


@pytest.mark.parametrize(
    ("size", "backbone_m", "neck_m"),
    [("tiny", 0.57, 0.19), ("small", 2.69, 0.52), ("base", 8.91, 1.03), ("large", 12.28, 1.03)],
)
def test_published_number_of_weights(size: str, backbone_m: float, neck_m: float) -> None:
    with torch.device("meta"):
        backbone = BEVConvNeXt.pillarnest(size)
        out = PILLARNEST_SIZES[size][2]
        neck = UpsampleConcatNeck(backbone.channels, (out,) * 3, (1, 2, 4))
    assert round(sum(p.numel() for p in backbone.parameters()) / 1e6, 2) == backbone_m
    assert round(sum(p.numel() for p in neck.parameters()) / 1e6, 2) == neck_m


def test_norms_before_downsampling_have_another_eps() -> None:
    backbone = BEVConvNeXt.pillarnest("tiny")
    for name, module in backbone.named_modules():
        if isinstance(module, nn.LayerNorm):
            assert module.eps == (1e-5 if name.startswith("downsample") else 1e-6), name


def test_drop_path_rises_to_its_maximum() -> None:
    backbone = BEVConvNeXt.pillarnest("small")
    rates = [m.rate for m in backbone.modules() if isinstance(m, StochasticDepth)]
    assert len(rates) == 10
    assert rates == pytest.approx([0.4 * i / 9 for i in range(10)])


def test_any_widths_and_outputs() -> None:
    backbone = BEVConvNeXt(depths=(1, 2), widths=(4, 6), out_stages=(0, 1), kernel=3)
    maps = backbone(torch.randn(2, 4, 8, 6))
    assert [tuple(x.shape) for x in maps] == [(2, 4, 8, 6), (2, 6, 4, 3)]
    assert (backbone.channels, backbone.strides) == ((4, 6), (1, 2))


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="one width a stage"):
        BEVConvNeXt(depths=(1, 2), widths=(4,))
    with pytest.raises(ValueError, match="stages 0 to 1"):
        BEVConvNeXt(depths=(1, 2), widths=(4, 4))
    with pytest.raises(ValueError, match="tiny, small, base, large"):
        BEVConvNeXt.pillarnest("huge")
