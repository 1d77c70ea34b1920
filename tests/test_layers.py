"""A room imports only from lower floors, and rooms on one floor do not know each other."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

FLOORS = {
    "perception3d_ops": 0,
    "geometry": 1,
    "balancing": 1,
    "structures": 2,
    "datasets": 3,
    "nn": 3,
    "losses": 3,
    "evaluation": 3,
    "viewer": 3,
    "backbones": 4,
    "fusion": 4,
    "heads": 4,
    "models": 5,
    "engine": 6,
}
#: Only the room that needs a heavy package may import it, and none at the top of a module on a
#: common path.
OWNERS = {
    "lightning": {"engine"},
    "open3d": {"viewer"},
    "nuscenes": {"evaluation"},
    "spconv": {"nn"},
    "timm": {"backbones"},
    "triton": {"perception3d_ops"},
}
HEAVY = (
    "lightning",
    "open3d",
    "nuscenes",
    "matplotlib",
    "numba",
    "tensorboard",
    "av2",
    "cv2",
    "scipy",
    "timm",
)


def room_of(path: Path) -> str:
    parts = path.relative_to(ROOT).parts
    return "perception3d_ops" if parts[0] == "ops" else parts[1]


def imported_names(path: Path) -> list[tuple[int, str]]:
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            names.append((node.lineno, node.module or ""))
    return names


def sources() -> list[Path]:
    found = sorted((ROOT / "perception3d").glob("*/**/*.py"))
    return found + sorted((ROOT / "ops" / "perception3d_ops").glob("*.py"))


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down(path: Path) -> None:
    room = room_of(path)
    assert room in FLOORS, f"room {room} has no floor"
    for line, name in imported_names(path):
        first, *rest = name.split(".")
        target = rest[0] if first == "perception3d" and rest else first
        if target in FLOORS and first in ("perception3d", "perception3d_ops") and target != room:
            where = f"{path.relative_to(ROOT)}:{line}: {room} (floor {FLOORS[room]}) imports {name}"
            assert FLOORS[target] < FLOORS[room], where
        if first in OWNERS:
            assert room in OWNERS[first], f"{path.relative_to(ROOT)}:{line}: {room} imports {name}"


def test_core_import_is_light_and_needs_no_optional_package() -> None:
    code = (
        "import sys, torch, time; start = time.perf_counter(); before = set(sys.modules)\n"
        "import perception3d, perception3d.structures\n"
        "took = time.perf_counter() - start\n"
        f"heavy = [m for m in {HEAVY} if m in sys.modules and m not in before]\n"
        "print(took, heavy)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert out.returncode == 0, out.stderr
    took, heavy = out.stdout.split(maxsplit=1)
    assert heavy.strip() == "[]"
    assert float(took) < 0.3


def test_files_stay_readable() -> None:
    long = {
        str(p.relative_to(ROOT)): n
        for p in [*sources(), *(ROOT / "tools").glob("*.py"), *(ROOT / "configs").glob("*.py")]
        if (n := len(p.read_text().splitlines())) > 400
    }
    assert not long, f"more than 400 lines: {long}"
