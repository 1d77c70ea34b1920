"""A lock file that names its holder, and is taken over when the holder is gone."""

from __future__ import annotations

import fcntl
import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class InUseError(RuntimeError):
    """Another process works in the folder."""


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock ``path`` while inside.

    Raises:
        InUseError: another living process holds it, or one on another machine; the text names
            it and says what to do.
    """
    _take(path)
    try:
        yield
    finally:
        if _holder(path) == _me():
            path.unlink(missing_ok=True)


def _take(path: Path) -> None:
    # The guard makes "look, then replace" one action among processes of this machine.
    guard = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(guard, fcntl.LOCK_EX)
        holder = _holder(path)
        if holder is not None and holder != _me() and _alive(holder):
            raise InUseError(
                f"{path.parent} is in use by process {holder['pid']} on {holder['host']}. Wait for"
                " it, or start under another name (--run NAME); if that process is certainly gone,"
                f" delete {path}"
            )
        if holder is not None and holder != _me():
            print(f"{path.parent}: process {holder['pid']} that held it is gone; taking over")
            path.unlink(missing_ok=True)
        with path.open("w") as file:
            json.dump(_me(), file)
    finally:
        os.close(guard)


def _me() -> dict[str, object]:
    return {"pid": os.getpid(), "host": platform.node(), "started": _started(os.getpid())}


def _holder(path: Path) -> dict[str, object] | None:
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError:
        found = None
    if isinstance(found, dict) and {"pid", "host"} <= found.keys():
        return found
    # Cut short by a kill between creation and writing: nobody holds it.
    return {"pid": -1, "host": platform.node(), "started": ""}


def _alive(holder: dict[str, object]) -> bool:
    if holder["host"] != platform.node():
        return True  # cannot be known from here
    pid = int(str(holder["pid"]))
    started = _started(pid)
    # The start time tells a later process apart that happens to have the same number.
    return started is not None and holder.get("started") in (started, None)


def _started(pid: int) -> str | None:
    """When a process started, in the system's own unit; None when there is no such process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]
    except (OSError, IndexError):
        pass
    if Path("/proc/self/stat").exists():
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return ""
    return ""
