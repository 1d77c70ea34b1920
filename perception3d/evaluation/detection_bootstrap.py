"""How sure the scores are: scenes drawn anew with replacement, and two files compared in pairs.

Scenes, not samples, are drawn, because the frames of one scene show the same objects. Efron and
Tibshirani, "An Introduction to the Bootstrap", chapters 6 and 13 (percentile intervals).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from perception3d.evaluation.detection import DetectionResult
from perception3d.evaluation.detection_boxes import Array
from perception3d.evaluation.detection_curves import scores_of
from perception3d.evaluation.detection_slices import present_summary
from perception3d.evaluation.detection_truth import DetectionTruth


@dataclass(frozen=True)
class Interval:
    """A figure with its interval.

    Attributes:
        value: of all scenes.
        low, high: between which `confidence` of the draws lie.
        share_above_zero: of the draws; for differences, how often the second file is better (for
            errors: worse).
    """

    value: float
    low: float
    high: float
    share_above_zero: float


def bootstrap(
    result: DetectionResult,
    truth: DetectionTruth,
    *,
    draws: int = 100,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[str, Interval]:
    """Intervals of mAP, NDS and the five errors.

    Args:
        result: of `evaluate_part`.
        truth: of the same split.
        draws: how often scenes are drawn.
        seed: of the draws.
        confidence: share of the draws inside the interval.

    Raises:
        ValueError: fewer than 2 draws or scenes, or a confidence outside (0, 1).
    """
    drawn = [_figures(result, times) for times in _draws(truth, draws, seed, confidence)]
    return _intervals(_figures(result, None), drawn, confidence)


def compare(
    first: DetectionResult,
    second: DetectionResult,
    truth: DetectionTruth,
    *,
    draws: int = 100,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[str, Interval]:
    """Second minus first, on the same drawn scenes: what both find hard cancels out.

    Args and raises: as `bootstrap`.
    """

    def difference(times: Array | None) -> dict[str, float]:
        a, b = _figures(first, times), _figures(second, times)
        return {name: b[name] - a[name] for name in a}

    drawn = [difference(times) for times in _draws(truth, draws, seed, confidence)]
    return _intervals(difference(None), drawn, confidence)


def _draws(truth: DetectionTruth, draws: int, seed: int, confidence: float) -> Iterator[Array]:
    """(S,) how often each sample counts, draw after draw."""
    scenes, scene = np.unique(np.array(truth.samples.scene), return_inverse=True)
    if draws < 2 or not 0 < confidence < 1:
        raise ValueError(
            f"at least 2 draws and a confidence in (0, 1) are needed, found {draws}, {confidence}"
        )
    if len(scenes) < 2:
        raise ValueError("a split of one scene says nothing about its spread; use a larger split")
    rng = np.random.default_rng(seed)
    for _ in range(draws):
        yield np.bincount(rng.integers(0, len(scenes), len(scenes)), minlength=len(scenes))[scene]


def _figures(result: DetectionResult, times: Array | None) -> dict[str, float]:
    matched = result.matched
    scores = scores_of(matched.curves(times=times), matched.config)
    return present_summary(scores, matched.class_counts(times=times))


def _intervals(
    whole: dict[str, float], drawn: list[dict[str, float]], confidence: float
) -> dict[str, Interval]:
    out = {}
    for name, value in whole.items():
        values = np.array([figures[name] for figures in drawn])
        values = values[~np.isnan(values)]
        if len(values) == 0:
            out[name] = Interval(value, float("nan"), float("nan"), float("nan"))
            continue
        low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
        out[name] = Interval(value, float(low), float(high), float(np.mean(values > 0)))
    return out
