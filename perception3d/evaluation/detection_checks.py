"""One predicted box, checked as the official code checks it: what it refuses, and nothing more.

Files of the usual form never come here: `detection_file` reads them in bulk. This is the slow and
patient way for all others. Source: nuscenes-devkit 1.2.0, `eval/detection/data_classes.py` and
`eval/common/data_classes.py` (`DetectionBox.deserialize` and the assertions of the constructors).

Quirks that are kept: a missing score is -1; a score may be text that reads as a number, or a truth
value; infinite numbers pass; a field `num_pts` is honoured; a velocity that holds no numbers is a
fault only when its box is matched.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from perception3d.evaluation.detection_config import ATTRIBUTES, OFFICIAL
from perception3d.evaluation.findings import shown

CLASS_NUMBER = {name: number for number, name in enumerate(OFFICIAL.classes)}
ATTRIBUTE_NUMBER = {"": -1, **{name: number for number, name in enumerate(ATTRIBUTES)}}

FIELDS = (
    "translation",
    "size",
    "rotation",
    "velocity",
    "detection_score",
    "detection_name",
    "attribute_name",
    "sample_token",
)


@dataclass(frozen=True)
class CheckedBox:
    """A box that passed.

    Attributes:
        numbers: x y z, w l h, w x y z, vx vy, score: 13 of them.
        label, attribute: numbers of their names.
        sample_token: as the box says, which need not be the sample it is listed under.
        num_points: its field num_pts; -1 without one.
        readable_velocity: the velocity was two numbers.
    """

    numbers: tuple[float, ...]
    label: int
    attribute: int
    sample_token: str
    num_points: int
    readable_velocity: bool


def check_official(box: Any) -> CheckedBox:
    """Checks and reads one box.

    Raises:
        ValueError: the official code refuses it; the text says why and what to do.
    """
    if not isinstance(box, Mapping):
        raise ValueError(f"a box must be an object, found {shown(box)}")
    missing = [name for name in FIELDS if name not in box and name != "detection_score"]
    if missing:
        raise ValueError(f"the field {missing[0]} is missing; add it")
    token = box["sample_token"]
    if type(token) is not str:
        raise ValueError(f"sample_token must be a string, found {shown(token)}")
    numbers = [
        *_numbers(box["translation"], "translation", 3),
        *_numbers(box["size"], "size", 3),
        *_numbers(box["rotation"], "rotation", 4),
    ]
    velocity, readable = _velocity(box["velocity"])
    if "ego_translation" in box:
        _numbers(box["ego_translation"], "ego_translation", 3)
    name, attribute = box["detection_name"], box["attribute_name"]
    if not isinstance(name, str) or name not in CLASS_NUMBER:
        raise ValueError(
            f"Unknown detection_name {shown(name)}; use one of {', '.join(CLASS_NUMBER)}"
        )
    if not isinstance(attribute, str) or attribute not in ATTRIBUTE_NUMBER:
        raise ValueError(
            f"Unknown attribute_name {shown(attribute)}; use one of {', '.join(ATTRIBUTES)}, or "
            "leave it empty"
        )
    return CheckedBox(
        numbers=(*numbers, *velocity, _score(box)),
        label=CLASS_NUMBER[name],
        attribute=ATTRIBUTE_NUMBER[attribute],
        sample_token=token,
        num_points=_num_points(box),
        readable_velocity=readable,
    )


def _numbers(values: Any, name: str, length: int) -> list[float]:
    if not isinstance(values, list) or len(values) != length:
        raise ValueError(f"{name} must hold {length} numbers, found {shown(values)}")
    if not all(isinstance(value, (int, float)) for value in values):
        raise ValueError(f"{name} must hold numbers alone, found {shown(values)}")
    if any(type(value) is int and not -(2**63) <= value < 2**64 for value in values):
        raise ValueError(f"{name} holds a whole number beyond 64 bits: {shown(values)}")
    out = [float(value) for value in values]
    if any(math.isnan(value) for value in out):
        raise ValueError(f"{name} may not be NaN, found {shown(values)}")
    return out


def _velocity(values: Any) -> tuple[tuple[float, float], bool]:
    if not isinstance(values, (list, str, Mapping)) or len(values) != 2:
        raise ValueError(f"velocity must hold 2 numbers, found {shown(values)}")
    entries = list(values)
    try:
        if all(isinstance(value, (int, float)) for value in entries):
            return (float(entries[0]), float(entries[1])), True
    except OverflowError:
        pass
    return (math.nan, math.nan), False


def _score(box: Mapping[str, Any]) -> float:
    value = box.get("detection_score", -1.0)
    try:
        score = float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"detection_score must be a number, found {shown(value)}") from None
    if math.isnan(score):
        raise ValueError("detection_score may not be NaN; leave the box out")
    return score


def _num_points(box: Mapping[str, Any]) -> int:
    value = box.get("num_pts", -1)
    try:
        return max(-(2**62), min(2**62, int(value)))
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"num_pts must be a whole number, found {shown(value)}") from None
