"""The Argoverse 2 evaluator against the official one, av2's, on as many logs as validation has.

Real logs are repeated under other names, with detections of their own: two moved copies of each box
and clutter up to a number a sweep. Each side is a fresh process that reads the feather, evaluates
and writes its table; the tables must be equal. Processor time counts, of all its processes.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]


def run(
    *,
    realdata: Path,
    logs: int,
    official_logs: int | None,
    per_sweep: int,
    jobs: int,
    only_roi: bool,
    folder: Path,
    out: Path,
) -> None:
    """Measures both sides, prints a table and writes JSON.

    Args:
        realdata: folder with Argoverse 2 logs (poses, map, annotations) below it.
        logs: how many logs ours evaluates.
        official_logs: how many the official one evaluates; as many when None, 0 leaves it out.
        per_sweep: detections a sweep.
        jobs: processes of the official one; ours is one process.
        only_roi: with the region of interest.
        folder: where the split and the detections are written; kept.
        out: JSON file.
    """
    official_logs = logs if official_logs is None else official_logs
    sides = {"ours": {logs, official_logs} - {0}, "official": {official_logs} - {0}}
    rows: list[dict[str, Any]] = []
    for count in sorted(sides["ours"]):
        split, file, boxes = make_split(realdata, folder, count, per_sweep)
        tables = {}
        for side in ("ours", "official"):
            if count not in sides[side]:
                continue
            table = folder / f"{side}_{count}.json"
            command = [side, str(split), str(file), str(table), str(jobs), str(int(only_roi))]
            if side == "ours":  # compiles, or loads what is compiled
                one, small, _ = make_split(realdata, folder, 1, 1)
                _measured([side, str(one), str(small), str(table), "1", str(int(only_roi))])
            row = {"side": side, "logs": count, "detections": boxes, **_measured(command)}
            tables[side] = json.loads(table.read_text())
            rows.append(row)
            print(_line(row), flush=True)
        if len(tables) == 2:
            equal = tables["ours"] == tables["official"]
            ours, theirs = rows[-2], rows[-1]
            print(
                f"  {count} logs: tables {'equal' if equal else 'DIFFER'}; "
                f"{theirs['cpu_s'] / ours['cpu_s']:.1f} x less processor time, "
                f"{theirs['peak_mib'] / ours['peak_mib']:.1f} x less memory"
            )
            theirs["equal"] = equal
    out.parent.mkdir(parents=True, exist_ok=True)
    about = {"per_sweep": per_sweep, "official_jobs": jobs, "only_roi": only_roi}
    out.write_text(json.dumps({**about, "rows": rows}, indent=2) + "\n")
    print(f"written: {out}")


def make_split(realdata: Path, folder: Path, count: int, per_sweep: int) -> tuple[Path, Path, int]:
    """Links `count` logs and writes detections for them, unless that was done before.

    Returns:
        Folder of the split, the feather, how many detections are in it.
    """
    import pyarrow as pa
    from pyarrow import feather

    sources = [
        path.parent
        for path in sorted(realdata.glob("**/city_SE3_egovehicle.feather"))
        if (path.parent / "map").is_dir() and list(path.parent.glob("annotations*.feather"))
    ]
    if not sources:
        raise FileNotFoundError(f"no logs with poses, map and annotations below {realdata}")
    split, file = folder / f"split_{count}", folder / f"detections_{count}_{per_sweep}.feather"
    tables = []
    for source in sources:
        table = feather.read_table(next(iter(sorted(source.glob("annotations*.feather")))))
        names = np.array(table["category"].to_pylist())
        tables.append(table.filter(pa.array(names != "EGO_VEHICLE")))
    names = sorted(
        f"{sources[i % len(sources)].name}-{i // len(sources):03d}" for i in range(count)
    )
    by_name = {source.name: number for number, source in enumerate(sources)}
    part = file.with_suffix(".part")
    total = 0
    sink = None
    for seed, name in enumerate(names):
        number = by_name[name[:-4]]
        log = split / name
        if not log.is_dir():
            log.mkdir(parents=True)
            feather.write_feather(tables[number], log / "annotations.feather")
            for inside in ("map", "city_SE3_egovehicle.feather"):
                (log / inside).symlink_to(sources[number] / inside)
        batch = _detections(tables[number], name, per_sweep, seed)
        total += batch.num_rows
        if not file.is_file():
            if sink is None:
                options = pa.ipc.IpcWriteOptions(compression="lz4")
                sink = pa.ipc.new_file(str(part), batch.schema, options=options)
            sink.write_table(batch)
    if sink is not None:
        sink.close()
        part.replace(file)
    return split, file, total


def _detections(truth: Any, name: str, per_sweep: int, seed: int) -> Any:
    """`per_sweep` boxes for each sweep of a log: moved copies of its boxes, then clutter."""
    import pyarrow as pa

    from perception3d.evaluation.av2_rules import BOX_COLUMNS, DETECTION_COLUMNS

    rng = np.random.default_rng(seed)
    time_ns = truth["timestamp_ns"].to_numpy()
    box = np.column_stack([truth[column].to_numpy() for column in BOX_COLUMNS])
    picked, false = [], []
    for sweep in np.unique(time_ns):
        rows = np.flatnonzero(time_ns == sweep)
        near = np.repeat(rows, 2)[:per_sweep]
        picked += [near, rng.choice(rows, per_sweep - len(near))]
        false += [np.zeros(len(near), bool), np.ones(per_sweep - len(near), bool)]
    rows, is_false = np.concatenate(picked), np.concatenate(false)
    moved = box[rows]
    moved[:, :3] += rng.normal(0, 0.5, (len(rows), 3))
    moved[is_false, :2] = rng.uniform(-110, 110, (int(is_false.sum()), 2))
    moved[:, 3:6] *= np.exp(rng.normal(0, 0.1, (len(rows), 3)))
    columns = dict(zip(BOX_COLUMNS, moved.T.copy(), strict=True))
    columns["score"] = rng.random(len(rows)) * np.where(is_false, 0.5, 1.0)
    columns["log_id"] = pa.array([name] * len(rows))
    columns["timestamp_ns"] = time_ns[rows]
    columns["category"] = truth["category"].take(pa.array(rows)).combine_chunks()
    return pa.table({column: columns[column] for column in DETECTION_COLUMNS})


def _measured(arguments: list[str]) -> dict[str, float]:
    """Runs one side: processor seconds of it and its children, wall seconds, peak MiB of all."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "benchmarks.av2_evaluator", *arguments], cwd=ROOT
    )
    peak = [0.0]
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.5):
            peak[0] = max(peak[0], sum(map(_pss_mib, _family(process.pid))))

    watcher = threading.Thread(target=watch)
    watcher.start()
    status = process.wait()
    done.set()
    watcher.join()
    if status:
        raise RuntimeError(f"{arguments[0]} failed with status {status}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"cpu_s": cpu_s, "wall_s": time.perf_counter() - started, "peak_mib": peak[0]}


def _family(pid: int) -> list[int]:
    """A process and all below it."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [pid, *(one for child in text.split() for one in _family(int(child)))]


def _pss_mib(pid: int) -> float:
    """Memory of a process, shared pages divided among their owners."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def _line(row: dict[str, Any]) -> str:
    return (
        f"{row['side']:9s} {row['logs']:4d} logs {row['detections']:10,} detections "
        f"{row['cpu_s']:9.1f} s CPU {row['wall_s']:9.1f} s wall {row['peak_mib']:9.0f} MiB"
    )


def _ours(split: Path, file: Path, only_roi: bool) -> dict[str, dict[str, float]]:
    from perception3d.evaluation.av2 import AV2Evaluator

    return AV2Evaluator(split, split, only_roi=only_roi).evaluate_file(file).official()


def _official(split: Path, file: Path, jobs: int, only_roi: bool) -> dict[str, dict[str, float]]:
    import pandas as pd
    from av2.evaluation.detection.eval import evaluate
    from av2.evaluation.detection.utils import DetectionCfg

    frames = []
    for path in sorted(split.glob("*/annotations.feather")):
        frames.append(pd.read_feather(path).assign(log_id=path.parent.name))
    cfg = DetectionCfg(dataset_dir=split, eval_only_roi_instances=only_roi)
    _, _, table = evaluate(pd.read_feather(file), pd.concat(frames), cfg, n_jobs=jobs)
    return table.to_dict(orient="index")


def main(arguments: list[str]) -> None:
    """One side, in a process of its own."""
    side, split, file, table, jobs, only_roi = arguments
    if side == "ours":
        content = _ours(Path(split), Path(file), bool(int(only_roi)))
    else:
        content = _official(Path(split), Path(file), int(jobs), bool(int(only_roi)))
    Path(table).write_text(json.dumps(content))


if __name__ == "__main__":
    main(sys.argv[1:])
