"""Making a whole town: scenes in parallel, resumable at any moment, the same bytes whatever the
number of processes.

A scene writes its blobs and then one part file with its table rows. When all parts are there they
are merged into the tables. A scene without a part is simply made again.
"""

from __future__ import annotations

import errno
import functools
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2

from perception3d import fast_json
from perception3d.datasets.town.files import BlobWriter
from perception3d.datasets.town.layout import build_layout
from perception3d.datasets.town.map_expansion import LOCATION, MapExpansion, semantic_prior
from perception3d.datasets.town.plots import build_lots
from perception3d.datasets.town.record import read_once, record
from perception3d.datasets.town.settings import (
    ClassQuotas,
    ScenePlan,
    TownSettings,
    plan_scenes,
)
from perception3d.datasets.town.tables import VERSION, SceneTables, Tokens, merge_parts
from perception3d.datasets.town.workers import (
    interruptible,
    interrupts_held,
    progress_report,
    worker_pool,
)
from perception3d.datasets.town.world import DistrictWorld, build_district, build_scene

STAMP = "town.json"
WORK = ".town"  # parts, drawn grounds and unfinished files, until the town is complete
Report = Callable[[str], None]
Counts = dict[str, dict[str, int]]  # split -> class -> boxes


def build_town(
    root: Path,
    settings: TownSettings,
    *,
    processes: int | None = None,
    report: Report = print,
) -> Counts:
    """Make a town, or finish one that was interrupted.

    Args:
        root: folder of the data set; created if missing.
        settings: the town.
        processes: parallel processes, None = one a core.
        report: receives lines of progress.

    Returns:
        split -> class -> number of boxes with LiDAR points inside the class range.

    Raises:
        ValueError: if the folder holds something else: another data set, or a town of other
            settings or generator version; or if a split lacks boxes of a class
            (`min_boxes_per_class`): the scenes are kept, so that the same town with a lower
            number is complete in a moment.
        OSError: disk full and the like; finished scenes are kept, the same command goes on.
        KeyboardInterrupt: likewise resumable.
    """
    stamp = claim_folder(root, settings)
    if stamp.get("complete"):
        report(f"{root} already holds this town, complete.")
        counts: Counts = stamp["learnable_boxes"]
        require_boxes(counts, settings.min_boxes_per_class)
        return counts
    with locked_folder(root / WORK):
        plans = plan_scenes(settings)
        missing = [plan for plan in plans if not _part(root, plan).exists()]
        if len(missing) < len(plans):
            there = len(plans) - len(missing)
            report(f"going on with {root}: {there} of {len(plans)} scenes are there")
        try:
            _make_scenes(root, settings, missing, processes or os.cpu_count() or 1, report)
            counts = _count_boxes(root, plans)
            require_boxes(counts, settings.min_boxes_per_class)
            _finish(root, settings, plans, counts)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                done = sum(_part(root, plan).exists() for plan in plans)
                raise OSError(
                    errno.ENOSPC,
                    f"disk full after {done} of {len(plans)} scenes of the town in {root}; free "
                    "some space and run the same command again: finished scenes are kept",
                ) from error
            raise
        except KeyboardInterrupt:
            report(f"stopped; run the same command again to go on with {root}")
            raise
    return counts


def claim_folder(root: Path, settings: TownSettings) -> dict[str, Any]:
    """Check that a folder may hold this town, and stamp it.

    Args:
        root: the folder; created if missing.
        settings: the town.

    Returns:
        The stamp found or written.

    Raises:
        ValueError: if the folder holds anything else; says what.
    """
    wanted: dict[str, Any] = settings.stamp()
    path = root / STAMP
    if path.exists():
        found: dict[str, Any] = fast_json.loads(path.read_bytes())
        changes = _differences(found, wanted)
        if changes:
            raise ValueError(
                f"{root} holds a town made with other settings: {'; '.join(changes)}. Choose "
                "another folder, delete this one, or ask for the settings it was made with."
            )
        return found
    if root.exists() and any(not entry.name.startswith(".") for entry in root.iterdir()):
        raise ValueError(
            f"{root} is not empty and holds no {STAMP}, so it is no town. Choose a new folder for "
            "the town."
        )
    BlobWriter(root, root / WORK / "unfinished").write(STAMP, _json({**wanted, "complete": False}))
    return wanted


def require_boxes(counts: Counts, least: int) -> None:
    """Refuse a town in which a split holds too few boxes of a class to learn or to judge it.

    Args:
        counts: split -> class -> boxes with LiDAR points within the class's range.
        least: as many there must be of each class.

    Raises:
        ValueError: names each split and class, what was found and what to do.
    """
    lacking: set[str] = set()
    lines = []
    for split, classes in counts.items():
        rare = {name: count for name, count in classes.items() if count < least}
        lacking.update(rare)
        if rare:
            lines.append(f"{split} holds {', '.join(f'{n} {k}' for n, k in rare.items())}")
    if lacking:
        quotas = [f"quotas.{name}" for name in sorted(lacking) if hasattr(ClassQuotas, name)]
        knobs = ", ".join(quotas or ["density"])
        raise ValueError(
            f"too few boxes with LiDAR points within their class's range, wanted are {least} of "
            f"each class: {'; '.join(lines)}. Ask for more or longer scenes (train_scenes, "
            f"val_scenes, scene_length_s) or for more such objects ({knobs}) in another folder; or "
            "take this town as it is with min_boxes_per_class 0: its scenes are finished and kept."
        )


