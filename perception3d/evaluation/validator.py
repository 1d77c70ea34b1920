"""Offline check of a nuScenes results file, before anybody waits for a leaderboard.

It rejects whatever the official evaluator (nuscenes-devkit 1.2.0, `eval/detection`) rejects on any
data set, and more: what the official code lets through in silence and scores oddly, such as NaN
velocities, infinite numbers, scores of 0, a box under another sample's key, duplicate keys.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from perception3d.evaluation.box_rules import check_box
from perception3d.evaluation.findings import FindingList, Report, shown
from perception3d.evaluation.json_stream import JsonStream, MalformedJsonError, RepeatedKeys
from perception3d.evaluation.rules import MAX_BOXES_PER_SAMPLE, META_FIELDS
from perception3d.structures.taxonomy import NUSCENES_CLASS_RANGE_M

_LARGE_BYTES = 1 << 30
_LONG_CLASSES = frozenset({"car", "truck", "bus", "trailer", "bicycle", "motorcycle"})


def validate_submission(
    path: str | Path,
    *,
    tokens: Collection[str] | None = None,
    ego_position_m: Mapping[str, Sequence[float]] | None = None,
    max_bytes: int | None = None,
    findings_per_code: int = 20,
) -> Report:
    """Checks a results file; reads it as a stream, a sample at a time.

    Args:
        path: the JSON file.
        tokens: sample tokens of the split: each must be there, no other may. None leaves this
            unchecked and says so.
        ego_position_m: global (x, y, ...) of the ego vehicle by token, metres; adds the checks that
            boxes lie within the evaluated range (a whole file in the wrong frame shows here).
        max_bytes: error when the file is larger; by default a warning from 1 GiB on.
        findings_per_code: of each kind of finding so many (1 or more) are listed; all are counted.

    Returns:
        The report; `report.accepted` is the verdict. Bad files never raise.

    Raises:
        ValueError: findings_per_code below 1.
    """
    if findings_per_code < 1:
        raise ValueError(f"findings_per_code must be 1 or more, found {findings_per_code}")
    check = _FileCheck(FindingList(findings_per_code), tokens, ego_position_m)
    num_bytes = _check_size_on_disk(Path(path), max_bytes, check.findings)
    if num_bytes > 0:
        try:
            with JsonStream(path) as stream:
                check.document(stream)
        except MalformedJsonError as error:
            check.findings.token = None
            check.findings.error(
                "json-malformed",
                f"{error} (character {error.offset:,}); is the file cut short or not JSON? "
                "The rest was not checked",
            )
        except OSError as error:
            check.findings.token = None
            check.findings.error("file-unreadable", f"{error}; check the file and its rights")
        else:
            check.whole_file()
    return Report(
        tuple(check.findings.kept),
        dict(check.findings.counts),
        check.num_samples,
        check.num_boxes,
        num_bytes,
    )


def _check_size_on_disk(path: Path, max_bytes: int | None, findings: FindingList) -> int:
    try:
        regular, num_bytes = path.is_file(), path.stat().st_size
    except (OSError, ValueError) as error:
        findings.error("file-unreadable", f"{error}; check the path")
        return 0
    if not regular:
        findings.error("file-unreadable", f"{path} is no file; name the results JSON itself")
        return 0
    if num_bytes == 0:
        findings.error("file-empty", "the file has 0 bytes; write it again")
    elif max_bytes is not None and num_bytes > max_bytes:
        message = f"{num_bytes:,} bytes, allowed are {max_bytes:,}; write fewer boxes"
        findings.error("file-too-large", message)
    elif num_bytes > _LARGE_BYTES:
        message = f"{num_bytes:,} bytes; the official evaluator needs about five times that memory"
        findings.warning("file-large", message)
    return num_bytes


class _FileCheck:
    """State of one pass over a file."""

    def __init__(
        self,
        findings: FindingList,
        tokens: Collection[str] | None,
        ego_position_m: Mapping[str, Sequence[float]] | None,
    ) -> None:
        self.findings = findings
        self.expected = None if tokens is None else frozenset(tokens)
        self.ego_position_m = ego_position_m or {}
        self.num_samples = 0
        self.num_boxes = 0
        self._num_listed = 0
        self._seen: set[str] = set()
        self._scores: dict[str, array[float]] = {}
        self._in_range = [0, 0]  # boxes whose range is known: out, in
        self._longer = [0, 0]  # elongated classes: wider than long, the others

    def document(self, stream: JsonStream) -> None:
        """The outermost level: `meta` and `results`."""
        if stream.peek() != "{":
            found = shown(stream.value())
            self.findings.error(
                "document-type", f"must be an object with meta and results: {found}"
            )
        else:
            met: set[str] = set()
            for key in stream.members("the document"):
                if key in met:
                    self.findings.error("json-duplicate-key", f"{shown(key)} twice; keep one")
                met.add(key)
                if key == "results" and stream.peek() == "{":
                    self._results(stream)
                    continue
                value = stream.value()
                self._check_constants(stream, key)
                if key == "results":
                    message = f"must be an object of sample tokens, found {shown(value)}"
                    self.findings.error("results-type", message, "results")
                elif key == "meta":
                    self._meta(value)
                else:
                    message = f"{shown(key)} is no field of the format"
                    self.findings.warning("document-field-unknown", message)
            for key in ("meta", "results"):
                if key not in met:
                    self.findings.error(f"{key}-missing", "required at the top; add it", key)
        if stream.peek():
            raise MalformedJsonError("text after the end of the document", stream.offset)

    def _check_constants(self, stream: JsonStream, place: str) -> None:
        for word in stream.constants[:3]:
            message = f"{word} is no JSON; the value must be a finite number"
            self.findings.error("json-not-strict", message, place)

    def _meta(self, meta: Any) -> None:
        if not isinstance(meta, dict):
            message = f"must be an object with {', '.join(META_FIELDS)}; found {shown(meta)}"
            self.findings.error("meta-type", message, "meta")
            return
        if isinstance(meta, RepeatedKeys):
            names = ", ".join(shown(key) for key in meta.repeated)
            self.findings.error("json-duplicate-key", f"more than once: {names}", "meta")
        for name in META_FIELDS:
            if name not in meta:
                self.findings.error("meta-field-missing", "add true or false", f"meta.{name}")
            elif not isinstance(meta[name], bool):
                message = f"must be true or false, found {shown(meta[name])}"
                self.findings.error("meta-field-type", message, f"meta.{name}")
        for name in meta.keys() - set(META_FIELDS):
            self.findings.warning("meta-field-unknown", f"{shown(name)} is unknown", "meta")
        if not any(meta.get(name) is True for name in META_FIELDS[:3]):
            self.findings.warning("meta-no-sensor", "no sensor is marked as used", "meta")

    def _results(self, stream: JsonStream) -> None:
        for token in stream.members("results"):
            self.findings.token = token
            boxes = stream.value()
            self.num_samples += 1
            if token in self._seen:
                message = "listed twice; the evaluator keeps only the last: merge them"
                self.findings.error("token-duplicate", message)
            elif self.expected is not None and token not in self.expected:
                message = "not in the split; remove it (or choose the right split)"
                self.findings.error("token-extra", message)
            self._seen.add(token)
            self._check_constants(stream, "")
            self._sample(token, boxes)
            self.findings.token = None

    def _sample(self, token: str, boxes: Any) -> None:
        if not isinstance(boxes, list):
            message = f"must be a list of boxes (possibly []), found {shown(boxes)}"
            self.findings.error("sample-type", message)
            return
        if len(boxes) > MAX_BOXES_PER_SAMPLE:
            message = f"{len(boxes)} boxes, allowed are {MAX_BOXES_PER_SAMPLE}; keep the best"
            self.findings.error("too-many-boxes", message)
        self.num_boxes += len(boxes)
        for index, box in enumerate(boxes):
            if check_box(box, token, f"[{index}]", self.findings):
                self._remember(token, box, index)

    def _remember(self, token: str, box: dict[str, Any], index: int) -> None:
        name = box["detection_name"]
        self._scores.setdefault(name, array("d")).append(box["detection_score"])
        if name in _LONG_CLASSES:
            self._longer[box["size"][1] >= box["size"][0]] += 1
        ego = self.ego_position_m.get(token)
        if ego is None:
            return
        x, y = box["translation"][:2]
        distance = math.hypot(x - ego[0], y - ego[1])
        inside = distance < NUSCENES_CLASS_RANGE_M[name]
        self._in_range[inside] += 1
        if not inside:
            message = (
                f"{distance:.1f} m from the ego vehicle; the evaluator drops every {name} from "
                f"{NUSCENES_CLASS_RANGE_M[name]:.0f} m on"
            )
            self.findings.warning("box-out-of-range", message, f"[{index}].translation")

    def whole_file(self) -> None:
        """Rules that need all samples; called when the text was read to its end."""
        self.findings.token = None
        if self.expected is None:
            message = "no list of tokens was given: missing and foreign samples go unnoticed"
            self.findings.warning("tokens-unchecked", message)
        else:
            self._missing_tokens(self.expected)
        if self.num_boxes == 0:
            message = "no sample holds any box; the official evaluator fails on such a file"
            self.findings.error("all-empty", message)
        outside, inside = self._in_range
        if outside > inside:
            message = f"{outside:,} of {outside + inside:,} boxes: are they in the global frame?"
            self.findings.error("mostly-out-of-range", message)
        wide, long = self._longer
        if wide > long:
            message = (
                f"{wide:,} of {wide + long:,} vehicles are wider than long; the order of size is "
                "width, length, height"
            )
            self.findings.warning("size-order", message)
        self._equal_scores()

    def _missing_tokens(self, expected: frozenset[str]) -> None:
        for token in sorted(expected - self._seen):
            self.findings.token = token
            message = "missing; every sample of the split must be listed, with [] when empty"
            self.findings.error("token-missing", message)
        self.findings.token = None

    def _equal_scores(self) -> None:
        tied = []
        for name, scores in self._scores.items():
            _, count = np.unique(np.frombuffer(scores, dtype=np.float64), return_counts=True)
            if count.max() > 1:
                tied.append(f"{int(count[count > 1].sum()):,} of {len(scores):,} {name}")
        if tied:
            message = (
                f"boxes share their score with another of their class ({', '.join(tied)}); their "
                "order in the file then decides, and differs between kinds of split"
            )
            self.findings.warning("scores-equal", message)
