"""Published checkpoints of the mm family to weights files of ours, and back.

    python -m perception3d.engine.published PUBLISHED.pth OURS.safetensors
    python -m perception3d.engine.published --export OURS.safetensors PUBLISHED.pth

(or ``tools/import_checkpoint.py``.) Which model a file holds is told by its names. Nothing in a
pickle is executed.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from perception3d.backbones.bev_convnext import PILLARNEST_SIZES
from perception3d.engine.checkpoints import (
    CONVERTER,
    FITS,
    KERNELS,
    PUBLISHED,
    classes_of_pickle,
    read_weights,
    state_of_pickle,
    write_weights,
)
from perception3d.engine.files import write_atomically
from perception3d.engine.key_tables import CMT_KEYS, PILLARNEST_KEYS, KeyTable, listed
from perception3d.engine.key_tables_petr import (
    PETR_KEYS,
    PETR_SEG_KEYS,
    PETRV2_KEYS,
    refuse_unequal_copies,
)
from perception3d.structures.taxonomy import NUSCENES_CLASSES

_HEAD = "pts_bbox_head."

#: Along an axis of a published sparse convolution.
MOST_TAPS = 3


@dataclass(frozen=True)
class PublishedModel:
    """A model whose authors released weights.

    Attributes:
        name: as ``--model`` takes it.
        class_name: of ours, which the header of a weights file names.
        table: published names and ours.
        telltale: begins some name of such a checkpoint, and of none further down the list.
        source: repository of the authors.
        licence: of the code; weights trained on nuScenes carry its non-commercial terms as well.
    """

    name: str
    class_name: str
    table: KeyTable
    telltale: str
    source: str
    licence: str = "Apache-2.0; data of nuScenes: non-commercial (CC BY-NC-SA 4.0)"


#: In the order in which a file is compared with them.
MODELS = (
    PublishedModel(
        "petr_seg", "PETR", PETR_SEG_KEYS, f"{_HEAD}transformer_lane.",
        "megvii-research/PETR",
    ),
    PublishedModel("petrv2", "PETR", PETRV2_KEYS, f"{_HEAD}fpe.", "megvii-research/PETR"),
    PublishedModel("petr", "PETR", PETR_KEYS, f"{_HEAD}adapt_pos3d.", "megvii-research/PETR"),
    PublishedModel("cmt", "CMT", CMT_KEYS, f"{_HEAD}transformer.", "junjie18/CMT"),
    PublishedModel(
        "pillarnest", "PillarNeSt", PILLARNEST_KEYS, f"{_HEAD}task_heads.0.heatmap.",
        "WayneMao/PillarNeSt",
    ),
)  # fmt: skip


def model_of(state: Mapping[str, Any]) -> PublishedModel:
    """The published model that a state dict belongs to.

    Raises:
        ValueError: none; names some of what was found.
    """
    names = [name.removeprefix("module.") for name in state]
    for model in MODELS:
        if any(name.startswith(model.telltale) for name in names):
            return model
    some = listed(sorted(names)[:5])
    raise ValueError(
        f"these are weights of none of {', '.join(m.name for m in MODELS)}: they have no name that "
        f"begins with {', '.join(m.telltale for m in MODELS)} (found {len(names)}, such as {some})"
    )


#: Released models of CMT by their number of weights, and the flags that their weights need.
CMT_CONFIGS = {
    16_769_492: "configs/cmt_lidar_voxel0075.py",
    78_156_100: "configs/cmt_camera_vov_1600x640.py",
    86_607_380: "configs/cmt_voxel0075_vov_1600x640.py",
    40_919_572: "configs/cmt_voxel0100_r50_800x320.py --published-grid",
}
#: What is no weight in a state dict: statistics of batch norms.
_BUFFERS = (".running_mean", ".running_var", ".num_batches_tracked")


@dataclass(frozen=True)
class Imported:
    """What became of a published file."""

    model: PublishedModel
    state: dict[str, Tensor]
    ignored: tuple[str, ...]
    config: str | None


def import_published(source: str | Path, target: str | Path, name: str = "auto") -> Imported:
    """Turn a published checkpoint into a weights file of ours.

    The header says which model it is, whose, under which licence, and the SHA-256 of the source.

    Args:
        source: ``.pth`` of the mm family: weights under "state_dict", or a bare state dict.
        target: safetensors file to write.
        name: of one of :data:`MODELS`, or "auto".

    Returns:
        The model, the weights under our names, the published names that stand for nothing, and the
        config that the shapes fit (with the flags that it needs), if they tell.

    Raises:
        FileNotFoundError: there is no source.
        ValueError: it is no PyTorch checkpoint, holds more than tensors and plain values (which
            could run code), names that the model's table doesn't know, or other classes.
        OSError: the target can't be written.
    """
    source = Path(source)
    _refuse_same(source, target)
    named = None if name == "auto" else _named(name)
    published = state_of_pickle(source)
    model = named or model_of(published)
    _refuse_other_classes(source)
    state = model.table.translate(published)
    refuse_unequal_copies(published, model.table)
    ignored = tuple(key for key in published if model.table.to_ours(key) is None)
    notes = {
        "source": source.name,
        "source_sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
        "published": model.name,
        "authors": model.source,
        "licence": model.licence,
        KERNELS: PUBLISHED,
    }
    if (config := fitting_config(model, state)) is not None:
        notes[FITS] = config
    write_weights(state, target, model_name=model.class_name, notes=notes)
    return Imported(model, state, ignored, notes.get(FITS))


def fitting_config(model: PublishedModel, state: Mapping[str, Tensor]) -> str | None:
    """The config whose model has these shapes, where they tell: those of CMT and PillarNeSt."""
    if model.name == "cmt":
        weights = (value for name, value in state.items() if not name.endswith(_BUFFERS))
        return CMT_CONFIGS.get(sum(value.numel() for value in weights))
    if model.name != "pillarnest":
        return None
    stage = re.compile(r"lidar\.backbone\.stages\.(\d+)\.(\d+)\.gamma")
    blocks = [(match, value) for key, value in state.items() if (match := stage.fullmatch(key))]
    depths, widths = [0] * 5, [0] * 5
    for match, value in blocks:
        number = int(match[1])
        if number >= len(depths):
            return None
        depths[number] += 1
        widths[number] = value.shape[0]
    for scale, sizes in PILLARNEST_SIZES.items():
        if sizes[:2] == (tuple(depths), tuple(widths)):
            return f"configs/pillarnest_{scale}.py"
    return None


def export_published(weights: str | Path, target: str | Path, name: str = "auto") -> int:
    """Write a weights file of ours as a checkpoint that the authors' code loads.

    Kernels of sparse convolutions get the layout of spconv 2, whatever file they came from, and the
    state dict says so in the way that mmdetection3d looks for.

    Args:
        weights: safetensors file.
        target: ``.pth`` to write.
        name: of one of :data:`MODELS`; "auto" goes by the header, which must name one.

    Returns:
        Number of tensors written.

    Raises:
        FileNotFoundError, ValueError: as of :func:`read_weights`; the header names no published
            model, or a weight has no published name.
    """
    _refuse_same(weights, target)
    state, header = read_weights(weights)
    model = _named(name) if name != "auto" else _of_header(header, weights)
    try:
        published = model.table.publish(state)
    except KeyError as error:
        raise ValueError(
            f"{weights} has a weight without a name in published {model.name} checkpoints: "
            f"{error.args[0]}"
        ) from error
    published |= _copies(published, model.table)
    ordered: OrderedDict[str, Tensor] = OrderedDict(sorted(published.items()))
    kernels = [key for key, value in ordered.items() if value.ndim == 5]
    for key in kernels:
        ordered[key] = _in_new_layout(ordered[key])
    versions = {key.rpartition(".")[0]: {"version": 2} for key in kernels}
    ordered._metadata = versions  # type: ignore[attr-defined]
    content = {"meta": {"exported_from": Path(weights).name}, "state_dict": ordered}
    write_atomically(Path(target), lambda file: torch.save(content, file))
    return len(ordered)


def _copies(published: Mapping[str, Tensor], table: KeyTable) -> dict[str, Tensor]:
    """What a checkpoint holds once a layer and we hold once: copies of number 0."""
    copies = {}
    for rule in table.ignored:
        match = re.fullmatch(r"(.+\.)(\d+)\.\{rest\}", rule)
        if match is None:
            continue
        first, number = f"{match[1]}0.", match[2]
        for name, value in published.items():
            if name.startswith(first):
                copies[f"{match[1]}{number}.{name.removeprefix(first)}"] = value
    return copies


def _in_new_layout(kernel: Tensor) -> Tensor:
    """(Cout, kz, ky, kx, Cin) also of (kz, ky, kx, Cin, Cout), which imported files may hold.

    No published layer has as few outputs as a kernel has taps along an axis.
    """
    old = max(kernel.shape[:3]) <= MOST_TAPS
    return kernel.permute(4, 0, 1, 2, 3).contiguous() if old else kernel


def _refuse_other_classes(source: Path) -> None:
    """Labels are numbers: with another list, cars would be called trucks without an error."""
    classes = classes_of_pickle(source)
    if classes is not None and classes != NUSCENES_CLASSES:
        raise ValueError(
            f"{source} was trained on {len(classes)} classes ({', '.join(classes)}); labels here "
            f"stand for {len(NUSCENES_CLASSES)} ({', '.join(NUSCENES_CLASSES)}), in this order"
        )


def _refuse_same(source: str | Path, target: str | Path) -> None:
    if Path(source).resolve() == Path(target).resolve():
        raise ValueError(f"{target} would be written over by what is made of it; name another file")


def _named(name: str) -> PublishedModel:
    for model in MODELS:
        if model.name == name:
            return model
    raise ValueError(f"no published model is called {name!r}; known: {[m.name for m in MODELS]}")


def _of_header(header: Mapping[str, str], weights: str | Path) -> PublishedModel:
    if "published" in header:
        return _named(header["published"])
    fits = [model for model in MODELS if model.class_name == header.get("model")]
    if len(fits) == 1:
        return fits[0]
    raise ValueError(
        f"{weights} holds weights of {header.get('model')!r}, which may be any of "
        f"{[m.name for m in fits or MODELS]}: say which with --model"
    )


def main(arguments: list[str], prog: str = f"python -m {CONVERTER}") -> None:
    """The converting command."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Turn a published checkpoint (CMT, PETR, PETRv2, PillarNeSt) into weights of "
        "ours, or back. Nothing in a pickle is executed.",
    )
    parser.add_argument("source", help="published .pth; with --export, .safetensors of ours")
    parser.add_argument("target", help="safetensors file to write; with --export, .pth")
    parser.add_argument(
        "--model", default="auto", choices=["auto", *(model.name for model in MODELS)],
        help="which published model; auto goes by the names in the file",
    )  # fmt: skip
    parser.add_argument("--export", action="store_true", help="go the other way")
    asked = parser.parse_args(arguments)
    if asked.export:
        count = export_published(asked.source, asked.target, asked.model)
        print(f"{count} tensors written to {asked.target}, under published names")
        return
    found = import_published(asked.source, asked.target, asked.model)
    print(f"{asked.source}: {found.model.name} of {found.model.source} ({found.model.licence})")
    if found.config is not None:
        print(f"  shapes of {found.config}")
    for name in found.ignored:
        print(f"  left out, for it stands for nothing: {name}")
    print(f"{len(found.state)} tensors written to {asked.target}")


if __name__ == "__main__":
    # Not above: command_line needs modules of this room.
    from perception3d.engine.command_line import clear_errors

    with clear_errors():
        main(sys.argv[1:])
