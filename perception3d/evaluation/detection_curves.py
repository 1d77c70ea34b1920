"""Curves over recall and the scores made of them: AP, errors of true positives, NDS.

Rules: nuscenes-devkit 1.2.0, `eval/detection/algo.py` and `data_classes.py`. Sums, means and
interpolations are taken by the same NumPy functions over the same slices, so that every figure is
equal to the last digit in the same environment.

Quirks that are kept: the reached recall is the last bin whose score is not 0, so scores of exactly
0 force all errors to 1; errors are looked up through the score, so equal scores share one; a class
without boxes, or without any match, has precision 0 and errors 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from perception3d.evaluation.detection_boxes import Array
from perception3d.evaluation.detection_config import (
    NUM_RECALLS,
    TP_ERRORS,
    UNDEFINED_ERRORS,
    DetectionConfig,
)

CURVES = ("recall", "precision", "confidence", "trans_err", "vel_err", "scale_err", "orient_err",
          "attr_err")  # fmt: skip
"""In the order of metrics_details.json."""


@dataclass(frozen=True)
class DetectionCurve:
    """Curves of one class at one threshold, each (101,) over recall 0, 0.01 .. 1.

    Attributes:
        precision: 0 beyond the reached recall.
        confidence: score at which a recall is reached; 0 beyond.
        errors: (5, 101) running means of the errors, in the order of `TP_ERRORS`.
    """

    precision: Array
    confidence: Array
    errors: Array

    @staticmethod
    def without_matches() -> DetectionCurve:
        """Of a class in which nothing is found."""
        return DetectionCurve(
            np.zeros(NUM_RECALLS), np.zeros(NUM_RECALLS), np.ones((len(TP_ERRORS), NUM_RECALLS))
        )

    @property
    def recall(self) -> Array:
        """0, 0.01 .. 1."""
        return np.linspace(0, 1, NUM_RECALLS)

    @property
    def last_bin(self) -> int:
        """Bin of the largest recall that is reached; 0 if none."""
        reached = np.nonzero(self.confidence)[0]
        return int(reached[-1]) if len(reached) else 0

    def official(self) -> dict[str, list[float]]:
        """An entry of metrics_details.json."""
        named = {
            "recall": self.recall,
            "precision": self.precision,
            "confidence": self.confidence,
            **dict(zip(TP_ERRORS, self.errors)),
        }
        return {name: named[name].tolist() for name in CURVES}


def curve_of(hit: Array, score: Array, errors: Array, num_boxes: int) -> DetectionCurve:
    """Curves from the predictions of one class, best first.

    Args:
        hit: (P,) bool, matched.
        score: (P,) descending.
        errors: (5, M) of the matched ones, in their order.
        num_boxes: ground-truth boxes of the class.

    Raises:
        ValueError: scores along the curve do not descend: some are negative.
    """
    if num_boxes == 0 or not hit.any():
        return DetectionCurve.without_matches()
    with np.errstate(all="ignore"):
        found = np.cumsum(hit).astype(float)
        false = np.cumsum(~hit).astype(float)
        precision = found / (false + found)
        recall = found / float(num_boxes)
        bins = np.linspace(0, 1, NUM_RECALLS)
        precision = np.interp(bins, recall, precision, right=0)
        confidence = np.interp(bins, recall, score, right=0)
        # np.interp wants rising abscissas, so both sides are reversed.
        known = score[hit][::-1]
        sampled = [
            np.interp(confidence[::-1], known, running_mean(row)[::-1])[::-1] for row in errors
        ]
    if not all(confidence == sorted(confidence, reverse=True)):
        raise ValueError(
            f"scores along a curve do not descend (lowest {score.min():g}): the official code "
            "fails on negative scores; write scores in (0, 1]"
        )
    return DetectionCurve(precision, confidence, np.stack(sampled))


def running_mean(values: Array) -> Array:
    """(M,) mean of the values up to each, NaN left out; leading NaN give 0, NaN alone give ones."""
    unknown = np.isnan(values)
    if unknown.all():
        return np.ones(len(values))
    total = np.nancumsum(values.astype(float))
    count = np.cumsum(~unknown)
    return np.divide(total, count, out=np.zeros_like(total), where=count != 0)


@dataclass(frozen=True)
class DetectionScores:
    """All figures of an evaluation; arrays are in the order of the configuration.

    Attributes:
        label_aps: (C, T) AP of each class at each threshold.
        label_tp_errors: (C, 5); NaN where a class has no such error.
    """

    config: DetectionConfig
    label_aps: Array
    label_tp_errors: Array

    @property
    def mean_dist_aps(self) -> list[float]:
        """(C) mean over the thresholds."""
        return [float(np.mean(list(row))) for row in self.label_aps]

    @property
    def mean_ap(self) -> float:
        """Mean over classes."""
        return float(np.mean(self.mean_dist_aps))

    @property
    def tp_errors(self) -> dict[str, float]:
        """Mean of each error over the classes that have it."""
        columns = self.label_tp_errors.T
        return {name: float(np.nanmean(list(row))) for name, row in zip(TP_ERRORS, columns)}

    @property
    def tp_scores(self) -> dict[str, float]:
        """1 - error, not below 0."""
        return {name: max(0.0, 1.0 - value) for name, value in self.tp_errors.items()}

    @property
    def nds(self) -> float:
        """nuScenes detection score."""
        weight, scores = self.config.mean_ap_weight, self.tp_scores
        total = float(weight * self.mean_ap + np.sum(list(scores.values())))
        return total / float(weight + len(scores))

    def official(self) -> dict[str, Any]:
        """The fields of metrics_summary.json but for eval_time and meta, in their order."""
        classes, thresholds = self.config.classes, self.config.thresholds_m
        return {
            "label_aps": {
                name: {threshold: float(ap) for threshold, ap in zip(thresholds, row)}
                for name, row in zip(classes, self.label_aps)
            },
            "mean_dist_aps": dict(zip(classes, self.mean_dist_aps)),
            "mean_ap": self.mean_ap,
            "label_tp_errors": {
                name: dict(zip(TP_ERRORS, map(float, row)))
                for name, row in zip(classes, self.label_tp_errors)
            },
            "tp_errors": self.tp_errors,
            "tp_scores": self.tp_scores,
            "nd_score": self.nds,
        }


def scores_of(curves: dict[tuple[str, float], DetectionCurve], config: DetectionConfig) -> (
    DetectionScores
):  # fmt: skip
    """Scores from the curves of every class and threshold."""
    classes, thresholds = config.classes, config.thresholds_m
    aps = [[_average_precision(curves[c, t], config) for t in thresholds] for c in classes]
    errors = [
        [
            math.nan
            if error in UNDEFINED_ERRORS.get(name, ())
            else _mean_error(curves[name, config.tp_threshold_m], row, config)
            for row, error in enumerate(TP_ERRORS)
        ]
        for name in classes
    ]
    return DetectionScores(config, np.array(aps), np.array(errors))


def _average_precision(curve: DetectionCurve, config: DetectionConfig) -> float:
    above = curve.precision[_first_bin(config) :] - config.min_precision
    above[above < 0] = 0
    return float(np.mean(above)) / (1.0 - config.min_precision)


def _mean_error(curve: DetectionCurve, row: int, config: DetectionConfig) -> float:
    first, last = _first_bin(config), curve.last_bin
    return 1.0 if last < first else float(np.mean(curve.errors[row][first : last + 1]))


def _first_bin(config: DetectionConfig) -> int:
    return round(100 * config.min_recall) + 1
