"""What is installed: the core without optional packages, and a wheel that carries all it needs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.datasets.nuscenes_fixture import make_dataset

ROOT = Path(__file__).parent.parent
#: Devkits, viewers and the trainer: nothing that reads data or runs a model may need them.
OPTIONAL = (
    "nuscenes", "av2", "open3d", "matplotlib", "lightning", "pytorch_lightning",
    "lightning_fabric", "orjson",
)  # fmt: skip

BLOCK = f"""
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {OPTIONAL}:
            raise ModuleNotFoundError(f"No module named {{name!r}} (blocked)", name=name)

sys.meta_path.insert(0, Absent())
"""

USE_THE_CORE = """
import torch
import perception3d, perception3d.structures, perception3d.geometry, perception3d.datasets
import perception3d.datasets.nuscenes, perception3d.models.cmt
import configs.cmt_fusion

run = configs.cmt_fusion.experiment(data=sys.argv[1], size="town", queries="heatmap")
samples = run.train()
batch = samples.collate([samples.dataset[3], samples.dataset[4]])
torch.manual_seed(0)
model = run.model().train()
outputs = model(batch, model.denoising(batch))
terms = model.loss(outputs, batch)["detection"]
total = torch.stack(list(terms.values())).sum()
total.backward()
print(len(terms), float(total), len(model.eval().predict(outputs, batch)))
"""


def python(code: str, *arguments: object, cwd: Path, path: Path) -> str:
    """Run code in a fresh process that finds modules in ``path`` first; its output."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_pulls_no_optional_package(tmp_path: Path) -> None:
    code = (
        "import sys, perception3d; "
        f"print(sorted({{name.partition('.')[0] for name in sys.modules}} & set({OPTIONAL})))"
    )
    assert python(code, cwd=tmp_path, path=ROOT).strip() == "[]"


def test_blocked_packages_cannot_be_imported(tmp_path: Path) -> None:
    code = BLOCK + "try:\n    import matplotlib.pyplot\nexcept ModuleNotFoundError as e: print(e)"
    assert "blocked" in python(code, cwd=tmp_path, path=ROOT)


@pytest.mark.slow
def test_core_works_without_optional_packages(tmp_path: Path) -> None:
    """From tables and files to a loss with gradients and predictions."""
    root = make_dataset(tmp_path / "data")
    terms, total, predictions = python(BLOCK + USE_THE_CORE, root, cwd=tmp_path, path=ROOT).split()[
        -3:
    ]
    assert int(terms) > 4 and 0 < float(total) < 1e6 and int(predictions) == 2


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's contents; built from a copy, for building leaves files beside its sources."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    caches = shutil.ignore_patterns("__pycache__", "*.egg-info", "*.so")
    for name in ("perception3d", "ops"):
        shutil.copytree(ROOT / name, source / name, ignore=caches)
    # Beside the lists may lie whole data sets.
    (source / "data").mkdir()
    for path in (ROOT / "data").glob("*.*"):
        shutil.copy(path, source / "data")
    shutil.copytree(ROOT / "data" / "splits", source / "data" / "splits")
    flags = ["--no-deps", "--no-build-isolation", "--disable-pip-version-check", "-w", folder]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", *flags, "."],
        cwd=source,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = folder.glob("*.whl")
    # One file for every Python and torch; without a compiler it would be py3-none-any.
    assert "-cp310-abi3-" in wheel.name
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "unpacked")
    return folder / "unpacked"


@pytest.mark.slow
def test_wheel_holds_code_and_data(unpacked: Path) -> None:
    def names(folder: Path, pattern: str) -> set[str]:
        found = (p for p in folder.glob(pattern) if p.is_file() and "__pycache__" not in p.parts)
        return {str(p.relative_to(folder)) for p in found}

    for package, source, pattern in (
        ("perception3d", ROOT / "perception3d", "**/*"),
        ("perception3d_ops", ROOT / "ops" / "perception3d_ops", "**/*.py"),
        ("perception3d_data", ROOT / "data", "splits/*.txt"),
    ):
        wanted = names(source, pattern)
        assert wanted and wanted <= names(unpacked / package, "**/*"), package
    assert names(ROOT / "perception3d" / "viewer" / "assets", "*") >= {"page.html", "app.js"}
    (metadata,) = unpacked.glob("perception3d-*.dist-info")
    licenses = list(metadata.glob("**/LICENSE"))
    assert [p.read_text() for p in licenses] == [(ROOT / "LICENSE").read_text()]
    top = {p.name for p in unpacked.iterdir()} - {metadata.name}
    assert top == {"perception3d", "perception3d_ops", "perception3d_data"}


@pytest.mark.slow
def test_wheel_is_imported_from_elsewhere(unpacked: Path, tmp_path: Path) -> None:
    code = """
from importlib import resources
import perception3d, perception3d_ops, perception3d_data
import perception3d.models.cmt, perception3d_ops.hard_voxels
from perception3d.datasets.nuscenes import scenes_of_split
from pathlib import Path

for package in (perception3d, perception3d_ops, perception3d_data):
    print(Path(package.__path__[0]).parent)
print(len(scenes_of_split(Path("nowhere"), "v1.0-trainval", "val")))
print(len((resources.files("perception3d.viewer") / "assets" / "page.html").read_text()) > 0)
print(perception3d_ops.library.COMPILED, perception3d_ops.library.compiled_file().parent)
"""
    out = python(code, cwd=tmp_path, path=unpacked).split()
    assert out == [*[str(unpacked)] * 3, "150", "True", "True", str(unpacked / "perception3d_ops")]


