"""CMT on one real key frame finds its boxes again: no axis is mirrored, no pose is wrong."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_overfitting_a_real_frame_recovers_its_boxes(realdata: Path, tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("overfit", ROOT / "tools" / "overfit.py")
    assert spec is not None and spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = tool  # where dataclasses look for their module
    spec.loader.exec_module(tool)
    result = tool.overfit(realdata / "nuscenes_frame" / "frame.json", steps=150, out=tmp_path)
    assert result.total >= 20
    assert result.found >= 0.9 * result.total, str(result)
    assert result.yaw_error_rad < 0.3, str(result)
    assert (tmp_path / "cameras.png").is_file()
