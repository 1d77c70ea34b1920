"""Numbers of weights of PETR and PETRv2 in all variants, added up from the published shapes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from perception3d.models.image_branch import ImageBranch, resnet_branch, vovnet_branch
from perception3d.models.petr import PETR
from perception3d.models.petr_published import CHANNELS, petr, petrv2, petrv2_segmentation


def layer(inputs: int, outputs: int) -> int:
    """A linear layer or 1x1 convolution with bias."""
    return inputs * outputs + outputs


C = 256
SQUARE = layer(C, C)
NORM = 2 * C
VOVNET99, RESNET50 = 69_523_520, 23_508_032
#: Displacements and weights of nine taps, in 6 layers of 256 and 3 of 512 channels.
DEFORMABLE = 6 * (9 * 256 * 27 + 27) + 3 * (9 * 512 * 27 + 27)


def neck(*inputs: int) -> int:
    """A 1x1 convolution a level, and one of 3x3."""
    return sum(layer(count, C) for count in inputs) + 9 * C * C + C


ATTENTION = 3 * C * C + 3 * C + SQUARE
DECODER = 6 * (2 * ATTENTION + layer(C, 2048) + layer(2048, C) + 3 * NORM) + NORM
#: Ray code of 64 depths, code of three sines.
CODES = layer(192, 1024) + layer(1024, C) + layer(384, 1024) + layer(1024, C)
GATE = 2 * SQUARE
QUERY_CODE = layer(384, C) + SQUARE
CLASSES = 2 * (SQUARE + NORM) + layer(C, 10)
BOX = 2 * SQUARE + layer(C, 10)
SPLIT_BOX = 2 * SQUARE + 5 * SQUARE + layer(C, 2 + 1 + 3 + 2 + 2)

PETR_HEAD = SQUARE + CODES + QUERY_CODE + CLASSES + BOX + DECODER + 900 * 3
PETRV2_HEAD = SQUARE + CODES + GATE + QUERY_CODE + 6 * (CLASSES + SPLIT_BOX) + DECODER + 900 * 3


def vovnet() -> ImageBranch:
    return vovnet_branch(CHANNELS)


CASES: dict[str, tuple[Callable[[], PETR], int]] = {
    "PETR, VoVNet-99": (lambda: petr(vovnet()), VOVNET99 + neck(768, 1024) + PETR_HEAD),
    "PETR, ResNet-50 with deformable layers, its last stage": (
        lambda: petr(resnet_branch(None, stages=(3,), style="caffe", deformable_stages=(2, 3))),
        RESNET50 + DEFORMABLE + PETR_HEAD - SQUARE + layer(2048, C),
    ),
    "PETRv2, VoVNet-99": (lambda: petrv2(vovnet()), VOVNET99 + neck(768, 1024) + PETRV2_HEAD),
    # Denoising queries are reference points with noise: nothing is learnt for them.
    "PETRv2 with denoising": (
        lambda: petrv2(vovnet(), denoising=True),
        VOVNET99 + neck(768, 1024) + PETRV2_HEAD,
    ),
    "PETRv2 with denoising, 1,500 queries, ResNet-50": (
        lambda: petrv2(resnet_branch(CHANNELS), queries=1500, denoising=True),
        RESNET50 + neck(1024, 2048) + PETRV2_HEAD + 600 * 3,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_every_weight_is_accounted_for(name: str) -> None:
    build, wanted = CASES[name]
    with torch.device("meta"):
        model = build()
    assert sum(p.numel() for p in model.parameters()) == wanted


def test_sums_are_the_published_ones() -> None:
    """In millions; PETR's files hold six copies of its branches, and all ten code weights."""
    assert (VOVNET99 + neck(768, 1024) + PETRV2_HEAD) / 1e6 == pytest.approx(85.117, abs=5e-4)
    head = PETRV2_HEAD / 1e6
    assert head == pytest.approx(14.544, abs=5e-4)
    copies = 5 * (CLASSES + BOX) + 10
    whole = VOVNET99 + neck(768, 1024) + PETR_HEAD + copies
    assert whole / 1e6 == pytest.approx(83.01, abs=5e-3)


def test_segmentation() -> None:
    """Tokens with a gate, 625 fixed queries with a 2-D code, one decoder, three map decoders."""
    with torch.device("meta"):
        model = petrv2_segmentation(vovnet())

    def block(middle: int, out: int) -> int:
        return 9 * C * middle + middle * out

    shared = VOVNET99 + neck(768, 1024) + SQUARE + CODES + GATE + 2 * SQUARE + DECODER
    blocks = 2 * block(128, 256) + block(64, 128)
    skips = 2 * SQUARE + layer(C, 128)
    drawn = 3 * (blocks + skips + 9 * 128 * 128 + layer(128, 1))
    assert sum(p.numel() for p in model.parameters()) == shared + drawn
    assert (shared + drawn) / 1e6 == pytest.approx(84.86, abs=5e-3)
    assert (shared + 6 * drawn) / 1e6 == pytest.approx(101.71, abs=5e-3)
