"""Argoverse 2 logs, real and generated, detections for them, and the official evaluator."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
from pyarrow import feather

from perception3d.evaluation.av2_rules import (
    AV2_CATEGORIES,
    AV2_UNEVALUATED,
    BOX_COLUMNS,
    DETECTION_COLUMNS,
)

Table = dict[str, Any]
"""Columns by name, NumPy arrays."""

POSE_COLUMNS = ("qw", "qx", "qy", "qz", "tx_m", "ty_m", "tz_m")


def real_split(realdata: Path, root: Path, num_logs: int = 4) -> list[str]:
    """Links logs that have poses, a map and counted boxes into `root`; returns their names."""
    names = []
    for log in sorted((realdata / "av2_log").iterdir()):
        source = next(iter(sorted(log.glob("annotations*.feather"))), None)
        if source is None or not (log / "map").is_dir() or len(names) == num_logs:
            continue
        table = feather.read_table(source)
        target = root / log.name
        target.mkdir(parents=True)
        keep = np.array(table["category"].to_pylist()) != "EGO_VEHICLE"
        feather.write_feather(table.filter(pa.array(keep)), target / "annotations.feather")
        for part in ("map", "city_SE3_egovehicle.feather"):
            (target / part).symlink_to(log / part)
        names.append(log.name)
    return names


def read_columns(path: Path) -> Table:
    """A feather's columns."""
    table = feather.read_table(path)
    return {name: table[name].to_numpy() for name in table.column_names}


def write_table(path: Path, columns: Table) -> Path:
    """Writes columns as a feather."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {
        name: pa.array(values.tolist(), pa.string()) if values.dtype == object else values
        for name, values in columns.items()
    }
    feather.write_feather(pa.table(arrays), path)
    return path


def select(columns: Table, keep: Any) -> Table:
    """Rows of a table."""
    return {name: values[keep] for name, values in columns.items()}


def cat(parts: list[Table]) -> Table:
    """Tables one after another."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def jittered(
    root: Path,
    names: list[str],
    seed: int,
    *,
    copies: int = 2,
    clutter: float = 1.0,
    decimals: int | None = None,
) -> Table:
    """Moved, resized, turned copies of the truth and clutter, shuffled.

    Args:
        root: folder of the split.
        names: logs.
        seed: of the noise.
        copies: of each box.
        clutter: false boxes for each true one, anywhere within 170 m.
        decimals: scores are rounded so; None leaves them apart.
    """
    rng = np.random.default_rng(seed)
    parts = []
    for name in names:
        truth = read_columns(root / name / "annotations.feather")
        rows = np.repeat(np.arange(len(truth["qw"])), copies)
        false = rng.choice(len(truth["qw"]), int(clutter * len(truth["qw"])))
        box = np.column_stack([truth[column] for column in BOX_COLUMNS])
        box = np.concatenate((box[rows], box[false]))
        box[:, :3] += rng.normal(0, 1, (len(box), 3)) * rng.choice([0.1, 0.6, 2.0], (len(box), 1))
        box[len(rows) :, :2] = rng.uniform(-120, 120, (len(false), 2))
        box[:, 3:6] *= np.exp(rng.normal(0, 0.2, (len(box), 3)))
        box[:, 6:] += rng.normal(0, 0.1, (len(box), 4))
        box[:, 6:] /= np.linalg.norm(box[:, 6:], axis=1, keepdims=True)
        score = rng.random(len(box))
        picked = np.concatenate((rows, false))
        part = dict(zip(BOX_COLUMNS, box.T.copy(), strict=True))
        part["score"] = score if decimals is None else score.round(decimals)
        part["log_id"] = np.full(len(box), name, object)
        part["timestamp_ns"] = truth["timestamp_ns"][picked]
        category = np.asarray(truth["category"], object)[picked]
        swapped = rng.random(len(box)) < 0.05
        category[swapped] = rng.choice(AV2_CATEGORIES, int(swapped.sum()))
        part["category"] = category
        parts.append(select(part, rng.permutation(len(box))))
    return cat(parts)


def generated_split(root: Path, seed: int, *, num_logs: int = 2, num_sweeps: int = 4) -> list[str]:
    """Small logs on a grid of quarter metres: boxes lie on edges of cells and of the range."""
    rng = np.random.default_rng(seed)
    names = []
    for number in range(num_logs):
        name = f"log-{seed:03d}-{number}"
        log = root / name
        times = 1000 + 100 * np.arange(num_sweeps)
        upright = rng.random() < 0.5
        poses = _poses(rng, times, upright)
        write_table(log / "city_SE3_egovehicle.feather", poses)
        _write_map(log / "map", rng, poses)
        write_table(log / "annotations.feather", _annotations(rng, times))
        names.append(name)
    return names


