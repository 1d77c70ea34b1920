"""Named arrays in one file that every process maps instead of reading.

The file is an ordinary uncompressed ``.npz`` (``np.load`` opens it) with one property more: each
array's data starts at a multiple of 64 bytes, so that it can be used where it lies. Loader workers
then share one copy in the page cache, and opening costs milliseconds at any size.
"""

from __future__ import annotations

import ast
import os
import struct
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from perception3d import fast_json

Array = NDArray[Any]

_ALIGNMENT = 64
_LOCAL_HEADER_BYTES = 30
#: The header in which the file says what it is.
HEADER_NAME = "header"


def save_arrays(path: Path, header: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
    """Write arrays and a JSON header; the file appears complete or not at all.

    Raises:
        OSError: the folder cannot be written or the disk is full; names the file. Nothing is left
            behind.
        ValueError: an array holds Python objects.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        temporary = Path(name)
        with os.fdopen(descriptor, "wb") as file:
            _write(file, header, arrays)
            file.flush()
            # Else a crash of the machine could leave the new name with unwritten pages behind it.
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise OSError(
            f"cannot write {path}: {error.strerror or error}; free space there, or write elsewhere"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _write(file: IO[bytes], header: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
    text = np.frombuffer(fast_json.dumps(header), np.uint8)
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in {HEADER_NAME: text, **arrays}.items():
            if array.dtype.hasobject:
                raise ValueError(f"array {name!r} holds Python objects and cannot be mapped")
            info = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            info.extra = _padding(file.tell() + _LOCAL_HEADER_BYTES + len(info.filename) + 20)
            with archive.open(info, "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, np.ascontiguousarray(array), allow_pickle=False)


def open_arrays(path: Path) -> tuple[dict[str, Any], dict[str, Array]]:
    """Map a file of :func:`save_arrays`.

    Returns:
        The header, and read-only arrays by name.

    Raises:
        ValueError: the file is none of ours, or cut short.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
        whole = np.memmap(path, np.uint8, mode="r")
        arrays = {info.filename.removesuffix(".npy"): _map_entry(whole, info) for info in entries}
        header = dict(fast_json.loads(arrays.pop(HEADER_NAME).tobytes()))
    except (
        zipfile.BadZipFile,
        KeyError,
        TypeError,
        ValueError,
        SyntaxError,
        struct.error,
    ) as error:
        raise ValueError(
            f"{path} is not an array file of this project, or is cut short ({error})"
        ) from None
    return header, arrays


def _padding(position: int) -> bytes:
    """A zip extra field that moves what follows ``position`` to the next multiple of the
    alignment.
    """
    size = -(position + 4) % _ALIGNMENT
    return struct.pack("<HH", 0x4150, size) + bytes(size)


def _map_entry(whole: Array, info: zipfile.ZipInfo) -> Array:
    if info.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{info.filename} is compressed")
    at = info.header_offset
    name_bytes, extra_bytes = struct.unpack("<HH", whole[at + 26 : at + 30].tobytes())
    at += _LOCAL_HEADER_BYTES + name_bytes + extra_bytes
    length = struct.unpack("<H", whole[at + 8 : at + 10].tobytes())[0]
    text = whole[at + 10 : at + 10 + length].tobytes().decode("latin1")
    fields = _parse_npy_header(text)
    at += 10 + length
    dtype = np.dtype(fields["descr"])
    shape = tuple(fields["shape"])
    stop = at + dtype.itemsize * int(np.prod(shape, dtype=np.int64))
    return np.asarray(whole)[at:stop].view(dtype).reshape(shape)


def _parse_npy_header(text: str) -> dict[str, Any]:
    return dict(ast.literal_eval(text))
