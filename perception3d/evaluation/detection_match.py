"""Matching of predictions with ground truth: greedy by score, nearest free box first.

The definition is `match_one_by_one`, which reads like the rule. `match` gives the same, but takes
the predictions of all samples and classes in rounds: samples and classes do not touch each other,
so round k handles the k-th best prediction of every one of them at once, in NumPy. Only pairs
closer than the largest threshold take part.

Rule: nuscenes-devkit 1.2.0, `eval/detection/algo.py`. Descending score; of equal scores the one
that is listed later; the nearest free box of the class in the sample by horizontal distance between
centres, the first listed on exact ties; a match if that distance is below the threshold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from perception3d.evaluation.detection_boxes import Array, BoxColumns

_PAIRS_AT_ONCE = 1 << 20
_MARGIN = 1.0 + 1e-9  # squares are compared first, roughly; roots decide


@dataclass(frozen=True)
class Matches:
    """Who matched whom.

    Attributes:
        order: (P,) predictions as they are considered, best first, all classes together.
        truth: (T, P) int32 ground-truth row that each prediction matches at each threshold, -1 =
            none.
    """

    order: Array
    truth: Array


def descending_order(score: Array) -> Array:
    """Row numbers by descending score; of equal scores the later row first."""
    return np.argsort(score, kind="stable")[::-1]


def match(
    predicted: BoxColumns,
    score: Array,
    truth: BoxColumns,
    thresholds_m: Sequence[float],
    num_classes: int,
) -> Matches:
    """Matches P predictions with G boxes, class by class and sample by sample.

    Args:
        predicted: P boxes; sample -1 matches nothing.
        score: (P,).
        truth: G boxes, sorted by sample.
        thresholds_m: T distances.
        num_classes: labels lie below.
    """
    order = descending_order(score)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    matched = np.full((len(thresholds_m), len(score)), -1, np.int32)
    pred, box, distance_m = _near_pairs(predicted, truth, max(thresholds_m), num_classes)
    if len(pred) == 0:
        return Matches(order, matched)
    first = np.flatnonzero(np.diff(pred, prepend=-1))  # pairs of one prediction stand together
    turn, place = _turns(pred[first], rank, predicted, num_classes)
    sizes = np.diff(first, append=len(pred))
    pairs = np.lexsort((distance_m, np.repeat(place, sizes)))  # stable: boxes stay in their order
    pred, box, distance_m = pred[pairs], box[pairs], distance_m[pairs]
    turn = np.repeat(turn, sizes)[pairs]
    ends = np.searchsorted(turn, np.arange(turn[-1] + 2))
    for threshold, found in zip(thresholds_m, matched):
        free = np.ones(len(truth), bool)
        close = distance_m < threshold
        for begin, end in zip(ends[:-1].tolist(), ends[1:].tolist()):
            able = np.flatnonzero(close[begin:end] & free[box[begin:end]])
            if len(able) == 0:
                continue
            able += begin
            who = pred[able]
            first = np.ones(len(able), bool)
            np.not_equal(who[1:], who[:-1], out=first[1:])
            taken = box[able[first]]
            free[taken] = False
            found[who[first]] = taken
    return Matches(order, matched)


def _turns(
    pred: Array, rank: Array, predicted: BoxColumns, num_classes: int
) -> tuple[Array, Array]:
    """Round of each prediction: how many better ones of its sample and class there are, and its
    place among all when they are sorted by round."""
    group = predicted.sample[pred].astype(np.int64) * num_classes + predicted.label[pred]
    order = np.lexsort((rank[pred], group))
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    sizes = np.diff(starts, append=len(order))
    turn = np.empty(len(pred), np.int64)
    turn[order] = np.arange(len(order)) - np.repeat(starts, sizes)
    place = np.empty(len(pred), np.int64)
    place[np.argsort(turn, kind="stable")] = np.arange(len(pred))
    return turn, place


def _near_pairs(
    predicted: BoxColumns, truth: BoxColumns, reach_m: float, num_classes: int
) -> tuple[Array, Array, Array]:
    """(prediction, box, distance in m) of all pairs of one sample and class closer than reach_m."""
    key = truth.sample.astype(np.int64) * num_classes + truth.label
    by_group = np.argsort(key, kind="stable")
    key = key[by_group]
    x, y = truth.center_m[by_group, 0], truth.center_m[by_group, 1]
    asked = predicted.sample.astype(np.int64) * num_classes + predicted.label
    asked[predicted.sample < 0] = -1
    largest = int(max(key.max(initial=-1), asked.max(initial=-1))) + 1
    size_of = np.bincount(key, minlength=largest)
    start_of = np.cumsum(size_of) - size_of
    having = np.flatnonzero(np.where(asked >= 0, size_of[asked], 0) > 0)
    count = size_of[asked[having]]
    total = np.cumsum(count)
    out: list[tuple[Array, Array, Array]] = []
    begin = 0
    while begin < len(having):
        passed = int(total[begin - 1]) if begin else 0
        end = max(begin + 1, int(np.searchsorted(total, passed + _PAIRS_AT_ONCE)))
        rows, n = having[begin:end], count[begin:end]
        pred = np.repeat(rows, n)
        first = start_of[asked[rows]] - (np.cumsum(n) - n)
        box = np.repeat(first, n) + np.arange(len(pred))
        dx = np.repeat(predicted.center_m[rows, 0], n) - x[box]
        dy = np.repeat(predicted.center_m[rows, 1], n) - y[box]
        # Products and sum one by one: a fused multiply-add would change the last digit.
        square = dx * dx + dy * dy
        near = np.flatnonzero(square <= reach_m * reach_m * _MARGIN)
        distance_m = np.sqrt(square[near])
        near, distance_m = near[distance_m < reach_m], distance_m[distance_m < reach_m]
        out.append((pred[near], by_group[box[near]], distance_m))
        begin = end
    if not out:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
    pred, box, distance_m = (np.concatenate(parts) for parts in zip(*out))
    return pred, box, distance_m


def match_one_by_one(
    predicted: BoxColumns, score: Array, truth: BoxColumns, threshold_m: float
) -> Array:
    """(P,) what `match` gives at one threshold, one prediction after the other: its definition."""
    found = np.full(len(score), -1, np.int32)
    free = np.ones(len(truth), bool)
    for row in descending_order(score):
        mine = (truth.sample == predicted.sample[row]) & (truth.label == predicted.label[row])
        able = np.flatnonzero(mine & free)
        if len(able) == 0:
            continue
        offset = predicted.center_m[row, :2] - truth.center_m[able, :2]
        distance_m = np.sqrt(offset[:, 0] * offset[:, 0] + offset[:, 1] * offset[:, 1])
        nearest = int(np.argmin(distance_m))
        if distance_m[nearest] < threshold_m:
            found[row] = able[nearest]
            free[able[nearest]] = False
    return found
