"""Results files with faults: named ones, each with the code it must be given, and random ones."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np

Document = dict[str, Any]
Change = Callable[[Document, list[dict[str, Any]]], Any]
INF, NAN = math.inf, math.nan


def _set(field: str, value: Any, index: int | None = None) -> Change:
    """Changes a field of the first sample's first box, or one number of it."""

    def change(document: Document, boxes: list[dict[str, Any]]) -> None:
        if index is None:
            boxes[0][field] = value
        else:
            boxes[0][field][index] = value

    return change


def _drop(field: str) -> Change:
    return lambda document, boxes: boxes[0].pop(field) and None


def _sample(value: Any) -> Change:
    def change(document: Document, boxes: list[dict[str, Any]]) -> None:
        document["results"][next(iter(document["results"]))] = value

    return change


def _top(key: str, value: Any) -> Change:
    return lambda document, boxes: document.__setitem__(key, value)


def _meta(key: str, value: Any) -> Change:
    return lambda document, boxes: document["meta"].__setitem__(key, value)


def _first(box_change: Callable[[dict[str, Any]], None]) -> Change:
    return lambda document, boxes: box_change(boxes[0])


def _text(edit: Callable[[str], str | bytes]) -> Change:
    return lambda document, boxes: edit(json.dumps(document))


def _fill(count: int) -> Change:
    return lambda document, boxes: boxes.extend(
        copy.deepcopy(boxes[0]) for _ in range(count - len(boxes))
    )


def _empty_all(document: Document, boxes: list[dict[str, Any]]) -> None:
    for token in document["results"]:
        document["results"][token] = []


def _swap_wxyz(document: Document, boxes: list[dict[str, Any]]) -> None:
    boxes[0]["rotation"] = [0.0, 0.0, 0.6, 0.8]  # x, y, z, w


def _swap_sizes(document: Document, boxes: list[dict[str, Any]]) -> None:
    for row in document["results"].values():
        for box in row:
            box["size"][:2] = box["size"][1::-1]


def _same_scores(document: Document, boxes: list[dict[str, Any]]) -> None:
    for row in document["results"].values():
        for box in row:
            box["detection_score"] = 0.5


def _other_token(document: Document, boxes: list[dict[str, Any]]) -> None:
    boxes[0]["sample_token"] = list(document["results"])[1]


def _drop_sample(document: Document, boxes: list[dict[str, Any]]) -> None:
    document["results"].popitem()


def _repeat(fragment: str) -> Change:
    """Writes a member twice: the first `fragment` of the text, doubled."""
    return _text(lambda text: text.replace(fragment, fragment + ", " + fragment, 1))


def _repeat_sample(document: Document, boxes: list[dict[str, Any]]) -> str:
    token = next(iter(document["results"]))
    return json.dumps(document).replace('"results": {', '"results": {"' + token + '": [], ', 1)


def _top_nested(document: Document, boxes: list[dict[str, Any]]) -> str:
    deep = "[" * 200_000 + "]" * 200_000
    return json.dumps(document)[:-1] + ', "more": ' + deep + "}"


