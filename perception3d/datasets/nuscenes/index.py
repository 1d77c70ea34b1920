"""The built index of one version: made once from the tables, then mapped by every process in
milliseconds.

An index that is not this data set's, or not of this code's format, is refused and left alone
(:mod:`perception3d.datasets.index_file`). An index of this data set whose tables changed since is
not used either, but built again, because nothing can be lost by that and users expect edited tables
to count at the next start; one WARNING line says why. Either way a new file appears complete or not
at all.
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
from perception3d.datasets.index_file import (
    ForeignIndexError,
    IndexFile,
    StaleIndexError,
    advice_on,
    index_path,
)
from perception3d.datasets.nuscenes.build import build_arrays
from perception3d.datasets.nuscenes.tables import INDEXED_TABLES, column, read_table

Array = NDArray[Any]

log = logging.getLogger(__name__)

KIND = "perception3d nuScenes index"
#: Raised whenever a column changes its name or meaning.
SCHEMA = 2
CONVENTION = (
    "global frame; ref = LIDAR_TOP at key time; dst_T_src 4x4 float64; gravity centres; size "
    "length width height; heading = box x axis; velocity m/s, NaN unknown; time us; cameras z "
    "forward; labels and attributes as structures/taxonomy.py"
)
_SAMPLED_BYTES = 4096
_SAMPLED_BLOCKS = 32


class NuScenesIndex(IndexFile):
    """Columns of one version; rows of lists end where ``*_end`` or ``*_offset`` say.

    ``arrays`` holds, with S samples, L sweeps, C images, K calibrations, N boxes:
    ``sample_token, sample_time_us, sample_scene, sample_previous, sample_lidar (S,), sample_cameras
    (S, 6)`` with -1 for none; ``lidar_time_us, lidar_calibration, lidar_previous (L,),
    lidar_global_T_sensor (L, 4, 4), lidar_velocity_mps (L, 3)`` along the sensor's axes;
    ``camera_time_us, camera_calibration, camera_previous, camera_is_key (C,),
    camera_global_T_sensor (C, 4, 4), camera_hw (C, 2)`` of key images and those between them;
    ``calibration_ego_T_sensor (K, 4, 4), calibration_K (K, 3, 3)``; ``box_offset (S + 1,),
    box_center_m, box_size_lwh_m, box_heading, box_velocity_mps (N, 3), box_label, box_attribute,
    box_num_lidar, box_num_radar (N,)``, everything in the global frame.
    """

    def text(self, column: str, row: int) -> str:
        """One string of a packed column, such as ``lidar_file``."""
        ends = self.arrays[f"{column}_end"]
        start = int(ends[row - 1]) if row else 0
        return self.arrays[f"{column}_text"][start : int(ends[row])].tobytes().decode()


def load_index(root: Path, version: str, cache_dir: Path | None = None) -> NuScenesIndex:
    """The index of a version, built when it is missing or its tables changed since.

    Building for changed tables is said in one line at level WARNING. The new file replaces the old
    one in a single step, so that other processes see one or the other.

    Args:
        root: folder of the data set.
        version: version folder in it.
        cache_dir: where indices lie; by default ``root/index``, or the user's cache folder when
            ``root`` cannot be written.

    Raises:
        FileNotFoundError: a table is missing.
        ForeignIndexError: something else lies in the index's place; see :func:`open_index`.
        OSError: the index cannot be written.
        ValueError: the tables contradict each other.
    """
    path = index_path(root, version, cache_dir)
    if path.exists():
        try:
            return open_index(path, root, version)
        except StaleIndexError as reason:
            log.warning("%s; building it again", reason)
    started = time.perf_counter()
    # Taken first: tables that change while they are read leave an index that is stale, not wrong.
    stamp = table_stamp(root, version)
    arrays = build_arrays(root, version, log.info)
    save_arrays(path, {**_format(version), **stamp}, arrays)
    log.info("index of %s built in %.1f s: %s", version, time.perf_counter() - started, path)
    return NuScenesIndex(path)


def open_index(path: Path, root: Path, version: str) -> NuScenesIndex:
    """Open an index after checking that it was made by this code from these tables.

    Args:
        path: the index file.
        root: folder of the data set.
        version: version folder in it.

    Raises:
        FileNotFoundError: the index or a table is missing.
        ForeignIndexError: the file is no index, is cut short, or has another version, schema,
            conventions or data set than expected; says which, and what to do.
        StaleIndexError: the tables of this data set changed since; says which.
    """
    advice = advice_on(path)
    index = NuScenesIndex.opened(path, root / version, _format(version), advice)
    stamp = table_stamp(root, version)
    made_from = index.header["tables"]
    changed = [name for name in stamp["tables"] if stamp["tables"][name] != made_from.get(name)]
    if not changed and stamp["content"] == index.fingerprint:
        return index
    _check_data_set(index, root / version, advice)
    what = ", ".join(f"{name}.json" for name in changed) or "contents of the tables"
    raise StaleIndexError(
        f"{path} was made from other tables ({what} changed since; fingerprint "
        f"{index.fingerprint}, expected {stamp['content']})"
    )


def _format(version: str) -> dict[str, Any]:
    return {"kind": KIND, "schema": SCHEMA, "convention": CONVENTION, "version": version}


def _check_data_set(index: NuScenesIndex, folder: Path, advice: str) -> None:
    """Key frames are what a data set is; boxes, poses and splits of the same frames may be edited.

    Times count as well as tokens: generators may give the frames of different data sets equal
    tokens.
    """
    rows = read_table(folder, "sample")
    token = [text.encode() for text in column(rows, "sample", "token")]
    expected = set(zip(token, column(rows, "sample", "timestamp")))
    found = set(zip(index["sample_token"].tolist(), index["sample_time_us"].tolist()))
    if found != expected:
        raise ForeignIndexError(
            f"{index.path} is the index of another data set: found {len(found)} key frames, "
            f"expected the {len(expected)} of {folder}, and {len(found & expected)} are the same; "
            f"{advice}"
        )


def table_stamp(root: Path, version: str) -> dict[str, Any]:
    """Size and modification time of every indexed table, and a hash over sizes and sampled
    contents.

    The hash reads whole files up to 128 KiB and 32 evenly spaced blocks of larger ones:
    milliseconds for trainval. An edit that keeps the size and misses the blocks still changes the
    time.

    Raises:
        FileNotFoundError: a table is missing.
    """
    digest = hashlib.blake2b(digest_size=16)
    tables: dict[str, list[int]] = {}
    for name in INDEXED_TABLES:
        path = root / version / f"{name}.json"
        if not path.is_file():
            raise FileNotFoundError(
                f"table {path} is missing; {root / version} needs {', '.join(INDEXED_TABLES)} "
                "(.json)"
            )
        stat = path.stat()
        tables[name] = [stat.st_size, stat.st_mtime_ns]
        digest.update(f"{name} {stat.st_size}\n".encode())
        with path.open("rb") as file:
            if stat.st_size <= _SAMPLED_BYTES * _SAMPLED_BLOCKS:
                digest.update(file.read())
                continue
            for at in np.linspace(0, stat.st_size - _SAMPLED_BYTES, _SAMPLED_BLOCKS).astype(
                np.int64
            ):
                file.seek(int(at))
                digest.update(file.read(_SAMPLED_BYTES))
    return {"tables": tables, "content": digest.hexdigest()}
