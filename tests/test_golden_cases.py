"""The reader of golden cases: no test that uses it may pass by running nothing."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.golden_cases import ASKED, DEFAULT_FOLDER, golden, golden_folder, load_case

ROOT = Path(__file__).parent.parent
#: Test modules that run golden cases, relative to the repository.
MODULES = sorted(
    str(path.relative_to(ROOT))
    for path in (ROOT / "tests").glob("**/test_*.py")
    if path != Path(__file__) and "from tests.golden_cases import" in path.read_text()
)


def components() -> set[str]:
    """All components that test modules ask for."""
    for module in MODULES:
        importlib.import_module(module.removesuffix(".py").replace("/", "."))
    return set(ASKED)


def run_pytest(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", *arguments],
        cwd=ROOT,
        env=os.environ | {"PERCEPTION3D_GOLDEN": str(folder)},
        capture_output=True,
        text=True,
    )


def copy_case(name: str, folder: Path) -> None:
    for suffix in (".json", ".npz"):
        shutil.copy((DEFAULT_FOLDER / name).with_suffix(suffix), folder)


def write_second(name: str, folder: Path) -> None:
    """A case again as ``<name>_b``, whose inputs are named as second cases name theirs.

    Drawn inputs follow from their names, so they are stored here.
    """
    case = load_case(name)
    meta = json.loads((DEFAULT_FOLDER / f"{name}.json").read_text())
    arrays = {key: value for key, value in case.arrays.items() if key.startswith("out/")}
    specs = {}
    for key, value in zip(case.input_specs, case.inputs().values()):
        prefixed = key.startswith(name + ".")
        renamed = key.replace(name, name + "_b", 1) if prefixed else key + "_b"
        specs[renamed] = {"stored": True, "shape": list(value.shape)}
        arrays["in/" + renamed] = value.numpy()
    np.savez(folder / f"{name}_b.npz", **arrays)  # type: ignore[arg-type]
    (folder / f"{name}_b.json").write_text(json.dumps({**meta, "inputs": specs}))


@pytest.mark.parametrize("holds", ["nothing", "text", "json without arrays"])
def test_folder_without_cases_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, holds: str
) -> None:
    if holds != "nothing":
        (tmp_path / ("README.md" if holds == "text" else "cmt_loss.json")).write_text("{}")
    monkeypatch.setenv("PERCEPTION3D_GOLDEN", str(tmp_path))
    for ask in (golden_folder, lambda: golden("cmt_loss"), lambda: load_case("cmt_loss")):
        with pytest.raises(FileNotFoundError, match=f"{tmp_path} holds no golden case"):
            ask()


@pytest.mark.slow
def test_missing_folder_fails_every_golden_test(tmp_path: Path) -> None:
    missing = tmp_path / "nowhere"
    done = run_pytest(missing, MODULES[0])
    assert done.returncode != 0 and "passed" not in done.stdout
    assert f"{missing} does not exist" in done.stdout, done.stdout


def test_folder_with_other_components_skips(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_case("cmt_decode", tmp_path)
    monkeypatch.setenv("PERCEPTION3D_GOLDEN", str(tmp_path))
    assert golden("cmt_decode") == ["cmt_decode"] and golden("cpfpn_r50", "cmt_loss") == []


def test_every_component_with_a_test_has_a_case() -> None:
    asked = components()
    assert len(MODULES) >= 4 and {"cmt_dn", "pillar_encoder", "cpfpn_vov"} <= asked
    without = [
        name
        for name in sorted(asked)
        if not all((DEFAULT_FOLDER / f"{name}{end}").is_file() for end in (".json", ".npz"))
    ]
    assert not without, f"{DEFAULT_FOLDER} has no case of {', '.join(without)}"


def test_numbers_in_words_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PERCEPTION3D_GOLDEN", raising=False)
    case = load_case("pillar_encoder")
    assert case.stated(r"range \[([^]]+)\]") == (-54, -54, -5, 54, 54, 3)
    assert case.stated(r"heads=(\d+)", [8]) == (8,)
    with pytest.raises(ValueError, match=r"pillar_encoder: .*is not in the settings: in_channels"):
        case.stated(r"heads=(\d+)")
    case.about["settings"] = "voxel (0.2,0.2,8) m, range [-51.2, -51.2,-5,51.2,51.2,3]"
    assert case.stated(r"range \[([^]]+)\]")[1] == -51.2


@pytest.mark.slow
def test_second_cases_run_by_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = sorted(components())
    monkeypatch.delenv("PERCEPTION3D_GOLDEN", raising=False)
    for name in asked:
        write_second(name, tmp_path)
    done = run_pytest(tmp_path, *MODULES)
    assert done.returncode == 0, done.stdout
    passed = " ".join(re.findall(r"\[(\S+)\] PASSED", done.stdout))
    assert not [name for name in asked if f"{name}_b" not in passed], done.stdout
    assert "SKIPPED" not in done.stdout
