"""The scores of one detection evaluation: as values, as a table, as strict JSON."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perception3d.evaluation.detection_config import UNDEFINED_ERRORS

TP_NAMES = {
    "trans_err": "ATE",
    "scale_err": "ASE",
    "orient_err": "AOE",
    "vel_err": "AVE",
    "attr_err": "AAE",
}
"""Name of each true-positive error in the devkit and in tables; metres, 1 - IoU, radians, m/s,
1 - accuracy."""


@dataclass(frozen=True)
class DetectionMetrics:
    """The figures of a nuScenes detection evaluation.

    Attributes:
        mean_ap: mean over classes and distance thresholds, 0..1.
        nds: nuScenes detection score, 0..1.
        tp_errors: mean of each of the five errors over the classes that have it.
        label_aps: {class: {threshold in metres: AP}}.
        label_tp_errors: {class: {error: value}}; NaN where a class has no such error.
        split, version: what was evaluated.
        num_samples: samples in the split.
        eval_time_s: time of matching and scoring, without reading, seconds.
        notes: what looks wrong with the predictions though it is allowed.
    """

    mean_ap: float
    nds: float
    tp_errors: Mapping[str, float]
    label_aps: Mapping[str, Mapping[float, float]]
    label_tp_errors: Mapping[str, Mapping[str, float]]
    split: str
    version: str
    num_samples: int
    eval_time_s: float
    notes: tuple[str, ...] = ()

    @classmethod
    def of_official(
        cls,
        content: Mapping[str, Any],
        *,
        split: str,
        version: str,
        num_samples: int,
        notes: tuple[str, ...] = (),
    ) -> DetectionMetrics:
        """From the content of a metrics_summary.json."""
        return cls(
            mean_ap=float(content["mean_ap"]),
            nds=float(content["nd_score"]),
            tp_errors=_floats(content["tp_errors"]),
            label_aps={
                name: {float(threshold): float(ap) for threshold, ap in aps.items()}
                for name, aps in content["label_aps"].items()
            },
            label_tp_errors={
                name: _floats(row) for name, row in content["label_tp_errors"].items()
            },
            split=split,
            version=version,
            num_samples=num_samples,
            eval_time_s=float(content["eval_time"]),
            notes=notes,
        )

    @property
    def mean_dist_aps(self) -> dict[str, float]:
        """AP of each class, the mean over its thresholds."""
        return {name: sum(aps.values()) / len(aps) for name, aps in self.label_aps.items()}

    def summary(self) -> dict[str, float]:
        """The seven headline figures: mAP, NDS, mATE, mASE, mAOE, mAVE, mAAE."""
        errors = {f"m{TP_NAMES[name]}": value for name, value in self.tp_errors.items()}
        return {"mAP": self.mean_ap, "NDS": self.nds, **errors}

    def table(self) -> str:
        """Plain text: the headline figures, then a line for each class; "-" is undefined."""
        thresholds = list(next(iter(self.label_aps.values())))
        heads = ["class", "AP", *(f"AP@{value:g}" for value in thresholds), *TP_NAMES.values()]
        rows = [heads]
        for name, mean in self.mean_dist_aps.items():
            errors = [self.label_tp_errors[name][error] for error in TP_NAMES]
            values = [mean, *(self.label_aps[name][value] for value in thresholds), *errors]
            rows.append([name, *(_figure(value) for value in values)])
        widths = [max(len(row[column]) for row in rows) for column in range(len(heads))]
        lines = [
            "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])
            for row in rows
        ]
        lines.insert(1, "-" * len(lines[0]))
        headline = "  ".join(f"{name} {_figure(value)}" for name, value in self.summary().items())
        title = f"{self.split} ({self.version}), {self.num_samples:,} samples"
        notes = [f"note: {note}" for note in self.notes]
        return "\n".join([title, *notes, headline, "", *lines])

    def to_json(self) -> str:
        """Strict JSON (NaN becomes null); `from_json` reads it back."""
        content = {
            "mean_ap": self.mean_ap,
            "nds": self.nds,
            "tp_errors": dict(self.tp_errors),
            "mean_dist_aps": self.mean_dist_aps,
            "label_aps": {
                name: {f"{threshold:g}": ap for threshold, ap in aps.items()}
                for name, aps in self.label_aps.items()
            },
            "label_tp_errors": {name: dict(row) for name, row in self.label_tp_errors.items()},
            "split": self.split,
            "version": self.version,
            "num_samples": self.num_samples,
            "eval_time_s": self.eval_time_s,
            "notes": list(self.notes),
        }
        return json.dumps(_nan_to_none(content), indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> DetectionMetrics:
        """The inverse of `to_json` (null becomes NaN).

        Raises:
            ValueError: not JSON, or a field is missing.
        """
        try:
            content = json.loads(text)
            return cls(
                mean_ap=_number(content["mean_ap"]),
                nds=_number(content["nds"]),
                tp_errors={name: _number(x) for name, x in content["tp_errors"].items()},
                label_aps={
                    name: {float(threshold): _number(ap) for threshold, ap in aps.items()}
                    for name, aps in content["label_aps"].items()
                },
                label_tp_errors={
                    name: {error: _number(x) for error, x in row.items()}
                    for name, row in content["label_tp_errors"].items()
                },
                split=content["split"],
                version=content["version"],
                num_samples=content["num_samples"],
                eval_time_s=_number(content["eval_time_s"]),
                notes=tuple(content.get("notes", ())),
            )
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise ValueError(f"no metrics of this program: {error!r}; evaluate again") from error

    def save(self, path: str | Path) -> None:
        """Writes `to_json`, whole or not at all.

        Raises:
            OSError: the file cannot be written.
        """
        write_text(Path(path), self.to_json())


def write_text(path: Path, text: str) -> None:
    """Writes a file through a hidden one beside it, so never half of it.

    Raises:
        OSError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def metrics_without_boxes(
    classes: Mapping[str, Any], thresholds_m: tuple[float, ...], **about: Any
) -> DetectionMetrics:
    """What the official rules give when not a single box is predicted: AP 0, errors 1, NDS 0.

    The official code fails on such files ("Invalid box type: None"), yet an untrained model writes
    them. The values are those it gives a class without predictions.
    """
    errors = {
        name: {
            error: math.nan if error in UNDEFINED_ERRORS.get(name, ()) else 1.0
            for error in TP_NAMES
        }
        for name in classes
    }
    return DetectionMetrics(
        mean_ap=0.0,
        nds=0.0,
        tp_errors=dict.fromkeys(TP_NAMES, 1.0),
        label_aps={name: dict.fromkeys(thresholds_m, 0.0) for name in classes},
        label_tp_errors=errors,
        eval_time_s=0.0,
        **about,
    )


def _floats(values: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items()}


def _figure(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _nan_to_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _nan_to_none(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
