"""A progress line with an estimate of the time left."""

from __future__ import annotations

import sys
import time
from typing import TextIO


class Progress:
    """Rewrites one line on a terminal; elsewhere (logs, CI) prints a line now and then.

    Args:
        total: units of work.
        title: shown first.
        done: units finished earlier (a resumed run); they do not count for the speed.
        quiet: print nothing.
    """

    def __init__(
        self,
        total: int,
        title: str,
        *,
        done: int = 0,
        quiet: bool = False,
        stream: TextIO | None = None,
    ) -> None:
        self.total, self.title, self.done = total, title, done
        self._first = done
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()
        self._quiet = quiet
        self._start = self._shown = time.monotonic()
        self._paused = 0.0
        self._width = 0

    @property
    def due(self) -> bool:
        """Whether enough time has passed to show something (ask before making costly text)."""
        return not self._quiet and time.monotonic() - self._shown >= (0.2 if self._live else 15.0)

    @property
    def begun(self) -> bool:
        """Whether any unit was counted."""
        return self.done > self._first

    def advance(self, units: int = 1) -> None:
        """Count finished units."""
        self.done += units

    def pause(self, seconds: float) -> None:
        """Time spent on something else, to be left out of the estimate."""
        self._paused += seconds

    def show(self, text: str = "") -> None:
        """Show the state now."""
        if self._quiet:
            return
        self._shown = time.monotonic()
        worked = max(1e-9, self._shown - self._start - self._paused)
        each = worked / max(1, self.done - self._first)
        left = "?" if self.done == self._first else clock(each * (self.total - self.done))
        line = f"{self.title} {self.done}/{self.total}  {text}  {_speed(each)}  ETA {left}"
        if self._live:
            self._stream.write("\r" + line.ljust(self._width))
            self._width = len(line)
        else:
            self._stream.write(line + "\n")
        self._stream.flush()

    def say(self, text: str) -> None:
        """Print a line that stays, above the live one."""
        if not self._quiet:
            self._stream.write(
                ("\r" + " " * self._width + "\r" if self._live else "") + text + "\n"
            )
            self._stream.flush()

    def close(self, text: str = "") -> None:
        """Show the last state and end the line."""
        self.show(text)
        if self._live and not self._quiet:
            self._stream.write("\n")


def clock(seconds: float) -> str:
    """h:mm:ss."""
    whole = int(seconds + 0.5)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def _speed(each: float) -> str:
    return f"{each:.2f} s each" if each >= 1 else f"{1 / each:.1f}/s"
