"""Packages and compiled kernels of the distribution. Metadata is in pyproject.toml.

``ops/perception3d_ops`` is an import package of its own (kernels know nothing of driving), and the
lists under ``data/`` travel as ``perception3d_data``; both are mapped by name, because mapping them
below ``perception3d`` breaks when Python starts in the repository's root.

The kernels of ``ops/csrc`` become ``perception3d_ops/_C.abi3.so``, which holds no Python and only
torch's stable interface: one file serves every Python from 3.10 and every torch from 2.11 on. What
is built says the environment variable PERCEPTION3D_BUILD:

    auto   (default) CUDA and CPU kernels where torch and the machine have CUDA, else CPU kernels;
           nothing where there is no torch (pip's isolated builds) or no compiler
    cpu    CPU kernels alone
    cuda   both; an error where CUDA is missing
    none   nothing: the package runs on the plain PyTorch twins of the kernels

PERCEPTION3D_SANITIZE=1 adds the address and undefined-behaviour sanitizers (for a test).
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from setuptools import find_packages, setup

SOURCES = Path("ops") / "csrc"
MODES = ("auto", "cpu", "cuda", "none")
#: The oldest torch that the kernels run with, 2.11, as its headers want it.
TORCH_TARGET = "0x020b000000000000"


def kernels() -> dict[str, Any]:
    """The keywords of ``setup`` that build the kernels; none where nothing is built."""
    mode = os.environ.get("PERCEPTION3D_BUILD", "auto")
    if mode not in MODES:
        sys.exit(f"PERCEPTION3D_BUILD must be one of {', '.join(MODES)}; found {mode!r}")
    missing = what_is_missing()
    if mode == "none" or (mode == "auto" and missing):
        if missing and mode == "auto":
            print(f"perception3d: no compiled kernels, {missing}; plain PyTorch will be used")
        return {}
    if missing:
        sys.exit(f"PERCEPTION3D_BUILD={mode}: {missing}")

    import torch
    from torch.utils import cpp_extension

    has_cuda = bool(torch.version.cuda and cpp_extension.CUDA_HOME)
    if mode == "cuda" and not has_cuda:
        sys.exit(
            f"PERCEPTION3D_BUILD=cuda: torch {torch.__version__} has CUDA {torch.version.cuda}, "
            f"and the CUDA toolkit is at {cpp_extension.CUDA_HOME}; both are needed"
        )
    cuda = has_cuda and mode != "cpu"
    # IEEE arithmetic, but for products that may be fused with sums, and for flags of exceptions:
    # nobody reads them, and they keep loops with comparisons from vector registers.
    cxx = ["-O3", "-std=c++17", "-fvisibility=hidden", "-ffp-contract=fast", "-fno-trapping-math",
           "-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-unknown-pragmas", "-Wno-psabi",
           f"-DTORCH_TARGET_VERSION={TORCH_TARGET}", "-DPy_LIMITED_API=0x030A0000"]  # fmt: skip
    nvcc = ["-O3", "-std=c++17", f"-DTORCH_TARGET_VERSION={TORCH_TARGET}"]
    if cuda:
        cxx += ["-DP3D_WITH_CUDA", "-DUSE_CUDA"]
        # Without a GPU to ask, torch would compile for every architecture it knows.
        if not torch.cuda.is_available():
            os.environ.setdefault("TORCH_CUDA_ARCH_LIST", "8.0;9.0+PTX")
    link = []
    if os.environ.get("PERCEPTION3D_SANITIZE"):
        checks = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
        cxx, link = [*cxx, "-O1", "-g", "-fno-omit-frame-pointer", *checks], checks
    extension = cpp_extension.CUDAExtension if cuda else cpp_extension.CppExtension
    patterns = ("*.cpp", "*.cu") if cuda else ("*.cpp",)
    return {
        "ext_modules": [
            extension(
                "perception3d_ops._C",
                sorted(str(path) for pattern in patterns for path in SOURCES.glob(pattern)),
                py_limited_api=True,
                extra_compile_args={"cxx": cxx, "nvcc": nvcc},
                extra_link_args=link,
                depends=sorted(map(str, SOURCES.glob("*.*h"))),
            )
        ],
        "cmdclass": {"build_ext": cpp_extension.BuildExtension},
        "options": {"bdist_wheel": {"py_limited_api": "cp310"}},
    }


def what_is_missing() -> str:
    """Why kernels cannot be compiled here, or an empty text."""
    if sys.platform not in ("linux", "darwin"):
        return f"{sys.platform} is not supported by their sources"
    if importlib.util.find_spec("torch") is None:
        return (
            "there is no torch in the environment that builds "
            "(pip install --no-build-isolation uses yours)"
        )
    compilers = (*os.environ.get("CXX", "").split()[:1], "c++", "g++", "clang++")
    if not any(map(shutil.which, compilers)):
        return "there is no C++ compiler (on Debian: apt-get install g++)"
    return ""


setup(
    packages=[
        *find_packages(include=["perception3d", "perception3d.*"]),
        "perception3d_ops",
        "perception3d_data",
    ],
    package_dir={"perception3d_ops": "ops/perception3d_ops", "perception3d_data": "data"},
    package_data={
        "perception3d_data": ["splits/*.txt"],
        "perception3d": ["py.typed"],
        "perception3d.viewer": ["assets/*"],
    },
    include_package_data=False,
    **kernels(),
)
