"""The raw JSON tables of a nuScenes data set, read in pieces.

A table is one JSON list of flat rows. ``sample_data.json`` and ``ego_pose.json`` of v1.0-trainval
have 2.6 million rows each; parsed at once their Python objects take several GB. So a large file is
cut between rows into pieces, each piece is parsed by itself, and the caller keeps what it needs
before the next one.

Field list: nuScenes schema, ``docs/schema_nuscenes.md`` of nuscenes-devkit.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception3d import fast_json

#: Every table of a nuScenes version folder.
TABLES = (
    "attribute",
    "calibrated_sensor",
    "category",
    "ego_pose",
    "instance",
    "log",
    "map",
    "sample",
    "sample_annotation",
    "sample_data",
    "scene",
    "sensor",
    "visibility",
)

#: Tables that the index is built from; the rest (map, visibility) may be absent.
INDEXED_TABLES = tuple(name for name in TABLES if name not in ("map", "visibility"))

Row = dict[str, Any]
Bytes = NDArray[np.bytes_]
Ints = NDArray[np.int64]

_ROW_BORDER = re.compile(rb"\}\s*,\s*\{")


def iterate_table(folder: Path, name: str, *, piece_bytes: int = 1 << 24) -> Iterator[list[Row]]:
    """Rows of one table, in file order, some ten thousand at a time.

    Args:
        folder: version folder, such as ``nuscenes/v1.0-mini``.
        name: table, without ``.json``.
        piece_bytes: how much text is parsed at once.

    Raises:
        FileNotFoundError: there is no such table.
        ValueError: the file is not a JSON list.
    """
    path = folder / f"{name}.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"table {path} is missing; a version folder holds {', '.join(TABLES)}"
        )
    if path.stat().st_size <= 2 * piece_bytes:
        yield _parse(path, path.read_bytes())
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        start, end = text.find(b"[") + 1, text.rfind(b"]")
        while start >= 0:
            border = _ROW_BORDER.search(text, min(start + piece_bytes, len(text)))
            stop = border.start() + 1 if border else end
            try:
                rows = fast_json.loads(b"[" + text[start:stop] + b"]")
            except fast_json.JSONDecodeError:
                # The border was inside a string or a nested object: rows of this table are not
                # flat. Rows before ``start`` were complete, so nothing is lost when the rest is
                # parsed at once.
                rows, border = _parse(path, b"[" + text[start:]), None
            yield rows
            start = border.end() - 1 if border else -1


def read_table(folder: Path, name: str) -> list[Row]:
    """All rows of one table; for the small ones."""
    return [row for rows in iterate_table(folder, name) for row in rows]


def column(rows: Sequence[Row], table: str, field: str) -> list[Any]:
    """One field of every row.

    Raises:
        ValueError: a row lacks the field; names table, row and what the row has.
    """
    try:
        return [row[field] for row in rows]
    except KeyError:
        bad = next(row for row in rows if field not in row)
        raise ValueError(
            f"{table}.json: row {bad.get('token', '?')} has no field {field!r}; it has "
            f"{sorted(bad)}"
        ) from None


def tokens(values: Sequence[str]) -> Bytes:
    """Strings as a byte array of fixed width: a fifth of the memory of Python strings."""
    return np.array([v.encode() for v in values], dtype=np.bytes_) if values else np.zeros(0, "S1")


class TokenIndex:
    """Finds rows of a table by their tokens, for whole columns at once."""

    def __init__(self, table: str, values: Bytes) -> None:
        self.table = table
        self._order = np.argsort(values, kind="stable")
        self._sorted = values[self._order]

    def find(self, wanted: Bytes, asked_by: str, *, optional: bool = False) -> Ints:
        """Row numbers of tokens.

        Args:
            wanted: (N,) tokens.
            asked_by: table and field that hold them, for the message.
            optional: an empty token means "none" and gives -1.

        Raises:
            ValueError: a token is not in the table.
        """
        if len(self._sorted) == 0:
            found, known = np.full(len(wanted), -1, np.int64), np.zeros(len(wanted), bool)
        else:
            place = np.searchsorted(self._sorted, wanted).clip(max=len(self._sorted) - 1)
            known = self._sorted[place] == wanted
            found = np.where(known, self._order[place], -1).astype(np.int64)
        lost = ~known & (wanted != b"") if optional else ~known
        if lost.any():
            bad = wanted[np.flatnonzero(lost)[0]].decode()
            raise ValueError(
                f"{asked_by} names {bad!r}, which {self.table}.json does not hold; the tables do "
                "not belong together or are incomplete: unpack this version again"
            )
        return found


def _parse(path: Path, text: bytes) -> list[Row]:
    try:
        rows = fast_json.loads(text)
    except fast_json.JSONDecodeError as error:
        raise ValueError(
            f"{path} is not valid JSON ({error}); unpack or generate it again"
        ) from None
    if not isinstance(rows, list):
        raise ValueError(f"{path} must hold a list of rows; found {type(rows).__name__}")
    return rows
