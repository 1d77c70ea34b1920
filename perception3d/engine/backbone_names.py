"""Names of backbones in files of other libraries, and where in a file a backbone sits."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from perception3d.engine.checkpoints import read_weights, state_of_pickle
from perception3d.engine.key_tables import KeyTable, listed


@dataclass(frozen=True)
class Naming:
    """How a library names the weights of a ConvNeXt.

    Attributes:
        name: of the library.
        telltale: ends the name of one weight in every block, and of none elsewhere.
        table: its names, to those of :class:`~perception3d.backbones.bev_convnext.BEVConvNeXt`
            (stem: ``downsample.0``; norm behind the last stage: ``norms.3``).
    """

    name: str
    telltale: str
    table: KeyTable

    def prefixes(self, names: Iterable[str]) -> set[str]:
        """What stands before the stages in a file."""
        pattern = re.compile(rf"(.*?)stages\.\d+\.{self.telltale}")
        return {match[1] for name in names if (match := pattern.fullmatch(name))}


_BLOCK = "stages.{i}.{j}"
_OURS = (
    "downsample.{i}.{j}.{leaf}",
    f"{_BLOCK}.gamma",
    f"{_BLOCK}.depthwise.{{leaf}}",
    f"{_BLOCK}.norm.{{leaf}}",
    f"{_BLOCK}.expand.{{leaf}}",
    f"{_BLOCK}.reduce.{{leaf}}",
)


def _table(theirs: tuple[str, ...], *others: tuple[str, str], ignored: tuple[str, ...]) -> KeyTable:
    return KeyTable(rules=(*zip(theirs, _OURS), *others), ignored=ignored)


#: facebookresearch/ConvNeXt, open-mmlab/mmpretrain (before: mmcls), huggingface's timm, and here.
CONVNEXT_NAMINGS = (
    Naming(
        "timm", r"blocks\.\d+\.conv_dw\.weight",
        _table(
            (
                "stages.{i}.downsample.{j}.{leaf}", "stages.{i}.blocks.{j}.gamma",
                "stages.{i}.blocks.{j}.conv_dw.{leaf}", "stages.{i}.blocks.{j}.norm.{leaf}",
                "stages.{i}.blocks.{j}.mlp.fc1.{leaf}", "stages.{i}.blocks.{j}.mlp.fc2.{leaf}",
            ),
            ("stem.{j}.{leaf}", "downsample.0.{j}.{leaf}"),
            ("head.norm.{leaf}", "norms.3.{leaf}"),
            ignored=("head.fc.{rest}",),
        ),
    ),
    Naming(
        "mmpretrain", r"\d+\.depthwise_conv\.weight",
        _table(
            (
                "downsample_layers.{i}.{j}.{leaf}", f"{_BLOCK}.gamma",
                f"{_BLOCK}.depthwise_conv.{{leaf}}", f"{_BLOCK}.norm.{{leaf}}",
                f"{_BLOCK}.pointwise_conv1.{{leaf}}", f"{_BLOCK}.pointwise_conv2.{{leaf}}",
            ),
            ("norm{i}.{leaf}", "norms.{i}.{leaf}"),
            ignored=("head.{rest}", "bias"),  # the latter in PillarNeSt's checkpoints, without use
        ),
    ),
    Naming(
        "the authors", r"\d+\.dwconv\.weight",
        _table(
            (
                "downsample_layers.{i}.{j}.{leaf}", f"{_BLOCK}.gamma",
                f"{_BLOCK}.dwconv.{{leaf}}", f"{_BLOCK}.norm.{{leaf}}",
                f"{_BLOCK}.pwconv1.{{leaf}}", f"{_BLOCK}.pwconv2.{{leaf}}",
            ),
            ("norm{i}.{leaf}", "norms.{i}.{leaf}"),
            ("norm.{leaf}", "norms.3.{leaf}"),
            ignored=("head.{rest}",),
        ),
    ),
    Naming(
        "perception3d", r"\d+\.depthwise\.weight",
        _table(_OURS, ("norms.{i}.{leaf}", "norms.{i}.{leaf}"), ignored=("head.{rest}",)),
    ),
)  # fmt: skip


@dataclass(frozen=True)
class ConvNeXtFile:
    """The ConvNeXt of a file.

    Attributes:
        naming: the library whose names the file has.
        state: weights under our names; kernels of 1x1 convolutions are (out, in), as of ``Linear``.
        names: our name -> name in the file.
    """

    naming: str
    state: dict[str, Tensor]
    names: dict[str, str]


def is_convnext(names: Iterable[str]) -> bool:
    """Whether a file with these names holds a ConvNeXt under some known naming."""
    names = list(names)
    return any(naming.prefixes(names) for naming in CONVNEXT_NAMINGS)


def convnext_of(state: Mapping[str, Tensor], source: str) -> ConvNeXtFile:
    """Find the ConvNeXt in a state dict.

    Args:
        state: as the file has it.
        source: for errors.

    Raises:
        ValueError: no ConvNeXt, several, or names inside of it that are not those of its first
            version.
    """
    found = [(n, prefix) for n in CONVNEXT_NAMINGS for prefix in sorted(n.prefixes(state))]
    if not found:
        libraries = ", ".join(naming.name for naming in CONVNEXT_NAMINGS)
        raise ValueError(
            f"{source} holds no ConvNeXt as named by {libraries}; its {len(state)} names begin "
            f"with {listed(sorted(state)[:3])}"
        )
    if len(found) > 1:
        raise ValueError(
            f"{source} holds {len(found)} ConvNeXts, below "
            f"{', '.join(repr(prefix) for _, prefix in found)}: leave one of them in the file"
        )
    naming, prefix = found[0]
    inside = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    ours = naming.table.translate(inside)
    for name, value in ours.items():
        if name.endswith(("expand.weight", "reduce.weight")) and value.shape[2:] == (1, 1):
            ours[name] = value.flatten(1)
    known = {naming.table.to_ours(k): prefix + k for k in inside}
    return ConvNeXtFile(naming.name, ours, {k: v for k, v in known.items() if k is not None})


def prefix_of(own: Iterable[str], names: Iterable[str], source: str) -> str:
    """What stands before a backbone's names in a file: "", "backbone.", "img_backbone.", ...

    Args:
        own: names of the backbone's weights.
        names: those of the file.
        source: for errors.

    Raises:
        ValueError: under no prefix are half of the names there, or under two equally many.
    """
    own, there = list(own), set(names)
    endings = {name for name in own[:8] if name in there or any(_ends(n, name) for n in there)}
    prefixes = {n.removesuffix(end) for end in endings for n in there if _ends(n, end)}
    overlap = {prefix: sum(prefix + name in there for name in own) for prefix in prefixes}
    most = max(overlap.values(), default=0)
    if 2 * most < len(own):
        raise ValueError(
            f"{source} does not hold this backbone: it has {most} of {len(own)} names such as "
            f"{', '.join(own[:3])}; its {len(there)} names begin with {listed(sorted(there)[:3])}"
        )
    best = sorted(prefix for prefix, count in overlap.items() if count == most)
    if len(best) > 1:
        raise ValueError(
            f"{source} holds this backbone {len(best)} times, below "
            f"{', '.join(map(repr, best))}: leave one of them in the file"
        )
    return best[0]


def _ends(name: str, ending: str) -> bool:
    return name == ending or name.endswith("." + ending)


def state_of_file(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file or of a pickled checkpoint; nothing is executed.

    Raises:
        FileNotFoundError, ValueError: as :func:`~perception3d.engine.checkpoints.read_weights` and
            :func:`~perception3d.engine.checkpoints.state_of_pickle` say.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}")
    with path.open("rb") as file:
        # Eight bytes of length, then the brace of the JSON header.
        tensors = file.read(9)[8:] == b"{" or path.suffix == ".safetensors"
    return read_weights(path)[0] if tensors else state_of_pickle(path)
