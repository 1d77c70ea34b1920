"""The numbers of a run over time: ``metrics.jsonl`` and, where installed, TensorBoard."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from perception3d.engine.files import write_atomically


class MetricsLog:
    """Appends one JSON object a line, each in a single write, so that a kill cannot tear a line.

    Args:
        path: the .jsonl file.
        tensorboard: folder for TensorBoard's event files, or None.
        after_step: when continuing, the step of the restored checkpoint: lines beyond it were
            written by a part of the run that is about to be repeated, and are dropped.
    """

    def __init__(
        self, path: Path, *, tensorboard: Path | None = None, after_step: int | None = None
    ) -> None:
        if after_step is not None:
            _drop_lines_after(path, after_step)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._board = None if tensorboard is None else _board(tensorboard, after_step)

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Log ``values`` (numbers, or nested dicts of numbers) at an optimiser step."""
        line = json.dumps({"step": step, **values}) + "\n"
        os.write(self._file, line.encode())
        if self._board is not None:
            for name, value in _flat(values):
                self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close."""
        os.close(self._file)
        if self._board is not None:
            self._board.close()


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
