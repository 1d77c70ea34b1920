"""The built index of one version: made once from the tables, then mapped by every process in
milliseconds.

A stale index (the tables changed, or this code's format did) is rebuilt, with the reason said. A
file at its
place that is no index, or belongs to another data set, is refused: it is not ours to overwrite.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception3d.datasets.nuscenes.arrays import open_arrays, save_arrays
from perception3d.datasets.nuscenes.build import build_arrays
from perception3d.datasets.nuscenes.tables import INDEXED_TABLES

Array = NDArray[Any]

log = logging.getLogger(__name__)

KIND = "perception3d nuScenes index"
#: Raised whenever a column changes its name or meaning.
SCHEMA = 1
CONVENTION = (
    "global frame; ref = LIDAR_TOP at key time; dst_T_src 4x4 float64; gravity centres; size "
    "length width height; heading = box x axis; velocity m/s, NaN unknown; time us; cameras z "
    "forward; labels and attributes as structures/taxonomy.py"
)
_SAMPLED_BYTES = 4096
_SAMPLED_BLOCKS = 32


class StaleIndexError(ValueError):
    """The index was made from other tables or by another version of the code; building it again is
    safe.
    """


class ForeignIndexError(ValueError):
    """The file is no index, or the index of another data set; it is left alone."""


class NuScenesIndex:
    """Columns of one version; rows of lists end where ``*_end`` or ``*_offset`` say.

    ``arrays`` holds, with S samples, L sweeps, C key images, K calibrations, N boxes:
    ``sample_token, sample_time_us, sample_scene, sample_previous, sample_lidar (S,), sample_cameras
    (S, 6)`` with -1 for none; ``lidar_time_us, lidar_calibration, lidar_previous (L,),
    lidar_global_T_sensor (L, 4, 4), lidar_velocity_mps (L, 3)`` along the sensor's axes;
    ``camera_time_us, camera_calibration (C,), camera_global_T_sensor (C, 4, 4), camera_hw (C, 2)``;
    ``calibration_ego_T_sensor (K, 4, 4), calibration_K (K, 3, 3)``; ``box_offset (S + 1,),
    box_center_m, box_size_lwh_m, box_heading, box_velocity_mps (N, 3), box_label, box_attribute,
    box_num_lidar, box_num_radar (N,)``, everything in the global frame.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.header, self.arrays = open_arrays(path)

    def __reduce__(self) -> tuple[Any, ...]:
        # Workers that are spawned map the file again instead of receiving its contents.
        return NuScenesIndex, (self.path,)

    def __getitem__(self, name: str) -> Array:
        return self.arrays[name]

    @property
    def fingerprint(self) -> str:
        """Hash of the tables' contents; the same for a copy of the data set elsewhere."""
        return str(self.header["content"])

    @property
    def has_boxes(self) -> bool:
        """Whether the version is annotated at all; test versions are not."""
        return len(self.arrays["box_label"]) > 0

    def text(self, column: str, row: int) -> str:
        """One string of a packed column, such as ``lidar_file``."""
        ends = self.arrays[f"{column}_end"]
        start = int(ends[row - 1]) if row else 0
        return self.arrays[f"{column}_text"][start : int(ends[row])].tobytes().decode()


def load_index(root: Path, version: str, cache_dir: Path | None = None) -> NuScenesIndex:
    """The index of a version, built when it is missing or stale (said at level INFO).

    Args:
        root: folder of the data set.
        version: version folder in it.
        cache_dir: where indices lie; by default ``root/index``, or the user's cache folder when
            ``root`` cannot be written.

    Raises:
        FileNotFoundError: a table is missing.
        ForeignIndexError: something else lies in the index's place.
        ValueError: the tables contradict each other.
    """
    path = index_path(root, version, cache_dir)
    if path.exists():
        try:
            return open_index(path, root, version)
        except StaleIndexError as reason:
            log.info("%s; building it again", reason)
    started = time.perf_counter()
    # Taken first: tables that change while they are read leave an index that is stale, not wrong.
    stamp = table_stamp(root, version)
    arrays = build_arrays(root, version, log.info)
    header = {
        "kind": KIND, "schema": SCHEMA, "convention": CONVENTION, "version": version, **stamp,
    }  # fmt: skip
    save_arrays(path, header, arrays)
    log.info("index of %s built in %.1f s: %s", version, time.perf_counter() - started, path)
    return NuScenesIndex(path)


def open_index(path: Path, root: Path, version: str) -> NuScenesIndex:
    """Open an index after checking that it was made by this code from these tables.

    Raises:
        ForeignIndexError: the file is no index, or of another version or data set.
        StaleIndexError: format or tables changed since; says what, and how to build it again.
    """
    advice = f"delete {path} to have it built again"
    try:
        index = NuScenesIndex(path)
    except ValueError as error:
        raise ForeignIndexError(f"{error}; {advice}, or name another cache folder") from None
    header = index.header
    if header.get("kind") != KIND or header.get("version") != version:
        raise ForeignIndexError(
            f"{path} is {header.get('kind', 'no index')!r} of version {header.get('version')!r}, "
            f"not of {version!r}; name another cache folder, or {advice}"
        )
    if header.get("schema") != SCHEMA or header.get("convention") != CONVENTION:
        raise StaleIndexError(
            f"{path} has schema {header.get('schema')} and this code needs {SCHEMA} "
            f"(conventions {'agree' if header.get('convention') == CONVENTION else 'differ'}); "
            f"{advice}"
        )
    stamp = table_stamp(root, version)
    changed = [
        name for name in stamp["tables"] if stamp["tables"][name] != header["tables"].get(name)
    ]
    if stamp["content"] != header["content"] or changed:
        what = ", ".join(f"{name}.json" for name in changed) or "contents"
        raise StaleIndexError(f"{path} was made from other tables ({what} changed since); {advice}")
    return index


def index_path(root: Path, version: str, cache_dir: Path | None = None) -> Path:
    """Where the index of a version lies; the folder need not exist."""
    place = hashlib.blake2b(str(root.resolve()).encode(), digest_size=6).hexdigest()
    if cache_dir is not None:
        return cache_dir / f"{version}-{place}.npz"
    beside = root / "index" / f"{version}.npz"
    writable = os.access(beside.parent if beside.parent.exists() else root, os.W_OK)
    if beside.exists() or writable:
        return beside
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return cache / "perception3d" / f"{version}-{place}.npz"


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
