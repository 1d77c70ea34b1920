"""The study of balancing: its tables by hand, and a run of two steps."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from benchmarks import study, study_table
from benchmarks.study import Cell, Plan


def row(arm: str, seed: int, *, setting: str = "natural", **scores: float) -> dict[str, Any]:
    sensors = {"all sensors": scores, "lidar": {"mIoU": 0.1}, "cameras": {}}
    figures = {"norm/detection": 6.0, "norm/segmentation": 2.0}
    return {
        "cell": {"setting": setting, "arm": arm, "seed": seed}, "flags": [], "scores": sensors,
        "gradients": figures, "cpu_s_a_step": 0.25, "peak_mb": 700.0,
    }  # fmt: skip


def written(folder: Path, rows: list[dict[str, Any]]) -> Path:
    (folder / "rows").mkdir(parents=True)
    for number, one in enumerate(rows):
        (folder / "rows" / f"{number}.json").write_text(json.dumps(one))
    return folder


def test_spread_and_standard_error() -> None:
    assert study_table.standard_error([1.0, 2.0, 3.0]) == pytest.approx(1 / math.sqrt(3))
    assert study_table.spread([0.1, 0.2, 0.3]) == "0.200 +- 0.058"
    assert study_table.spread([0.25]) == "0.250"
    assert study_table.spread([None, math.nan]) == "-"
    assert study_table.spread([640.0, 660.0]) == "650 +- 10"


def test_only_gains_beyond_two_standard_errors_are_claimed() -> None:
    # Differences 0, 0.1, 0.2: mean 0.1, standard error 0.058: twice that is not exceeded.
    assert study_table.significant([0.0, 0.1, 0.2]) is None
    assert study_table.significant([0.1, 0.1, 0.1]) == "+0.100 +- 0.000"
    assert study_table.significant([-0.2, -0.3]) == "-0.250 +- 0.050"
    assert study_table.significant([0.5]) is None


def test_tables_of_a_study(tmp_path: Path) -> None:
    rows = [row("detection alone", 0, mAP=0.5, NDS=0.5), row("detection alone", 1, mAP=0.3)]
    rows += [row("map alone", 0, mIoU=0.25), row("map alone", 1, mIoU=0.25)]
    for seed in (0, 1):
        shift = 0.01 * seed
        rows.append(row("plain sum", seed, mAP=0.4 + shift, mIoU=0.2 + 3 * shift))
        rows.append(row("FULLER", seed, mAP=0.2 + shift, mIoU=0.3 + shift))
        rows.append(row("FULLER", seed, setting="map x 0.001", mAP=0.1, mIoU=0.3))
    text = study_table.report(written(tmp_path, rows))
    assert "### natural: 2 seeds" in text and "### map x 0.001: 2 seeds" in text
    lines = text.splitlines()
    assert (
        "| plain sum | 0.405 +- 0.005 | - | 0.215 +- 0.015 | -2.83 +- 17.17 | - | 0.100 +- 0.000 "
        "| - | - |" in lines
    )
    assert "| FULLER | 3.00 +- 0.00 | - | - | - | - | 0.250 +- 0.000 | 700 +- 0 |" in lines
    assert "* FULLER against plain sum: mAP -0.200 +- 0.000" in lines
    assert "* FULLER against plain sum: mIoU +0.090 +- 0.010" in lines
    # Detection alone is one for both settings.
    assert sum(line.startswith("| detection alone | 0.400 +- 0.100") for line in lines) == 2


def test_cells_come_seed_by_seed() -> None:
    found = study.cells(["natural"], ["FULLER", "plain sum"], [0, 3])
    assert [(cell.arm, cell.seed) for cell in found] == [
        ("plain sum", 0), ("FULLER", 0), ("plain sum", 3), ("FULLER", 3),
    ]  # fmt: skip
    assert found[1].flags == ("--rule", "imtl_g", "--intra", "--seed", "0")
    starved = study.cells(["map x 0.001"], [], [0])
    assert "map x 1000" in {cell.arm for cell in starved}
    assert all("--map-scale" in cell.flags for cell in starved)
    names = [cell.name for cell in study.cells(list(study.SETTINGS), [], [0, 1])]
    assert len(set(names)) == len(names)
    with pytest.raises(ValueError, match="unknown arm Fuller; known: detection alone, map alone"):
        study.cells(["natural"], ["Fuller"], [0])


def test_what_is_no_row_is_refused(tmp_path: Path) -> None:
    plan = Plan(out=tmp_path, common=("--max-steps", "5"), threads=1, device="cpu")
    cell = Cell(setting="natural", arm="FULLER", seed=0)
    (tmp_path / "rows").mkdir()
    plan.row(cell).write_text(json.dumps(row("FULLER", 0)))
    with pytest.raises(
        ValueError, match=r"was made with .* asked for is --rule imtl_g .* 5; choose"
    ):
        study.run(plan, [cell])
    plan.row(cell).write_text('{"cell": 1')
    with pytest.raises(ValueError, match="is no row of a study"):
        study.run(plan, [cell])
    with pytest.raises(ValueError, match="has no rows yet"):
        study_table.report(tmp_path / "elsewhere")


@pytest.mark.slow
def test_a_study_of_two_steps(tiny_town: Path, tmp_path: Path) -> None:
    common = ("--data", str(tiny_town), "--size", "study", "--max-steps", "2")
    plan = Plan(out=tmp_path, common=common, threads=1, device="cpu")
    wanted = study.cells(["natural"], ["map alone"], [0])
    folder = plan.folder(wanted[0])
    folder.mkdir(parents=True)  # of a run that was killed before its first checkpoint
    (folder / "config.py").write_text("")
    assert study.run(plan, wanted) == 1
    made = study.read_row(plan.row(wanted[0]))
    assert made["steps"] == 2 and made["cpu_s_a_step"] > 0 and made["peak_mb"] > 100
    assert set(made["scores"]) == {"all sensors", "lidar", "cameras"}
    assert 0 <= made["scores"]["all sensors"]["mIoU"] <= 1
    assert not list(folder.rglob("results.json"))
    # A row that is there is kept; trained weights that lack their row are scored only.
    before = plan.row(wanted[0]).stat().st_mtime_ns
    assert study.run(plan, wanted) == 1 and plan.row(wanted[0]).stat().st_mtime_ns == before
    plan.row(wanted[0]).unlink()
    weights = folder / "weights" / "last.safetensors"
    trained = weights.stat().st_mtime_ns
    assert study.run(plan, wanted) == 1 and weights.stat().st_mtime_ns == trained
    again = study.read_row(plan.row(wanted[0]))
    assert again["scores"] == made["scores"] and again["peak_mb"] == made["peak_mb"]
    assert "| map alone |" in study_table.report(tmp_path)
    wrong = [Cell(setting="natural", arm="map x 5", seed=-1)]
    with pytest.raises(RuntimeError, match=r"tools/train\.py .* ended with [12]; the end of"):
        study.run(plan, wrong)
