"""The one way in which the town's kernels are compiled."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

from numba import config as numba_config
from numba import njit

F = TypeVar("F", bound=Callable[..., Any])


def kernel(function: F) -> F:
    """Compile with numba: cached on disk, and without fast mathematics, so that results repeat bit
    for bit.
    """
    return _compiled(function, pasted=False)


def inline(function: F) -> F:
    """As `kernel`, and always pasted into its callers: for functions inside the ray and pixel loops
    that take arrays, whose passing costs more than their work.
    """
    return _compiled(function, pasted=True)


def typed(signature: str) -> Callable[[F], F]:
    """As `kernel`, for one signature only and compiled at import: for functions that are called
    with many different constants, for each of which numba would compile them anew.
    """

    def compiled(function: F) -> F:
        return _compiled(function, signature, pasted=False)

    return compiled


def _compiled(function: F, signature: str | None = None, *, pasted: bool) -> F:
    # Numba renews a cached kernel when the kernel's own file changes, but not when a kernel that it
    # calls does. So the cache lives in a folder named after the sources of all kernels.
    config: Any = numba_config
    before = config.CACHE_DIR
    config.CACHE_DIR = str(_cache_folder(before))
    try:
        compiled = njit(
            signature,
            cache=True,
            fastmath=False,
            error_model="numpy",
            nogil=True,
            forceinline=pasted,
        )(function)
    finally:
        config.CACHE_DIR = before
    return cast(F, compiled)


@functools.cache
def _cache_folder(wanted: str) -> Path:
    """Folder for compiled kernels: below `wanted` (NUMBA_CACHE_DIR) or else beside the sources."""
    here = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(here.glob("*.py")):
        source = path.read_bytes()
        if any(b"\n@" + word in source for word in (b"kernel", b"inline", b"typed")):
            digest.update(source)
    base = Path(wanted) if wanted else here / "__pycache__"
    return base / f"kernels-{digest.hexdigest()[:12]}"
