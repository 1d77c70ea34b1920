"""Means over seeds, their standard errors, and which differences are larger than chance."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

#: A difference is claimed where it is larger than so many standard errors of its own.
CLAIM = 2.0


def error_of(values: Sequence[float]) -> float:
    """Standard error of the mean; 0 for a single value, which says nothing about chance."""
    return stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0


def cell(values: Sequence[float]) -> str:
    """Mean and standard error."""
    return f"{mean(values):.3f} +- {error_of(values):.3f}"


def gain(values: Sequence[float], base: Sequence[float]) -> tuple[float, float]:
    """Mean difference of two arms and its standard error, seed by seed.

    Arms of one seed share the initial weights and the data, so pairs are compared.

    Raises:
        ValueError: the arms have different numbers of seeds.
    """
    if len(values) != len(base):
        raise ValueError(f"arms of one table need the same seeds; found {len(values)}, {len(base)}")
    differences = [a - b for a, b in zip(values, base)]
    return mean(differences), error_of(differences)


def claimed(values: Sequence[float], base: Sequence[float]) -> bool:
    """Whether the difference of two arms is larger than twice its standard error."""
    difference, error = gain(values, base)
    return len(values) > 1 and abs(difference) > CLAIM * error


def gain_cell(values: Sequence[float], base: Sequence[float]) -> str:
    """Difference to another arm, with a star where it may be claimed."""
    difference, _ = gain(values, base)
    return f"{difference:+.3f}{'*' if claimed(values, base) else ' '}"


def print_row(name: str, cells: Sequence[str], *, width: int = 18) -> None:
    """One line, at once: rows come minutes apart."""
    print(f"{name:26}" + "".join(f"{text:>{width}}" for text in cells), flush=True)


def save(path: str | Path, command: str, seconds: float, results: dict[str, Any]) -> None:
    """Write what was measured, and where, as JSON."""
    machine = {
        "date": date.today().isoformat(),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "seconds": round(seconds, 1),
    }
    text = json.dumps({"command": command, "machine": machine, **results}, indent=1)
    Path(path).write_text(text + "\n", encoding="utf-8")
