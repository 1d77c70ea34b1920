"""Argoverse 2 feathers to arrays and back: annotations, poses, detections. No package but pyarrow.

A feather (version 2) is an Arrow file of record batches. Detections are read log by log from the
batches that hold them, so a file in the order of its logs never lies in memory as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from perception3d.evaluation.av2_match import Rows
from perception3d.evaluation.av2_rules import (
    AV2_CATEGORIES,
    AV2_UNEVALUATED,
    BOX_COLUMNS,
    DETECTION_COLUMNS,
    TRUTH_COLUMNS,
    UNIT_TOLERANCE,
)

Array = NDArray[Any]

UNEVALUATED, UNKNOWN = -1, -2
"""Category codes of the four annotated categories that do not count, and of other texts."""

_CODES = {name: code for code, name in enumerate(AV2_CATEGORIES)}
_CODES.update(dict.fromkeys(AV2_UNEVALUATED, UNEVALUATED))
_LARGEST = 1e7
_CACHED_BATCHES = 4

#: File of a log with the vehicle's poses.
POSES = "city_SE3_egovehicle.feather"


def schema_faults(schema: pa.Schema, columns: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """(code, column, what is wrong and what to do) of every column that is not as it must be."""
    for name in columns:
        found = schema.get_all_field_indices(name)
        if len(found) != 1:
            what = "is missing; add it" if not found else f"stands {len(found)} times; keep one"
            yield "column-missing" if not found else "column-duplicate", name, what
            continue
        kind = schema.field(found[0]).type
        if name in ("log_id", "category"):
            fine, wanted = _is_text(kind), "text (string)"
        elif name in ("timestamp_ns", "num_interior_pts"):
            fine, wanted = pa.types.is_integer(kind), "int64"
        else:
            fine, wanted = kind in (pa.float64(), pa.float32()), "float64 (or float32)"
        if not fine:
            yield "column-type", name, f"is {kind}, must be {wanted}; convert the column"


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def row_faults(rows: Rows, *, scored: bool) -> Iterator[tuple[str, str, Array, str]]:
    """(code, column, rows, what is wrong) of every rule for single boxes that is broken.

    Args:
        rows: detections (`scored`) or truth.
        scored: whether `value` is a score.
    """
    box = rows.box
    unknown = rows.category == UNKNOWN
    yield "category-unknown", "category", unknown, "is no category of Argoverse 2"
    values = np.column_stack((box, rows.value)) if scored else box
    names = (*BOX_COLUMNS, "score")
    finite = np.isfinite(values)
    for column in np.flatnonzero(~finite.all(axis=0)):
        bad = ~finite[:, column]
        yield "number-not-finite", names[column], bad, "must be finite (and not null)"
    for column in np.flatnonzero((np.abs(box) > _LARGEST).any(axis=0)):
        bad = finite[:, column] & (np.abs(box[:, column]) > _LARGEST)
        if bad.any():
            yield "number-implausible", names[column], bad, f"is beyond +-{_LARGEST:g}"
    for column in (3, 4, 5):
        bad = box[:, column] <= 0
        if bad.any():
            yield "size-not-positive", names[column], bad, "must be > 0"
    with np.errstate(over="ignore", invalid="ignore"):
        length = np.sqrt(np.square(box[:, 6:]).sum(axis=1))
    zero = length < 1e-6
    yield "rotation-zero", "qw", zero, "a quaternion of zero length is no rotation"
    off = np.isfinite(length) & ~zero & (np.abs(length - 1) > UNIT_TOLERANCE)
    if off.any():
        what = f"the quaternion's length is {length[off][0]:.6g}; divide by it"
        yield "rotation-unnormalised", "qw", off, what


def require_fine(rows: Rows, where: str, *, scored: bool) -> None:
    """Raises ValueError that names the first broken rule of `row_faults`, if there is one."""
    for code, column, bad, what in row_faults(rows, scored=scored):
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            raise ValueError(
                f"{where}: {code}: {column} of box {row} ({int(bad.sum())} such): {what}; "
                f"the box is {dict(zip(BOX_COLUMNS, rows.box[row].tolist()))}"
            )


def open_feather(path: str | Path) -> pa.ipc.RecordBatchFileReader:
    """Opens a file without reading it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no feather of version 2.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}; check the path")
    try:
        return pa.ipc.open_file(pa.OSFile(str(path)))
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(
            f"{path} is no feather of version 2, or not whole ({error}); write it by pandas' "
            "to_feather"
        ) from error