def _poses(rng: np.random.Generator, times: np.ndarray, upright: bool) -> Table:
    q = rng.normal(0, 0.02, (len(times), 4))
    if upright:
        q[:] = 0
        q[:, 0] = 1
    else:
        q[:, 0] += np.cos(0.4)
        q[:, 3] += np.sin(0.4)
        q /= np.linalg.norm(q, axis=1, keepdims=True)
    t = np.round(rng.uniform(-30, 30, (len(times), 3)) * 4) / 4
    return {"timestamp_ns": times, **dict(zip(POSE_COLUMNS, np.column_stack((q, t)).T.copy()))}


def _write_map(folder: Path, rng: np.random.Generator, poses: Table) -> None:
    folder.mkdir(parents=True)
    areas = {}
    for number in range(3):
        x, y = (float(rng.choice(poses[axis])) for axis in ("tx_m", "ty_m"))
        w, h = np.round(rng.uniform(5, 30, 2) * 20) / 20
        corners = [(x - w, y - h), (x + w, y - h), (x + w + 3, y + h), (x - w, y + h)]
        boundary = [{"x": float(u), "y": float(v), "z": 0.0} for u, v in corners]
        areas[str(number)] = {"area_boundary": boundary, "id": number}
    content = {"drivable_areas": areas, "lane_segments": {}, "pedestrian_crossings": {}}
    (folder / "log_map_archive_generated.json").write_text(json.dumps(content))
    np.save(folder / "x_ground_height_surface____PIT.npy", np.zeros((4, 4), np.float16))
    sim2 = {"R": [1.0, 0.0, 0.0, 1.0], "t": [0.0, 0.0], "s": 1.0}
    (folder / "x___img_Sim2_city.json").write_text(json.dumps(sim2))


def _annotations(rng: np.random.Generator, times: np.ndarray) -> Table:
    count = int(rng.integers(20, 80))
    names = rng.choice(AV2_CATEGORIES, 5, replace=False).tolist()
    box = np.zeros((count, 10))
    box[:, :3] = np.round(rng.uniform(-40, 40, (count, 3)) * [4, 4, 0.1]) / 4
    box[:, 3:6] = np.round(rng.uniform(0.5, 5, (count, 3)) * 2) / 2
    far = rng.random(count) < 0.1
    box[far, :3] = rng.choice([[150, 0, 0], [90, 120, 0], [149.75, 0, 0]], far.sum())
    half = rng.choice([0.0, 0.7, np.pi / 2, 3.0], count) / 2
    box[:, 6], box[:, 9] = np.cos(half), np.sin(half)
    columns: Table = {
        "timestamp_ns": np.sort(rng.choice(times, count)),
        "track_uuid": np.full(count, "track", object),
        "category": rng.choice([*names, AV2_UNEVALUATED[0]], count).astype(object),
        **dict(zip(BOX_COLUMNS, box.T.copy())),
        "num_interior_pts": rng.choice([0, 1, 50], count, p=[0.1, 0.2, 0.7]),
    }
    return columns


class _SerialPool:
    """Stands in for the official pool of processes, which each take seconds to start."""

    def __init__(self, processes: int) -> None:
        pass

    def __enter__(self) -> _SerialPool:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def starmap(self, function: Any, arguments: Any) -> list[Any]:
        return [function(*each) for each in arguments]


def official(
    root: Path, names: list[str], detections: Table, *, only_roi: bool = True
) -> SimpleNamespace:
    """The official evaluator, unchanged but for its pool.

    Returns:
        `table`, the rounded one; `exact`, before means and rounding; `dts`, `gts`, its data frames.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pandas as pd
        from av2.evaluation.detection import eval as av2_eval
        from av2.evaluation.detection.utils import DetectionCfg

        cfg = DetectionCfg(dataset_dir=root, eval_only_roi_instances=only_roi)
        truth = []
        for name in names:
            frame = pd.read_feather(root / name / "annotations.feather")
            truth.append(frame.assign(log_id=name))
        dts = pd.DataFrame({name: detections[name] for name in DETECTION_COLUMNS})
        fake = SimpleNamespace(get_context=lambda _: SimpleNamespace(Pool=_SerialPool))
        with mock.patch.object(av2_eval, "mp", fake):
            dts, gts, table = av2_eval.evaluate(dts, pd.concat(truth), cfg, n_jobs=1)
        exact = av2_eval.summarize_metrics(dts, gts, cfg)
    return SimpleNamespace(table=table, exact=exact, dts=dts, gts=gts)
