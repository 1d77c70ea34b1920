"""A file that grows beside its target, hidden, and takes the target's name only when complete."""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NoReturn


class HiddenFile:
    """The file below a writer.

    It vanishes with the writer that did not complete it; a forked process holds a copy of the
    writer, and no right to the file.

    Args:
        target: replaced when it exists; folders are made.
        buffering: of the file, see `open`.

    Raises:
        OSError: the folder cannot be written.
    """

    def __init__(self, target: Path, *, buffering: int = -1) -> None:
        self.target = target
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.{os.getpid()}.part")
        self.stream: IO[bytes] = part.open("wb", buffering=buffering)
        self._part = part
        self._discard = weakref.finalize(self, _discard, self.stream, part, os.getpid())

    @property
    def open(self) -> bool:
        """Neither complete nor given up."""
        return self._discard.alive

    def require_open(self) -> None:
        """Raise ValueError for a file that is complete or given up."""
        if not self.open:
            raise ValueError(f"{self.target}: this writer is closed; make a new one")

    @contextlib.contextmanager
    def guarded(self) -> Iterator[None]:
        """Writing inside that fails (disk full) gives the file up.

        Raises:
            OSError: what failed, with the target's name.
        """
        try:
            yield
        except OSError as error:
            self._fail(error)

    def complete(self) -> None:
        """Give the file its name.

        Raises:
            OSError: it cannot be written; nothing is left.
        """
        with self.guarded():
            self.stream.flush()
            os.fsync(self.stream.fileno())
            self.stream.close()
            self._part.replace(self.target)
        self._discard.detach()

    def abort(self) -> None:
        """Give up: remove the file."""
        self._discard()

    def _fail(self, error: OSError) -> NoReturn:
        self.abort()
        reason = f"{error.strerror}; nothing was left behind, make room and write again"
        raise OSError(error.errno, reason, str(self.target)) from error


def _discard(stream: IO[bytes], part: Path, owner_pid: int) -> None:
    if os.getpid() != owner_pid:
        return
    with contextlib.suppress(OSError):  # closing flushes, and the disk may be full
        stream.close()
    part.unlink(missing_ok=True)