ERRORS: dict[str, tuple[str, Change]] = {
    # The text.
    "empty file": ("file-empty", _text(lambda text: "")),
    "blank file": ("json-malformed", _text(lambda text: "  \n")),
    "cut in the middle": ("json-malformed", _text(lambda text: text[: len(text) // 2])),
    "last brace gone": ("json-malformed", _text(lambda text: text[:-1])),
    "text after the end": ("json-malformed", _text(lambda text: text + "}")),
    "two documents": ("json-malformed", _text(lambda text: text + "\n" + text)),
    "single quotes": ("json-malformed", _text(lambda text: text.replace('"', "'"))),
    "trailing comma": ("json-malformed", _text(lambda text: text[:-1] + ",}")),
    "byte order mark": ("json-malformed", _text(lambda text: "\ufeff" + text)),
    "UTF-16": ("json-malformed", _text(lambda text: text.encode("utf-16"))),
    "Latin-1": ("json-malformed", _text(lambda text: text.replace("car", "\xe9").encode("latin1"))),
    "zero bytes": ("json-malformed", _text(lambda text: b"\0" * 64 + text.encode()[64:])),
    "a pickle": ("json-malformed", _text(lambda text: b"\x80\x04\x95" + text.encode())),
    "nested too deeply": ("json-malformed", _top_nested),
    "thousands of digits": (
        "json-malformed",
        _text(lambda text: text[:-1] + ', "more": ' + "9" * 5000 + "}"),
    ),
    "meta twice": (
        "json-duplicate-key",
        _text(lambda text: text.replace('"results"', '"meta": {}, "results"', 1)),
    ),
    "sample twice": ("token-duplicate", _repeat_sample),
    "score twice": ("json-duplicate-key", _repeat('"detection_score": 0.9')),
    "use_map twice": ("json-duplicate-key", _repeat('"use_map": false')),
    # The document and its meta.
    "a list": ("document-type", lambda document, boxes: json.dumps([document])),
    "a string": ("document-type", lambda document, boxes: '"results"'),
    "null": ("document-type", lambda document, boxes: "null"),
    "no results": ("results-missing", lambda document, boxes: document.pop("results") and None),
    "no meta": ("meta-missing", lambda document, boxes: document.pop("meta") and None),
    "results null": ("results-type", _top("results", None)),
    "results a list": ("results-type", _top("results", [])),
    "results a string": ("results-type", _top("results", "all")),
    "results empty": ("token-missing", _top("results", {})),
    "meta null": ("meta-type", _top("meta", None)),
    "meta a list": ("meta-type", _top("meta", ["use_lidar"])),
    "meta empty": ("meta-field-missing", _top("meta", {})),
    "meta 1 for true": ("meta-field-type", _meta("use_lidar", 1)),
    "meta string": ("meta-field-type", _meta("use_camera", "true")),
    "meta field null": ("meta-field-type", _meta("use_external", None)),
    "meta NaN": ("json-not-strict", _meta("use_external", NAN)),
    # Samples.
    "sample missing": ("token-missing", _drop_sample),
    "foreign sample": (
        "token-extra",
        lambda document, boxes: document["results"].__setitem__("alien", []),
    ),
    "empty token": ("token-extra", lambda document, boxes: document["results"].__setitem__("", [])),
    "sample null": ("sample-type", _sample(None)),
    "sample an object": ("sample-type", _sample({})),
    "sample a string": ("sample-type", _sample("")),
    "sample a number": ("sample-type", _sample(0)),
    "501 boxes": ("too-many-boxes", _fill(501)),
    "no box anywhere": ("all-empty", _empty_all),
    # Boxes.
    "box null": ("box-type", _sample([None])),
    "box a list": ("box-type", _sample([[1, 2, 3]])),
    "box a string": ("box-type", _sample(["car"])),
    "box empty": ("field-missing", _sample([{}])),
    **{
        f"no {field}": ("field-missing", _drop(field))
        for field in (
            "sample_token",
            "translation",
            "size",
            "rotation",
            "velocity",
            "detection_name",
            "detection_score",
            "attribute_name",
        )
    },
    "num_pts 0": ("field-forbidden", _set("num_pts", 0)),
    "num_pts 5": ("field-forbidden", _set("num_pts", 5)),
    "num_pts text": ("field-forbidden", _set("num_pts", "many")),
    "ego_translation": ("field-forbidden", _set("ego_translation", [0, 0, 0])),
    "token of another sample": ("sample-token-mismatch", _other_token),
    "token unknown": ("sample-token-mismatch", _set("sample_token", "alien")),
    "token a number": ("sample-token-type", _set("sample_token", 7)),
    "token null": ("sample-token-type", _set("sample_token", None)),
    "translation null": ("list-type", _set("translation", None)),
    "translation an object": ("list-type", _set("translation", {"x": 1, "y": 2, "z": 3})),
    "translation text": ("list-type", _set("translation", "123")),
    "translation short": ("list-length", _set("translation", [1.0, 2.0])),
    "translation NaN": ("number-not-finite", _set("translation", NAN, 0)),
    "translation inf": ("number-not-finite", _set("translation", INF, 1)),
    "translation text inside": ("number-type", _set("translation", "5.0", 0)),
    "translation null inside": ("number-type", _set("translation", None, 2)),
    "translation true": ("number-type", _set("translation", True, 2)),
    "translation nested": ("number-type", _set("translation", [[1], [2], [3]])),
    "translation beyond 64 bits": ("number-implausible", _set("translation", 10**30, 0)),
    "translation 1e200": ("number-implausible", _set("translation", 1e200, 0)),
    "size a number": ("list-type", _set("size", 2.0)),
    "size long": ("list-length", _set("size", [1.0] * 4)),
    "size zero": ("size-not-positive", _set("size", 0.0, 0)),
    "size negative": ("size-not-positive", _set("size", -4.0, 1)),
    "size NaN": ("number-not-finite", _set("size", NAN, 2)),
    "size inf": ("number-not-finite", _set("size", INF, 2)),
    "size 1e400": ("number-not-finite", _text(lambda text: text.replace("[1.9,", "[1e400,", 1))),
    "rotation yaw only": ("list-type", _set("rotation", 0.3)),
    "rotation matrix": ("list-length", _set("rotation", [1.0, 0, 0, 0, 1, 0, 0, 0, 1])),
    "rotation zero": ("rotation-zero", _set("rotation", [0, 0, 0, 0])),
    "rotation long": ("rotation-unnormalised", _set("rotation", [2.0, 0, 0, 0])),
    "rotation short": ("rotation-unnormalised", _set("rotation", [0.5, 0, 0, 0.5])),
    "rotation NaN": ("number-not-finite", _set("rotation", NAN, 3)),
    "rotation inf": ("number-not-finite", _set("rotation", INF, 3)),
    "velocity null": ("list-type", _set("velocity", None)),
    "velocity 3-D": ("list-length", _set("velocity", [0.0, 0.0, 0.0])),
    "velocity NaN": ("number-not-finite", _set("velocity", [NAN, NAN])),
    "velocity -inf": ("number-not-finite", _set("velocity", -INF, 0)),
    "velocity text": ("number-type", _set("velocity", ["0", "0"])),
    "class unknown": ("class-unknown", _set("detection_name", "tram")),
    "class raw": ("class-unknown", _set("detection_name", "vehicle.car")),
    "class capital": ("class-unknown", _set("detection_name", "Car")),
    "class null": ("class-unknown", _set("detection_name", None)),
    "class a label": ("class-unknown", _set("detection_name", 0)),
    "class a list": ("class-unknown", _set("detection_name", ["car"])),
    "score zero": ("score-zero", _set("detection_score", 0.0)),
    "score minus zero": ("score-zero", _set("detection_score", -0.0)),
    "score negative": ("score-range", _set("detection_score", -0.5)),
    "score above one": ("score-range", _set("detection_score", 1.01)),
    "score a percentage": ("score-range", _set("detection_score", 87)),
    "score NaN": ("number-not-finite", _set("detection_score", NAN)),
    "score inf": ("number-not-finite", _set("detection_score", INF)),
    "score -inf": ("number-not-finite", _set("detection_score", -INF)),
    "score text": ("number-type", _set("detection_score", "0.5")),
    "score word": ("number-type", _set("detection_score", "high")),
    "score true": ("number-type", _set("detection_score", True)),
    "score null": ("number-type", _set("detection_score", None)),
    "score a list": ("number-type", _set("detection_score", [0.5])),
    "score beyond double": ("number-implausible", _set("detection_score", 10**400)),
    "attribute unknown": ("attribute-unknown", _set("attribute_name", "vehicle.flying")),
    "attribute null": ("attribute-type", _set("attribute_name", None)),
    "attribute a number": ("attribute-type", _set("attribute_name", 5)),
    "attribute a list": ("attribute-type", _set("attribute_name", [])),
    "attribute of a cycle": (
        "attribute-of-other-class",
        _set("attribute_name", "cycle.with_rider"),
    ),
    "attribute on a cone": (
        "attribute-of-other-class",
        _first(lambda box: box.update(detection_name="traffic_cone")),
    ),
    "NaN in a foreign field": ("json-not-strict", _set("extra", NAN)),
}

WARNINGS: dict[str, tuple[str, Change]] = {
    "foreign field": ("field-unknown", _set("tracking_id", "1")),
    "foreign top field": ("document-field-unknown", _top("info", {})),
    "foreign meta field": ("meta-field-unknown", _meta("use_wheels", True)),
    "no sensor": ("meta-no-sensor", _meta("use_lidar", False)),
    "attribute empty": ("attribute-empty", _set("attribute_name", "")),
    "quaternion x y z w": ("rotation-tilted", _swap_wxyz),
    "sizes l w h": ("size-order", _swap_sizes),
    "equal scores": ("scores-equal", _same_scores),
}

_ODD_VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 0.0, -0.5, 0.5, 2, 1e-300, 1e300, 2**63, 10**25, INF, -INF, NAN,
    "", "car", "0.5", "nan", [], [0.0], [1, 2, 3], [0.0] * 4, [[]], [None], {}, {"a": 1},
    "vehicle.moving", "pedestrian.moving",
]  # fmt: skip


def apply(change: Change, document: Document) -> bytes:
    """The text of a changed copy of `document`."""
    changed = copy.deepcopy(document)
    first = next(iter(changed["results"].values()))
    text = change(changed, first)
    if text is None:
        text = json.dumps(changed)
    return text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")


def random_fault(document: Document, rng: np.random.Generator) -> bytes:
    """The text of a copy of `document` with one to three random faults."""
    changed = copy.deepcopy(document)
    for _ in range(rng.choice([1, 1, 2, 3])):
        # Mostly below `results`: the few nodes of `meta` would take half of all changes.
        _mutate_tree(changed if rng.random() < 0.15 else changed.get("results"), rng)
    text = json.dumps(changed).encode()
    return _mutate_text(text, rng) if rng.random() < 0.2 else text


def _mutate_tree(node: Any, rng: np.random.Generator) -> None:
    """Changes one random node: mostly a leaf of a box, sometimes a list or an object above it."""
    if not isinstance(node, dict | list):  # an earlier change took it
        return
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not keys:
            return
        key = keys[rng.integers(len(keys))]
        if isinstance(node[key], dict | list) and rng.random() < 0.9:
            node = node[key]
            continue
        break
    action = rng.integers(6)
    if action <= 2:
        node[key] = copy.deepcopy(_ODD_VALUES[rng.integers(len(_ODD_VALUES))])
    elif action == 3:
        del node[key]
    elif action == 4 and isinstance(node, list):
        node.insert(key, copy.deepcopy(node[rng.integers(len(node))]))
    elif action == 4:
        node[str(rng.choice(["num_pts", "extra", "ego_translation", "x"]))] = node[key]
    elif isinstance(node[key], float):
        node[key] *= float(rng.choice([-1.0, 0.0, 1e3, 1e12, 1.0001]))


def _mutate_text(text: bytes, rng: np.random.Generator) -> bytes:
    at = int(rng.integers(len(text)))
    action = rng.integers(5)
    if action == 0:
        return text[:at]
    if action == 1:
        return text[:at] + text[at + 1 :]
    if action == 2:
        return text[:at] + bytes([int(rng.integers(256))]) + text[at + 1 :]
    if action == 3:
        return text[:at] + bytes(rng.choice(list(b'{}[]",:0-eN\\ ')).tobytes()[:1]) + text[at:]
    end = min(len(text), at + int(rng.integers(1, 200)))
    return text[:end] + text[at:end] + text[end:]
