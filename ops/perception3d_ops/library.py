"""The operators ``torch.ops.perception3d.*``: their registration, and the compiled kernels.

An op is defined by its PyTorch twin, a plain function of tensors. :func:`define` registers the twin
as the kernel of every device; the compiled library, where there is one, takes its place on the CPU
(and on CUDA, when built for it). So every op works everywhere and is slower where nothing was
compiled.
"""

from __future__ import annotations

import functools
import importlib
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

NAMESPACE = "perception3d"
_library = torch.library.Library(NAMESPACE, "DEF")

#: Name of each op to the function that defines it.
TWINS: dict[str, Callable[..., Any]] = {}

#: Set to "twin" to leave the compiled kernels aside, say to see whether one of them is at fault.
KERNELS_VARIABLE = "PERCEPTION3D_KERNELS"


def define(schema: str, twin: Callable[..., Any], fake: Callable[..., Any]) -> Any:
    """Register an op.

    Args:
        schema: such as ``"double_it(Tensor x) -> Tensor"``.
        twin: kernel of every device that has no compiled one; must not alias its inputs.
        fake: shapes and types of the results, for ``torch.compile`` and the meta device.

    Returns:
        ``torch.ops.perception3d.<name>.default``.
    """
    name = schema.partition("(")[0]
    TWINS[name] = twin
    _library.define(schema)
    _library.impl(name, twin, "CompositeExplicitAutograd")
    torch.library.register_fake(f"{NAMESPACE}::{name}", fake, lib=_library)
    return getattr(getattr(torch.ops, NAMESPACE), name).default


def define_on_cuda(op: Any, kernel: Callable[..., Any]) -> None:
    """Register a function of Python as the kernel of CUDA tensors."""
    _library.impl(op._schema.name.partition("::")[2], kernel, "CUDA")


def triton_kernel(module: str, function: str, twin: Callable[..., Any]) -> Callable[..., Any]:
    """A function that Triton compiles, for :func:`define_on_cuda`; Triton is an optional package.

    Args:
        module: of this package; imported when the first CUDA tensor arrives.
        function: in that module.
        twin: serves where Triton is not installed.
    """

    def kernel(*arguments: Any) -> Any:
        return getattr(_triton_module(module), function, twin)(*arguments)

    return kernel


@functools.cache
def _triton_module(name: str) -> ModuleType | None:
    """A module that imports Triton; None, with one warning, where there is none."""
    if os.environ.get(KERNELS_VARIABLE, "") == "twin":
        return None
    try:
        return importlib.import_module(f"{__package__}.{name}")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "triton":
            raise
        warnings.warn(
            "perception3d_ops runs on plain PyTorch on CUDA (Triton is not installed): sparse "
            "convolution is several times slower. To get it: pip install triton",
            stacklevel=3,
        )
        return None


def define_gradient(op: Any, backward: Callable[..., Any], keep: Callable[..., None]) -> None:
    """Tie a derivative to an op: ``keep(ctx, inputs, output)`` saves, ``backward(ctx, *grads)``."""
    torch.library.register_autograd(op._schema.name, backward, setup_context=keep, lib=_library)


def refuse_gradient(op: Any, what: str) -> None:
    """Let an op that is a gradient itself say so when it is asked for a derivative."""

    def backward(ctx: Any, *gradients: Any) -> None:
        raise NotImplementedError(f"{what} has no derivative")

    define_gradient(op, backward, lambda ctx, inputs, output: None)


def compiled_file() -> Path | None:
    """The compiled library beside this file, if it was built."""
    found = sorted(Path(__file__).parent.glob("_C*.so"))
    return found[0] if found else None


def load_compiled() -> bool:
    """Load the compiled kernels; False, with one warning, where they are missing or do not load."""
    if os.environ.get(KERNELS_VARIABLE, "") == "twin":
        return False
    path = compiled_file()
    reason = "they were not built"
    if path is not None:
        try:
            torch.ops.load_library(str(path))
            return True
        except OSError as error:
            reason = f"{path.name} does not load: {error}"
    warnings.warn(
        f"perception3d_ops runs on plain PyTorch ({reason}): voxelization, sparse convolution and "
        "box overlap are several times slower. To build the kernels (a C++ compiler is needed): "
        "in the project's folder, pip install --no-build-isolation --force-reinstall --no-deps .",
        stacklevel=2,
    )
    return False


#: Whether compiled kernels serve the CPU here.
COMPILED = load_compiled()
