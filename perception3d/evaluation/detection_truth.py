"""Ground truth of a split as columns, read from the tables that the evaluator needs.

Rules: nuscenes-devkit 1.2.0, `eval/common/loaders.py` (which boxes, in which
order). Nothing is filtered here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from perception3d.evaluation.detection_annotations import RACK, read_annotations
from perception3d.evaluation.detection_boxes import Array, BoxColumns
from perception3d.evaluation.detection_pieces import no_garbage_collection
from perception3d.evaluation.detection_split import SplitSamples, samples_of_split, table_rows


@dataclass(frozen=True)
class DetectionTruth:
    """What a results file of a split is compared with: S samples, N boxes, K racks.

    Attributes:
        samples: tokens, scenes and times of the split.
        ego_m: (S, 3) global position of the vehicle at the LiDAR's time.
        location: (S) name of the place of each sample's log, "" where unknown.
        boxes: N annotated boxes of evaluated classes, by sample, in the order of the table.
        num_points: (N,) LiDAR and radar points inside.
        visibility: (N,) int8 level 1..4, 0 = unknown.
        racks: K bicycle racks; label and attribute say nothing.
    """

    samples: SplitSamples
    ego_m: Array
    location: tuple[str, ...]
    boxes: BoxColumns
    num_points: Array
    visibility: Array
    racks: BoxColumns

    @property
    def tokens(self) -> tuple[str, ...]:
        """Sample tokens of the split."""
        return self.samples.tokens


def load_truth(root: str | Path, version: str, split: str) -> DetectionTruth:
    """Reads the ground truth of a split.

    Raises:
        FileNotFoundError: a table is missing.
        ValueError: no such split, no sample in it, a broken link between tables, several attributes
            on one box, or a box that is no box.
    """
    with no_garbage_collection():
        return _load(samples_of_split(root, version, split))


def _load(samples: SplitSamples) -> DetectionTruth:
    folder = samples.folder
    number = {token: index for index, token in enumerate(samples.tokens)}
    raw = read_annotations(folder, number, samples.time_us)
    keep = raw["label"] >= 0
    order = np.argsort(raw["sample"][keep], kind="stable")
    rows = np.flatnonzero(keep)[order]
    boxes = _columns(raw, rows)
    _check(boxes, [raw["token"][row] for row in rows])
    racks = np.flatnonzero(raw["label"] == RACK)
    return DetectionTruth(
        samples=samples,
        ego_m=_ego_positions(folder, samples.tokens, number),
        location=_locations(samples),
        boxes=boxes,
        num_points=raw["num_points"][rows],
        visibility=raw["visibility"][rows],
        racks=_columns(raw, racks[np.argsort(raw["sample"][racks], kind="stable")]),
    )


def _columns(raw: dict[str, Any], rows: Array) -> BoxColumns:
    return BoxColumns(
        sample=raw["sample"][rows],
        label=raw["label"][rows],
        attribute=raw["attribute"][rows],
        center_m=raw["translation"][rows],
        size_wlh_m=raw["size"][rows],
        rotation_wxyz=raw["rotation"][rows],
        velocity_mps=raw["velocity"][rows],
    )


def _check(boxes: BoxColumns, tokens: list[str]) -> None:
    for name in ("center_m", "size_wlh_m", "rotation_wxyz"):
        bad = np.flatnonzero(np.isnan(getattr(boxes, name)).any(axis=1))
        if len(bad):
            raise ValueError(
                f"sample_annotation.json: row {tokens[bad[0]]} has NaN in its {name}; correct it"
            )


def _ego_positions(folder: Path, tokens: tuple[str, ...], number: dict[str, int]) -> Array:
    """(S, 3) translation of the pose of each sample's LIDAR_TOP key frame."""
    lidars = {
        row["token"]
        for rows in table_rows(folder, "sensor")
        for row in rows
        if row["channel"] == "LIDAR_TOP"
    }
    calibrated = {
        row["token"]
        for rows in table_rows(folder, "calibrated_sensor")
        for row in rows
        if row["sensor_token"] in lidars
    }
    asked: list[str | None] = [None] * len(tokens)
    for rows in table_rows(folder, "sample_data"):
        for row in rows:
            if row["is_key_frame"] and row["calibrated_sensor_token"] in calibrated:
                sample = number.get(row["sample_token"])
                if sample is not None:
                    asked[sample] = row["ego_pose_token"]
    lost = [token for token, pose in zip(tokens, asked) if pose is None]
    if lost:
        raise ValueError(
            f"{folder / 'sample_data.json'}: {len(lost)} samples have no key frame of LIDAR_TOP, "
            f"first {lost[0]!r}; unpack this version again"
        )
    wanted = set(asked)
    found = {
        row["token"]: row["translation"]
        for rows in table_rows(folder, "ego_pose")
        for row in rows
        if row["token"] in wanted
    }
    missing = [pose for pose in asked if pose not in found]
    if missing:
        raise ValueError(f"{folder / 'ego_pose.json'} lacks {missing[0]!r}; unpack it again")
    return np.array([found[pose] for pose in asked], np.float64)


def _locations(samples: SplitSamples) -> tuple[str, ...]:
    try:
        rows: Iterable[dict[str, Any]] = [
            row for table in table_rows(samples.folder, "log") for row in table
        ]
    except FileNotFoundError:
        rows = ()
    location = {row["token"]: str(row.get("location", "")) for row in rows}
    return tuple(location.get(samples.log_tokens[scene], "") for scene in samples.scene)
