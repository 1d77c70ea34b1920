"""The built index of one split: made once from the logs' small files, then mapped by every process.

Logs that were added, removed or changed since make it stale: it is built again, with one WARNING
line that says why. A file in its place that is no index, is cut short, or belongs to other logs
altogether is refused and left alone.
"""

from __future__ import annotations

import hashlib
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception3d.datasets.arrays import save_arrays
from perception3d.datasets.av2.build import build_arrays, find_logs
from perception3d.datasets.av2.log_files import LogFolder
from perception3d.datasets.index_file import (
    ForeignIndexError,
    IndexFile,
    StaleIndexError,
    advice_on,
    index_path,
)
from perception3d.structures.taxonomy_av2 import AV2_CAMERAS

Array = NDArray[Any]

log = logging.getLogger(__name__)

KIND = "perception3d Argoverse 2 index"
#: Raised whenever a column changes its name or meaning.
SCHEMA = 1
CONVENTION = (
    "boxes in the vehicle's frame at the sweep's time; dst_T_src 4x4 float64; gravity centres; "
    "size length width height; velocity m/s over ground along the city's axes, NaN unknown; time "
    "ns; cameras z forward; labels and cameras as structures/taxonomy_av2.py"
)


class AV2Index(IndexFile):
    """Columns of one split, with L logs, S samples (times with a sweep or boxes), N boxes.

    ``log_id, log_city (L,); log_K (L, 9, 3, 3), log_ego_T_camera (L, 9, 4, 4), log_camera_hw
    (L, 9, 2)`` in the order of AV2_CAMERAS, size 0 for a camera that is not calibrated;
    ``log_unposed_images (L,)`` images that are not used, for the vehicle's pose then is not known;
    ``log_offset (L + 1,)`` first sample of each log; ``sample_log, sample_time_ns,
    sample_has_sweep (S,), sample_city_T_ego (S, 4, 4); image_time_ns (S, 9)`` of the image that
    belongs to a sample, -1 for none, ``image_city_T_ego (S, 9, 4, 4)`` the vehicle at that time;
    ``box_offset (S + 1,)``; ``box_track`` (number of the object in its log), ``box_label,
    box_yaw_rad, box_num_points (N,), box_center_m, box_size_lwh_m, box_velocity_mps (N, 3)``.
    """


def load_index(
    root: Path, split: str, cache_dir: Path | None = None, *, workers: int = 1
) -> AV2Index:
    """The index of a split, built when it is missing or logs changed since.

    Args:
        root: folder with the splits.
        split: folder of logs in it.
        cache_dir: where indices lie; by default ``root/index``, or the user's cache folder when
            ``root`` cannot be written.
        workers: processes that read logs when it is built.

    Raises:
        FileNotFoundError, ValueError: see :func:`build_arrays`.
        ForeignIndexError: something else lies in the index's place; see :func:`open_index`.
        OSError: the index cannot be written.
    """
    path = index_path(root, f"av2_{split}", cache_dir)
    if path.exists():
        try:
            return open_index(path, root, split)
        except StaleIndexError as reason:
            log.warning("%s; building it again", reason)
    started = time.perf_counter()
    # Taken first: logs that change while they are read leave an index that is stale, not wrong.
    stamps = log_stamps(root, split)
    arrays = build_arrays(root, split, workers=workers, report=log.info)
    header = {**_format(split), "logs": stamps, "content": _content(arrays)}
    save_arrays(path, header, arrays)
    log.info("index of %s built in %.1f s: %s", split, time.perf_counter() - started, path)
    return AV2Index(path)


def open_index(path: Path, root: Path, split: str) -> AV2Index:
    """Open an index after checking that it was made by this code from these logs.

    Raises:
        FileNotFoundError: the index or the split is missing.
        ForeignIndexError: the file is no index, is cut short, or has another split, schema or
            conventions than expected, or none of its logs; says which, and what to do.
        StaleIndexError: logs were added, removed or changed since; says which.
    """
    advice = advice_on(path)
    index = AV2Index.opened(path, root / split, _format(split), advice)
    stamps, made_from = log_stamps(root, split), index.header["logs"]
    if stamps == made_from:
        return index
    if not set(stamps) & set(made_from):
        raise ForeignIndexError(
            f"{path} is the index of other logs: found {len(made_from)}, expected the "
            f"{len(stamps)} of {root / split}, and none is the same; {advice}"
        )
    changes = [
        f"{len(names)} logs were {what} ({min(names)})"
        for what, names in (
            ("added", set(stamps) - set(made_from)),
            ("removed", set(made_from) - set(stamps)),
            ("changed", {n for n in stamps if n in made_from and stamps[n] != made_from[n]}),
        )
        if names
    ]
    raise StaleIndexError(f"{path} was made from other files: {', '.join(changes)}")


def log_stamps(root: Path, split: str) -> dict[str, str]:
    """For every log a hash over sizes and times of what the index is made from.

    Folders of sweeps and images change their time when files come or go.
    """
    return {found.log_id: _stamp(found) for found in find_logs(root, split)}


def _stamp(found: LogFolder) -> str:
    files = (found.annotations, found.poses, found.intrinsics, found.extrinsics)
    folders = [found.map, found.sweep(0).parent, *(found.image(c, 0).parent for c in AV2_CAMERAS)]
    digest = hashlib.blake2b(digest_size=8)
    for path in (*files, *folders):
        try:
            stat = path.stat()
        except FileNotFoundError:
            digest.update(b"none ")
            continue
        size = stat.st_size if path in files else 0
        digest.update(f"{size} {stat.st_mtime_ns} ".encode())
    return digest.hexdigest()


def _content(arrays: dict[str, Array]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name, array in arrays.items():
        digest.update(f"{name} {array.dtype} {array.shape} ".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _format(split: str) -> dict[str, Any]:
    return {"kind": KIND, "schema": SCHEMA, "convention": CONVENTION, "split": split}
