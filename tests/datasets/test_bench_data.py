from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.datasets.nuscenes_fixture import make_dataset

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_bench_of_the_loader_runs(tmp_path: Path) -> None:
    make_dataset(tmp_path)
    command = [sys.executable, "tools/bench.py", "data", "--data", str(tmp_path), "--frames", "2"]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True,
        capture_output=True, text=True,
    )  # fmt: skip
    assert "read, augment, collate" in done.stdout and "frames/s" in done.stdout


@pytest.mark.slow
def test_bench_of_the_town_runs() -> None:
    command = [sys.executable, "tools/bench.py", "town", "--image-scales", "0.1", "--repeats", "1"]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True,
        capture_output=True, text=True,
    )  # fmt: skip
    assert "M rays/s" in done.stdout and "six images at 0.10" in done.stdout
