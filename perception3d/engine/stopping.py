"""Stopping a run on Ctrl-C or SIGTERM between two updates, where it can be continued."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist


class Interrupted(Exception):
    """The run was asked to stop and has saved its state."""


class StopRequest:
    """Turns the first SIGINT or SIGTERM into a wish; the second SIGINT stops at once.

    Use as a context manager. Outside the main thread signals are left alone.
    """

    def __init__(self) -> None:
        self.wanted = False
        self.resumable = False
        """Set while nothing would be lost by stopping in the middle (during an evaluation)."""
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def agreed(self, device: torch.device) -> bool:
        """Whether any process of the run wants to stop; all processes must ask together."""
        if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return self.wanted
        flag = torch.tensor(int(self.wanted), device=device)
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        return bool(flag)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.resumable:
            raise Interrupted
        if self.wanted and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.wanted = True
        print("\nstopping after this step (once more: at once, back to the last checkpoint)")
