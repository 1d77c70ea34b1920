"""The rules for one box of a results file."""

from __future__ import annotations

import math
from typing import Any

from perception3d.evaluation.findings import FindingList, shown
from perception3d.evaluation.json_stream import RepeatedKeys
from perception3d.evaluation.rules import BOX_FIELDS, CLASS_ATTRIBUTES
from perception3d.structures.taxonomy import NUSCENES_ATTRIBUTES

_LARGEST = 1e7
"""No coordinate, size or speed of a driving scene is larger. (Integers beyond 64 bits make the
official evaluator fail, squares beyond 1e308 make it drop the box without a word.)"""

_UNIT_TOLERANCE = 1e-3
_TILT_COSINE = math.cos(math.radians(30.0))

_EVALUATOR_FIELDS = {
    "num_pts": "the official evaluator drops boxes that carry 0 here",
    "ego_translation": "the official evaluator computes it",
}


def check_box(box: Any, token: str, place: str, findings: FindingList) -> bool:
    """Applies every rule for a single box and notes what is wrong.

    Args:
        box: the decoded JSON value.
        token: the key under which the box stands.
        place: "[index]" of the box in its sample.
        findings: where errors and warnings go.

    Returns:
        Whether the box can be read: no error was found.
    """
    before = findings.counts.total()
    warned = 0
    if not isinstance(box, dict):
        findings.error("box-type", f"a box must be an object, found {shown(box)}", place)
        return False
    if isinstance(box, RepeatedKeys):
        names = ", ".join(shown(key) for key in box.repeated)
        findings.error("json-duplicate-key", f"stands more than once: {names}; keep one", place)
    missing = [name for name in BOX_FIELDS if name not in box]
    for name in missing:
        findings.error("field-missing", "this field is required; add it", f"{place}.{name}")
    if len(box) + len(missing) > len(BOX_FIELDS):
        warned += _check_other_fields(box, place, findings)
    if "sample_token" in box:
        _check_sample_token(box["sample_token"], token, place, findings)
    _check_translation(box, place, findings)
    _check_size(box, place, findings)
    warned += _check_rotation(box, place, findings)
    _numbers(box, "velocity", 2, place, findings)
    _check_score(box, place, findings)
    warned += _check_class(box, place, findings)
    return findings.counts.total() == before + warned


def _check_other_fields(box: dict[str, Any], place: str, findings: FindingList) -> int:
    warned = 0
    for name in box:
        if name in _EVALUATOR_FIELDS:
            why = _EVALUATOR_FIELDS[name]
            findings.error(
                "field-forbidden",
                f"no field of a submission ({why}); remove it",
                f"{place}.{name}",
            )
        elif name not in BOX_FIELDS:
            findings.warning("field-unknown", f"{shown(name)} is no field of the format", place)
            warned += 1
    return warned


def _check_sample_token(value: Any, token: str, place: str, findings: FindingList) -> None:
    place = f"{place}.sample_token"
    if not isinstance(value, str):
        findings.error("sample-token-type", f"must be a string, found {shown(value)}", place)
    elif value != token:
        findings.error(
            "sample-token-mismatch",
            f"is {shown(value)}, but the box stands under {shown(token)}; the evaluator would "
            "match it in the other sample: make them equal",
            place,
        )


def _numbers(
    box: dict[str, Any], name: str, length: int, place: str, findings: FindingList
) -> list[float] | None:
    """The list of `length` finite numbers under `name`; None, noted, when it is anything else."""
    if name not in box:
        return None
    place = f"{place}.{name}"
    values = box[name]
    if not isinstance(values, list):
        message = f"must be a list of {length} numbers, found {shown(values)}"
        findings.error("list-type", message, place)
        return None
    if len(values) != length:
        message = f"must hold {length} numbers, found {len(values)}: {shown(values)}"
        findings.error("list-length", message, place)
        return None
    fine = True
    for index, value in enumerate(values):
        fine &= _check_number(value, f"{place}[{index}]", findings)
    return values if fine else None


def _check_number(value: Any, place: str, findings: FindingList) -> bool:
    if type(value) is not float and type(value) is not int:  # a bool is an int, and no number
        findings.error("number-type", f"must be a number, found {shown(value)}", place)
    elif value != value or value in (math.inf, -math.inf):
        findings.error("number-not-finite", f"must be finite, found {value}", place)
    elif abs(value) > _LARGEST:
        findings.error("number-implausible", f"{shown(value)} is beyond +-{_LARGEST:g}", place)
    else:
        return True
    return False


def _check_translation(box: dict[str, Any], place: str, findings: FindingList) -> None:
    _numbers(box, "translation", 3, place, findings)


def _check_size(box: dict[str, Any], place: str, findings: FindingList) -> None:
    size = _numbers(box, "size", 3, place, findings)
    if size is not None and min(size) <= 0:
        findings.error(
            "size-not-positive",
            f"width, length, height must be > 0, found {shown(size)}",
            f"{place}.size",
        )


def _check_rotation(box: dict[str, Any], place: str, findings: FindingList) -> int:
    rotation = _numbers(box, "rotation", 4, place, findings)
    if rotation is None:
        return 0
    place = f"{place}.rotation"
    w, x, y, z = rotation
    square = w * w + x * x + y * y + z * z
    if square < 1e-12:
        findings.error("rotation-zero", "a quaternion of zero length is no rotation", place)
    elif abs(math.sqrt(square) - 1.0) > _UNIT_TOLERANCE:
        findings.error(
            "rotation-unnormalised",
            f"the quaternion's length is {math.sqrt(square):.6g}; divide by it",
            place,
        )
    elif (w * w - x * x - y * y + z * z) / square < _TILT_COSINE:
        findings.warning(
            "rotation-tilted",
            f"{shown(rotation)} tilts the box by more than 30 degrees; the order is w, x, y, z "
            "and the frame global",
            place,
        )
        return 1
    return 0


def _check_score(box: dict[str, Any], place: str, findings: FindingList) -> None:
    if "detection_score" not in box:
        return
    place = f"{place}.detection_score"
    score = box["detection_score"]
    if not _check_number(score, place, findings):
        return
    if score == 0:
        findings.error(
            "score-zero",
            "a score of exactly 0 spoils the five errors of its class; leave the box out",
            place,
        )
    elif score < 0 or score > 1:
        findings.error("score-range", f"must be in (0, 1], found {shown(score)}", place)


def _check_class(box: dict[str, Any], place: str, findings: FindingList) -> int:
    name = box.get("detection_name", "")
    known = isinstance(name, str) and name in CLASS_ATTRIBUTES
    if not known and "detection_name" in box:
        message = f"{shown(name)} is no detection class; use one of {', '.join(CLASS_ATTRIBUTES)}"
        findings.error("class-unknown", message, f"{place}.detection_name")
    if "attribute_name" not in box:
        return 0
    place = f"{place}.attribute_name"
    attribute = box["attribute_name"]
    if not isinstance(attribute, str):
        findings.error("attribute-type", f"must be a string, found {shown(attribute)}", place)
    elif attribute and attribute not in NUSCENES_ATTRIBUTES:
        findings.error("attribute-unknown", f"{shown(attribute)} is no attribute", place)
    elif attribute and known and attribute not in CLASS_ATTRIBUTES[name]:
        choice = ", ".join(CLASS_ATTRIBUTES[name]) or '""'
        findings.error(
            "attribute-of-other-class", f"{attribute} does not go with {name}; use {choice}", place
        )
    elif not attribute and known and CLASS_ATTRIBUTES[name]:
        findings.warning("attribute-empty", f"counts as wrong for every {name}", place)
        return 1
    return 0
