"""Annotated boxes of one log, and velocities from their tracks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception3d.datasets.av2.feather import Kind, read_columns
from perception3d.datasets.av2.log_files import PoseTrack, rigid_matrices
from perception3d.structures.taxonomy_av2 import (
    AV2_CLASSES,
    AV2_EGO_CATEGORY,
    AV2_IGNORED_CATEGORIES,
)

Array = NDArray[Any]

#: Longest time to a neighbour in a track over which a velocity is believed: one sweep of 10 Hz may
#: be missing. Twice that when both neighbours exist.
MAX_GAP_S = 0.25

_COLUMNS: dict[str, Kind] = {
    "timestamp_ns": "int",
    "track_uuid": "text",
    "category": "text",
    **dict.fromkeys(("length_m", "width_m", "height_m"), "float"),
    **dict.fromkeys(("qw", "qx", "qy", "qz", "tx_m", "ty_m", "tz_m"), "float"),
    "num_interior_pts": "int",
}


@dataclass(frozen=True)
class LogBoxes:
    """N boxes of a log by time; those of one time in the order of the file.

    Attributes:
        time_ns: (N,) int64 time of the sweep they belong to.
        track: (N,) number of the object in its log.
        label: (N,) int8 index into AV2_CLASSES; -1 for categories that are not evaluated.
        center_m: (N, 3) float64 in the vehicle's frame at that time.
        size_lwh_m: (N, 3) float64.
        yaw_rad: (N,) float64 of the box's x axis seen from above, in the vehicle's frame.
        velocity_mps: (N, 3) float32 along the city's axes, of the object over ground; NaN unknown.
        num_points: (N,) int32 points inside; -1 when the file does not say.
    """

    time_ns: Array
    track: Array
    label: Array
    center_m: Array
    size_lwh_m: Array
    yaw_rad: Array
    velocity_mps: Array
    num_points: Array


def read_annotations(path: Path, poses: PoseTrack) -> LogBoxes:
    """Boxes of ``annotations.feather``.

    Velocity is the difference of centres in the city's frame, the next minus the previous one of
    the track over their time apart (0.2 s), one-sided at a track's ends; unknown when a neighbour
    is farther than :data:`MAX_GAP_S`, as in nuScenes with its 1.5 s. Objects that stand get 0.01 to
    0.03 m/s in the median on real logs, and a wider window does not lower that.

    The rows of the vehicle itself, which some files hold, are left out. A box may be tilted in
    some logs (by a few degrees); of its rotation the heading is kept.

    Raises:
        FileNotFoundError, ValueError: the file is missing or damaged, has an unknown category, a
            box that is none, an object twice at one time, or a time without pose.
    """
    columns = read_columns(path, _COLUMNS, optional=frozenset({"num_interior_pts"}))
    kept = columns["category"] != AV2_EGO_CATEGORY
    columns = {name: values[kept] for name, values in columns.items()}
    time_ns = columns["timestamp_ns"].astype(np.int64)
    order = np.argsort(time_ns, kind="stable")
    columns = {name: values[order] for name, values in columns.items()}
    time_ns = time_ns[order]
    ego_T_box = rigid_matrices(path, columns)
    size = np.stack([columns[n] for n in ("length_m", "width_m", "height_m")], 1).astype(np.float64)
    bad = np.flatnonzero(~(np.isfinite(size) & (size > 0)).all(axis=1))
    if len(bad):
        raise ValueError(
            f"{path}: box of {columns['track_uuid'][bad[0]]} at {time_ns[bad[0]]} has length, "
            f"width, height {size[bad[0]].tolist()} ({len(bad)} such boxes); sizes must be > 0. "
            "Correct or remove them"
        )
    track = _tracks(path, columns["track_uuid"], time_ns)
    center = ego_T_box[:, :3, 3]
    city_T_ego = poses.at(time_ns, f"boxes in {path.name}")
    in_city = np.einsum("nij,nj->ni", city_T_ego[:, :3, :3], center) + city_T_ego[:, :3, 3]
    points = columns.get("num_interior_pts", np.full(len(track), -1))
    return LogBoxes(
        time_ns=time_ns,
        track=track,
        label=_labels(path, columns["category"]),
        center_m=center,
        size_lwh_m=size,
        yaw_rad=np.arctan2(ego_T_box[:, 1, 0], ego_T_box[:, 0, 0]),
        velocity_mps=track_velocities(track, time_ns, in_city),
        num_points=points.astype(np.int32),
    )


def track_velocities(track: Array, time_ns: Array, center_m: Array) -> Array:
    """(N, 3) float32 m/s of objects by their neighbours in time; NaN where these say nothing.

    Args:
        track: (N,) number of the object of each box.
        time_ns: (N,) int64; no object twice at one time.
        center_m: (N, 3) in a frame that stands still.
    """
    order = np.lexsort((time_ns, track))
    of, when, where = track[order], time_ns[order], center_m[order]
    linked = of[1:] == of[:-1]
    here = np.arange(len(order))
    first = here - np.concatenate(([False], linked))
    last = here + np.concatenate((linked, [False]))
    first, last = (v[: len(order)] for v in (first, last))  # without boxes, one too many
    seconds = (when[last] - when[first]) * 1e-9
    both = (first < here) & (last > here)
    known = (first != last) & (seconds <= np.where(both, 2 * MAX_GAP_S, MAX_GAP_S))
    velocity = np.full(where.shape, np.nan)
    np.divide(where[last] - where[first], seconds[:, None], out=velocity, where=known[:, None])
    out = np.empty(where.shape, np.float32)
    out[order] = velocity
    return out


def _tracks(path: Path, uuid: Array, time_ns: Array) -> Array:
    """(N,) int64 numbers of the objects.

    Raises:
        ValueError: an object twice at one time.
    """
    names, track = np.unique(uuid.astype(np.str_), return_inverse=True)
    order = np.lexsort((time_ns, track))
    twice = np.flatnonzero((np.diff(track[order]) == 0) & (np.diff(time_ns[order]) == 0))
    if len(twice):
        row = order[twice[0]]
        raise ValueError(
            f"{path} holds {names[track[row]]} more than once at {time_ns[row]} ({len(twice)} "
            "such boxes); remove the copies"
        )
    return track.astype(np.int64)


def _labels(path: Path, category: Array) -> Array:
    """(N,) int8."""
    names, which = np.unique(category.astype(np.str_), return_inverse=True)
    known = {name: label for label, name in enumerate(AV2_CLASSES)}
    known.update(dict.fromkeys(AV2_IGNORED_CATEGORIES, -1))
    unknown = [str(name) for name in names if str(name) not in known]
    if unknown:
        raise ValueError(
            f"{path} has boxes of the unknown category {unknown[0]!r}; known are "
            f"{', '.join(sorted(known))}. Rename it, or add it to structures/taxonomy_av2.py"
        )
    return np.array([known[str(name)] for name in names], np.int8)[which]
