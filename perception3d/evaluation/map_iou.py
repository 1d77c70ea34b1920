"""Intersection over union of maps seen from above, cell by cell, as two publications score them.

Cells in intersection and union are summed over the whole data set before they are divided: large
areas count by their size. All cells of the map count, seen or not.

* One threshold (megvii-research/PETR): a cell belongs to a class whose probability reaches 0.43,
  for all classes; not tuned class by class. IoU = intersection / union; a class that is nowhere has
  none. mIoU is the mean of the others.
* Several (mit-han-lab/bevfusion, arXiv 2205.13542): 0.35, 0.40, ..., 0.65, and each class has the
  IoU of its best one; mIoU is the mean of these. IoU = TP / (TP + FP + FN + 1e-7), so a class that
  is nowhere has 0. To choose on the set that is scored flatters: the figures at 0.50 stand beside.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from perception3d.evaluation.metrics import write_text
from perception3d.structures import MapRaster, Prediction

#: A cell belongs to a class whose probability is at least this (PETR, for all classes).
THRESHOLD = 0.43
#: Thresholds of which each class takes its best (BEVFusion).
THRESHOLDS = (0.35, 0.40, 0.45, 0.50, 0.55, 0.60, 0.65)
#: Added to the union where there are several thresholds (BEVFusion).
EPSILON = 1e-7
#: The threshold whose figures stand beside the best ones.
MIDDLE = 0.50


def count_cells(
    probability: Tensor, target: Tensor, thresholds: Sequence[float] = THRESHOLDS
) -> tuple[Tensor, Tensor]:
    """Cells in intersection and union for every threshold; sum both over a data set, then divide.

    Each cell is looked at once: how many thresholds it reaches, and whether the class is there.

    Args:
        probability: (B, K, ny, nx) in [0, 1].
        target: (B, K, ny, nx) bool.
        thresholds: T, increasing, at most 100; a cell counts from this probability on.

    Returns:
        (K, T) int64 each, over all samples.

    Raises:
        ValueError: the shapes differ.
    """
    if probability.shape != target.shape:
        raise ValueError(
            f"probabilities {tuple(probability.shape)} and target {tuple(target.shape)} must have "
            "one shape (samples, classes, ny, nx)"
        )
    if probability.dtype in (torch.float16, torch.bfloat16):
        probability = probability.float()
    found, present = probability.detach().cpu().numpy(), target.cpu().numpy()
    level = np.zeros(found.shape, np.uint8)
    for threshold in thresholds:
        level += found >= threshold
    # Bins 2 * level + present: how often each occurs is all that is needed.
    bins, number = level * np.uint8(2) + present.astype(bool), 2 * len(thresholds) + 2
    counts = np.stack(
        [np.bincount(bins[:, k].ravel(), minlength=number) for k in range(bins.shape[1])]
    ).reshape(-1, len(thresholds) + 1, 2)
    reached = counts[:, ::-1].cumsum(axis=1)[:, ::-1][:, 1:]
    intersection, false = reached[..., 1], reached[..., 0]
    union = false + counts[..., 1].sum(axis=1, keepdims=True)
    return torch.from_numpy(intersection.copy()), torch.from_numpy(union)


def intersection_union(
    probability: Tensor, target: Tensor, threshold: float = THRESHOLD
) -> tuple[Tensor, Tensor]:
    """:func:`count_cells` for one threshold: (K,) int64 each."""
    inside, either = count_cells(probability, target, (threshold,))
    return inside[:, 0], either[:, 0]


@dataclass(frozen=True, eq=False)
class MapCounts:
    """Cells of some samples. Counts of shards of a data set add up to those of the whole, exactly.

    Attributes:
        classes: K names.
        thresholds: T, increasing.
        intersection, union: (K, T) int64.
        tokens: the samples.
    """

    classes: tuple[str, ...]
    thresholds: tuple[float, ...]
    intersection: Tensor
    union: Tensor
    tokens: frozenset[str]

    def __add__(self, other: MapCounts) -> MapCounts:
        """Both together.

        Raises:
            ValueError: other classes or thresholds, or a sample in both.
        """
        for name in ("classes", "thresholds"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                raise ValueError(f"counts of maps have different {name}: {mine} and {theirs}")
        if twice := self.tokens & other.tokens:
            raise ValueError(f"sample {min(twice)} is twice")
        return MapCounts(
            self.classes,
            self.thresholds,
            self.intersection + other.intersection,
            self.union + other.union,
            self.tokens | other.tokens,
        )

    @property
    def several(self) -> bool:
        """Whether each class has a choice of thresholds."""
        return len(self.thresholds) > 1

    def iou(self) -> Tensor:
        """(K, T) float64; NaN for a class that is nowhere, with one threshold."""
        return self.intersection.double() / (self.union.double() + EPSILON * self.several)


@dataclass(frozen=True, eq=False)
class MapMetrics:
    """Scores of one evaluation, made of its counts."""

    counts: MapCounts

    @property
    def iou(self) -> dict[str, float]:
        """By class, at its best threshold; NaN for one that is nowhere, with one threshold."""
        return dict(zip(self.counts.classes, self.counts.iou().amax(dim=1).tolist()))

    def iou_at(self, threshold: float) -> dict[str, float]:
        """By class, at one of the thresholds."""
        column = self.counts.iou()[:, self.counts.thresholds.index(threshold)]
        return dict(zip(self.counts.classes, column.tolist()))

    def summary(self) -> dict[str, float]:
        """ "IoU_<class>" of every class and "mIoU", the mean of those that are defined; with
        several thresholds "IoU@0.50_<class>" and "mIoU@0.50" too.
        """
        scores = {f"IoU_{name}": value for name, value in self.iou.items()}
        scores["mIoU"] = _mean(self.iou)
        if self.counts.several:
            middle = self.iou_at(MIDDLE)
            scores |= {f"IoU@{MIDDLE:.2f}_{name}": value for name, value in middle.items()}
            scores[f"mIoU@{MIDDLE:.2f}"] = _mean(middle)
        return scores

    def table(self) -> str:
        """Plain text, a line for each class."""
        counts = self.counts
        rows = [(name, [value]) for name, value in [*self.iou.items(), ("mean", _mean(self.iou))]]
        title = f"maps of {len(counts.tokens):,} samples, threshold {counts.thresholds[0]:g}"
        if counts.several:
            title += f" to {counts.thresholds[-1]:g}: best, at, at {MIDDLE:.2f}"
            middle = self.iou_at(MIDDLE)
            best = [counts.thresholds[i] for i in counts.iou().argmax(dim=1).tolist()]
            for (_, values), at, value in zip(rows, best, middle.values()):
                values += [at, value]
            rows[-1][1].extend([math.nan, _mean(middle)])
        wide = max(len(name) for name, _ in rows)
        return "\n".join(
            [title]
            + ["  ".join([name.ljust(wide), *map(_digits, values)]) for name, values in rows]
        )

    def content(self) -> dict[str, object]:
        """For JSON: the summary, and the counts that it is made of."""
        counts = self.counts
        scores = {k: None if math.isnan(v) else v for k, v in self.summary().items()}
        return scores | {
            "thresholds": list(counts.thresholds),
            "num_samples": len(counts.tokens),
            "intersection": dict(zip(counts.classes, counts.intersection.tolist())),
            "union": dict(zip(counts.classes, counts.union.tolist())),
        }


class MapIouEvaluator:
    """Collects predicted maps and compares them with the truth.

    Args:
        truth: the true map of a sample token, on the grid of the predictions.
        tokens: samples that must all be predicted, once each.
        out_dir: where the metrics go (map_metrics.json, with the counts).
        threshold: a cell belongs to a class from this probability on; or several, increasing and
            with 0.50, of which each class's best counts.

    Raises:
        ValueError: a threshold outside (0, 1), several without 0.50 or out of order, or no token.
    """

    def __init__(
        self,
        truth: Callable[[str], MapRaster],
        tokens: Sequence[str],
        out_dir: str | Path,
        *,
        threshold: float | tuple[float, ...] = THRESHOLD,
    ) -> None:
        self.thresholds = threshold if isinstance(threshold, tuple) else (threshold,)
        if not self.thresholds or not all(0 < value < 1 for value in self.thresholds):
            raise ValueError(f"the threshold of maps must be in (0, 1); found {threshold}")
        if len(self.thresholds) > 1 and (
            MIDDLE not in self.thresholds or list(self.thresholds) != sorted({*self.thresholds})
        ):
            raise ValueError(
                f"thresholds of maps must increase and hold {MIDDLE:.2f}; found {threshold}"
            )
        if not tokens:
            raise ValueError("there is no sample to score maps of; choose another split")
        self.truth, self.tokens = truth, frozenset(tokens)
        self.metrics_path = Path(out_dir) / "map_metrics.json"
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._counts: list[MapCounts] = []
        self._seen: set[str] = set()

    def process(self, predictions: Sequence[Prediction]) -> None:
        """Count the maps of some samples.

        Raises:
            ValueError: a foreign or repeated sample, a prediction without a map, or a map on
                another grid than the truth.
        """
        for one in predictions:
            self._expect({one.token})
            if one.map_prob is None or one.grid is None:
                raise ValueError(f"the prediction of sample {one.token} has no map to score")
            true = self.truth(one.token)
            if true.grid != one.grid or len(true.classes) != len(one.map_prob):
                raise ValueError(
                    f"sample {one.token}: {len(one.map_prob)} maps were predicted on {one.grid}, "
                    f"the truth has {len(true.classes)} ({', '.join(true.classes)}) on {true.grid}"
                )
            cells = count_cells(one.map_prob[None], true.mask[None], self.thresholds)
            self.merge(MapCounts(true.classes, self.thresholds, *cells, frozenset({one.token})))

    def merge(self, counts: MapCounts) -> None:
        """Take over what was counted elsewhere, by an evaluator of a shard.

        Raises:
            ValueError: samples that are foreign or counted already, other classes or thresholds.
        """
        self._expect(counts.tokens)
        if counts.thresholds != self.thresholds:
            raise ValueError(
                f"counts of maps have thresholds {counts.thresholds}, these {self.thresholds}"
            )
        if self._counts and counts.classes != self._counts[0].classes:
            raise ValueError(
                f"counts of maps have classes {counts.classes}, these {self._counts[0].classes}"
            )
        self._seen |= counts.tokens
        self._counts.append(counts)
        if len(self._counts) > 256:  # one sum a sample would copy all tokens each time
            self._counts = [self.counts]

    def counted(self) -> MapCounts | None:
        """Counts so far, for :meth:`merge` of another evaluator; None for no sample."""
        return self.counts if self._counts else None

    def rest(self, prediction: Prediction) -> Prediction:
        """The prediction without its map."""
        return replace(prediction, map_prob=None, grid=None, map_classes=None)

    @property
    def counts(self) -> MapCounts:
        """Of all samples so far.

        Raises:
            ValueError: there are none.
        """
        if not self._counts:
            raise ValueError("no map was counted yet")
        total = self._counts[0]
        for more in self._counts[1:]:
            total = total + more
        return total

    def evaluate(self) -> MapMetrics:
        """Scores over the split, saved too.

        Raises:
            ValueError: samples of the split are missing.
        """
        missing = self.tokens - self._seen
        if missing:
            raise ValueError(
                f"{len(missing)} of {len(self.tokens)} samples were not predicted, first "
                f"{min(missing)!r}"
            )
        metrics = MapMetrics(self.counts)
        write_text(self.metrics_path, json.dumps(metrics.content(), indent=2) + "\n")
        return metrics

    def _expect(self, tokens: set[str] | frozenset[str]) -> None:
        for token in sorted(tokens):
            if token not in self.tokens or token in self._seen:
                word = "twice" if token in self._seen else "foreign to the split"
                raise ValueError(f"sample {token} is {word}")


def _mean(iou: dict[str, float]) -> float:
    defined = [value for value in iou.values() if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else math.nan


def _digits(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"
