"""Worker processes that do not outlive the process that started them."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>: the signal to get when the parent ends
WATCH_EVERY_S = 0.5


def end_with_parent(parent: int) -> None:
    """End this process, without a word, as soon as its parent is gone, however the parent ended.

    Call it once, early in a worker. On Linux the kernel does it; elsewhere a thread looks for a new
    parent every WATCH_EVERY_S.

    Args:
        parent: process id of the parent, as the parent sees it.
    """
    # Linux counts the death of the THREAD that started the worker as the parent's death. The thread
    # that makes a town starts its workers itself and waits for them, so here both are the same.
    if not _end_by_kernel():
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    # The parent may have died before this call: then no signal comes.
    if os.getppid() != parent:
        os._exit(1)


def _end_by_kernel() -> bool:
    """Ask the kernel to kill this process after its parent; False where it cannot."""
    if sys.platform != "linux":
        return False
    try:
        prctl = ctypes.CDLL(None).prctl
    except (OSError, AttributeError):  # a C library without it
        return False
    arguments = (ctypes.c_ulong(n) for n in (signal.SIGKILL, 0, 0, 0))
    return int(prctl(PR_SET_PDEATHSIG, *arguments)) == 0


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(WATCH_EVERY_S)
    os._exit(1)  # not sys.exit, which would end this thread only
