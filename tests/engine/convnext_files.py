"""Names and shapes of ConvNeXt checkpoints as three libraries write them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

TINY = ((3, 3, 9, 3), (96, 192, 384, 768))

#: Block: depthwise, norm, expansion, reduction; then stem and down-sampling; norm; classifier.
LAYERS = {
    "timm": ("conv_dw", "norm", "mlp.fc1", "mlp.fc2"),
    "mmpretrain": ("depthwise_conv", "norm", "pointwise_conv1", "pointwise_conv2"),
    "the authors": ("dwconv", "norm", "pwconv1", "pwconv2"),
}
NORM = {"timm": "head.norm", "mmpretrain": "backbone.norm3", "the authors": "norm"}
CLASSIFIER = {"timm": "head.fc", "mmpretrain": "head.fc", "the authors": "head"}


def shapes(
    library: str, depths: Sequence[int], widths: Sequence[int]
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every name of an ImageNet ConvNeXt with its shape; stem 4 x 4, kernels 7 x 7."""
    outer = "backbone." if library == "mmpretrain" else ""
    for stage, (depth, width) in enumerate(zip(depths, widths)):
        before = widths[stage - 1] if stage else 3
        down = f"{outer}downsample_layers.{stage}"
        if library == "timm":
            down = f"stages.{stage}.downsample" if stage else "stem"
        conv, norm = ("1", "0") if stage else ("0", "1")
        side = 2 if stage else 4
        yield from _layer(f"{down}.{conv}", (width, before, side, side))
        yield from _layer(f"{down}.{norm}", (before if stage else width,))
        for j in range(depth):
            block = f"{outer}stages.{stage}.{'blocks.' if library == 'timm' else ''}{j}"
            yield f"{block}.gamma", (width,)
            sizes = ((width, 1, 7, 7), (width,), (4 * width, width), (width, 4 * width))
            for layer, size in zip(LAYERS[library], sizes):
                yield from _layer(f"{block}.{layer}", size)
    yield from _layer(NORM[library], (widths[-1],))
    yield from _layer(CLASSIFIER[library], (1000, widths[-1]))


def _layer(name: str, weight: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", weight
    yield f"{name}.bias", weight[:1]


def hollow(library: str) -> dict[str, Tensor]:
    """ConvNeXt-Tiny in its full size, each tensor one number that is repeated."""
    return {
        name: torch.full((), number / 100.0).expand(shape)
        for number, (name, shape) in enumerate(shapes(library, *TINY))
    }


def small(library: str, widths: Sequence[int] = (8, 12, 16, 24)) -> dict[str, Tensor]:
    """A narrow one of two blocks a stage, random."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(shape, generator=generator)
        for name, shape in shapes(library, (2, 2, 2, 2), widths)
    }
