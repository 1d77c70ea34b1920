"""Writing files so that a crash, a kill or a full disk never leaves half of one."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_RIGHT = (errno.EACCES, errno.EPERM, errno.EROFS)


class _Witness:
    """Passes writes on and remembers the system's error.

    torch.save wraps or replaces an OSError raised below it; the original says "disk full".
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, data: bytes, /) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = self.error or error
            raise

    def flush(self) -> None:
        self.file.flush()


def write_atomically(path: Path, write: Callable[[Any], object]) -> None:
    """Let ``write`` fill a temporary binary file beside ``path``, then put it in place.

    Raises:
        OSError: with what to do when the disk is full or the place may not be written to; ``path``
            is then as it was before.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    witness: _Witness | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            witness = _Witness(file)
            write(witness)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as failure:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        cause = failure if isinstance(failure, OSError) else witness and witness.error
        if isinstance(cause, OSError):
            state = "the previous one is intact" if path.exists() else "nothing was left behind"
            raise explained(cause, path, state) from failure
        raise


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically; paths and other objects by their text."""
    text = json.dumps(value, indent=2, default=str) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))


def explained(error: OSError, path: Path, state: str) -> OSError:
    """A failure to write as an error that names the file and says what to do.

    Args:
        error: the system's; kinds that say nothing about room or rights come back unchanged.
        path: the file that was to be written.
        state: what is left there now.
    """
    if error.errno in _NO_ROOM:
        return OSError(
            error.errno,
            f"no room to write {path} ({error.strerror}); {state}. Free some space on that disk"
            " (old work_dirs are a good place to look), then run the command again; a run that"
            " was under way continues with --resume",
        )
    if error.errno in _NO_RIGHT:
        return PermissionError(
            error.errno,
            f"may not write {path} ({error.strerror}); {state}. Make {path.parent} writable, or"
            " choose another folder",
        )
    return error
