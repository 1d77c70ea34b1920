"""Which weights of an ImageNet ConvNeXt go into a ConvNeXt seen from above, and how."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

Rule = Literal["published", "sliced"]

#: The last stage of an ImageNet ConvNeXt; PillarNeSt has one more.
LAST_STAGE = 3

#: Linear layers whose inputs may be cut.
_LINEAR = ("expand.weight", "reduce.weight")


def published_start(own: Mapping[str, Tensor], file: Mapping[str, Tensor]) -> dict[str, str]:
    """What the published code copies: a tensor whose name and shape are the same in both.

    (WayneMao/PillarNeSt loads with mmcv, which skips the rest.) Of the authors' ConvNeXt-Tiny
    nothing fits PillarNeSt-Tiny, for every width differs; Small gets 34 % of its weights, Base 41,
    Large 52.

    Args:
        own: weights of the backbone.
        file: those of the file, under our names.

    Returns:
        Name in the backbone -> name in the file.
    """
    return {k: k for k, v in own.items() if k in file and file[k].shape == v.shape}


def sliced_start(own: Mapping[str, Tensor], file: Mapping[str, Tensor]) -> dict[str, str]:
    """Where every weight can come from if the first channels of a wider layer may be taken.

    Stage i, with the layers before it and the norm behind it, comes from stage min(i, 3), block j
    from block j, or from the last that there is. This rule is ours; the paper's "weight adaptation"
    is not published.

    Args:
        own: weights of the backbone.
        file: those of the file, under our names.

    Returns:
        Name in the backbone -> name in the file; without what is wider than its source, has another
        kernel, or no source.
    """
    depths = _depths(file)
    sources = {name: _source(name, depths) for name in own}
    return {
        name: source
        for name, source in sources.items()
        if source in file and _fits(own[name], file[source])
    }


def cut(name: str, like: Tensor, source: Tensor, *, scale_rows: bool) -> Tensor:
    """The first channels of a weight.

    Args:
        name: of the weight.
        like: its shape.
        source: at least as large.
        scale_rows: multiply rows of linear layers that lost inputs by (inputs before) / (inputs
            after), so that their sums keep their size.
    """
    part = source[tuple(slice(length) for length in like.shape)]
    if scale_rows and name.endswith(_LINEAR):
        part = part * (source.shape[1] / like.shape[1])
    return part


def _depths(file: Mapping[str, Tensor]) -> dict[int, int]:
    """Blocks of each stage in the file."""
    depths: dict[int, int] = {}
    for name in file:
        if name.startswith("stages.") and name.endswith(".gamma"):
            _, stage, block, _ = name.split(".")
            depths[int(stage)] = max(depths.get(int(stage), 0), int(block) + 1)
    return depths


def _source(name: str, depths: Mapping[int, int]) -> str:
    part, number, *rest = name.split(".")
    stage = min(int(number), LAST_STAGE)
    if part == "stages":
        rest[0] = str(min(int(rest[0]), depths.get(stage, 1) - 1))
    return ".".join((part, str(stage), *rest))


def _fits(own: Tensor, source: Tensor) -> bool:
    """Channels (two dimensions at most) may be cut, kernels not."""
    if own.ndim != source.ndim or own.shape[2:] != source.shape[2:]:
        return False
    return all(a <= b for a, b in zip(own.shape, source.shape))