def read_truth(folder: str | Path) -> tuple[Rows, Array]:
    """A log's annotations.

    Returns:
        The boxes of evaluated categories; (S,) int64 sorted times of all sweeps: those that are
        annotated and those of LiDAR files.

    Raises:
        FileNotFoundError: there are no annotations.
        ValueError: they are no feather, lack a column, or hold a broken box.
    """
    path = Path(folder) / "annotations.feather"
    reader = open_feather(path)
    _require_columns(reader.schema, TRUTH_COLUMNS, path)
    rows = _rows(_whole_table(reader, path), "num_interior_pts")
    sweeps = [int(file.stem) for file in Path(folder).glob("sensors/lidar/*.feather")]
    times = np.unique(np.append(rows.time_ns, np.array(sweeps, np.int64)))
    rows = rows.select(rows.category >= 0)
    require_fine(rows, str(path), scored=False)
    return rows, times


def read_sweeps(root: str | Path) -> dict[str, Array]:
    """Sorted times (ns) of the sweeps of every log of a split, annotated or not.

    Raises:
        ValueError: the folder holds no log.
    """
    sweeps = {}
    for folder in sorted(path for path in Path(root).glob("*") if path.is_dir()):
        files = [f for f in folder.glob("sensors/lidar/*.feather") if not f.name.startswith(".")]
        if strange := [file for file in files if not file.stem.isdigit()]:
            raise ValueError(
                f"{min(strange)}: a sweep's file is named by its time in nanoseconds; move it away"
            )
        times = [int(file.stem) for file in files]
        annotated = folder / "annotations.feather"
        if annotated.is_file():
            reader = open_feather(annotated)
            _require_columns(reader.schema, ("timestamp_ns",), annotated)
            times += _whole_table(reader, annotated)["timestamp_ns"].to_pylist()
        if times:
            sweeps[folder.name] = np.unique(np.array(times, np.int64))
    if not sweeps:
        raise ValueError(
            f"{root} holds no log with annotations or LiDAR sweeps; give the folder of the split "
            "(.../sensor/val, not .../sensor)"
        )
    return sweeps


def has_poses(folder: str | Path) -> bool:
    """Whether a log has poses: without a region of interest it can be scored without."""
    return (Path(folder) / POSES).is_file()


def read_poses(folder: str | Path) -> tuple[Array, Array, Array]:
    """A log's poses city_SE3_ego: (P,) sorted times in ns, (P, 3, 3) rotations, (P, 3) metres.

    Raises:
        FileNotFoundError: there are no poses.
        ValueError: they are no feather or lack a column.
    """
    from scipy.spatial.transform import Rotation

    path = Path(folder) / POSES
    reader = open_feather(path)
    names = ("qx", "qy", "qz", "qw", "tx_m", "ty_m", "tz_m")
    _require_columns(reader.schema, (*names, "timestamp_ns"), path)
    table = _whole_table(reader, path)
    values = np.column_stack([table[name].to_numpy() for name in names]).astype(np.float64)
    time_ns = table["timestamp_ns"].to_numpy()
    # Of a time that stands twice, the last counts (the official code fills a dictionary).
    time_ns, last = np.unique(time_ns[::-1], return_index=True)
    values = values[::-1][last]
    return time_ns, Rotation.from_quat(values[:, :4]).as_matrix(), values[:, 4:].copy()


