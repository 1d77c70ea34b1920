"""The benchmark of the evaluator at a tiny size: it runs both sides and finds them equal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


@pytest.mark.slow
def test_both_sides_are_measured_and_equal(tmp_path: Path) -> None:
    pytest.importorskip("nuscenes")
    from benchmarks.evaluator import run

    out = tmp_path / "times.json"
    run(samples=300, boxes=20, truth=9, runs=1, devkit=True, folder=None, out=out)
    measured = json.loads(out.read_text())
    assert measured["equal"] is True
    ours, devkit = measured["runs"]["ours"][0], measured["runs"]["devkit"][0]
    assert ours["nds"] == devkit["nds"] > 0.1
    assert 0 < ours["cpu_s"] < devkit["cpu_s"]
    assert set(devkit["steps_cpu_s"]) == {"tables", "constructor", "evaluate"}