@pytest.mark.slow
def test_wheel_serves_a_clean_environment(unpacked: Path, tmp_path: Path) -> None:
    """Installed by pip into an environment that has torch and nothing of this repository."""
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    binary = environment / "bin" / "python"
    query = "import sysconfig; print(sysconfig.get_path('purelib'))"
    ask = [binary, "-c", query]
    site = Path(subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip())
    # What the project needs is taken from here; the project itself is not, its finder is no path.
    own = Path(np.__file__).parents[1]
    kept = [p for p in own.iterdir() if "perception3d" not in p.name and p.suffix != ".pth"]
    for path in kept:
        (site / path.name).symlink_to(path)
    (wheel,) = unpacked.parent.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "--python", binary, "--disable-pip-version-check"]
    done = subprocess.run(
        [*pip, "install", "--no-deps", "--no-index", wheel], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    code = (
        "import torch, perception3d_ops.library as l; from perception3d_ops.sparse_conv import *;"
        "from perception3d_ops.sparse_sites import SparseSites;"
        "s = SparseSites.of(torch.tensor([[0, 0, 0, 0], [0, 0, 0, 1]]), (1, 1, 2), 1)[0];"
        "w = torch.ones(27, 2, 1); out = sparse_conv(torch.ones(2, 2), w, s.submanifold((3,) * 3));"
        "print(l.COMPILED, l.compiled_file().parent, out.flatten().tolist())"
    )
    out = subprocess.run([binary, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert out.stdout.split(maxsplit=2) == [
        "True", str(site / "perception3d_ops"), "[4.0, 4.0]\n"
    ], out.stderr  # fmt: skip


def built(**variables: str) -> subprocess.CompletedProcess[str]:
    """What setup.py decides to build; torch is hidden from it with HIDE_TORCH."""
    code = (
        "import importlib.util as u, os, runpy, sys, setuptools; real = u.find_spec\n"
        "hidden = os.environ.get('HIDE_TORCH')\n"
        "u.find_spec = lambda n, *a: None if n == 'torch' and hidden else real(n, *a)\n"
        "setuptools.setup = lambda **k: print('built', len(k.get('ext_modules', ())))\n"
        "runpy.run_path('setup.py', run_name='__main__')"
    )
    environment = {k: v for k, v in os.environ.items() if k not in ("PERCEPTION3D_BUILD", "CXX")}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True,
        env=environment | variables,
    )  # fmt: skip


@pytest.mark.slow
def test_build_modes(tmp_path: Path) -> None:
    assert built(PERCEPTION3D_BUILD="none").stdout == "built 0\n"
    assert built(PERCEPTION3D_BUILD="cpu").stdout == "built 1\n"
    assert built(CXX="").stdout == "built 1\n"
    hidden = built(HIDE_TORCH="1").stdout
    assert "no torch in the environment that builds" in hidden and hidden.endswith("built 0\n")
    no_compiler = built(PATH=str(tmp_path)).stdout
    assert "no C++ compiler" in no_compiler and no_compiler.endswith("built 0\n")
    wrong = built(PERCEPTION3D_BUILD="gpu")
    assert wrong.returncode == 1 and "one of auto, cpu, cuda, none; found 'gpu'" in wrong.stderr
    asked = built(PERCEPTION3D_BUILD="cpu", HIDE_TORCH="1")
    assert asked.returncode == 1 and "PERCEPTION3D_BUILD=cpu: there is no torch" in asked.stderr
    if not torch.version.cuda:
        cuda = built(PERCEPTION3D_BUILD="cuda")
        assert cuda.returncode == 1 and "has CUDA None" in cuda.stderr


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc")
def test_kernels_are_clean_under_sanitizers(tmp_path: Path) -> None:
    """Addresses and undefined behaviour, over the tests of the ops that call kernels directly."""
    source = tmp_path / "source"
    shutil.copytree(ROOT / "ops", source / "ops", ignore=shutil.ignore_patterns("*.so"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("perception3d", "data"):
        (source / name).mkdir()
        (source / name / "__init__.py").write_text('__version__ = "0"\n')
    build = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    done = subprocess.run(
        build, cwd=source, capture_output=True, text=True,
        env=os.environ | {"PERCEPTION3D_SANITIZE": "1", "PERCEPTION3D_BUILD": "cpu"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    # The C++ library too: without it the sanitizer does not see exceptions pass.
    preload = " ".join(
        subprocess.run(
            ["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in ("libasan.so", "libstdc++.so.6")
    )
    # PyTorch and Python do not give all memory back.
    options = {"ASAN_OPTIONS": "detect_leaks=0", "LD_PRELOAD": preload}
    path = f"{source / 'ops'}{os.pathsep}{ROOT}"
    rooms = ("sparse_conv", "sparse_maps", "voxelization", "hard_voxels", "box_nms", "box_overlap",
             "points_in_boxes", "geometry_golden")  # fmt: skip
    tests = [str(ROOT / "tests" / "ops" / f"test_{room}.py") for room in rooms]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-s", "-p", "no:cacheprovider", *tests,
         "-k", "not compile and not opcheck and not gpu"],
        cwd=ROOT, capture_output=True, text=True,
        env=os.environ | options | {"PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    where = "import perception3d_ops.library as l; print(l.COMPILED, l.compiled_file().parent)"
    used = subprocess.run(
        [sys.executable, "-c", where], capture_output=True, text=True, cwd=tmp_path,
        env=os.environ | options | {"PYTHONPATH": path},
    )  # fmt: skip
    assert used.stdout.split() == ["True", str(source / "ops" / "perception3d_ops")]
