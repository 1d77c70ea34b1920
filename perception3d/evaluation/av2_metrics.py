"""The scores of an Argoverse 2 evaluation: gathered log by log; values, table, strict JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception3d.evaluation.av2_match import Matches, Rows
from perception3d.evaluation.av2_rules import (
    AV2_CATEGORIES,
    ERROR_THRESHOLD_M,
    NUM_DECIMALS,
    THRESHOLDS_M,
    WORST_ERRORS,
)
from perception3d.evaluation.metrics import write_text

Array = NDArray[Any]

METRIC_NAMES = ("AP", "ATE", "ASE", "AOE", "CDS")
AVERAGE = "AVERAGE_METRICS"
"""Name of the official table's last row."""

_RECALLS = np.linspace(0, 1, 101, endpoint=True)
_ERROR_INDEX = THRESHOLDS_M.index(ERROR_THRESHOLD_M)


@dataclass(frozen=True)
class AV2Metrics:
    """What the official evaluator returns, and before it rounds.

    A category without truth keeps AP 0, ATE 2, ASE 1, AOE pi, CDS 0 and is averaged in, so parts of
    a split score low; the mean CDS is the mean of products. Both are official.

    Attributes:
        categories: {category: (AP, ATE m, ASE, AOE rad, CDS)}, not rounded.
        aps: {category: AP at each of 0.5, 1, 2, 4 m}.
        num_truth, num_detections: {category: how many were evaluated}.
        num_logs, num_sweeps: logs evaluated, sweeps in them.
    """

    categories: Mapping[str, tuple[float, ...]]
    aps: Mapping[str, tuple[float, ...]]
    num_truth: Mapping[str, int]
    num_detections: Mapping[str, int]
    num_logs: int
    num_sweeps: int

    def summary(self) -> dict[str, float]:
        """Means over the 26 categories, not rounded: mAP, mATE, mASE, mAOE, mCDS."""
        values = np.array(list(self.categories.values()))
        means = [float(np.ascontiguousarray(column).sum() / len(column)) for column in values.T]
        return {f"m{name}": mean for name, mean in zip(METRIC_NAMES, means, strict=True)}

    def official(self) -> dict[str, dict[str, float]]:
        """{category or AVERAGE_METRICS: {metric: value}}, rounded: the official table."""
        rows = {**self.categories, AVERAGE: tuple(self.summary().values())}
        return {
            name: dict(zip(METRIC_NAMES, np.round(np.array(row), NUM_DECIMALS).tolist()))
            for name, row in rows.items()
        }

    def table(self) -> str:
        """Plain text: the official table, with how much of each category there was."""
        head = ["category", *METRIC_NAMES, *(f"AP@{value:g}" for value in THRESHOLDS_M)]
        rows = [[*head, "truth", "detections"]]
        for name, row in self.official().items():
            figures = [f"{value:.3f}" for value in row.values()]
            if name == AVERAGE:
                aps = [f"{value:.3f}" for value in np.mean(list(self.aps.values()), axis=0)]
                counts = [sum(self.num_truth.values()), sum(self.num_detections.values())]
            else:
                aps = [f"{value:.3f}" for value in self.aps[name]]
                counts = [self.num_truth[name], self.num_detections[name]]
            rows.append([name, *figures, *aps, *(f"{count:,}" for count in counts)])
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = [
            "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])
            for row in rows
        ]
        lines.insert(1, "-" * len(lines[0]))
        return "\n".join([f"{self.num_logs:,} logs, {self.num_sweeps:,} sweeps", "", *lines])

    def to_json(self) -> str:
        """Strict JSON, not rounded; `from_json` reads it back."""
        content = {
            "summary": self.summary(),
            "categories": {
                name: dict(zip(METRIC_NAMES, row, strict=True))
                for name, row in self.categories.items()
            },
            "aps": {
                name: {f"{value:g}": ap for value, ap in zip(THRESHOLDS_M, row, strict=True)}
                for name, row in self.aps.items()
            },
            "num_truth": dict(self.num_truth),
            "num_detections": dict(self.num_detections),
            "num_logs": self.num_logs,
            "num_sweeps": self.num_sweeps,
        }
        return json.dumps(content, indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> AV2Metrics:
        """The inverse of `to_json`.

        Raises:
            ValueError: not JSON, or a field is missing.
        """
        try:
            content = json.loads(text)
            return cls(
                categories={
                    name: tuple(float(row[metric]) for metric in METRIC_NAMES)
                    for name, row in content["categories"].items()
                },
                aps={
                    name: tuple(float(row[f"{value:g}"]) for value in THRESHOLDS_M)
                    for name, row in content["aps"].items()
                },
                num_truth=content["num_truth"],
                num_detections=content["num_detections"],
                num_logs=content["num_logs"],
                num_sweeps=content["num_sweeps"],
            )
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise ValueError(f"no metrics of this program: {error!r}; evaluate again") from error

    def save(self, path: str | Path) -> None:
        """Writes `to_json`, whole or not at all.

        Raises:
            OSError: the file cannot be written.
        """
        write_text(Path(path), self.to_json())


@dataclass(frozen=True)
class _LogPart:
    """Of each category: scores, (N, 4) right, (T, 3) errors of true positives; counts."""

    score: tuple[Array, ...]
    right: tuple[Array, ...]
    errors: tuple[Array, ...]
    num_truth: Array
    num_sweeps: int


@dataclass
class Tally:
    """What the scores need of every log, some ten bytes a detection; parts merge exactly."""

    parts: dict[str, _LogPart] = field(default_factory=dict)

    def add(
        self, log_id: str, detections: Rows, truth: Rows, matches: Matches, num_sweeps: int
    ) -> None:
        """Takes in one log.

        Raises:
            ValueError: the log is in already.
        """
        if log_id in self.parts:
            raise ValueError(f"log {log_id!r} was evaluated before; each counts once")
        rows = matches.order[matches.evaluated[matches.order]]
        category = detections.category[rows]
        of_each = [rows[category == code] for code in range(len(AV2_CATEGORIES))]
        self.parts[log_id] = _LogPart(
            score=tuple(detections.value[rows] for rows in of_each),
            right=tuple(matches.right[rows] for rows in of_each),
            errors=tuple(
                matches.errors[rows[matches.right[rows, _ERROR_INDEX]]] for rows in of_each
            ),
            num_truth=np.bincount(
                truth.category[matches.truth_evaluated], minlength=len(AV2_CATEGORIES)
            ),
            num_sweeps=num_sweeps,
        )

    def merge(self, other: Tally) -> None:
        """Takes in the logs of another tally (of another process, say).

        Raises:
            ValueError: a log is in both.
        """
        both = self.parts.keys() & other.parts.keys()
        if both:
            raise ValueError(f"{len(both)} logs are in both parts, first {min(both)!r}")
        self.parts.update(other.parts)

    def metrics(self) -> AV2Metrics:
        """The scores of all logs.

        Raises:
            ValueError: there is no log.
        """
        if not self.parts:
            raise ValueError("no log was evaluated; add at least one")
        # Equal scores stay in the order of logs.
        parts = [self.parts[log_id] for log_id in sorted(self.parts)]
        num_truth = np.sum([part.num_truth for part in parts], axis=0).tolist()
        categories, aps, num_detections = {}, {}, {}
        for code, name in enumerate(AV2_CATEGORIES):
            score = np.concatenate([part.score[code] for part in parts])
            right = np.concatenate([part.right[code] for part in parts])
            errors = np.concatenate([part.errors[code] for part in parts])
            num_detections[name] = len(score)
            categories[name], aps[name] = _category(score, right, errors, num_truth[code])
        return AV2Metrics(
            categories=categories,
            aps=aps,
            num_truth=dict(zip(AV2_CATEGORIES, num_truth, strict=True)),
            num_detections=num_detections,
            num_logs=len(parts),
            num_sweeps=sum(part.num_sweeps for part in parts),
        )


def _category(
    score: Array, right: Array, errors: Array, num_truth: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Scores and APs of one category, operation by operation as the official code computes them.

    Args:
        score: (N,).
        right: (N, 4) bool.
        errors: (T, 3) of those right at 2 m, in their order.
        num_truth: number of objects.
    """
    if num_truth == 0:
        return (0.0, *WORST_ERRORS, 0.0), (0.0,) * len(THRESHOLDS_M)
    order = np.argsort(-score, kind="stable")
    aps = [average_precision(column[order], num_truth) for column in right.T]
    mean_ap = np.array(aps).mean()
    means = np.array(WORST_ERRORS)
    hit = right[:, _ERROR_INDEX]
    if hit.any():
        place = (np.cumsum(hit) - 1)[order[hit[order]]]
        # One contiguous row an error, as in the official table: it decides how the sum is paired.
        means = np.ascontiguousarray(errors[place].T).T.mean(axis=0)
    scores = 1 - means / np.array(WORST_ERRORS)
    values = (float(mean_ap), *means.tolist(), float(mean_ap * np.mean(scores)))
    return values, tuple(float(ap) for ap in aps)


def average_precision(right: Array, num_truth: int) -> float:
    """Mean at 101 recalls of the precision, made monotone from behind; 0 beyond the last recall.

    Args:
        right: (N,) bool, best score first.
        num_truth: number of objects, > 0.
    """
    if len(right) == 0:
        return 0.0
    found = np.cumsum(right)
    wrong = np.cumsum(~right)
    precision = found / (found + wrong + sys.float_info.epsilon)
    recall = found / (found + (float(num_truth) - found))
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.mean(np.interp(_RECALLS, recall, precision, right=0)))
