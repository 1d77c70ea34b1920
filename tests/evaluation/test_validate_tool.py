"""tools/validate.py from the command line, on a data set without sensor files."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tyro

from perception3d.evaluation import NuScenesEvaluator
from tests.evaluation import mini_nuscenes as mini

TOOL = Path(__file__).parents[2] / "tools" / "validate.py"


def run(*arguments: str | Path) -> tuple[int, str]:
    """Exit status and output of the tool, called in this process."""
    spec = importlib.util.spec_from_file_location("validate_tool", TOOL)
    assert spec is not None and spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        status = tyro.cli(tool.main, args=[str(item) for item in arguments])
    return status, output.getvalue()


@pytest.mark.slow
def test_runs_as_a_program(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, TOOL, tmp_path / "none.json"],
        capture_output=True,
        text=True,
        check=False,
        cwd=TOOL.parents[1],
        env={**os.environ, "PYTHONPATH": str(TOOL.parents[1])},
    )
    assert done.returncode == 1, done.stderr
    assert "REJECTED" in done.stdout and "file-unreadable" in done.stdout


def test_verdicts_and_exit_status(tmp_path: Path) -> None:
    pytest.importorskip("nuscenes")
    root = mini.build(tmp_path / "data")
    evaluator = NuScenesEvaluator(root, mini.VERSION, mini.CUSTOM, tmp_path)
    evaluator.reset()
    tables = mini.load(root)
    evaluator.process(mini.perfect_predictions(tables, evaluator.tokens))
    evaluator.evaluate()
    results = evaluator.results_path
    status, text = run(results, "--data", root, "--split", "mini_val")
    assert status == 0 and text.startswith("accepted"), text
    assert "out-of-range" not in text
    status, text = run(results, "--data", root, "--split", "one")
    assert status == 1 and "token-extra" in text and "not in the split" in text
    status, text = run(results)
    assert status == 0 and "tokens-unchecked" in text
    status, text = run(results, "--split", mini.CUSTOM)
    assert status == 2 and "belong together" in text
    status, text = run(results, "--data", root, "--split", "test")
    assert status == 2 and mini.CUSTOM in text
    content = json.loads(results.read_text())
    next(iter(content["results"].values()))[0]["velocity"] = [float("nan")] * 2
    results.write_text(json.dumps(content))
    status, text = run(results)
    assert status == 1 and "[0].velocity[0]: must be finite" in text
