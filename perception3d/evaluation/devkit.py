"""The devkit itself (nuscenes-devkit, unmodified) on a results file: slow, and the reference.

`NuScenesEvaluator` gives the same figures without it; tests compare the two to the last digit.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import tempfile
import warnings
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from perception3d.evaluation.metrics import DetectionMetrics

_CONFIGURATION = "detection_cvpr_2019"
_INSTALL = "pip install 'nuscenes-devkit==1.2.0'"


def require_devkit() -> None:
    """Nothing, if it is installed.

    Raises:
        ModuleNotFoundError: it is not; the text says how to install it.
    """
    if importlib.util.find_spec("nuscenes") is None:
        raise ModuleNotFoundError(
            "the official evaluator needs nuscenes-devkit, which is not installed; run: " + _INSTALL
        )


def devkit_metrics(path: str | Path, root: str | Path, version: str, split: str) -> (
    DetectionMetrics
):  # fmt: skip
    """What the official code computes for a results file, with the leaderboard's configuration.

    Args:
        path: results JSON.
        root, version, split: ground truth.

    Raises:
        ModuleNotFoundError: the devkit is not installed.
        ValueError: the official code refuses the file or the split.
    """
    require_devkit()
    root = Path(root)
    with quiet():
        tables = _load_tables(root, version, table_stamp(root / version))
        from nuscenes.eval.common.config import config_factory
        from nuscenes.eval.detection.evaluate import DetectionEval

        config = config_factory(_CONFIGURATION)
        with tempfile.TemporaryDirectory() as scratch:
            try:
                official = DetectionEval(tables, config, str(path), split, scratch, False)
                metrics, _ = official.evaluate()
                content = metrics.serialize()
            except Exception as error:  # the devkit raises bare assertions, KeyError, Exception
                raise ValueError(
                    f"the official evaluator refused {path} on split {split}: "
                    f"{type(error).__name__}: {error}; validate_submission names every fault "
                    "of the file (a split without annotated boxes is refused, too)"
                ) from error
    return DetectionMetrics.of_official(
        content, split=split, version=version, num_samples=len(official.sample_tokens)
    )


def table_stamp(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Names, times and sizes of the tables: what is loaded once is loaded anew when they change."""
    files = sorted(folder.glob("*.json"))
    return tuple((file.name, file.stat().st_mtime_ns, file.stat().st_size) for file in files)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The devkit prints, draws progress bars and warns; none of it is for our callers."""
    sink = io.StringIO()
    with (
        contextlib.redirect_stdout(sink),
        contextlib.redirect_stderr(sink),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield


@lru_cache(maxsize=1)
def _load_tables(root: Path, version: str, stamp: tuple[Any, ...]) -> Any:
    """The devkit's data set object."""
    from nuscenes import NuScenes

    return NuScenes(version=version, dataroot=str(root), verbose=False)
