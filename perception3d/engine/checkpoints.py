"""Weights on disk: safetensors with a header that names the model; pickles are converted.

python -m perception3d.engine.checkpoints PUBLISHED.pth CONVERTED.safetensors
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from perception3d.engine.key_tables import CMT_KEYS, KeyTable, listed

#: Written into every header; a change of names or meanings of weights raises it.
FORMAT = "perception3d-weights-1"

#: Suffixes of files that hold pickles.
PICKLES = (".pth", ".pt", ".ckpt", ".pkl", ".bin", ".tar")


def save_weights(
    model: nn.Module, path: str | Path, *, notes: Mapping[str, str] | None = None
) -> None:
    """Write a model's state dict; a file appears whole or not at all.

    Args:
        model: its class name goes into the header.
        path: of the safetensors file; folders are made.
        notes: further strings for the header (command, commit, scores, ...).

    Raises:
        OSError: the file can't be written (a full disk, say); an older file at ``path`` stays as
            it was.
    """
    write_weights(model.state_dict(), path, model_name=type(model).__name__, notes=notes)


def write_weights(
    state: Mapping[str, Tensor],
    path: str | Path,
    *,
    model_name: str,
    notes: Mapping[str, str] | None = None,
) -> None:
    """Write a state dict of the named model; see :func:`save_weights`."""
    from safetensors.torch import save

    header = {**(notes or {}), "format": FORMAT, "model": model_name}
    data = save({k: v.detach().cpu().contiguous() for k, v in state.items()}, header)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes private files; weights are as readable as anything else the user writes.
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read_weights(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """State dict (on the CPU) and header of a weights file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is a pickle (the message holds the converting command), or no safetensors
            file.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}")
    if path.suffix in PICKLES:
        target = path.with_suffix(".safetensors")
        raise ValueError(
            f"{path} is a pickle, which can run code when it is opened; convert it once with\n"
            f"    python -m perception3d.engine.checkpoints {path} {target}\nand load {target}"
        )
    try:
        with safe_open(path, framework="pt") as file:
            header = dict(file.metadata() or {})
            names = file.keys()
            return {name: file.get_tensor(name) for name in names}, header
    except SafetensorError as error:
        raise ValueError(
            f"{path} is not a whole safetensors file ({error}); copy it again"
        ) from error


def load_weights(model: nn.Module, path: str | Path) -> dict[str, str]:
    """Load weights strictly, in place.

    Returns:
        The header of the file.

    Raises:
        FileNotFoundError, ValueError: as :func:`read_weights`; the file belongs to another model;
            names are missing or unexpected, or shapes differ (every one is listed).
    """
    state, header = read_weights(path)
    expected = type(model).__name__
    if header.get("format") != FORMAT:
        raise ValueError(
            f"{path} has no header of this format ({FORMAT!r}; found {header.get('format')!r}): "
            "write weights with save_weights, or convert a published checkpoint"
        )
    if header.get("model") != expected:
        raise ValueError(
            f"{path} holds weights of {header.get('model')!r}; this model is {expected!r}"
        )
    load_state(model, state, source=str(path))
    return header


def load_state(
    model: nn.Module, state: Mapping[str, Tensor], *, source: str = "the state dict"
) -> None:
    """Load a state dict with our names strictly: ValueError lists every difference."""
    own = model.state_dict()
    problems = []
    if missing := own.keys() - state.keys():
        problems.append(f"{len(missing)} missing: {listed(missing)}")
    if unexpected := state.keys() - own.keys():
        problems.append(f"{len(unexpected)} unexpected: {listed(unexpected)}")
    shapes = [
        f"{name} {tuple(state[name].shape)}, the model has {tuple(own[name].shape)}"
        for name in own.keys() & state.keys()
        if own[name].shape != state[name].shape
    ]
    if shapes:
        problems.append(f"{len(shapes)} of another shape: {listed(shapes)}")
    if problems:
        raise ValueError(
            f"{source} does not fit {type(model).__name__} (the knobs must be those it was saved "
            "with): " + "; ".join(problems)
        )
    model.load_state_dict(dict(state), strict=True)


def load_published(
    model: nn.Module, state: Mapping[str, Tensor], *, table: KeyTable = CMT_KEYS, prefix: str = ""
) -> None:
    """Load a state dict with published names strictly.

    Args:
        model: a whole model, or a part of one.
        state: published name -> value.
        table: the names.
        prefix: where the part sits in the model the table speaks of, e.g. "image.backbone.".

    Raises:
        ValueError: names the table doesn't know, or the differences that :func:`load_state` lists.
    """
    ours = table.translate(state)
    foreign = [name for name in ours if not name.startswith(prefix)]
    if foreign:
        raise ValueError(f"{len(foreign)} names lie outside {prefix!r}: {listed(foreign)}")
    load_state(model, {k.removeprefix(prefix): v for k, v in ours.items()}, source="the checkpoint")


def convert(
    source: str | Path, target: str | Path, *, table: KeyTable = CMT_KEYS, model_name: str = "CMT"
) -> int:
    """Turn a published pickle into a weights file of ours; nothing in the pickle is executed.

    Args:
        source: mmcv-style checkpoint (weights under "state_dict") or a bare state dict.
        target: safetensors file to write.
        table: the names.
        model_name: for the header.

    Returns:
        Number of tensors written.

    Raises:
        ValueError: the pickle holds more than tensors and plain values, or unknown names.
    """
    import pickle

    try:
        loaded = torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{source} holds more than tensors and plain values: {error}") from error
    state = loaded.get("state_dict", loaded)
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    ours = table.translate(tensors)
    write_weights(ours, target, model_name=model_name, notes={"source": Path(source).name})
    return len(ours)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description="Convert a published CMT checkpoint to safetensors."
    )
    parser.add_argument("source", help="published checkpoint (.pth)")
    parser.add_argument("target", help="safetensors file to write")
    arguments = parser.parse_args()
    count = convert(arguments.source, arguments.target)
    print(f"{count} tensors written to {arguments.target}")
