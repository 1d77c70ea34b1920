"""Metrics equal to the official evaluators, leaderboard files and their validation.

Names are imported when they are first used: scoring a file needs no PyTorch, which takes longer to
import than a small file to score.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perception3d.evaluation.findings import Finding, Report
    from perception3d.evaluation.metrics import DetectionMetrics
    from perception3d.evaluation.nuscenes import NuScenesEvaluator
    from perception3d.evaluation.results import predictions_from_submission
    from perception3d.evaluation.rules import Modalities, attribute_by_speed
    from perception3d.evaluation.submission import SubmissionWriter, official_boxes
    from perception3d.evaluation.validator import validate_submission

__all__ = [
    "DetectionMetrics",
    "Finding",
    "Modalities",
    "NuScenesEvaluator",
    "Report",
    "SubmissionWriter",
    "attribute_by_speed",
    "official_boxes",
    "predictions_from_submission",
    "validate_submission",
]

_HOMES = {
    "DetectionMetrics": "metrics",
    "Finding": "findings",
    "Modalities": "rules",
    "NuScenesEvaluator": "nuscenes",
    "Report": "findings",
    "SubmissionWriter": "submission",
    "attribute_by_speed": "rules",
    "official_boxes": "submission",
    "predictions_from_submission": "results",
    "validate_submission": "validator",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
