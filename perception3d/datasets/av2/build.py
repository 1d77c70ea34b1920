"""From the logs of one split to the columns of its index; logs in parallel, the same bytes whatever
the number of processes.
"""

from __future__ import annotations

import functools
import multiprocessing
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception3d.datasets.av2.annotations import LogBoxes, read_annotations
from perception3d.datasets.av2.log_files import (
    LogFolder,
    PoseTrack,
    empty_calibration,
    read_calibration,
    read_poses,
)
from perception3d.structures.taxonomy_av2 import AV2_CAMERAS

Array = NDArray[Any]
Arrays = dict[str, Array]

#: Farthest that an image may be from a sweep in time: half of the cameras' 1/20 s, as in the av2
#: package (``utils/synchronization_database.py``).
MAX_IMAGE_LAG_NS = 25_000_000


def find_logs(root: Path, split: str) -> list[LogFolder]:
    """Logs of a split, by name.

    Raises:
        FileNotFoundError: the split has no folder or no log; names what is there.
    """
    folder = root / split
    logs = []
    if folder.is_dir():
        logs = [LogFolder(p) for p in sorted(folder.iterdir()) if (p / _POSES).is_file()]
    if not logs:
        splits = sorted(path.parent.parent.name for path in root.glob(f"*/*/{_POSES}"))
        found = ", ".join(dict.fromkeys(splits)) or "none"
        raise FileNotFoundError(
            f"{folder} holds no log (a folder with {_POSES}); splits with logs in {root}: {found}. "
            "Unpack the data set so that <root>/<split>/<log id>/ exists"
        )
    return logs


_POSES = LogFolder(Path()).poses.name


def build_arrays(
    root: Path, split: str, *, workers: int = 1, report: Callable[[str], None]
) -> Arrays:
    """All columns of the index of one split; see :class:`AV2Index` for their meaning.

    Args:
        root: folder with the splits.
        split: folder of logs in it.
        workers: processes that read logs.
        report: is told how far it is.

    Raises:
        FileNotFoundError, ValueError: a log's files are missing, damaged or contradict each other;
            names the file.
    """
    logs = find_logs(root, split)
    annotated = [log.annotations.is_file() for log in logs]
    if any(annotated) and not all(annotated):
        without = logs[annotated.index(False)]
        raise FileNotFoundError(
            f"{without.annotations} is missing, while other logs of {root / split} are annotated; "
            "download it again, or move the log out of the split"
        )
    report(f"reading {len(logs)} logs of {root / split}")
    read = functools.partial(read_log, annotated=all(annotated))
    if workers <= 1 or len(logs) == 1:
        return _joined(logs, map(read, logs), report)
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
    with ProcessPoolExecutor(min(workers, len(logs)), mp_context=context) as pool:
        return _joined(logs, pool.map(read, logs), report)


def read_log(log: LogFolder, annotated: bool) -> Arrays:
    """Columns of one log; its samples are all times with a sweep or with boxes."""
    poses = read_poses(log.poses)
    boxes = read_annotations(log.annotations, poses) if annotated else None
    sweeps = log.sweep_times()
    times = np.unique(np.concatenate((sweeps, sweeps[:0] if boxes is None else boxes.time_ns)))
    if not len(times):
        raise ValueError(f"{log.path} holds neither sweeps nor boxes; remove it from the split")
    calibrated = log.intrinsics.is_file() or log.extrinsics.is_file()
    calibration = read_calibration(log) if calibrated else empty_calibration()
    image_time, image_pose, unposed = _images(log, poses, times)
    return {
        "log_id": np.array([log.log_id.encode()]),
        "log_city": np.array([log.city().encode()]),
        "log_K": calibration.K[None],
        "log_ego_T_camera": calibration.ego_T_camera[None],
        "log_camera_hw": calibration.hw[None],
        "log_unposed_images": np.array([unposed]),
        "sample_time_ns": times,
        "sample_city_T_ego": poses.at(times, "sweeps"),
        "sample_has_sweep": np.isin(times, sweeps),
        "image_time_ns": image_time,
        "image_city_T_ego": image_pose,
        **_box_columns(boxes, times),
    }


def _images(log: LogFolder, poses: PoseTrack, times: Array) -> tuple[Array, Array, int]:
    """(S, 9) time of every camera's image nearest to each sample, -1 for none, and its pose.

    Images at whose time the vehicle's pose is not known are passed over and counted.
    """
    chosen = np.full((len(times), len(AV2_CAMERAS)), -1, np.int64)
    pose = np.tile(np.eye(4), (*chosen.shape, 1, 1))
    unposed = 0
    for view, camera in enumerate(AV2_CAMERAS):
        images = log.image_times(camera)
        posed = poses.find(images)[1]
        unposed += int((~posed).sum())
        images = images[posed]
        if not len(images):
            continue
        after = np.searchsorted(images, times).clip(max=len(images) - 1)
        before = (after - 1).clip(min=0)
        earlier = np.abs(images[before] - times) <= np.abs(images[after] - times)
        nearest = images[np.where(earlier, before, after)]
        near = np.abs(nearest - times) <= MAX_IMAGE_LAG_NS
        chosen[near, view] = nearest[near]
        pose[near, view] = poses.find(nearest[near])[0]
    return chosen, pose, unposed


def _box_columns(boxes: LogBoxes | None, times: Array) -> Arrays:
    if boxes is None:
        none = np.zeros(0, np.int64)
        empty = np.zeros((0, 3))
        boxes = LogBoxes(
            none, none, none.astype(np.int8), empty, empty, empty[:, 0],
            empty.astype(np.float32), none.astype(np.int32),
        )  # fmt: skip
    return {
        "box_count": np.bincount(np.searchsorted(times, boxes.time_ns), minlength=len(times)),
        "box_track": boxes.track.astype(np.int32),
        "box_label": boxes.label,
        "box_center_m": boxes.center_m,
        "box_size_lwh_m": boxes.size_lwh_m,
        "box_yaw_rad": boxes.yaw_rad,
        "box_velocity_mps": boxes.velocity_mps,
        "box_num_points": boxes.num_points,
    }


def _joined(
    logs: list[LogFolder], parts: Iterable[Arrays], report: Callable[[str], None]
) -> Arrays:
    found: list[Arrays] = []
    for number, part in enumerate(parts, 1):
        found.append(part)
        if number % 50 == 0:
            report(f"{number} of {len(logs)} logs read")
    samples = [len(part["sample_time_ns"]) for part in found]
    # Column by column, and each log's part goes as it is used: a training split fills a gigabyte.
    names = list(found[0])
    arrays = {name: np.concatenate([part.pop(name) for part in found]) for name in names}
    arrays["log_offset"] = np.concatenate(([0], np.cumsum(samples))).astype(np.int64)
    arrays["sample_log"] = np.repeat(np.arange(len(found)), samples)
    counts = arrays.pop("box_count")
    arrays["box_offset"] = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
    return arrays
