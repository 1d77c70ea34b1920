"""The frames in which predictions are worst, to look at in the viewer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from perception3d.evaluation.detection import DetectionResult
from perception3d.evaluation.detection_boxes import Array
from perception3d.evaluation.detection_curves import DetectionCurve
from perception3d.evaluation.detection_truth import DetectionTruth


@dataclass(frozen=True)
class FrameErrors:
    """Mistakes in one sample at the working point.

    Attributes:
        token: of the sample.
        missed: annotated boxes without a prediction.
        false: predictions without a box.
        num_boxes: annotated boxes.
    """

    token: str
    missed: int
    false: int
    num_boxes: int


def working_point(curve: DetectionCurve) -> float:
    """The score at which precision and recall of a class have their best harmonic mean.

    Infinity where nothing is found, so that nothing counts as predicted.
    """
    total = curve.precision + curve.recall
    both = np.divide(
        2 * curve.precision * curve.recall, total, out=np.zeros_like(total), where=total > 0
    )
    best = int(np.argmax(both))
    return float(curve.confidence[best]) if both[best] > 0 else float("inf")


def worst_frames(result: DetectionResult, truth: DetectionTruth, number: int) -> list[FrameErrors]:
    """Samples with most missed boxes and false predictions, worst first.

    Predictions count from the working point of their class on; matches are those below the
    threshold at which errors are taken (2 m).

    Args:
        result: of `evaluate_part`.
        truth: of the same split.
        number: how many samples.
    """
    matched, config = result.matched, result.matched.config
    t = config.thresholds_m.index(config.tp_threshold_m)
    least = np.array(
        [working_point(result.curves[name, config.tp_threshold_m]) for name in config.classes]
    )
    shown = matched.score >= least[matched.predicted.label]
    found = matched.matches.truth[t]
    hit = np.zeros(len(matched.truth), bool)
    hit[found[shown & (found >= 0)]] = True
    size = len(truth.tokens)
    boxes = _count(matched.truth.sample, size)
    missed = _count(matched.truth.sample[~hit], size)
    false = _count(matched.listed[shown & (found < 0)], size)
    order = np.argsort(-(missed + false), kind="stable")[:number]
    return [
        FrameErrors(truth.tokens[s], int(missed[s]), int(false[s]), int(boxes[s])) for s in order
    ]


def _count(sample: Array, size: int) -> Array:
    return np.bincount(sample, minlength=size)
