"""Annotated boxes of one version as columns; velocities by the devkit's rule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception3d.datasets.nuscenes.tables import (
    TokenIndex,
    column,
    iterate_table,
    read_table,
    tokens,
)
from perception3d.structures.taxonomy import (
    NUSCENES_ATTRIBUTES,
    NUSCENES_CLASSES,
    NUSCENES_IGNORED_CATEGORIES,
    NUSCENES_RAW_TO_DETECTION,
)

Array = NDArray[Any]
Arrays = dict[str, Array]

#: Longest time between neighbours in a track over which a velocity is believed (nuscenes-devkit,
#: ``NuScenes.box_velocity``); twice that when both neighbours exist.
MAX_GAP_S = 1.5

_NUMBERS = {
    "translation": np.float64,
    "size": np.float64,
    "rotation": np.float64,
    "num_lidar_pts": np.int32,
    "num_radar_pts": np.int32,
}


def annotation_arrays(folder: Path, sample_index: TokenIndex, sample_time_us: Array) -> Arrays:
    """Columns ``box_*`` of the index, sorted by sample; empty for a version without boxes.

    Raises:
        ValueError: a box of non-positive or non-finite size, an unknown category or attribute,
            several attributes on a box of a detection class, or a broken link; names the
            annotation.
    """
    raw = _read(folder)
    token = raw.pop("token")
    sample = sample_index.find(raw["sample_token"], "sample_annotation.sample_token")
    label = _labels(folder, raw["instance_token"])
    _check_boxes(token, raw)
    velocity = _velocities(raw, token, sample_time_us[sample])
    q = raw["rotation"] / np.linalg.norm(raw["rotation"], axis=1, keepdims=True).clip(min=1e-12)
    w, x, y, z = q.T
    # The heading is all that an upright box keeps of its rotation: the box's x axis in the global
    # frame.
    heading = np.stack((1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)), axis=1)
    order = np.argsort(sample, kind="stable")
    counts = np.bincount(sample, minlength=len(sample_time_us))
    arrays = {
        "center_m": raw["translation"],
        "size_lwh_m": raw["size"][:, [1, 0, 2]],
        "heading": heading,
        "velocity_mps": velocity,
        "label": label,
        "attribute": _attributes(folder, token, raw["attribute"], label),
        "num_lidar": raw["num_lidar_pts"],
        "num_radar": raw["num_radar_pts"],
    }
    offset = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
    return {"box_offset": offset, **{f"box_{k}": v[order] for k, v in arrays.items()}}


def _read(folder: Path) -> Arrays:
    table = "sample_annotation"
    texts = ("token", "sample_token", "instance_token", "prev", "next")
    parts: dict[str, list[Array]] = {name: [] for name in (*texts, *_NUMBERS, "attribute")}
    for rows in iterate_table(folder, table):
        for name in texts:
            parts[name].append(tokens(column(rows, table, name)))
        for name, dtype in _NUMBERS.items():
            parts[name].append(np.array(column(rows, table, name), dtype))
        # Several are kept together and judged once the class is known: ignored classes may have
        # them.
        named = column(rows, table, "attribute_tokens")
        parts["attribute"].append(tokens([" ".join(names) for names in named]))
    widths = {"translation": 3, "size": 3, "rotation": 4}
    return {
        name: np.concatenate(arrays).reshape((-1, widths[name]) if name in widths else (-1,))
        for name, arrays in parts.items()
    }


def _labels(folder: Path, instance: Array) -> Array:
    """(N,) int8 detection labels, -1 for the ignored categories."""
    categories = read_table(folder, "category")
    instances = read_table(folder, "instance")
    names = column(categories, "category", "name")
    category_index = TokenIndex("category", tokens(column(categories, "category", "token")))
    of_instance = category_index.find(
        tokens(column(instances, "instance", "category_token")), "instance.category_token"
    )
    instance_index = TokenIndex("instance", tokens(column(instances, "instance", "token")))
    category = of_instance[instance_index.find(instance, "sample_annotation.instance_token")]
    labels = np.full(len(names), -1, np.int8)
    for i in np.unique(category):
        name = names[i]
        if name in NUSCENES_RAW_TO_DETECTION:
            labels[i] = NUSCENES_CLASSES.index(NUSCENES_RAW_TO_DETECTION[name])
        elif name not in NUSCENES_IGNORED_CATEGORIES:
            known = sorted((*NUSCENES_RAW_TO_DETECTION, *NUSCENES_IGNORED_CATEGORIES))
            raise ValueError(
                f"{folder / 'category.json'}: boxes are of the unknown class {name!r}; known "
                f"classes are {', '.join(known)}. Rename it, or add it to structures/taxonomy.py"
            )
    return labels[category]


def _attributes(folder: Path, token: Array, attribute: Array, label: Array) -> Array:
    """(N,) int8 index into NUSCENES_ATTRIBUTES, -1 without one."""
    rows = read_table(folder, "attribute")
    number = {b"": -1}
    for row in rows:
        if row["name"] in NUSCENES_ATTRIBUTES:
            number[row["token"].encode()] = NUSCENES_ATTRIBUTES.index(row["name"])
    values, inverse = np.unique(attribute, return_inverse=True)
    index = np.array([number.get(bytes(value), -2) for value in values], np.int8)[inverse]
    bad = np.flatnonzero((index == -2) & (label >= 0))
    if len(bad):
        found = attribute[bad[0]].decode().split()
        raise ValueError(
            f"sample_annotation.json: row {token[bad[0]].decode()} has attributes {found}; a box "
            "of a detection class has at most one, out of the tokens of "
            f"{', '.join(NUSCENES_ATTRIBUTES)} in attribute.json"
        )
    return np.where(index == -2, -1, index).astype(np.int8)


def _check_boxes(token: Array, raw: Arrays) -> None:
    finite = np.isfinite(raw["translation"]).all(1) & np.isfinite(raw["rotation"]).all(1)
    turned = np.linalg.norm(raw["rotation"], axis=1) > 1e-9
    sized = np.isfinite(raw["size"]).all(1) & (raw["size"] > 0).all(1)
    bad = np.flatnonzero(~(finite & turned & sized))
    if len(bad):
        i = bad[0]
        raise ValueError(
            f"sample_annotation.json: box {token[i].decode()} is no box: size (w, l, h) "
            f"{raw['size'][i].tolist()}, translation {raw['translation'][i].tolist()}, rotation "
            f"{raw['rotation'][i].tolist()}; sizes must be > 0 and all numbers finite "
            f"({len(bad)} such boxes). Correct or remove them"
        )


def _velocities(raw: Arrays, token: Array, time_us: Array) -> Array:
    """(N, 3) float32 global velocities; NaN where the track says nothing (see MAX_GAP_S)."""
    index = TokenIndex("sample_annotation", token)
    previous = index.find(raw["prev"], "sample_annotation.prev", optional=True)
    following = index.find(raw["next"], "sample_annotation.next", optional=True)
    here = np.arange(len(token))
    first = np.where(previous >= 0, previous, here)
    last = np.where(following >= 0, following, here)
    moved = raw["translation"][last] - raw["translation"][first]
    # The devkit subtracts times in seconds; doing the same keeps gaps of exactly the limit on its
    # side.
    seconds = 1e-6 * time_us[last] - 1e-6 * time_us[first]
    both = (previous >= 0) & (following >= 0)
    known = (first != last) & (seconds <= np.where(both, 2 * MAX_GAP_S, MAX_GAP_S)) & (seconds > 0)
    velocity = np.full(moved.shape, np.nan)
    np.divide(moved, seconds[:, None], out=velocity, where=known[:, None])
    return velocity.astype(np.float32)
