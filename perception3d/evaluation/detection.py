"""Scores a results file of nuScenes detection, exactly as the official code does but fast.

    truth = load_truth("data/nuscenes", "v1.0-trainval", "val")
    result = evaluate_part(read_results("results.json", truth), truth)
    print(result.scores.nds)

Every curve and figure is equal to nuscenes-devkit 1.2.0 with detection_cvpr_2019, to the last digit
in the same environment. What differs on purpose: missing samples are named; samples of another
split are refused (the devkit passes over them in splits of splits.json); a file without any box
scores 0 (the devkit fails on it).
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from perception3d.evaluation.detection_boxes import Array, BoxColumns
from perception3d.evaluation.detection_config import OFFICIAL, DetectionConfig
from perception3d.evaluation.detection_curves import (
    DetectionCurve,
    DetectionScores,
    curve_of,
    scores_of,
)
from perception3d.evaluation.detection_errors import PairErrors
from perception3d.evaluation.detection_filter import BikeRacks, FilterCounts, counted_boxes
from perception3d.evaluation.detection_match import Matches, match
from perception3d.evaluation.detection_part import DetectionPart
from perception3d.evaluation.detection_truth import DetectionTruth
from perception3d.evaluation.metrics import write_text

_FAR_M = 150.0


@dataclass(frozen=True)
class MatchedBoxes:
    """Everything that scores are made of: P predictions, G boxes, T thresholds.

    Attributes:
        predicted, score, listed: predictions that count, in official order; the sample of each.
        truth: ground truth that counts; truth_rows: (G,) its rows in `DetectionTruth.boxes`.
        matches: who matched whom.
        errors: of pairs.
    """

    config: DetectionConfig
    predicted: BoxColumns
    score: Array
    listed: Array
    truth: BoxColumns
    truth_rows: Array
    matches: Matches
    errors: PairErrors

    def curves(
        self,
        rows: Array | None = None,
        boxes: Array | None = None,
        times: Array | None = None,
    ) -> dict[tuple[str, float], DetectionCurve]:
        """Curves of every class and threshold.

        Args:
            rows: (T, P) bool, predictions that count at each threshold; all by default.
            boxes: (G,) bool, ground truth that counts; all by default.
            times: (S,) how often each sample counts; once by default.
        """
        config, order = self.config, self.matches.order
        label = self.predicted.label[order]
        number = self.class_counts(boxes, times).tolist()
        out = {}
        for index, name in enumerate(config.classes):
            mine = order[label == index]
            if times is not None:
                mine = np.repeat(mine, times[self.listed[mine]])
            for t, threshold in enumerate(config.thresholds_m):
                counted = mine if rows is None else mine[rows[t][mine]]
                out[name, threshold] = self._curve(counted, t, number[index])
        return out

    def class_counts(self, boxes: Array | None = None, times: Array | None = None) -> Array:
        """(C,) ground-truth boxes of each class; arguments as in `curves`."""
        label, sample = self.truth.label, self.truth.sample
        if boxes is not None:
            label, sample = label[boxes], sample[boxes]
        if times is not None:
            label = np.repeat(label, times[sample])
        return np.bincount(label, minlength=len(self.config.classes))

    def _curve(self, rows: Array, threshold: int, num_boxes: int) -> DetectionCurve:
        box = self.matches.truth[threshold][rows]
        hit = box >= 0
        errors = self.errors.of(rows[hit], box[hit])
        return curve_of(hit, self.score[rows], errors, num_boxes)


@dataclass(frozen=True)
class DetectionResult:
    """An evaluation.

    Attributes:
        scores: the figures.
        curves: by class and threshold.
        matched: what they are made of.
        part: the predictions.
        truth_counts: ground-truth boxes left after each filter.
        notes: what looks wrong though it is allowed.
        seconds: time of the evaluation without reading.
    """

    scores: DetectionScores
    curves: dict[tuple[str, float], DetectionCurve]
    matched: MatchedBoxes
    part: DetectionPart
    truth_counts: FilterCounts
    notes: tuple[str, ...]
    seconds: float

    def summary(self) -> dict[str, Any]:
        """The content of metrics_summary.json; NaN are not strict JSON, there as here."""
        return {
            **self.scores.official(),
            "eval_time": self.seconds,
            "cfg": self.scores.config.official(),
            "meta": self.part.meta,
        }

    def details(self) -> dict[str, dict[str, list[float]]]:
        """The content of metrics_details.json."""
        return {f"{name}:{at}": curve.official() for (name, at), curve in self.curves.items()}

    def save_official(self, folder: str | Path) -> None:
        """Writes metrics_summary.json and metrics_details.json, as the devkit's `main` does.

        Raises:
            OSError: they cannot be written.
        """
        write_text(Path(folder) / "metrics_summary.json", json.dumps(self.summary(), indent=2))
        write_text(Path(folder) / "metrics_details.json", json.dumps(self.details(), indent=2))


def evaluate_part(
    part: DetectionPart, truth: DetectionTruth, *, config: DetectionConfig = OFFICIAL
) -> DetectionResult:
    """Matches and scores the predictions of a whole split.

    Args:
        part: of `read_results` or `merge_parts`.
        truth: of the same split.
        config: the official values.

    Raises:
        ValueError: samples of the split are missing, the split has no annotated box, or the
            official code fails on the values (negative scores, matched sizes <= 0).
    """
    started = time.perf_counter()
    matched, truth_counts = match_part(part, truth, config=config)
    curves = matched.curves()
    return DetectionResult(
        scores=scores_of(curves, config),
        curves=curves,
        matched=matched,
        part=part,
        truth_counts=truth_counts,
        notes=_notes(part, truth),
        seconds=time.perf_counter() - started,
    )


def match_part(
    part: DetectionPart, truth: DetectionTruth, *, config: DetectionConfig = OFFICIAL
) -> tuple[MatchedBoxes, FilterCounts]:
    """Predictions and ground truth that count, matched; as `evaluate_part`."""
    _check_complete(part, truth)
    part = part.in_order(by_table=not truth.samples.official)
    rows, truth_counts = counted_boxes(
        truth.boxes.center_m, truth.boxes.label, truth.boxes.sample, truth.num_points,
        truth.ego_m, BikeRacks(truth.racks), config,
    )  # fmt: skip
    boxes = truth.boxes.select(rows)
    matches = match(part.boxes, part.score, boxes, config.thresholds_m, len(config.classes))
    broken = np.flatnonzero(part.unreadable & (matches.truth >= 0).any(axis=0))
    if len(broken):
        token = truth.tokens[part.listed[broken[0]]]
        raise ValueError(
            f"sample {token!r}, box {part.place[broken[0]]}: its velocity does not hold 2 numbers"
        )
    errors = PairErrors(part.boxes, boxes, matches, config)
    return (
        MatchedBoxes(config, part.boxes, part.score, part.listed, boxes, rows, matches, errors),
        truth_counts,
    )


def _check_complete(part: DetectionPart, truth: DetectionTruth) -> None:
    split = truth.samples.split
    if part.split_digest != truth.samples.digest:
        raise ValueError(
            f"the predictions are of a split of {part.num_samples} samples, not of {split} with "
            f"its {len(truth.tokens)}; give the truth of the same split"
        )
    missing = np.setdiff1d(np.arange(len(truth.tokens)), part.samples)
    if len(missing):
        raise ValueError(
            f"the predictions lack {len(missing)} samples (split {split}: {len(truth.tokens)}), "
            f"first {truth.tokens[missing[0]]!r}; a sample without boxes is listed with []"
        )
    if len(truth.boxes) == 0:
        raise ValueError(
            f"split {split} has no annotated box of the evaluated classes; the official code "
            "refuses it, choose another split"
        )


def _notes(part: DetectionPart, truth: DetectionTruth) -> tuple[str, ...]:
    counts = part.counts
    if counts.listed == 0:
        return ("no box is predicted; the official code fails on such a file",)
    away = float(np.median(np.linalg.norm(truth.ego_m[:, :2], axis=1))) > _FAR_M
    if counts.in_range * 10 < counts.listed and away and part.near_origin * 2 > counts.listed:
        return (
            f"only {counts.in_range:,} of {counts.listed:,} boxes are near their vehicle, and "
            f"{part.near_origin:,} are near the origin: are they in the vehicle's or the sensor's "
            "frame? Boxes must be in the global frame",
        )
    if counts.in_range * 2 < counts.listed:
        return (
            f"only {counts.in_range:,} of {counts.listed:,} boxes are within the range of their "
            "class: are they of these samples, and in the global frame?",
        )
    return ()
