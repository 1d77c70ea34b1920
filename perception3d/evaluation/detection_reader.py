"""Decoded samples into columns: in bulk where they have the usual form, else box by box.

A sample of the usual form goes from the JSON library's lists straight into arrays; whatever has
another form is read box by box by `detection_checks`, with the same result.
"""

from __future__ import annotations

import struct
from array import array
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from perception3d.evaluation.detection_boxes import Array, BoxColumns
from perception3d.evaluation.detection_checks import (
    ATTRIBUTE_NUMBER,
    CLASS_NUMBER,
    FIELDS,
    check_official,
)
from perception3d.evaluation.detection_config import DetectionConfig
from perception3d.evaluation.detection_filter import BikeRacks, FilterCounts, counted_boxes
from perception3d.evaluation.detection_part import DetectionPart
from perception3d.evaluation.detection_truth import DetectionTruth

_BATCH = 1 << 14  # boxes that are filtered at once
_COLUMNS = 13  # x y z, w l h, w x y z, vx vy, score
_pack = struct.Struct(f"={_COLUMNS}d").pack
_WHOLE = 2.0**63  # whole numbers beyond have no place in the official code's arrays
_get = itemgetter(*FIELDS)
_EMPTY = {
    "numbers": np.zeros((0, _COLUMNS)),
    "sample": np.zeros(0, np.int32),
    "label": np.zeros(0, np.int8),
    "attribute": np.zeros(0, np.int8),
    "listed": np.zeros(0, np.int32),
    "turn": np.zeros(0, np.int64),
    "place": np.zeros(0, np.int32),
    "unreadable": np.zeros(0, bool),
}


class ReadCarefullyError(Exception):
    """What counts shows only when the file is read whole and box by box: a sample stands in it
    twice, or a number is NaN or so large that it matters whether it was written as a whole one."""


