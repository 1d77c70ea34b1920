"""Start a model whose backbone alone is pre-trained: ImageNet's ConvNeXt, VoVNet, ResNet.

Whole models start from weights files of ours (``Experiment.weights``). Here the file is another
library's, or holds another model, and only one part of it is wanted; a report says what became of
every name. Nothing in a pickle is executed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from perception3d.backbones.bev_convnext import BEVConvNeXt
from perception3d.backbones.image_timm import TimmBackbone
from perception3d.engine.backbone_names import (
    convnext_of,
    is_convnext,
    prefix_of,
    state_of_file,
)
from perception3d.engine.backbone_rules import Rule, cut, published_start, sliced_start
from perception3d.engine.key_tables import listed
from perception3d.models.image_branch import ImageBranch

log = logging.getLogger(__name__)

#: Weights that other libraries' files may lack: counters of batch norms (files of before 2018, and
#: of frozen norms) and the displacements of deformable layers, which start at zero.
_OPTIONAL = (".num_batches_tracked", ".conv_offset.weight", ".conv_offset.bias")


@dataclass(frozen=True)
class Filled:
    """What became of a file's weights and of a backbone's.

    Attributes:
        part: name of the backbone in the model.
        source: the file, and whose names it has.
        sources: name in the backbone -> what it was filled from, as a name of the same kind.
        cut: those of which only the first channels were taken.
        kept: names in the backbone that stay as they were built.
        used, unused: names in the file that were copied, and those that found no place.
        weights, filled: number of weights that learn, all and filled ones.
    """

    part: str
    source: str
    sources: dict[str, str]
    cut: frozenset[str]
    kept: tuple[str, ...]
    used: tuple[str, ...]
    unused: tuple[str, ...]
    weights: int
    filled: int

    def text(self) -> str:
        """Every name, together where a whole module fares alike."""
        tensors = len(self.sources) + len(self.kept)
        lines = [
            f"{self.part} from {self.source}: {len(self.sources)} of {tensors} tensors, "
            f"{self.filled / 1e6:.2f} of {self.weights / 1e6:.2f} M weights "
            f"({100 * self.filled / max(self.weights, 1):.0f} %)"
        ]
        lines += [f"  copied: {line}" for line in self._copied()]
        if self.kept:
            lines.append(f"  as built: {', '.join(_together(self.kept, self.sources))}")
        if self.unused:
            lines.append(f"  not used of the file: {', '.join(_together(self.unused, self.used))}")
        return "\n".join(lines)

    def _copied(self) -> list[str]:
        """Names by the block they come from, where it is another, and by whether they were cut."""
        kinds: dict[tuple[str, bool], list[str]] = {}
        for name, source in self.sources.items():
            moved = "" if name == source else _block(source)
            kinds.setdefault((moved, name in self.cut), []).append(name)
        lines = []
        for (moved, was_cut), names in kinds.items():
            others = [n for n in (*self.sources, *self.kept) if n not in set(names)]
            line = ", ".join(_together(names, others))
            line += f" from {moved}" if moved else ""
            lines.append(line + (", first channels" if was_cut else ""))
        return lines


@dataclass(frozen=True, kw_only=True)
class BackboneWeights:
    """A file with a pre-trained backbone, and how a model takes it.

    An image backbone is filled strictly: whole parts that the model lacks (a classifier, a last
    stage) are left out, every other difference is refused. PillarNeSt's ConvNeXt differs from any
    that was trained on images, so there a rule says what is copied.

    Attributes:
        file: safetensors or a PyTorch checkpoint: timm, torchvision, the mm family, the authors of
            ConvNeXt, or ours.
        rule: for a ConvNeXt seen from above:
            :func:`~perception3d.engine.backbone_rules.published_start` or
            :func:`~perception3d.engine.backbone_rules.sliced_start`.
        scale_rows: with "sliced", scale linear layers that lost inputs.
        flip_colors: turn the stem's input channels: weights of torchvision and timm see red first,
            the published image branches of CMT and PETR blue first.
        part: name of the backbone in the model; None: the ConvNeXt seen from above for a file with
            one, else the image backbone.
    """

    file: Path
    rule: Rule = "published"
    scale_rows: bool = False
    flip_colors: bool = False
    part: str | None = None

    def __post_init__(self) -> None:
        if self.scale_rows and self.rule != "sliced":
            raise ValueError(f"scale_rows is for the rule 'sliced'; found {self.rule!r}")

    def fill(self, model: nn.Module) -> Filled:
        """Fill the backbone of a model in place, and log what was done.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is no weights file, holds no such backbone, or (image backbones) differs;
                every difference is listed. The model is unchanged then.
        """
        return self.fill_from(state_of_file(self.file), model)

    def fill_from(self, state: dict[str, Tensor], model: nn.Module) -> Filled:
        """The same from weights that were read already; ``file`` is what messages call them."""
        name = self.part or _part_for(model, state, self.file)
        backbone = _part(model, name)
        if isinstance(backbone, BEVConvNeXt):
            if self.flip_colors:
                raise ValueError(f"flip_colors is for image backbones; {name} sees no colours")
            filled = self._fill_convnext(name, backbone, state)
        else:
            if self.rule != "published":
                raise ValueError(
                    f"the rule {self.rule!r} is for a ConvNeXt seen from above; {name} is a "
                    f"{type(backbone).__name__}, which takes its weights whole"
                )
            filled = self._fill_image(name, backbone, state)
        log.info(filled.text())
        if not filled.sources:
            log.warning(
                f"{self.file}: no weight has the name and shape of one in {name}, which starts at "
                "random; the rule 'sliced' takes the first channels of wider layers"
            )
        return filled

    def _fill_convnext(self, name: str, backbone: nn.Module, state: dict[str, Tensor]) -> Filled:
        file = convnext_of(state, str(self.file))
        own = backbone.state_dict()
        start = sliced_start if self.rule == "sliced" else published_start
        sources = start(own, file.state)
        values = {
            k: cut(k, own[k], file.state[source], scale_rows=self.scale_rows)
            for k, source in sources.items()
        }
        smaller = frozenset(k for k, s in sources.items() if own[k].shape != file.state[s].shape)
        used = {file.names[source] for source in sources.values()}
        source = f"{self.file} (names of {file.naming}; rule {self.rule})"
        return _filled(name, source, backbone, values, sources, smaller, _split(state, used))

    def _fill_image(self, name: str, backbone: nn.Module, state: dict[str, Tensor]) -> Filled:
        module, plain = backbone, _same
        if isinstance(backbone, TimmBackbone):
            module, plain = backbone.model, _dotted
        own = {plain(k): k for k in module.state_dict()}
        there = {plain(k): k for k in state}
        prefix = prefix_of(own, there, str(self.file))
        file = {k.removeprefix(prefix): v for k, v in there.items() if k.startswith(prefix)}
        refuse_differences(
            {k: module.state_dict()[v].shape for k, v in own.items()},
            {k: state[v].shape for k, v in file.items()},
            f"{self.file} does not fit {name} ({type(backbone).__name__})",
        )
        used = {own[k]: file[k] for k in own if k in file}
        values = {k: state[name_there] for k, name_there in used.items()}
        if self.flip_colors:
            stem = next(k for k, v in values.items() if v.ndim == 4 and v.shape[1] == 3)
            values[stem] = values[stem].flip(1)
        source = f"{self.file}" + (f" ({prefix}*)" if prefix else "")
        sources = {k: k for k in used}
        there_used = _split(state, set(used.values()))
        return _filled(name, source, module, values, sources, frozenset(), there_used)


def refuse_differences(
    own: Mapping[str, torch.Size], file: Mapping[str, torch.Size], what: str
) -> None:
    """Raise ValueError where a file's backbone is another one; names and shapes are listed.

    Whole parts in the file that the backbone lacks are no difference, nor is what starts at zero in
    the backbone and is missing in the file.
    """
    parts = {name.partition(".")[0] for name in own}
    missing = [k for k in own if k not in file and not k.endswith(_OPTIONAL)]
    extra = [k for k in file if k not in own and k.partition(".")[0] in parts]
    other = [k for k in own if k in file and own[k] != file[k]]
    problems = []
    for kind, names in (("missing", missing), ("unexpected", extra), ("of another shape", other)):
        if names:
            differ = set(names)
            # Counters have one shape everywhere.
            fine = [k for k in (*own, *file) if k not in differ and not k.endswith(_OPTIONAL[0])]
            problems.append(f"{len(names)} {kind}: {', '.join(_together(names, fine))}")
    shapes = [f"{k} {tuple(file[k])}, the model has {tuple(own[k])}" for k in other]
    if shapes:
        problems.append(f"such as {'; '.join(shapes[:3])}")
    if problems:
        raise ValueError(f"{what}: {'; '.join(problems)}. Is it another depth, width or style?")


def _part_for(model: nn.Module, names: Iterable[str], file: Path) -> str:
    modules = dict(model.named_modules())
    above = [name for name, module in modules.items() if isinstance(module, BEVConvNeXt)]
    image = [f"{n}.backbone" for n, module in modules.items() if isinstance(module, ImageBranch)]
    fitting = above + image if is_convnext(names) else image + above
    if not fitting:
        raise ValueError(f"{type(model).__name__} has no backbone that {file} could fill")
    return fitting[0]


def _part(model: nn.Module, name: str) -> nn.Module:
    modules = dict(model.named_modules())
    if name not in modules:
        known = [n for n in modules if n.endswith("backbone")]
        raise ValueError(f"{type(model).__name__} has no part {name!r}; backbones: {listed(known)}")
    return modules[name]


@torch.no_grad()
def _filled(
    name: str,
    source: str,
    module: nn.Module,
    values: Mapping[str, Tensor],
    sources: dict[str, str],
    smaller: frozenset[str],
    split: tuple[tuple[str, ...], tuple[str, ...]],
) -> Filled:
    own = module.state_dict()
    for key, value in values.items():
        own[key].copy_(value)
    sizes = {k: p.numel() for k, p in module.named_parameters()}
    return Filled(
        part=name,
        source=source,
        sources=sources,
        cut=smaller,
        kept=tuple(k for k in own if k not in values),
        used=split[0],
        unused=split[1],
        weights=sum(sizes.values()),
        filled=sum(size for k, size in sizes.items() if k in values),
    )


def _split(names: Iterable[str], used: set[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    names = list(names)
    return tuple(n for n in names if n in used), tuple(n for n in names if n not in used)


def _together(names: Iterable[str], others: Iterable[str]) -> list[str]:
    """Names, with ``a.b.* (n)`` for all of ``a.b.`` where none of the others is below it."""
    names, elsewhere = list(names), set()
    for other in others:
        parts = other.split(".")
        elsewhere |= {".".join(parts[:n]) for n in range(1, len(parts))}
    groups: dict[str, list[str]] = {}
    for name in names:
        parts = name.split(".")
        heads = [".".join(parts[:n]) for n in range(1, len(parts))]
        groups.setdefault(next((h for h in heads if h not in elsewhere), name), []).append(name)
    return [
        found[0] if len(found) == 1 else f"{head}.* ({len(found)})"
        for head, found in groups.items()
    ]


def _block(name: str) -> str:
    """The block or layer that a name of a ConvNeXt belongs to."""
    return ".".join(name.split(".")[: 3 if name.startswith("stages.") else 2]) + ".*"


def _same(name: str) -> str:
    return name


def _dotted(name: str) -> str:
    """Names of timm's models for maps have ``stages_0`` where its files have ``stages.0``."""
    return name.replace("_", ".")
