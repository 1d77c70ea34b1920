"""The whole main job on a tiny town, by the commands a user types."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CONFIG = "configs/cmt_fusion.py"

pytestmark = pytest.mark.slow


def tool(name: str, *arguments: object) -> str:
    command = [sys.executable, f"tools/{name}.py", *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def run(tiny_town: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short training run; evaluation after its last epoch."""
    root = tmp_path_factory.mktemp("work_dirs")
    flags = ("--data", tiny_town, "--root", root, "--run", "tiny", "--batch-size", 2)
    tool("train", CONFIG, *flags, "--max-steps", 40, "--voxel-m", 2.0, "--sweeps", 2)
    return root / "tiny"


def knobs(tiny_town: Path) -> tuple[object, ...]:
    return ("--data", tiny_town, "--voxel-m", 2.0, "--sweeps", 2)


def test_the_loss_falls(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) >= 4
    assert losses[-1] < 0.8 * losses[0], losses


def test_the_run_folder_tells_where_the_weights_come_from(run: Path) -> None:
    record = json.loads((run / "run.json").read_text())
    assert record["knobs"]["max_steps"] == 40
    assert (run / "config.py").read_text() == (ROOT / CONFIG).read_text()
    assert (run / "weights" / "last.safetensors").is_file()


def test_predictions_are_scored_officially(run: Path, tiny_town: Path, tmp_path: Path) -> None:
    pytest.importorskip("nuscenes")
    out = tool("test", CONFIG, run, *knobs(tiny_town), "--out", tmp_path)
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert 0 <= scores["mAP"] <= 1 and 0 <= scores["NDS"] <= 1
    assert "car" in out


def test_the_submission_is_valid_and_can_be_looked_at(
    run: Path, tiny_town: Path, tmp_path: Path
) -> None:
    results = tmp_path / "results.json"
    tool("submit", CONFIG, run, *knobs(tiny_town), "--out", results)
    tool("validate", results, "--data", tiny_town, "--split", "town_val")
    source = ("--data", tiny_town, "--results", results, "--min-score", 0.0)
    tool("view", "bev", *source, "--out", tmp_path / "bev.png")
    tool("view", "page", *source, "--out", tmp_path / "page.html")
    assert (tmp_path / "bev.png").stat().st_size > 10_000
    html = (tmp_path / "page.html").read_text()
    assert next(iter(json.loads(results.read_text())["results"])) in html
