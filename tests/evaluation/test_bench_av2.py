"""The measurement of the Argoverse 2 evaluator, on generated logs and without the official side."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.av2_evaluator import make_split, run
from tests.evaluation.av2_cases import generated_split


def test_logs_are_repeated_with_detections_of_their_own(tmp_path: Path) -> None:
    generated_split(tmp_path / "real", 0)
    split, file, count = make_split(tmp_path / "real", tmp_path / "bench", 5, 20)
    assert len(list(split.glob("*/annotations.feather"))) == 5
    assert file.is_file() and count <= 5 * 4 * 20
    assert make_split(tmp_path / "real", tmp_path / "bench", 5, 20) == (split, file, count)
    with pytest.raises(FileNotFoundError, match="no logs with poses, map"):
        make_split(tmp_path / "nothing", tmp_path / "bench", 5, 20)


@pytest.mark.slow
def test_ours_alone_is_measured(tmp_path: Path) -> None:
    generated_split(tmp_path / "real", 0)
    out = tmp_path / "out.json"
    run(
        realdata=tmp_path / "real", logs=2, official_logs=0, per_sweep=20, jobs=1, only_roi=True,
        folder=tmp_path / "bench", out=out,
    )  # fmt: skip
    (row,) = json.loads(out.read_text())["rows"]
    assert row["side"] == "ours" and row["cpu_s"] > 0 and row["peak_mib"] > 10
