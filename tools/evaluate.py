"""Score a nuScenes results file: the official figures to the last digit, in seconds.

    tools/evaluate.py results.json --data data/nuscenes --split val --by range --worst 20
    tools/evaluate.py rank0.json rank1.json --data data/town --split town_val
    tools/evaluate.py new.json --data data/nuscenes --split val --compare old.json

Exit status: 0 scored, 1 a file or the data is refused, 2 wrong use.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import tyro

from perception3d.evaluation.detection import DetectionResult, evaluate_part
from perception3d.evaluation.detection_bootstrap import Interval, bootstrap
from perception3d.evaluation.detection_bootstrap import compare as compare_results
from perception3d.evaluation.detection_config import TP_ERRORS
from perception3d.evaluation.detection_file import read_results
from perception3d.evaluation.detection_frames import worst_frames
from perception3d.evaluation.detection_part import merge_parts
from perception3d.evaluation.detection_plots import plot_precision_recall
from perception3d.evaluation.detection_slices import (
    Slice,
    by_location,
    by_range,
    by_time,
    by_visibility,
)
from perception3d.evaluation.detection_split import find_version
from perception3d.evaluation.detection_truth import DetectionTruth, load_truth
from perception3d.evaluation.metrics import TP_NAMES, DetectionMetrics

SLICES = {
    "range": by_range,
    "visibility": by_visibility,
    "location": by_location,
    "time": by_time,
}


def main(
    results: tyro.conf.Positional[tuple[Path, ...]],
    data: Path,
    split: str,
    version: str | None = None,
    by: tuple[Literal["range", "visibility", "location", "time"], ...] = (),
    compare: Path | None = None,
    draws: int = 0,
    worst: int = 0,
    plots: Path | None = None,
    save: Path | None = None,
    workers: int = 1,
    devkit: bool = False,
) -> int:
    """Score a nuScenes results file: the official figures to the last digit, in seconds.

    Args:
        results: the JSON file; several are the shards of one, each with its own samples.
        data: data folder.
        split: split that the file answers, such as val, mini_val or town_val.
        version: folder of the tables below the data folder; found from the split when left out.
        by: also scores by range from the vehicle, visibility, location or time of day.
        compare: another file: differences (this minus that) on the same drawn scenes.
        draws: how often scenes are drawn for 95 % intervals; with --compare 100 when left out.
        worst: list so many samples with the most missed boxes and false predictions.
        plots: folder for precision_recall.png.
        save: folder for metrics_summary.json and metrics_details.json as the devkit writes them.
        workers: processes that read a large file.
        devkit: score with the devkit itself, for comparison.
    """
    try:
        if feathers := [str(path) for path in results if path.suffix == ".feather"]:
            raise ValueError(
                f"{feathers[0]} is a submission to Argoverse 2; score it in Python: "
                "perception3d.evaluation.av2.AV2Evaluator(SPLIT_FOLDER, OUT).evaluate_file(FILE)"
            )
        version = version or find_version(data, split)
        if devkit:
            return _by_devkit(results, data, version, split)
        truth = load_truth(data, version, split)
        result = _evaluate(results, truth, workers)
        print(_metrics(result, truth).table())
        for name in by:
            print(f"\nby {name}: means over the classes that are there")
            print(_table(SLICES[name](result, truth)))
        if draws and compare is None:
            _print_intervals(
                f"of {draws} draws of the scenes", bootstrap(result, truth, draws=draws)
            )
        if compare is not None:
            _compare(result, compare, truth, draws or 100, workers)
        if worst:
            _print_worst(result, truth, worst)
        if plots is not None:
            plot_precision_recall(result, plots / "precision_recall.png")
            print(f"\nwritten to {plots / 'precision_recall.png'}")
        if save is not None:
            result.save_official(save)
            print(f"\nmetrics_summary.json and metrics_details.json are in {save}")
    except (OSError, ValueError, ModuleNotFoundError) as error:
        if os.environ.get("PERCEPTION3D_DEBUG") == "1":
            raise
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _evaluate(paths: Sequence[Path], truth: DetectionTruth, workers: int) -> DetectionResult:
    if not paths:
        raise ValueError("name a results file")
    parts = [read_results(path, truth, workers=workers) for path in paths]
    return evaluate_part(merge_parts(parts) if len(parts) > 1 else parts[0], truth)


def _metrics(result: DetectionResult, truth: DetectionTruth) -> DetectionMetrics:
    samples = truth.samples
    return DetectionMetrics.of_official(
        result.summary(), split=samples.split, version=samples.version,
        num_samples=len(samples.tokens), notes=result.notes,
    )  # fmt: skip


def _by_devkit(results: Sequence[Path], data: Path, version: str, split: str) -> int:
    from perception3d.evaluation.devkit import devkit_metrics

    if len(results) != 1:
        raise ValueError("the devkit scores one file; merge the shards, or leave out --devkit")
    print(devkit_metrics(results[0], data, version, split).table())
    return 0


def _compare(
    result: DetectionResult, other: Path, truth: DetectionTruth, draws: int, workers: int
) -> None:
    second = _evaluate([other], truth, workers)
    differences = compare_results(second, result, truth, draws=draws)
    _print_intervals(f"minus {other}, over {draws} draws of the scenes", differences)


def _print_intervals(what: str, found: dict[str, Interval]) -> None:
    print(f"\n95 % intervals {what}; means over the classes that are there")
    for name, interval in found.items():
        name = f"m{TP_NAMES[name]}" if name in TP_NAMES else name
        print(
            f"  {name:5s} {interval.value:8.4f}  [{interval.low:8.4f}, {interval.high:8.4f}]  "
            f"above 0 in {100 * interval.share_above_zero:.0f} %"
        )


def _print_worst(result: DetectionResult, truth: DetectionTruth, number: int) -> None:
    print("\nworst samples at each class's best score (tools/view.py ... --token TOKEN)")
    print("  missed  false  boxes  token")
    for frame in worst_frames(result, truth, number):
        print(f"  {frame.missed:6d} {frame.false:6d} {frame.num_boxes:6d}  {frame.token}")


def _table(slices: Sequence[Slice]) -> str:
    heads = ["mAP", "NDS", *(f"m{TP_NAMES[name]}" for name in TP_ERRORS)]
    wide = max(len(part.name) for part in slices)
    lines = [f"{'':{wide}s}  {'boxes':>7s}" + "".join(f"{head:>8s}" for head in heads)]
    for part in slices:
        cells = "".join(f"{value:8.3f}" for value in part.summary().values())
        lines.append(f"{part.name:{wide}s}  {int(part.num_boxes.sum()):7d}{cells}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
