"""Making a town in the format of the Argoverse 2 sensor data set: logs in parallel, each complete
or not there.

The same settings give the same streets, traffic and looks as in nuScenes format; the sensors are
others (:mod:`perception3d.datasets.town.rig_av2`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2

from perception3d import fast_json
from perception3d.datasets.town import rig_av2
from perception3d.datasets.town.build import (
    WORK,
    Counts,
    Report,
    cached_district,
    locked_folder,
)
from perception3d.datasets.town.files import BlobWriter
from perception3d.datasets.town.log_av2 import LogWriter, log_id
from perception3d.datasets.town.record_av2 import record
from perception3d.datasets.town.settings import (
    TRAIN_SPLIT,
    ScenePlan,
    TownSettings,
    plan_scenes,
)
from perception3d.datasets.town.workers import (
    interruptible,
    interrupts_held,
    progress_report,
    worker_pool,
)
from perception3d.datasets.town.world import build_scene
from perception3d.structures.taxonomy_av2 import AV2_RING_CAMERAS

STAMP = "town_av2.json"


def build_av2_town(
    root: Path,
    settings: TownSettings,
    *,
    cameras: tuple[str, ...] = AV2_RING_CAMERAS,
    processes: int | None = None,
    report: Report = print,
) -> Counts:
    """Make a town of logs in ``root/train`` and ``root/val``, or finish one that was interrupted.

    Args:
        root: folder of the data set; created if missing.
        settings: the town; ``keep_sweep_every``, ``camera_sweeps`` and ``min_boxes_per_class`` are
            of the nuScenes format and say nothing here. Images are of ``image_scale`` times 2048 x
            1550.
        cameras: out of AV2_CAMERAS.
        processes: parallel processes, None = one a core.
        report: receives lines of progress.

    Returns:
        split -> category -> number of boxes with LiDAR points.

    Raises:
        ValueError: the folder holds something else, or a town of other settings.
        OSError: disk full and the like; finished logs are kept, the same command goes on.
    """
    stamp = _claim(root, settings, cameras)
    if stamp.get("complete"):
        report(f"{root} already holds this town, complete.")
        found: Counts = stamp["learnable_boxes"]
        return found
    with locked_folder(root / WORK):
        plans = plan_scenes(settings)
        missing = [plan for plan in plans if not _count_file(root, plan).exists()]
        jobs = [(root, settings, plan, cameras) for plan in missing]
        progress = progress_report(len(jobs), report)
        for done, name in enumerate(_made(jobs, processes or os.cpu_count() or 1), 1):
            progress(done, name)
        counts: Counts = {}
        for plan in plans:
            total = counts.setdefault(_split(plan), {})
            for category, n in fast_json.loads(_count_file(root, plan).read_bytes()).items():
                total[category] = total.get(category, 0) + n
        stamp = {**stamp, "complete": True, "learnable_boxes": counts}
        _blobs(root).write(STAMP, fast_json.dumps(stamp))
        shutil.rmtree(root / WORK, ignore_errors=True)
    return counts


Job = tuple[Path, TownSettings, ScenePlan, tuple[str, ...]]


def _made(jobs: list[Job], processes: int) -> Iterator[str]:
    if processes == 1 or len(jobs) <= 1:
        yield from map(_make_log, jobs)
        return
    with worker_pool(min(processes, len(jobs))) as pool:
        with interrupts_held():
            names = pool.map(_make_log, jobs)
        yield from names


def _make_log(job: Job) -> str:
    """Write a log in the work folder, then move it to its place, then its count."""
    root, settings, plan, names = job
    cv2.setNumThreads(1)
    world = build_scene(settings, plan, cached_district(root, settings, plan.district))
    name = log_id(settings, plan.name)
    unfinished, place = root / WORK / "logs" / name, root / _split(plan) / name
    for folder in (unfinished, place):  # left by a run that ended in between
        shutil.rmtree(folder, ignore_errors=True)
    writer = LogWriter(settings, world, _blobs(root), str(unfinished.relative_to(root)))
    views = rig_av2.cameras(settings.image_scale, names)
    counts = writer.write(interruptible(record(world, settings, names)), views)
    place.parent.mkdir(parents=True, exist_ok=True)
    unfinished.rename(place)
    count_file = _count_file(root, plan).relative_to(root)
    _blobs(root).write(str(count_file), fast_json.dumps(counts))
    return f"{_split(plan)}/{name}"


def _split(plan: ScenePlan) -> str:
    return "train" if plan.split == TRAIN_SPLIT else "val"


def _count_file(root: Path, plan: ScenePlan) -> Path:
    return root / WORK / "parts" / f"{plan.name}.json"


def _blobs(root: Path) -> BlobWriter:
    return BlobWriter(root, root / WORK / "unfinished")


def _claim(root: Path, settings: TownSettings, cameras: tuple[str, ...]) -> dict[str, Any]:
    """Check that a folder may hold this town, and stamp it."""
    wanted = {"format": "av2", "cameras": list(cameras), **settings.stamp()}
    path = root / STAMP
    if path.exists():
        found: dict[str, Any] = fast_json.loads(path.read_bytes())
        changed = sorted(
            k for k in wanted if found.get(k) != fast_json.loads(fast_json.dumps(wanted))[k]
        )
        if changed:
            raise ValueError(
                f"{root} holds a town made with other {', '.join(changed)}; choose another folder, "
                "delete this one, or ask for the settings it was made with"
            )
        return found
    if root.exists() and any(not entry.name.startswith(".") for entry in root.iterdir()):
        raise ValueError(
            f"{root} is not empty and holds no {STAMP}, so it is no town of this format; choose a "
            "new folder"
        )
    _blobs(root).write(STAMP, fast_json.dumps({**wanted, "complete": False}))
    return wanted
