"""Metrics by the official evaluators, leaderboard files and their validation."""

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
