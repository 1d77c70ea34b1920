"""Packages to compare with, where they are installed."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch


@lru_cache(maxsize=1)
def _spconv() -> Any:
    from perception3d.nn.sparse_spconv import allow_cpu_backward, load_spconv

    try:
        spconv = load_spconv()
    except ImportError:
        return None
    allow_cpu_backward()
    return spconv


def spconv_or_none(device: torch.device | str = "cpu") -> Any:
    """``spconv.pytorch``, its CPU backward pass made to run; None where it is missing.

    On the CPU it is right on one thread alone (see ``races``), which ``load_spconv`` sees to.
    """
    if (found := _spconv()) is None:
        return None
    import spconv.constants

    if torch.device(device).type == "cuda" and spconv.constants.CPU_ONLY_BUILD:
        return None
    return found


def mmcv_ops() -> Any:
    """``mmcv.ops`` with its compiled kernels; None where they are missing."""
    try:
        import mmcv.ops
    except ImportError:
        return None
    return mmcv.ops
