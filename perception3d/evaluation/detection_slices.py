"""The scores by range, visibility, place and time of day.

Matches are those of the whole evaluation. In a slice of the ground truth, predictions that match a
box outside the slice are left out rather than called false; those without a match count where they
are themselves: in their range band, their sample's place; for visibility, which predictions do not
have, in every slice. A slice by place or time is exactly the evaluation of its samples.

The figures are means over the classes that have boxes in the slice; the official means would count
an absent class as AP 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from perception3d.evaluation.detection import DetectionResult
from perception3d.evaluation.detection_boxes import Array
from perception3d.evaluation.detection_config import TP_ERRORS
from perception3d.evaluation.detection_curves import DetectionScores, scores_of
from perception3d.evaluation.detection_filter import ego_distance_m
from perception3d.evaluation.detection_truth import DetectionTruth

RANGE_EDGES_M = (0.0, 10.0, 20.0, 30.0, 40.0, 50.0)
VISIBILITY = {
    1: "visible 0-40 %",
    2: "visible 40-60 %",
    3: "visible 60-80 %",
    4: "visible 80-100 %",
}


@dataclass(frozen=True)
class Slice:
    """One part of the boxes.

    Attributes:
        name: as printed.
        num_boxes: (C,) ground-truth boxes of each class.
        scores: with the official means, absent classes included.
    """

    name: str
    num_boxes: Array
    scores: DetectionScores

    def summary(self) -> dict[str, float]:
        """mAP, NDS and the errors over the classes that are present; NaN where there is none."""
        return present_summary(self.scores, self.num_boxes)


def present_summary(scores: DetectionScores, num_boxes: Array) -> dict[str, float]:
    """mAP, NDS and the five errors over classes with boxes; equal to the official where all have.

    Args:
        scores: of C classes.
        num_boxes: (C,) ground-truth boxes.
    """
    there = num_boxes > 0
    if not there.any():
        return dict.fromkeys(("mAP", "NDS", *TP_ERRORS), float("nan"))
    mean_ap = float(np.mean(np.array(scores.mean_dist_aps)[there]))
    rows = scores.label_tp_errors[there]
    errors = {}
    for name, column in zip(TP_ERRORS, rows.T):
        known = column[~np.isnan(column)]
        errors[name] = float(np.mean(known)) if len(known) else float("nan")
    parts = [max(0.0, 1.0 - value) for value in errors.values() if not np.isnan(value)]
    weight = scores.config.mean_ap_weight
    nds = (weight * mean_ap + sum(parts)) / (weight + len(parts))
    return {"mAP": mean_ap, "NDS": nds, **errors}


def by_range(
    result: DetectionResult, truth: DetectionTruth, edges_m: Sequence[float] = RANGE_EDGES_M
) -> list[Slice]:
    """Bands of horizontal distance from the vehicle, lower edge included.

    Raises:
        ValueError: fewer than two edges, or not ascending.
    """
    if len(edges_m) < 2 or any(a >= b for a, b in zip(edges_m, edges_m[1:])):
        raise ValueError(f"edges must be two or more and ascend, found {list(edges_m)}")
    matched = result.matched
    mine_m = ego_distance_m(matched.predicted.center_m, matched.listed, truth.ego_m)
    true_m = ego_distance_m(matched.truth.center_m, matched.truth.sample, truth.ego_m)
    return [
        _slice(
            result, f"{low:g}-{high:g} m", (true_m >= low) & (true_m < high),
            (mine_m >= low) & (mine_m < high),
        )
        for low, high in zip(edges_m, edges_m[1:])
    ]  # fmt: skip


def by_visibility(result: DetectionResult, truth: DetectionTruth) -> list[Slice]:
    """Levels of visibility of the annotated boxes; those of unknown level are in none."""
    level = truth.visibility[result.matched.truth_rows]
    everywhere = np.ones(len(result.matched.score), bool)
    return [
        _slice(result, name, level == number, everywhere) for number, name in VISIBILITY.items()
    ]


def by_location(result: DetectionResult, truth: DetectionTruth) -> list[Slice]:
    """Places of the logs."""
    return _by_sample(result, [place or "unknown place" for place in truth.location])


def by_time(result: DetectionResult, truth: DetectionTruth) -> list[Slice]:
    """Day and night, as the descriptions of the scenes say."""
    texts = truth.samples.descriptions
    names = ["night" if "night" in texts[s].lower() else "day" for s in truth.samples.scene]
    return _by_sample(result, names)


def _by_sample(result: DetectionResult, names: list[str]) -> list[Slice]:
    of_sample = np.array(names)
    matched = result.matched
    return [
        _slice(
            result,
            name,
            of_sample[matched.truth.sample] == name,
            of_sample[matched.listed] == name,
        )
        for name in sorted(set(names))
    ]


def _slice(result: DetectionResult, name: str, boxes: Array, own: Array) -> Slice:
    matched = result.matched
    found = matched.matches.truth
    inside = np.concatenate([boxes, [False]])[found]  # -1, no match, is the last
    rows = np.where(found >= 0, inside, own)
    curves = matched.curves(rows=rows, boxes=boxes)
    return Slice(name, matched.class_counts(boxes), scores_of(curves, matched.config))
