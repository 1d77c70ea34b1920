"""Annotations of a split's samples as columns; velocities by the devkit's rule.

Source: nuscenes-devkit 1.2.0, `eval/common/loaders.py` and `NuScenes.box_velocity`.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from perception3d.evaluation.detection_boxes import Array
from perception3d.evaluation.detection_config import (
    ATTRIBUTES,
    CATEGORY_CLASS,
    OFFICIAL,
    RACK_CATEGORY,
)
from perception3d.evaluation.detection_split import table_rows

MAX_GAP_S = 1.5
"""Longest time over which a velocity is taken from a neighbour on one side; twice that on both."""

RACK = -2
"""Label of a bicycle rack; other categories that are not evaluated have -1."""

_COLUMNS = ("token", "sample", "label", "attribute", "num_points", "visibility", "prev", "next",
            "numbers")  # fmt: skip
_pack = struct.Struct("=10d").pack


def read_annotations(
    folder: Path, number: dict[str, int], times_us: Sequence[int]
) -> dict[str, Any]:
    """Columns of all annotations of the split's samples, in the order of the table.

    Args:
        folder: version folder.
        number: sample number by token.
        times_us: of the samples.

    Raises:
        FileNotFoundError: a table is missing.
        ValueError: a broken link, a field that is missing, several or unknown attributes.
    """
    class_of = {name: index for index, name in enumerate(OFFICIAL.classes)}
    try:
        label_of, attribute_of = _meanings(folder, class_of)
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{folder}: category.json, instance.json or attribute.json has a row without, or of no "
            f"known, {error}; unpack this version again"
        ) from None
    columns: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
    try:
        for rows in table_rows(folder, "sample_annotation"):
            _gather(rows, number, label_of, attribute_of, columns)
    except KeyError as error:
        raise ValueError(
            f"{folder / 'sample_annotation.json'}: {error} is missing, or names no row of "
            "instance.json; unpack this version again"
        ) from None
    except (TypeError, ValueError, struct.error) as error:
        raise ValueError(
            f"{folder / 'sample_annotation.json'}: a row is broken ({error}); translation and "
            "size need 3 numbers, rotation 4"
        ) from None
    numbers = np.frombuffer(b"".join(columns.pop("numbers"))).reshape(-1, 10)
    sample = np.array(columns["sample"], np.int32)
    time_us = np.array(times_us, np.int64)[sample]
    return {
        "token": columns["token"],
        "sample": sample,
        "label": np.array(columns["label"], np.int8),
        "attribute": np.array(columns["attribute"], np.int8),
        "num_points": np.array(columns["num_points"], np.int64),
        "visibility": np.array(columns["visibility"], np.int8),
        "translation": numbers[:, 0:3],
        "size": numbers[:, 3:6],
        "rotation": numbers[:, 6:10],
        "velocity": _velocities(columns, numbers[:, 0:3], time_us, folder),
    }


def _meanings(folder: Path, class_of: dict[str, int]) -> tuple[dict[str, int], dict[str, int]]:
    """Label by instance token, attribute number by attribute token."""
    category = {
        row["token"]: class_of.get(
            CATEGORY_CLASS.get(row["name"], ""), RACK if row["name"] == RACK_CATEGORY else -1
        )
        for rows in table_rows(folder, "category")
        for row in rows
    }
    label_of = {
        row["token"]: category[row["category_token"]]
        for rows in table_rows(folder, "instance")
        for row in rows
    }
    attribute_of = {
        row["token"]: ATTRIBUTES.index(row["name"]) if row["name"] in ATTRIBUTES else -2
        for rows in table_rows(folder, "attribute")
        for row in rows
    }
    return label_of, attribute_of


def _gather(
    rows: list[dict[str, Any]],
    number: dict[str, int],
    label_of: dict[str, int],
    attribute_of: dict[str, int],
    columns: dict[str, list[Any]],
) -> None:
    """Appends what counts of some rows; rows themselves would take ten times the memory."""
    rows = [row for row in rows if row["sample_token"] in number]
    label = [label_of[row["instance_token"]] for row in rows]
    columns["label"] += label
    columns["sample"] += [number[row["sample_token"]] for row in rows]
    columns["num_points"] += [row["num_lidar_pts"] + row["num_radar_pts"] for row in rows]
    columns["visibility"] += [_level(row.get("visibility_token", "")) for row in rows]
    for name in ("token", "prev", "next"):
        columns[name] += [row[name] for row in rows]
    columns["numbers"] += [
        _pack(*row["translation"], *row["size"], *row["rotation"]) for row in rows
    ]
    if any(len(row["translation"]) != 3 or len(row["size"]) != 3 for row in rows):
        raise ValueError("a list has another length")
    columns["attribute"] += [
        -1 if not row["attribute_tokens"] or index < 0 else _attribute(row, attribute_of)
        for row, index in zip(rows, label)
    ]


def _attribute(row: dict[str, Any], attribute_of: dict[str, int]) -> int:
    tokens = row["attribute_tokens"]
    if len(tokens) > 1:
        raise ValueError(
            f"row {row['token']} has {len(tokens)} attributes; a box of an evaluated class must "
            "not have more than one"
        )
    found = attribute_of.get(tokens[0], -2)
    if found == -2:
        raise ValueError(
            f"row {row['token']} has the unknown attribute {tokens[0]!r}; use one of "
            f"{', '.join(ATTRIBUTES)}"
        )
    return found


def _velocities(
    columns: dict[str, list[Any]], translation: Array, time_us: Array, folder: Path
) -> Array:
    """(N, 2) position difference over time difference of the neighbours in the track; else NaN."""
    place = {token: index for index, token in enumerate(columns["token"])}
    place[""] = -1
    here = np.arange(len(translation))

    def linked(name: str) -> tuple[Array, Array]:
        try:
            found = list(map(place.__getitem__, columns[name]))
        except KeyError as error:
            raise ValueError(
                f"{folder / 'sample_annotation.json'}: a row's {name!r} names {error}, which is "
                "no annotation of the split's scenes; the tables are incomplete: unpack them again"
            ) from None
        index = np.array(found, np.int64).reshape(-1)
        return index >= 0, np.where(index >= 0, index, here)

    has_previous, first = linked("prev")
    has_next, last = linked("next")
    # Times in seconds are subtracted, as the devkit does: it decides gaps of exactly the limit.
    seconds = 1e-6 * time_us[last] - 1e-6 * time_us[first]
    longest = np.where(has_previous & has_next, 2 * MAX_GAP_S, MAX_GAP_S)
    known = (has_previous | has_next) & ~(seconds > longest)
    with np.errstate(divide="ignore", invalid="ignore"):
        velocity = (translation[last] - translation[first]) / seconds[:, None]
    return np.where(known[:, None], velocity, np.nan)[:, :2]


def _level(token: Any) -> int:
    return int(token) if token in ("1", "2", "3", "4") else 0
