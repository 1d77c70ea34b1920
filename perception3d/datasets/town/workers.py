"""Worker processes that end when they are asked to, and do not outlive who started them."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>: the signal to get when the parent ends
WATCH_EVERY_S = 0.5

Item = TypeVar("Item")


@contextmanager
def worker_pool(processes: int) -> Iterator[ProcessPoolExecutor]:
    """Workers that are asked to stop, and waited for, when something is raised inside.

    Only the parent answers Ctrl-C. Jobs are handed out under :func:`interrupts_held`.
    """
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
    stop = context.Event()
    with ProcessPoolExecutor(
        processes, mp_context=context, initializer=_start_worker, initargs=(stop, os.getpid())
    ) as pool:
        try:
            yield pool
        except BaseException:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Workers start here, and are born deaf to Ctrl-C: it comes to the parent, after the block."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def interruptible(items: Iterator[Item]) -> Iterator[Item]:
    """The same items, until the parent asks this worker to stop.

    Raises:
        InterruptedError: it did.
    """
    for item in items:
        if _stop is not None and _stop.is_set():
            raise InterruptedError("the town's making was stopped")
        yield item


def progress_report(total: int, report: Callable[[str], None]) -> Callable[[int, str], None]:
    """Takes how many of ``total`` are done and which was last; says how long the rest will take."""
    begin = time.monotonic()

    def done_one(done: int, name: str) -> None:
        spent = time.monotonic() - begin
        left = spent / done * (total - done)
        report(f"{name} done ({done} of {total}), {spent:.0f} s, about {left:.0f} s left")

    return done_one


_stop: Any = None


def _start_worker(stop: Any, parent: int) -> None:
    """A parent that is killed can ask nothing: then the workers end with it, or they would write on
    beside the next run.
    """
    global _stop
    end_with_parent(parent)
    _stop = stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)


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
