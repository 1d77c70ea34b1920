"""Times of several ways to do one thing, taken in turn: a drifting machine hits all alike."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile


@dataclass(frozen=True)
class Measured:
    """One way to do one thing.

    Attributes:
        median_ms, least_ms: of the runs, wall clock.
        peak_mb: memory that the process (or the GPU) held more at its peak than before.
        paired_ratio: median of its runs, each by the first way's run of the same turn.
    """

    median_ms: float
    least_ms: float
    peak_mb: float
    paired_ratio: float = 1.0


@dataclass(frozen=True)
class Case:
    """One thing to do, and the ways to do it.

    Attributes:
        name: as printed.
        ways: the first is ours.
        gflop: useful arithmetic of one call, where it is counted.
        gbyte: what one call must read and write at least.
        half: whether numbers have two bytes, for peaks.
    """

    name: str
    ways: dict[str, Callable[[], Any]]
    gflop: float | None = None
    gbyte: float | None = None
    half: bool = False


def compare(
    ways: dict[str, Callable[[], Any]], *, runs: int, device: str = "cpu"
) -> dict[str, Measured]:
    """Run each way once to warm up, then all of them in turn ``runs`` times."""
    peaks = {}
    for name, way in ways.items():
        way()
        peaks[name] = peak_mb(way, device)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    gc.collect()
    gc.disable()
    try:
        for _ in range(runs):
            for name, way in ways.items():
                seconds[name].append(_seconds(way, device))
    finally:
        gc.enable()
    first = next(iter(seconds.values()))
    return {
        name: Measured(
            1e3 * median(taken),
            1e3 * min(taken),
            peaks[name],
            median(own / other for own, other in zip(taken, first)),
        )
        for name, taken in seconds.items()
    }


def _seconds(way: Callable[[], Any], device: str) -> float:
    if device != "cpu":
        torch.cuda.synchronize()
    started = time.perf_counter()
    result = way()
    if device != "cpu":
        torch.cuda.synchronize()
    taken = time.perf_counter() - started
    del result  # giving memory back is not part of the work
    return taken


def peak_mb(way: Callable[[], Any], device: str) -> float:
    """Memory in MB that a call holds at its peak beyond what was held before, as ``compare``."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        way()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    status = Path("/proc/self/status")
    if not status.exists():
        return float("nan")
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # what was freed goes back, so that it counts again
    Path("/proc/self/clear_refs").write_text("5")  # starts the peak anew
    before = _status_kb(status, "VmRSS")
    way()
    return max(0.0, (_status_kb(status, "VmHWM") - before) / 1e3)


def tensor_peak_mb(way: Callable[[], Any]) -> float:
    """Memory in MB of the tensors on the CPU that a call holds at its peak beyond those before.

    Counted from PyTorch's allocations, so the same in every run and every order of measuring; what
    other libraries and PyTorch's convolutions take for themselves is not in it.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        way()
    assert profiler.profiler is not None
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak / 1e6


def _status_kb(status: Path, field: str) -> float:
    for line in status.read_text().splitlines():
        if line.startswith(field + ":"):
            return float(line.split()[1])
    return float("nan")
