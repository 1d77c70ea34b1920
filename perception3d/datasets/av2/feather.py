"""Feather files (Arrow's file format) as NumPy columns, with damage and wrong types named."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
#: What a column must hold: "int" any integers, "float" any numbers, "text" strings.
Kind = Literal["int", "float", "text"]


def read_columns(
    path: Path, columns: Mapping[str, Kind], *, optional: frozenset[str] = frozenset()
) -> dict[str, Array]:
    """Columns of a file in the types that the file has (text: objects of type str).

    Args:
        path: feather file.
        columns: name -> what it must hold; further columns of the file are not read.
        optional: names that may be absent.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, lacks a column, or a column is of another type or has
            gaps; names file and column.
    """
    import pyarrow
    from pyarrow import feather

    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing; download this part of the log again, or leave the log out"
        )
    try:
        table = feather.read_table(path, use_threads=False, memory_map=False)
        # Wrong offsets in a damaged file would crash the process later.
        table.validate(full=True)
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(
            f"{path} ({path.stat().st_size} bytes) is no feather file or is cut short ({error}); "
            "download it again"
        ) from None
    missing = [n for n in columns if n not in table.column_names and n not in optional]
    if missing:
        raise ValueError(
            f"{path} lacks the columns {', '.join(missing)}; it has "
            f"{', '.join(table.column_names)}. It is of another format: download it again"
        )
    return {
        name: _column(path, name, kind, table.column(name))
        for name, kind in columns.items()
        if name in table.column_names
    }


def _column(path: Path, name: str, kind: Kind, column: Any) -> Array:
    import pyarrow
    from pyarrow import types

    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    fits = {
        "int": types.is_integer(column.type),
        "float": types.is_floating(column.type) or types.is_integer(column.type),
        "text": types.is_string(column.type) or types.is_large_string(column.type),
    }[kind]
    if not fits or column.null_count:
        found = f"{column.null_count} gaps" if fits else f"type {column.type}"
        raise ValueError(
            f"{path}: column {name} has {found}; expected {kind} values without gaps. The file is "
            "of another format or damaged: download it again"
        )
    whole = column.combine_chunks()
    if isinstance(whole, pyarrow.ChunkedArray):  # an empty column keeps its chunks
        whole = pyarrow.concat_arrays(whole.chunks or [pyarrow.array([], column.type)])
    return np.asarray(whole.to_numpy(zero_copy_only=False))
