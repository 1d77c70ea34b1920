"""Two processes train one CMT: each gets the mean of their gradients, also without any box."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("queries", ["learned", "heatmap"])
@pytest.mark.parametrize("boxes", [(3, 1), (0, 0)])
def test_gradients_are_the_mean_of_both(
    queries: str, boxes: tuple[int, int], tmp_path: Path
) -> None:
    meeting = str(tmp_path / "meeting")
    script = [sys.executable, "tests/engine/cmt_process.py", queries]
    processes = [
        subprocess.Popen(
            [*script, str(rank), meeting, *map(str, (4, 2) if rank == 0 else boxes)],
            cwd=REPOSITORY,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    for process in processes:
        out, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
        averaged, _, total, *_ = out.split()
        # The rest has no gradient yet: layers behind weights that start at zero.
        assert int(averaged) > 0.6 * int(total) > 100