class DetectionFile:
    """A submission, read log by log; a context manager.

    Attributes:
        path: the file.
        log_ids: sorted.
        num_rows: boxes in it.
    """

    def __init__(self, path: str | Path) -> None:
        """Reads which logs there are.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is no feather, a column is missing or of a wrong type.
        """
        self.path = Path(path)
        self._reader = open_feather(path)
        _require_columns(self._reader.schema, DETECTION_COLUMNS, self.path)
        options = pa.ipc.IpcReadOptions(
            included_fields=[self._reader.schema.get_field_index("log_id")]
        )
        narrow = pa.ipc.open_file(pa.OSFile(str(path)), options=options)
        self._batches: dict[str, list[int]] = {}
        self.num_rows = 0
        for number in range(narrow.num_record_batches):
            column = _whole_batch(narrow, number, self.path).column(0)
            self.num_rows += len(column)
            for log_id in column.unique().to_pylist():
                if log_id is None:
                    raise ValueError(f"{path}: log_id is null in some rows; fill the column")
                self._batches.setdefault(log_id, []).append(number)
        self.log_ids = tuple(sorted(self._batches))
        parts = sum(map(len, self._batches.values()))
        # A shuffled file is cheaper to keep than to read again for each log.
        scattered = parts > 3 * (narrow.num_record_batches + len(self.log_ids))
        self._batch = lru_cache(None if scattered else _CACHED_BATCHES)(self._read_batch)

    def rows(self, log_id: str) -> Rows:
        """The boxes of one log in the file's order, categories maybe `UNEVALUATED` or `UNKNOWN`."""
        import pyarrow.compute as pc

        parts = []
        for number in self._batches[log_id]:
            batch = self._batch(number)
            parts.append(batch.filter(pc.equal(batch.column("log_id"), log_id)))
        return _rows(pa.Table.from_batches(parts), "score")

    def _read_batch(self, number: int) -> pa.RecordBatch:
        batch = _whole_batch(self._reader, number, self.path)
        return batch.select(list(DETECTION_COLUMNS))

    def __enter__(self) -> DetectionFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._batch.cache_clear()


def _whole_table(reader: pa.ipc.RecordBatchFileReader, path: Path) -> pa.Table:
    """All batches, each checked."""
    batches = [_whole_batch(reader, number, path) for number in range(reader.num_record_batches)]
    return pa.Table.from_batches(batches, schema=reader.schema)


def _whole_batch(reader: pa.ipc.RecordBatchFileReader, number: int, path: Path) -> pa.RecordBatch:
    """One batch, checked: pyarrow would crash on the wrong offsets of a damaged one."""
    try:
        batch = reader.get_batch(number)
        batch.validate(full=True)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} is damaged ({error}); write or copy it again") from error
    return batch


def _require_columns(schema: pa.Schema, columns: Sequence[str], path: Path) -> None:
    faults = [f"{name} {what}" for _, name, what in schema_faults(schema, columns)]
    if faults:
        raise ValueError(f"{path}: column {'; column '.join(faults)}")


def _rows(table: pa.Table, value: str) -> Rows:
    box = np.empty((table.num_rows, len(BOX_COLUMNS)))
    for column, name in enumerate(BOX_COLUMNS):
        box[:, column] = table[name].to_numpy()
    for name in ("timestamp_ns", "category"):
        if table[name].null_count:
            raise ValueError(f"{name} is null in {table[name].null_count} rows; fill the column")
    return Rows(
        table["timestamp_ns"].to_numpy().astype(np.int64, copy=False),
        category_codes(table["category"]),
        box,
        table[value].to_numpy().astype(np.float64, copy=False),
    )


def category_codes(column: pa.ChunkedArray) -> Array:
    """(N,) int64: index into `AV2_CATEGORIES`, `UNEVALUATED` or `UNKNOWN`."""
    codes = []
    for chunk in column.chunks:
        encoded = chunk if isinstance(chunk, pa.DictionaryArray) else chunk.dictionary_encode()
        names = encoded.dictionary.to_pylist()
        of_name = np.array([_CODES.get(name, UNKNOWN) for name in names], np.int64)
        codes.append(of_name[encoded.indices.to_numpy()])
    return np.concatenate(codes) if codes else np.zeros(0, np.int64)