class ResultsReader:
    """Columns that grow by samples; boxes that do not count are dropped in batches.

    Raises (from `add` and `part`):
        ValueError: the official code would refuse the file; names sample, box and field.
        ReadCarefullyError: begin anew with a careful reader.
    """

    def __init__(
        self,
        path: Path,
        truth: DetectionTruth,
        config: DetectionConfig,
        allow_foreign: bool,
        *,
        careful: bool = False,
    ) -> None:
        self._path, self._truth, self._config = path, truth, config
        self._allow_foreign = allow_foreign
        self._careful = careful
        self._foreign: list[str] = []
        self._number = {token: number for number, token in enumerate(truth.tokens)}
        self._racks = BikeRacks(truth.racks)
        self._turn: dict[int, int] = {}
        self._counts = FilterCounts()
        self._kept: dict[str, list[Array]] = {name: [] for name in _EMPTY}
        self._near_origin = 0
        self._clear()

    def _clear(self) -> None:
        self._rows: list[bytes] = []
        self._label, self._attribute = array("b"), array("b")
        self._listed: list[tuple[int, int, int]] = []  # sample, boxes, turn
        self._own: list[Array] = []
        self._points: list[Array] = []
        self._unreadable: list[Array] = []

    def add(self, token: str, boxes: Any) -> None:
        """Adds what the file lists under a token."""
        number = self._number.get(token)
        if number is None:
            self._foreign.append(token)
            return
        if number in self._turn:
            raise ReadCarefullyError
        self._turn[number] = len(self._turn)
        count = None if self._careful else self._add_usual(token, boxes, number)
        if count is None:
            count = self._add_any(token, boxes, number)
        if count > self._config.max_boxes:
            raise ValueError(
                f"{self._path}: sample {token!r} has {count} boxes, allowed are "
                f"{self._config.max_boxes}; keep the best"
            )
        if len(self._label) >= _BATCH:
            self._flush()

    def _add_usual(self, token: str, boxes: Any, number: int) -> int | None:
        """How many boxes were added; None for boxes of another form, of which none is.

        The usual form has eight fields a box, numbers where they belong and the sample's own token.
        """
        try:
            return self._add_list(token, boxes, number)
        except (TypeError, ValueError, KeyError, OverflowError, struct.error):
            return None

    def _add_list(self, token: str, boxes: Any, number: int) -> int:
        if type(boxes) is not list:
            raise TypeError
        if not boxes:
            return 0
        center, size, rotation, velocity, score, name, attribute, own = zip(*map(_get, boxes))
        if set(own) != {token} or set(map(len, boxes)) != {len(FIELDS)}:
            raise ValueError
        # Unpacking checks the lengths, packing that there are numbers alone.
        rows = [
            _pack(x, y, z, w, l, h, a, b, c, d, u, v, s)
            for (x, y, z), (w, l, h), (a, b, c, d), (u, v), s in zip(
                center, size, rotation, velocity, score
            )
        ]
        label = array("b", map(CLASS_NUMBER.__getitem__, name))
        mark = array("b", map(ATTRIBUTE_NUMBER.__getitem__, attribute))
        self._rows.append(b"".join(rows))  # at once, while they are in the cache
        self._label.extend(label)
        self._attribute.extend(mark)
        self._note(number, len(boxes))
        return len(boxes)

    def _add_any(self, token: str, boxes: Any, number: int) -> int:
        try:
            listed = list(boxes)
        except TypeError:
            raise ValueError(
                f"{self._path}: sample {token!r} must be a list of boxes, found {boxes!r}"
            ) from None
        checked = []
        for index, box in enumerate(listed):
            try:
                checked.append(check_official(box))
            except ValueError as error:
                raise ValueError(f"{self._path}: sample {token!r}, box {index}: {error}") from None
        if not checked:
            return 0
        self._rows += [_pack(*box.numbers) for box in checked]
        self._label.extend(box.label for box in checked)
        self._attribute.extend(box.attribute for box in checked)
        self._note(
            number,
            len(checked),
            own=[self._number.get(box.sample_token, -1) for box in checked],
            points=[box.num_points for box in checked],
            unreadable=[not box.readable_velocity for box in checked],
        )
        return len(checked)

    def _note(
        self,
        number: int,
        count: int,
        own: list[int] | None = None,
        points: list[int] | None = None,
        unreadable: list[bool] | None = None,
    ) -> None:
        self._listed.append((number, count, self._turn[number]))
        self._own.append(np.full(count, number, np.int32) if own is None else np.array(own))
        self._points.append(np.full(count, -1) if points is None else np.array(points))
        self._unreadable.append(
            np.zeros(count, bool) if unreadable is None else np.array(unreadable)
        )

    def _flush(self) -> None:
        """Filters what has gathered."""
        if not self._label:
            return
        numbers = np.frombuffer(b"".join(self._rows)).reshape(-1, _COLUMNS)
        samples, counts, turns = np.array(self._listed).T
        listed = np.repeat(samples, counts).astype(np.int32)
        place = np.arange(len(listed)) - np.repeat(np.cumsum(counts) - counts, counts)
        if not self._careful and _unusual(numbers):
            raise ReadCarefullyError
        label, attribute = (
            np.frombuffer(self._label, np.int8),
            np.frombuffer(self._attribute, np.int8),
        )
        kept, left = counted_boxes(
            numbers[:, 0:3], label, listed, np.concatenate(self._points), self._truth.ego_m,
            self._racks, self._config,
        )  # fmt: skip
        self._counts += left
        self._near_origin += int((np.abs(numbers[:, 0:2]) < 75.0).all(axis=1).sum())
        own, unreadable = np.concatenate(self._own), np.concatenate(self._unreadable)
        found = {
            "numbers": numbers,
            "sample": own.astype(np.int32),
            "label": label,
            "attribute": attribute,
            "listed": listed,
            "turn": np.repeat(turns, counts).astype(np.int64),
            "place": place.astype(np.int32),
            "unreadable": unreadable,
        }
        for name, values in found.items():
            self._kept[name].append(values[kept])
        self._clear()

    def part(self, meta: Any) -> DetectionPart:
        """All that was added."""
        if self._foreign and not self._allow_foreign:
            raise ValueError(
                f"{self._path} has foreign {len(self._foreign)} samples (split "
                f"{self._truth.samples.split}: {len(self._truth.tokens)}), first "
                f"{self._foreign[0]!r}; evaluate the split that the model was run on"
            )
        self._flush()
        rows = {name: np.concatenate([empty, *self._kept[name]]) for name, empty in _EMPTY.items()}
        numbers = rows.pop("numbers")  # columns are views: nothing is copied twice
        return DetectionPart(
            boxes=BoxColumns(
                sample=rows.pop("sample"),
                label=rows.pop("label"),
                attribute=rows.pop("attribute"),
                center_m=numbers[:, 0:3],
                size_wlh_m=numbers[:, 3:6],
                rotation_wxyz=numbers[:, 6:10],
                velocity_mps=numbers[:, 10:12],
            ),
            score=numbers[:, 12].copy(),
            **rows,
            samples=np.array(list(self._turn), np.int32),
            num_samples=len(self._truth.tokens),
            split_digest=self._truth.samples.digest,
            counts=self._counts,
            near_origin=self._near_origin,
            meta=meta,
        )


def _unusual(numbers: Array) -> bool:
    """Whether any number but a velocity is NaN or huge; one look over all of them, mostly."""
    if numbers.min() >= -_WHOLE and numbers.max() < _WHOLE:  # false also with NaN
        return False
    asked = np.delete(numbers, (10, 11), axis=1)
    return not bool((np.abs(asked) < _WHOLE).all())
