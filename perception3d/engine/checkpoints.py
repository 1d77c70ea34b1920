"""Weights on disk: safetensors with a header that names the model; pickles are read safely."""

from __future__ import annotations

import re
import shlex
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from perception3d.engine.files import write_atomically
from perception3d.engine.key_tables import CMT_KEYS, KeyTable, listed
from perception3d.nn.sparse import KernelLayout, read_kernels

#: Written into every header; a change of names or meanings of weights raises it.
FORMAT = "perception3d-weights-1"

#: Header entry of converted files: they may hold sparse kernels in either published layout.
KERNELS, PUBLISHED = "kernels", "published"

#: Header entry of converted files: the config whose model has these shapes.
FITS = "fits"

#: Suffixes of files that hold pickles.
PICKLES = (".pth", ".pt", ".ckpt", ".pkl", ".bin", ".tar")

#: First bytes of torch.save's files: a zip archive, or a bare pickle (before PyTorch 1.6).
PICKLE_BEGINNINGS = (b"PK\x03\x04", b"\x80")

#: What converts a pickle, as a command.
CONVERTER = "perception3d.engine.published"


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
    write_atomically(Path(path), lambda file: file.write(data))


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
    if _is_pickle(path):
        target = path.with_suffix(".safetensors")
        if target == path:
            target = path.with_stem(f"{path.stem}_converted")
        command = shlex.join(["python", "-m", CONVERTER, str(path), str(target)])
        raise ValueError(
            f"{path} is a pickle, which can run code when it is opened; convert it once with\n"
            f"    {command}\nand load {target}"
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


def _is_pickle(path: Path) -> bool:
    """Whether the content is a pickle, or the name says so and the content does not deny it."""
    with path.open("rb") as file:
        head = file.read(9)
    # A safetensors file begins with the length of its JSON header (8 bytes, little-endian), the
    # first of which may be that of a pickle by chance: so look at the JSON's brace before.
    if head[8:] == b"{":
        return False
    return head.startswith(PICKLE_BEGINNINGS) or path.suffix in PICKLES


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
    layout: KernelLayout = "auto" if header.get(KERNELS) == PUBLISHED else "spconv2"
    source = str(path) + (f" (weights for {header[FITS]})" if FITS in header else "")
    load_state(model, read_kernels(model, state, layout), source=source)
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
    model: nn.Module,
    state: Mapping[str, Tensor],
    *,
    table: KeyTable = CMT_KEYS,
    prefix: str = "",
    kernels: KernelLayout = "auto",
) -> None:
    """Load a state dict with published names strictly.

    Args:
        model: a whole model, or a part of one.
        state: published name -> value.
        table: the names.
        prefix: where the part sits in the model the table speaks of, e.g. "image.backbone.".
        kernels: layout of sparse kernels, see :func:`perception3d.nn.sparse.read_kernels`.

    Raises:
        ValueError: names the table doesn't know, the differences that :func:`load_state` lists, or
            sparse kernels whose layout cannot be told.
    """
    ours = table.translate(state)
    foreign = [name for name in ours if not name.startswith(prefix)]
    if foreign:
        raise ValueError(f"{len(foreign)} names lie outside {prefix!r}: {listed(foreign)}")
    part = {k.removeprefix(prefix): v for k, v in ours.items()}
    load_state(model, read_kernels(model, part, kernels), source="the checkpoint")


def state_of_pickle(source: Path) -> dict[str, Tensor]:
    """The tensors of a pickled checkpoint by their names; nothing in it is executed.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no PyTorch checkpoint, holds more than tensors and plain values, or no
            tensors.
    """
    loaded = _unpickle_safely(source)
    wrapped = isinstance(loaded, dict)
    state = loaded.get("state_dict", loaded.get("model", loaded)) if wrapped else None
    if not isinstance(state, dict):
        raise ValueError(
            f"{source} holds no state dict: found {type(loaded).__name__}, expected a dict of"
            ' tensors, or one under "state_dict" or "model"'
        )
    tensors = {k: v for k, v in state.items() if isinstance(k, str) and isinstance(v, Tensor)}
    if not tensors:
        raise ValueError(f"{source} holds no tensors; found the keys {listed(map(str, state))}")
    return tensors


def classes_of_pickle(source: Path) -> tuple[str, ...] | None:
    """The classes that a checkpoint of the mm family says it was trained on; None if it doesn't.

    Raises:
        FileNotFoundError, ValueError: as :func:`state_of_pickle` says of unreadable files.
    """
    loaded = _unpickle_safely(source)
    meta = loaded.get("meta") if isinstance(loaded, dict) else None
    if not isinstance(meta, dict):
        return None
    later = meta.get("dataset_meta")  # mmengine
    names = meta.get("CLASSES") or (later.get("classes") if isinstance(later, dict) else None)
    return tuple(map(str, names)) if isinstance(names, (list, tuple)) else None


def _unpickle_safely(source: Path) -> Any:
    if not source.is_file():
        raise FileNotFoundError(f"no checkpoint at {source}")
    try:
        with warnings.catch_warnings():
            # About pickle protocols that a junk file seems to have.
            warnings.simplefilter("ignore")
            return torch.load(source, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # whatever a junk file provokes
        # The loader's own text is long, and advises to open the file unsafely.
        if unsafe := re.search(r"Unsupported (?:global|class).*?([\w.]+) was not", str(error)):
            raise ValueError(
                f"{source} holds more than tensors and plain values ({unsafe[1]}), which could run"
                " code; save only its state dict, where you trust it, and convert that"
            ) from error
        raise ValueError(
            f"{source} is not a readable PyTorch checkpoint ({type(error).__name__}); copy it again"
        ) from error
