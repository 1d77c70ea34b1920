"""Our nuScenes evaluator against the devkit: time, memory and every digit, in one run.

Each side runs in processes of its own on the same generated files. Ours counts whole: imports,
tables, reading, scoring, both official files written. The devkit counts from its tables to the end
of ``evaluate()``, without its imports.
"""

from __future__ import annotations

import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.evaluator_data import SPLIT, VERSION, generate

SIDES = ("ours", "devkit")


def run(
    *, samples: int, boxes: int, truth: int, runs: int, devkit: bool, folder: Path | None, out: Path
) -> None:
    """Generate, run both sides in turn, compare, print a table and write it.

    Args:
        samples, boxes, truth: size: samples, predictions and annotated boxes a sample.
        runs: of ours; the devkit, which takes minutes, runs once.
        devkit: whether it runs at all.
        folder: where files go; a temporary one by default, removed at the end.
        out: JSON file.
    """
    with tempfile.TemporaryDirectory() as scratch:
        root = folder or Path(scratch) / "data"
        results = root / "results.json"
        if not results.is_file():
            generate(root, samples=samples, boxes=boxes, truth=truth)
        size_mb = results.stat().st_size / 1e6
        print(f"{samples:,} samples, {boxes} predictions and {truth} boxes each: {size_mb:.0f} MB")
        found = {"ours": [_side("ours", root, Path(scratch)) for _ in range(runs)]}
        if devkit:
            found["devkit"] = [_side("devkit", root, Path(scratch))]
        rows = {side: _median(measured) for side, measured in found.items()}
        for side, row in rows.items():
            print(
                f"  {side:8s} {row['cpu_s']:8.2f} s CPU {row['wall_s']:8.2f} s wall "
                f"{row['peak_mb']:8.0f} MB   NDS {row['nds']!r}"
            )
        equal = None
        if devkit:
            equal = _texts(Path(scratch), "ours") == _texts(Path(scratch), "devkit")
            ours, theirs = rows["ours"], rows["devkit"]
            print(
                f"  all curves and figures {'equal' if equal else 'DIFFER'}; "
                f"{theirs['cpu_s'] / ours['cpu_s']:.1f} x less CPU time, "
                f"{theirs['wall_s'] / ours['wall_s']:.1f} x less time, "
                f"{theirs['peak_mb'] / ours['peak_mb']:.1f} x less memory"
            )
    about = {"samples": samples, "boxes": boxes, "truth": truth, "file_mb": size_mb}
    about |= {"machine": platform.processor() or platform.machine(), "equal": equal}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({**about, "runs": found}, indent=2) + "\n")
    print(f"written to {out}")


def _side(side: str, root: Path, out: Path) -> dict[str, Any]:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    command = [sys.executable, "-m", "benchmarks.evaluator", side, str(root), str(out)]
    here = Path(__file__).resolve().parents[1]
    done = subprocess.run(command, capture_output=True, text=True, cwd=here, check=False)
    wall_s = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise ValueError(f"{side} failed: {done.stderr[-2000:]}")
    row = json.loads(done.stdout.splitlines()[-1])
    whole_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    row = {"whole_cpu_s": whole_s, "whole_wall_s": wall_s, **row}
    if side == "ours":
        row |= {"cpu_s": whole_s, "wall_s": wall_s}
    return row


def _median(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return sorted(rows, key=lambda row: row["cpu_s"])[len(rows) // 2]


def _texts(folder: Path, side: str) -> list[str]:
    summary = json.loads((folder / side / "metrics_summary.json").read_text())
    summary.pop("eval_time")
    details = json.loads((folder / side / "metrics_details.json").read_text())
    return [json.dumps(summary, sort_keys=True), json.dumps(details, sort_keys=True)]


def _ours(root: Path, out: Path) -> float:
    from perception3d.evaluation.detection import evaluate_part
    from perception3d.evaluation.detection_file import read_results
    from perception3d.evaluation.detection_truth import load_truth

    truth = load_truth(root, VERSION, SPLIT)
    result = evaluate_part(read_results(root / "results.json", truth), truth)
    result.save_official(out)
    return result.scores.nds


def _devkit(root: Path, out: Path) -> tuple[float, dict[str, Any]]:
    from nuscenes import NuScenes
    from nuscenes.eval.common.config import config_factory
    from nuscenes.eval.detection.evaluate import DetectionEval

    marks = [(time.process_time(), time.perf_counter())]
    tables = NuScenes(version=VERSION, dataroot=str(root), verbose=False)
    marks.append((time.process_time(), time.perf_counter()))
    config = config_factory("detection_cvpr_2019")
    official = DetectionEval(
        tables, config, str(root / "results.json"), SPLIT, str(out / "plots_of"), False
    )
    marks.append((time.process_time(), time.perf_counter()))
    metrics, curves = official.evaluate()
    marks.append((time.process_time(), time.perf_counter()))
    names = ("tables", "constructor", "evaluate")
    steps = {n: b[0] - a[0] for n, a, b in zip(names, marks, marks[1:])}
    took = {"steps_cpu_s": steps, "cpu_s": marks[-1][0] - marks[0][0]}
    took["wall_s"] = marks[-1][1] - marks[0][1]
    summary = {**metrics.serialize(), "meta": official.meta}
    (out / "metrics_summary.json").write_text(json.dumps(summary, indent=2))
    (out / "metrics_details.json").write_text(json.dumps(curves.serialize(), indent=2))
    return float(metrics.nd_score), took


def main(arguments: list[str]) -> None:
    """One side, in a process of its own; the last line printed is JSON."""
    side, root, out = arguments[0], Path(arguments[1]), Path(arguments[2]) / arguments[0]
    out.mkdir(parents=True, exist_ok=True)
    took: dict[str, Any] = {}
    if side == "ours":
        nds = _ours(root, out)
    else:
        nds, took = _devkit(root, out)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    print(json.dumps({"nds": nds, "peak_mb": peak_mb, **took}))


if __name__ == "__main__":
    main(sys.argv[1:])
