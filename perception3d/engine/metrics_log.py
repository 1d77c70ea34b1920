"""The numbers of a run over time: ``metrics.jsonl`` and, where installed, TensorBoard."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from perception3d.engine.files import explained, write_atomically


class MetricsLog:
    """Appends one JSON object a line, each in a single write, so that a kill cannot tear a line.

    Args:
        path: the .jsonl file; only this object may write to it.
        tensorboard: folder for TensorBoard's event files, or None.
        after_step: where a run starts or goes on: lines beyond it were written by a part of the run
            that is about to be repeated, and are dropped. None keeps them all.

    Raises:
        OSError: the file cannot be opened or shortened.
    """

    def __init__(
        self, path: Path, *, tensorboard: Path | None = None, after_step: int | None = None
    ) -> None:
        if after_step is not None:
            _drop_lines_after(path, after_step)
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        except OSError as error:
            raise explained(error, path, "nothing was logged") from error
        self._board = None if tensorboard is None else _board(tensorboard, after_step)

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Log ``values`` (numbers, or nested dicts of numbers) at an optimiser step.

        Raises:
            OSError: there is no room; the lines before are whole and nothing follows them.
        """
        line = (json.dumps({"step": step, **values}) + "\n").encode()
        end = os.fstat(self._file).st_size
        try:
            # The last bytes of a disk take part of a line without an error.
            if os.write(self._file, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            os.ftruncate(self._file, end)
            raise explained(error, self._path, "the lines before are intact") from error
        with self._board_or_none() as board:
            for name, value in _flat(values) if board is not None else ():
                board.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close."""
        os.close(self._file)
        with self._board_or_none() as board:
            if board is not None:
                board.close()

    @contextmanager
    def _board_or_none(self) -> Iterator[Any]:
        """A run goes on without TensorBoard, whose files repeat metrics.jsonl."""
        try:
            yield self._board
        except OSError as error:
            self._board = None
            print(f"TensorBoard's files end here ({error}); metrics.jsonl has the numbers")


def _board(folder: Path, after_step: int | None) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        print(
            "TensorBoard is not installed; metrics.jsonl has the numbers (pip install tensorboard)"
        )
        return None
    purge = None if after_step is None else after_step + 1
    return SummaryWriter(str(folder), purge_step=purge, flush_secs=30)


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    found = []
    for name, value in values.items():
        if isinstance(value, dict):
            found += _flat(value, f"{prefix}{name}/")
        elif isinstance(value, (int, float)):
            found.append((f"{prefix}{name}", float(value)))
    return found


def _drop_lines_after(path: Path, step: int) -> None:
    if not path.exists():
        return
    kept = [line for line in path.read_bytes().splitlines(True) if _step_of(line) <= step]
    write_atomically(path, lambda file: file.write(b"".join(kept)))


def _step_of(line: bytes) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
