"""The study of balancing: its tables by hand, and a run of two steps."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import study, study_table
from benchmarks.study import Cell, Plan

COMMON = ("--max-steps", "5")


def row(arm: str, seed: int, *, setting: str = "natural", **scores: float) -> dict[str, Any]:
    sensors = {"all sensors": scores, "lidar": {"mIoU": 0.1}, "cameras": {}}
    figures = {"norm/detection": 6.0, "norm/segmentation": 2.0}
    return {
        "cell": {"setting": setting, "arm": arm, "seed": seed}, "scores": sensors,
        "gradients": figures, "cpu_s_a_step": 0.25, "peak_mb": 700.0, "samples_per_s": 2.0,
        "data": {"train": "x"}, "git": {"commit": "abcdef012"}, "machine": {"device": "cpu"},
    } | {"flags": [*Cell(setting=setting, arm=arm, seed=seed).flags, *COMMON]}  # fmt: skip


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


def test_how_a_gain_is_judged() -> None:
    # Mean 0.1, standard error 0.0577, so t = 1.732; of two degrees: p = 1 - t / sqrt(t^2 + 2).
    p, words = study_table.judged([0.0, 0.1, 0.2])
    assert words == "+0.100 +- 0.058"
    assert p == pytest.approx(1 - math.sqrt(3) / math.sqrt(5))
    assert study_table.judged([0.1, 0.1, 0.1]) == (0.0, "+0.100 +- 0.000")


def test_holm_stops_at_the_first_that_fails() -> None:
    # Against 0.05 / 4, / 3, / 2, / 1: the second smallest fails, whatever comes behind it.
    assert study_table.holm([0.04, 0.011, 0.02, 0.03]) == 0.011
    assert study_table.holm([0.02, 0.03]) == 0.03
    assert study_table.holm([0.2]) == -1.0


def test_tables_of_a_study(tmp_path: Path) -> None:
    rows = []
    for seed in (0, 1, 2):
        shift = 0.01 * seed
        rows.append(row("detection alone", seed, mAP=0.5 - shift, NDS=0.5))
        rows.append(row("map alone", seed, mIoU=0.25))
        rows.append(row("plain sum", seed, mAP=0.4 + shift, mIoU=0.2 + 3 * shift))
        rows.append(row("FULLER", seed, mAP=0.2 + shift, mIoU=0.3 + shift))
        rows.append(row("FULLER", seed, setting="map x 0.001", mAP=0.1, mIoU=0.3))
    text = study_table.report(written(tmp_path, rows))
    assert "### natural: 3 seeds" in text and "### map x 0.001: 3 seeds" in text
    assert text.startswith("`--max-steps 5`, cpu, commits abcdef0")
    lines = text.splitlines()
    # Both tasks of FULLER: mAP -60, -57.1, -54.2 %, mIoU +20, 24, 28 %.
    (line,) = (x for x in lines[:12] if x.startswith("| FULLER |"))
    assert line.startswith("| FULLER | 0.210 +- 0.006 | - | 0.310 +- 0.006 | -16.55 +- 2.00 |")
    assert any(x.startswith("| FULLER | 3.00 +- 0.00 |") for x in lines)
    assert "* FULLER against plain sum: mAP -0.200 +- 0.000\\*" in lines
    # Gains 0.10, 0.08, 0.06: 0.080 +- 0.012; one of many, so no star.
    assert "* FULLER against plain sum: mIoU +0.080 +- 0.012" in lines
    (head,) = (x for x in lines if x.startswith("Beyond two") and "of 9 comparisons" in x)
    assert "(about 2 by chance alone" in head
    # Detection alone is one for both settings.
    assert sum(line.startswith("| detection alone | 0.490 +- 0.006") for line in lines) == 2


def test_two_seeds_claim_nothing(tmp_path: Path) -> None:
    rows = [
        row(arm, seed, mAP=0.1 * len(arm)) for arm in ("plain sum", "FULLER") for seed in (0, 1)
    ]
    assert "No arm has 3 seeds yet" in study_table.report(written(tmp_path, rows))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"flags": [*Cell(setting="natural", arm="FULLER", seed=0).flags, "--max-steps", "9"]},
         "rows of different flags are not comparable"),
        ({"data": {"train": "y"}}, "rows of different data are not comparable"),
        ({"machine": {"device": "other"}}, "rows of different device are not comparable"),
        ({"cell": {"setting": "natural", "arm": "gone", "seed": 0}}, "unknown run .*'gone'"),
    ],
)  # fmt: skip
def test_rows_that_do_not_belong_together(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    rows = [row("plain sum", 0, mAP=0.1), {**row("FULLER", 0, mAP=0.1), **change}]
    with pytest.raises(ValueError, match=words):
        study_table.report(written(tmp_path, rows))


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
    with pytest.raises(ValueError, match="no run of map x 1000 in setting natural"):
        study.cells(["natural"], ["FULLER", "map x 1000"], [0])


def made_up(plan: Plan, cell: Cell) -> None:
    """A finished row without a run."""
    plan.row(cell).write_text(json.dumps(row(cell.arm, cell.seed, mAP=0.1)))


def test_a_run_that_fails_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Plan(out=tmp_path, common=COMMON, threads=1, device="cpu")
    wanted = study.cells(["natural"], ["plain sum", "intra", "FULLER"], [0])

    def make(plan: Plan, cell: Cell) -> None:
        if cell.arm == "intra":
            raise RuntimeError("no disk left")
        made_up(plan, cell)

    monkeypatch.setattr(study, "_make_row", make)
    assert study.run(plan, wanted) == (2, ["natural_intra_seed_0"])


def test_two_processes_share_a_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan(out=tmp_path, common=COMMON, threads=1, device="cpu")
    wanted = study.cells(["natural"], ["plain sum", "FULLER"], [0])
    monkeypatch.setattr(study, "_make_row", made_up)
    (tmp_path / "rows").mkdir()
    lock = plan.row(wanted[0]).with_suffix(".lock")
    code = (
        "import sys, time, pathlib; from perception3d.engine.lock import locked\n"
        f"with locked(pathlib.Path({str(lock)!r})): print('in', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=study.ROOT) as other:
        try:
            assert other.stdout is not None and other.stdout.readline() == b"in\n"
            assert study.run(plan, wanted) == (1, [])
            assert not plan.row(wanted[0]).exists()
        finally:
            other.kill()
    # Gone without a word: its work is taken over.
    assert study.run(plan, wanted) == (2, [])


def test_what_is_no_row_is_refused(tmp_path: Path) -> None:
    plan = Plan(out=tmp_path, common=COMMON, threads=1, device="cpu")
    cell = Cell(setting="natural", arm="FULLER", seed=0)
    (tmp_path / "rows").mkdir()
    plan.row(cell).write_text(json.dumps({**row("FULLER", 0), "flags": []}))
    with pytest.raises(
        ValueError, match=r"was made with .* asked for is --rule imtl_g .* 5; choose"
    ):
        study.run(plan, [cell])
    plan.row(cell).write_text('{"cell": 1')
    with pytest.raises(ValueError, match="is no row of a study"):
        study.run(plan, [cell])
    with pytest.raises(ValueError, match="has no rows yet"):
        study_table.report(tmp_path / "elsewhere")
    # Weights of other flags are not scored as if they were these.
    plan.row(cell).unlink()
    plan.folder(cell).mkdir(parents=True)
    record = {"arguments": [*cell.flags, "--max-steps", "2", "--run", "x"]}
    (plan.folder(cell) / "run.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"was made with .* 2, asked for is .* 5; choose"):
        study.run(plan, [cell])


@pytest.mark.slow
def test_a_study_of_two_steps(tiny_town: Path, tmp_path: Path) -> None:
    common = ("--data", str(tiny_town), "--size", "study", "--max-steps", "2")
    plan = Plan(out=tmp_path, common=common, threads=1, device="cpu")
    wanted = study.cells(["natural"], ["map alone"], [0])
    folder = plan.folder(wanted[0])
    folder.mkdir(parents=True)  # of a run that was killed before its first checkpoint
    (folder / "config.py").write_text("")
    assert study.run(plan, wanted) == (1, [])
    made = study.read_row(plan.row(wanted[0]))
    assert made["steps"] == 2 and made["cpu_s_a_step"] > 0 and made["peak_mb"] > 100
    assert set(made["scores"]) == {"all sensors", "lidar", "cameras"}
    assert 0 <= made["scores"]["all sensors"]["mIoU"] <= 1
    assert not list(folder.rglob("results.json"))
    # A row that is there is kept; trained weights that lack their row are scored only.
    before = plan.row(wanted[0]).stat().st_mtime_ns
    assert study.run(plan, wanted) == (1, []) and plan.row(wanted[0]).stat().st_mtime_ns == before
    plan.row(wanted[0]).unlink()
    weights = folder / "weights" / "last.safetensors"
    trained = weights.stat().st_mtime_ns
    assert study.run(plan, wanted) == (1, []) and weights.stat().st_mtime_ns == trained
    again = study.read_row(plan.row(wanted[0]))
    assert again["scores"] == made["scores"] and again["peak_mb"] == made["peak_mb"]
    assert "| map alone |" in study_table.report(tmp_path)
    wrong = [Cell(setting="natural", arm="map x 5", seed=-1)]
    assert study.run(plan, wrong) == (0, [wrong[0].name])
