"""Intersection over union of maps seen from above, as megvii-research/PETR scores them.

A cell belongs to a class whose probability reaches a threshold, 0.43 for all classes (published;
not tuned class by class). Cells in intersection and union are summed over the whole data set before
they are divided: large areas count by their size. All cells of the map count, seen or not.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from perception3d.evaluation.metrics import write_text
from perception3d.structures import MapRaster, Prediction

#: A cell belongs to a class whose probability is at least this (published, for all classes).
THRESHOLD = 0.43


def intersection_union(
    probability: Tensor, target: Tensor, threshold: float = THRESHOLD
) -> tuple[Tensor, Tensor]:
    """Cells in intersection and union; sum both over a data set, then divide: IoU of each class.

    Args:
        probability: (B, K, ny, nx) in [0, 1].
        target: (B, K, ny, nx) bool.
        threshold: a cell counts from this probability on.

    Returns:
        (K,) int64 each, over all samples.

    Raises:
        ValueError: the shapes differ.
    """
    if probability.shape != target.shape:
        raise ValueError(
            f"probabilities {tuple(probability.shape)} and target {tuple(target.shape)} must have "
            "one shape (samples, classes, ny, nx)"
        )
    predicted, present = probability >= threshold, target.bool()
    over = (0, 2, 3)
    return (predicted & present).sum(dim=over), (predicted | present).sum(dim=over)


@dataclass(frozen=True)
class MapMetrics:
    """Scores of one evaluation.

    Attributes:
        classes: K names.
        intersection, union: K counts of cells over all samples.
        threshold: of the probabilities.
        num_samples: how many.
    """

    classes: tuple[str, ...]
    intersection: tuple[int, ...]
    union: tuple[int, ...]
    threshold: float
    num_samples: int

    @property
    def iou(self) -> dict[str, float]:
        """By class; NaN for one that is neither there nor drawn anywhere."""
        counts = zip(self.classes, self.intersection, self.union)
        return {name: part / whole if whole else math.nan for name, part, whole in counts}

    def summary(self) -> dict[str, float]:
        """ "IoU_<class>" of every class, and "mIoU", the mean of those that are defined."""
        defined = [value for value in self.iou.values() if not math.isnan(value)]
        mean = sum(defined) / len(defined) if defined else math.nan
        return {f"IoU_{name}": value for name, value in self.iou.items()} | {"mIoU": mean}

    def table(self) -> str:
        """Plain text, a line for each class."""
        wide = max(len(name) for name in self.classes)
        lines = [f"maps of {self.num_samples:,} samples, threshold {self.threshold:g}"]
        for name, value in self.iou.items():
            lines.append(f"{name.ljust(wide)}  {'-' if math.isnan(value) else f'{value:.3f}'}")
        lines.append(f"{'mean'.ljust(wide)}  {self.summary()['mIoU']:.3f}")
        return "\n".join(lines)


class MapIouEvaluator:
    """Collects predicted maps and compares them with the truth.

    Args:
        truth: the true map of a sample token, on the grid of the predictions.
        tokens: samples that must all be predicted, once each.
        out_dir: where the metrics go (map_metrics.json).
        threshold: a cell belongs to a class from this probability on.

    Raises:
        ValueError: a threshold outside (0, 1), or no token.
    """

    def __init__(
        self,
        truth: Callable[[str], MapRaster],
        tokens: Sequence[str],
        out_dir: str | Path,
        *,
        threshold: float = THRESHOLD,
    ) -> None:
        if not 0 < threshold < 1:
            raise ValueError(f"the threshold of maps must be in (0, 1); found {threshold}")
        if not tokens:
            raise ValueError("there is no sample to score maps of; choose another split")
        self.truth, self.tokens = truth, frozenset(tokens)
        self.threshold = threshold
        self.metrics_path = Path(out_dir) / "map_metrics.json"
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._seen: set[str] = set()
        self._classes: tuple[str, ...] = ()
        self._intersection = torch.zeros(0, dtype=torch.int64)
        self._union = torch.zeros(0, dtype=torch.int64)

    def process(self, predictions: Sequence[Prediction]) -> None:
        """Count the maps of some samples.

        Raises:
            ValueError: a foreign or repeated sample, a prediction without a map, or a map on
                another grid than the truth.
        """
        for one in predictions:
            if one.token not in self.tokens or one.token in self._seen:
                word = "twice" if one.token in self._seen else "foreign to the split"
                raise ValueError(f"sample {one.token} is {word}")
            if one.map_prob is None or one.grid is None:
                raise ValueError(f"the prediction of sample {one.token} has no map to score")
            true = self.truth(one.token)
            if true.grid != one.grid or len(true.classes) != len(one.map_prob):
                raise ValueError(
                    f"sample {one.token}: {len(one.map_prob)} maps were predicted on {one.grid}, "
                    f"the truth has {len(true.classes)} ({', '.join(true.classes)}) on {true.grid}"
                )
            inside, either = intersection_union(
                one.map_prob.cpu()[None], true.mask[None], self.threshold
            )
            if not self._seen:
                self._classes = true.classes
                self._intersection, self._union = torch.zeros_like(inside), torch.zeros_like(either)
            # Not in place: predictions may come from inference mode, whose tensors forbid it.
            self._intersection = self._intersection + inside
            self._union = self._union + either
            self._seen.add(one.token)

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
        metrics = MapMetrics(
            self._classes,
            tuple(self._intersection.tolist()),
            tuple(self._union.tolist()),
            self.threshold,
            len(self._seen),
        )
        content = {
            name: None if math.isnan(value) else value for name, value in metrics.summary().items()
        }
        about = {"threshold": self.threshold, "num_samples": metrics.num_samples}
        write_text(self.metrics_path, json.dumps(content | about, indent=2) + "\n")
        return metrics
