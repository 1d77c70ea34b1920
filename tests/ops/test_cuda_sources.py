"""CUDA sources where there is no GPU: they need nothing of torch, and they compile."""

from __future__ import annotations

import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "ops" / "csrc"
#: Headers of the .cpp files alone.
TORCH_SIDE = {"torch_glue.h", "prepare_boxes.h"}
#: Standard library, CUDA, and our own.
INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', re.MULTILINE)


def included(path: Path, seen: set[str] | None = None) -> set[str]:
    """Every header that a file includes, also by way of ours."""
    seen = set() if seen is None else seen
    for name in INCLUDE.findall(path.read_text()):
        if name not in seen:
            seen.add(name)
            if (SOURCES / name).is_file():
                included(SOURCES / name, seen)
    return seen


def cuda_files() -> list[Path]:
    return sorted(SOURCES.glob("*.cu"))


def test_cuda_sources_need_nothing_of_torch() -> None:
    headers = [p for p in SOURCES.glob("*.*h") if p.name not in TORCH_SIDE]
    assert len(cuda_files()) >= 6 and len(headers) >= 6
    for path in (*cuda_files(), *headers):
        found = {h for h in included(path) if h.startswith(("torch/", "ATen/", "c10/"))}
        assert not (found | included(path) & TORCH_SIDE), f"{path.name} includes {found}"


def test_macros_of_torch_are_those_of_its_oldest_version() -> None:
    """Newer headers have more, with which a build under torch 2.11 fails."""
    text = "".join(path.read_text() for path in (*SOURCES.glob("*.cpp"), *SOURCES.glob("*.h")))
    assert set(re.findall(r"\b(?:STABLE|STD|TORCH)_[A-Z_]+\b", text)) == {
        "STABLE_TORCH_LIBRARY_IMPL", "STD_TORCH_CHECK", "TORCH_ABI_VERSION", "TORCH_BOX",
    }  # fmt: skip


def test_every_cuda_file_is_named_so_that_objects_differ() -> None:
    """``op.cpp`` beside ``op.cu`` would both become ``op.o``."""
    assert all(path.stem.endswith("_cuda") for path in cuda_files())
    assert not {p.stem for p in SOURCES.glob("*.cpp")} & {p.stem for p in cuda_files()}


def test_every_launcher_that_is_named_is_defined() -> None:
    """Linking would show a launcher that is missing, but that needs a torch with CUDA."""
    named = set()
    for path in (*SOURCES.glob("*.cpp"), *SOURCES.glob("*.h")):
        named |= set(re.findall(r"P3D_LAUNCHER\((\w+_cuda)\)", path.read_text()))
    defined = set()
    for path in cuda_files():
        defined |= set(re.findall(r"^const char\* (\w+_cuda)\(", path.read_text(), re.MULTILINE))
    assert named == defined and len(named) >= 6


def run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr[-4000:]}"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc was not found")
def test_cuda_sources_compile_for_a100_and_h100(tmp_path: Path) -> None:
    architectures = [f"-gencode=arch=compute_{n},code=sm_{n}" for n in (80, 90)]

    def compile_one(path: Path) -> None:
        target = tmp_path / f"{path.stem}.o"
        run(
            ["nvcc", "-O3", "-std=c++17", "--extended-lambda", *architectures, "-Werror",
             "all-warnings", "-Xcompiler", "-fPIC", "-c", str(path), "-o", str(target)]
        )  # fmt: skip
        assert target.stat().st_size > 1000

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(compile_one, cuda_files()))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ was not found")
def test_the_torch_side_of_a_cuda_build_compiles() -> None:
    """The stable headers of any torch declare what a CUDA build needs; only linking needs CUDA."""
    from torch.utils.cpp_extension import include_paths

    text = (ROOT / "setup.py").read_text()
    target = re.findall(r'TORCH_TARGET = "(\w+)"', text)[0]
    assert '"-DP3D_WITH_CUDA", "-DUSE_CUDA"' in text
    flags = [
        "-fsyntax-only", "-std=c++17", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter",
        "-Wno-unknown-pragmas", "-Wno-psabi", "-DP3D_WITH_CUDA", "-DUSE_CUDA",
        f"-DTORCH_TARGET_VERSION={target}", "-DPy_LIMITED_API=0x030A0000",
        *(f"-isystem{path}" for path in include_paths()),
    ]  # fmt: skip
    glue = [p for p in sorted(SOURCES.glob("*.cpp")) if "P3D_KERNEL(" in p.read_text()]
    assert len(glue) >= 4
    for path in glue:
        run(["g++", *flags, str(path)])
