"""What is installed: the core without optional packages, and a wheel that carries all it needs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.datasets.nuscenes_fixture import make_dataset

ROOT = Path(__file__).parent.parent
#: Devkits, viewers and the trainer: nothing that reads data or runs a model may need them.
OPTIONAL = (
    "nuscenes", "av2", "open3d", "matplotlib", "lightning", "pytorch_lightning",
    "lightning_fabric",
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
    caches = shutil.ignore_patterns("__pycache__", "*.egg-info")
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
"""
    out = python(code, cwd=tmp_path, path=unpacked).split()
    assert out == [str(unpacked)] * 3 + ["150", "True"]
