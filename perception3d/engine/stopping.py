"""Stopping a run on Ctrl-C or SIGTERM between two updates, where it can be continued."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(Exception):
    """The run was asked to stop, and everything worth keeping is saved."""


class StopRequest:
    """Turns the first SIGINT or SIGTERM into a wish; the second SIGINT stops at once.

    Use as a context manager. Outside the main thread signals are left alone.

    Args:
        quiet: do not tell the user (one process of a machine is enough).
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self.wanted = False
        self.resumable = True
        """Set while nothing would be lost by stopping in the middle (start-up, evaluation)."""
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.getsignal(number) for number in _SIGNALS}
        self.listen()
        return self

    def listen(self) -> None:
        """Take the signals, also from somebody who took them meanwhile."""
        for number in self._before:
            signal.signal(number, self._receive)

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
        if not self.quiet:
            print("\nstopping after this step (once more: at once, back to the last checkpoint)")