def _differences(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    a = {"generator_version": found.get("generator_version"), **_flat(found.get("settings", {}))}
    b = {"generator_version": wanted["generator_version"], **_flat(wanted["settings"])}
    return [
        f"{k} {a.get(k)!r} (asked for: {b.get(k)!r})"
        for k in sorted({*a, *b})
        if a.get(k) != b.get(k)
    ]


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            flat.update({f"{key}.{k}": v for k, v in value.items()})
        else:
            flat[key] = value
    return flat


def _make_scenes(
    root: Path, settings: TownSettings, plans: list[ScenePlan], processes: int, report: Report
) -> None:
    """Make the missing scenes; those of one district follow each other, so that a process draws few
    districts.
    """
    plans = sorted(plans, key=lambda plan: (plan.district, plan.index))
    districts = sorted({plan.district for plan in plans})

    progress = progress_report(len(plans), report)
    if processes == 1 or len(plans) <= 1:
        for done, plan in enumerate(plans, 1):
            progress(done, _make_scene(root, settings, plan))
        return
    with worker_pool(min(processes, len(plans))) as pool:
        with interrupts_held():
            grounds = pool.map(_draw_ground, [(root, settings, k) for k in districts])
        for _ in grounds:
            pass
        # Both kinds of kernels are needed by every process and take a while to compile the
        # first time: each kind in one process, from whose cache the others then take it.
        kinds = [(root, settings, plans[0], kind) for kind in ("lidar", "cameras")]
        with interrupts_held():
            compiled = pool.map(_compile, kinds)
        for _ in compiled:
            pass
        with interrupts_held():
            pending: set[Future[str]] = {
                pool.submit(_make_scene, root, settings, plan) for plan in plans
            }
        done = 0
        while pending:
            finished, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in finished:
                done += 1
                progress(done, future.result())


def _draw_ground(task: tuple[Path, TownSettings, int]) -> None:
    root, settings, index = task
    cached_district(root, settings, index)


def _compile(task: tuple[Path, TownSettings, ScenePlan, str]) -> None:
    root, settings, plan, sensor = task
    read_once(
        build_scene(settings, plan, cached_district(root, settings, plan.district)),
        settings,
        sensor,
    )


@functools.lru_cache(maxsize=2)
def cached_district(root: Path, settings: TownSettings, index: int) -> DistrictWorld:
    """A district of the town being made in ``root``; a process keeps the last two."""
    return build_district(settings, index, root / WORK / "grounds")


def _make_scene(root: Path, settings: TownSettings, plan: ScenePlan) -> str:
    """Write one scene's blobs, then its part file."""
    cv2.setNumThreads(1)
    world = build_scene(settings, plan, cached_district(root, settings, plan.district))
    blobs = BlobWriter(root, root / WORK / "unfinished")
    tables = SceneTables(settings, world, blobs)
    tables.write(interruptible(record(world, settings)))
    blobs.write(str(_part(root, plan).relative_to(root)), _json(tables.part()))
    return plan.name


def _count_boxes(root: Path, plans: tuple[ScenePlan, ...]) -> Counts:
    """Boxes with LiDAR points within their class's range, summed over the finished scenes."""
    counts: Counts = {}
    for plan in plans:
        total = counts.setdefault(plan.split, {})
        for name, count in fast_json.loads(_part(root, plan).read_bytes())["learnable"].items():
            total[name] = total.get(name, 0) + count
    return counts


def _finish(
    root: Path, settings: TownSettings, plans: tuple[ScenePlan, ...], counts: Counts
) -> None:
    """Merge the parts, write tables, splits and maps, then the stamp; remove the work folder."""
    blobs = BlobWriter(root, root / WORK / "unfinished")
    token = Tokens(settings)
    layouts = []
    expansion = MapExpansion(token)
    for index in range(settings.train_districts + settings.val_districts):
        layout = build_layout(settings, index)
        lots = build_lots(settings, layout)
        expansion.add_district(layout, lots)
        layouts.append((layout, lots))
    blobs.write(f"maps/expansion/{LOCATION}.json", _json(expansion.document()))
    map_file = f"maps/{token('semantic prior')}.png"
    ok, picture = cv2.imencode(".png", semantic_prior(layouts), [cv2.IMWRITE_PNG_COMPRESSION, 1])
    assert ok
    blobs.write(map_file, picture.tobytes())
    paths = [_part(root, plan) for plan in plans]
    for name, rows in merge_parts(settings, paths, map_file).items():
        blobs.write(f"{VERSION}/{name}.json", _json(rows))
    splits: dict[str, list[str]] = {}
    for plan in plans:
        splits.setdefault(plan.split, []).append(plan.name)
    blobs.write(f"{VERSION}/splits.json", _json(splits))
    stamp = {**settings.stamp(), "complete": True, "learnable_boxes": counts}
    blobs.write(STAMP, _json(stamp))
    shutil.rmtree(root / WORK, ignore_errors=True)


def _part(root: Path, plan: ScenePlan) -> Path:
    return root / WORK / "parts" / f"{plan.name}.json"


def _json(document: Any) -> bytes:
    return fast_json.dumps(document)


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Keep a second generator out of the folder; the lock ends with the process, however that
    ends.
    """
    import fcntl

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f"another process is making the town in {folder.parent}; wait for it"
            ) from error
        yield
