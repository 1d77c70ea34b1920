"""From the raw tables of one version to the columns of its index.

Every quantity keeps the data set's own frame (global) and double precision; turning it into ``ref``
is the reader's work. What no reader here asks for (radar, camera sweeps between key frames,
visibility, tracks) is
left out: of 2.6 million ``sample_data`` rows of v1.0-trainval 0.6 million remain.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception3d.datasets.nuscenes.annotations import annotation_arrays
from perception3d.datasets.nuscenes.tables import (
    Row,
    TokenIndex,
    column,
    iterate_table,
    read_table,
    tokens,
)
from perception3d.structures.taxonomy import CAMERA_CHANNELS

Array = NDArray[Any]
Arrays = dict[str, Array]

LIDAR_CHANNEL = "LIDAR_TOP"

_DATA_FIELDS = (
    "token", "sample_token", "ego_pose_token", "calibrated_sensor_token", "filename", "timestamp",
    "is_key_frame", "prev", "height", "width",
)  # fmt: skip


def build_arrays(root: Path, version: str, report: Callable[[str], None]) -> Arrays:
    """All columns of the index of one version; see :class:`NuScenesIndex` for their meaning.

    Args:
        root: folder of the data set.
        version: version folder in it.
        report: is told what is being read.

    Raises:
        FileNotFoundError: a table is missing.
        ValueError: tables contradict each other; names table, row and field.
    """
    # Millions of short-lived rows without cycles: the collector would look at them again and again,
    # which triples the time of a trainval build.
    collecting = gc.isenabled()
    gc.disable()
    try:
        return _build(root / version, report)
    finally:
        if collecting:
            gc.enable()


def _build(folder: Path, report: Callable[[str], None]) -> Arrays:
    report(f"reading the tables of {folder}")
    samples, sample_index = _samples(folder)
    calibrations, channel_of = _calibrations(folder)
    data = _sample_data(folder, channel_of)
    report(f"{len(data['token'])} LiDAR sweeps and images; reading ego poses and annotations")
    poses = _ego_poses(folder, data["ego_pose_token"])
    sensors = _sensor_arrays(data, poses, calibrations, samples, sample_index)
    boxes = annotation_arrays(folder, sample_index, samples["sample_time_us"])
    return {**samples, **calibrations, **sensors, **boxes}


def _samples(folder: Path) -> tuple[Arrays, TokenIndex]:
    """Samples sorted by scene, then time, with scenes and logs."""
    logs, scenes, rows = (read_table(folder, name) for name in ("log", "scene", "sample"))
    log_index = TokenIndex("log", tokens(column(logs, "log", "token")))
    scene_index = TokenIndex("scene", tokens(column(scenes, "scene", "token")))
    scene = scene_index.find(tokens(column(rows, "sample", "scene_token")), "sample.scene_token")
    time_us = np.array(column(rows, "sample", "timestamp"), np.int64)
    order = np.lexsort((time_us, scene))
    token = tokens(column(rows, "sample", "token"))[order]
    scene = scene[order]
    previous = np.arange(-1, len(order) - 1, dtype=np.int32)
    previous[1:][scene[1:] != scene[:-1]] = -1
    arrays = {
        "log_name": tokens([str(log.get("logfile", log["token"])) for log in logs]),
        "log_location": tokens([str(log.get("location", "")) for log in logs]),
        "scene_name": tokens(column(scenes, "scene", "name")),
        "scene_log": log_index.find(
            tokens(column(scenes, "scene", "log_token")), "scene.log_token"
        ),
        "sample_token": token,
        "sample_time_us": time_us[order],
        "sample_scene": scene,
        "sample_previous": previous,
    }
    return arrays, TokenIndex("sample", token)


def _calibrations(folder: Path) -> tuple[Arrays, dict[str, str]]:
    """Poses and intrinsics of sensors, and the channel of every calibrated_sensor token."""
    channels = {row["token"]: row["channel"] for row in read_table(folder, "sensor")}
    rows = read_table(folder, "calibrated_sensor")
    for row in rows:
        if row["sensor_token"] not in channels:
            raise ValueError(
                f"calibrated_sensor.json: row {row['token']} names sensor "
                f"{row['sensor_token']!r}, which sensor.json does not hold; unpack this version "
                "again"
            )
    K = np.stack(
        [np.array(row["camera_intrinsic"] or np.zeros((3, 3)), np.float64) for row in rows]
    )
    arrays = {
        "calibration_token": tokens([row["token"] for row in rows]),
        "calibration_ego_T_sensor": rigid_matrices(rows, "calibrated_sensor"),
        "calibration_K": K,
    }
    return arrays, {row["token"]: channels[row["sensor_token"]] for row in rows}


def _sample_data(folder: Path, channel_of: dict[str, str]) -> dict[str, list[Any]]:
    """Columns of the rows that are kept: every sweep of LIDAR_TOP and of known cameras."""
    cameras = frozenset(CAMERA_CHANNELS)
    kept: dict[str, list[Any]] = {name: [] for name in (*_DATA_FIELDS, "channel")}
    for rows in iterate_table(folder, "sample_data"):
        wanted: list[Row] = []
        names = column(rows, "sample_data", "calibrated_sensor_token")
        for row, calibration in zip(rows, names):
            channel = channel_of.get(calibration)
            if channel == LIDAR_CHANNEL or channel in cameras:
                wanted.append(row)
                kept["channel"].append(channel)
            elif channel is None:
                raise ValueError(
                    f"sample_data.json: row {row['token']} names {calibration!r}, which "
                    "calibrated_sensor.json does not hold; unpack this version again"
                )
        for name in _DATA_FIELDS:
            kept[name].extend(column(wanted, "sample_data", name))
    return kept


def _ego_poses(folder: Path, wanted: list[str]) -> Array:
    """(N, 4, 4) global_T_ego of the kept sample_data rows."""
    needed = set(wanted)
    found: list[Array] = []
    place: dict[str, int] = {}
    count = 0
    for rows in iterate_table(folder, "ego_pose"):
        rows = [row for row in rows if row["token"] in needed]
        if rows:
            place.update((row["token"], count + i) for i, row in enumerate(rows))
            found.append(rigid_matrices(rows, "ego_pose"))
            count += len(rows)
    try:
        chosen = np.array([place[token] for token in wanted], np.int64)
    except KeyError as missing:
        raise ValueError(
            f"sample_data.ego_pose_token names {missing}, which ego_pose.json does not hold; the "
            "tables do not belong together or are incomplete: unpack this version again"
        ) from None
    return np.concatenate(found)[chosen] if found else np.zeros((0, 4, 4))


def _sensor_arrays(
    data: dict[str, list[Any]],
    poses: Array,
    calibrations: Arrays,
    samples: Arrays,
    sample_index: TokenIndex,
) -> Arrays:
    calibration = TokenIndex("calibrated_sensor", calibrations["calibration_token"]).find(
        tokens(data["calibrated_sensor_token"]), "sample_data.calibrated_sensor_token"
    )
    global_T_sensor = poses @ calibrations["calibration_ego_T_sensor"][calibration]
    channel = np.array(data["channel"], np.str_)
    sample = sample_index.find(tokens(data["sample_token"]), "sample_data.sample_token")
    key = np.array(data["is_key_frame"], bool)
    token, previous = tokens(data["token"]), tokens(data["prev"])
    time_us = np.array(data["timestamp"], np.int64)

    def paths(rows: Array) -> Arrays:
        return pack_strings([data["filename"][i] for i in rows])

    lidar = np.flatnonzero(channel == LIDAR_CHANNEL)
    sweep = np.full(len(samples["sample_token"]), -1, np.int64)
    sweep[sample[lidar][key[lidar]]] = np.flatnonzero(key[lidar])
    if (sweep < 0).any():
        bad = samples["sample_token"][np.flatnonzero(sweep < 0)[0]].decode()
        raise ValueError(
            f"sample {bad} has no {LIDAR_CHANNEL} key frame, whose frame everything is put in"
        )
    camera = np.flatnonzero(channel != LIDAR_CHANNEL)

    def before(rows: Array, *, lost_is_none: bool = False) -> Array:
        wanted = previous[rows]
        if lost_is_none:  # an image that the tables leave out is not earlier than another
            wanted = np.where(np.isin(wanted, token[rows]), wanted, b"")
        return TokenIndex("sample_data", token[rows]).find(
            wanted, "sample_data.prev", optional=True
        )

    views = np.full((len(sweep), len(CAMERA_CHANNELS)), -1, np.int64)
    number = {name: i for i, name in enumerate(CAMERA_CHANNELS)}
    is_key = key[camera]
    views[sample[camera][is_key], [number[name] for name in channel[camera][is_key]]] = (
        np.flatnonzero(is_key)
    )
    lidar_before = before(lidar)
    return {
        "sample_lidar": sweep,
        "sample_cameras": views,
        "lidar_time_us": time_us[lidar],
        "lidar_global_T_sensor": global_T_sensor[lidar],
        "lidar_calibration": calibration[lidar],
        "lidar_previous": lidar_before,
        "lidar_velocity_mps": sensor_velocity(global_T_sensor[lidar], time_us[lidar], lidar_before),
        **{f"lidar_file_{k}": v for k, v in paths(lidar).items()},
        "camera_time_us": time_us[camera],
        "camera_global_T_sensor": global_T_sensor[camera],
        "camera_calibration": calibration[camera],
        "camera_previous": before(camera, lost_is_none=True),
        "camera_is_key": is_key,
        "camera_hw": np.array(
            [(data["height"][i], data["width"][i]) for i in camera], np.int64
        ).reshape(-1, 2),
        **{f"camera_file_{k}": v for k, v in paths(camera).items()},
    }


def rigid_matrices(rows: list[Row], table: str) -> Array:
    """(N, 4, 4) float64 from the fields ``translation`` and ``rotation`` (w, x, y, z; normalised
    here).

    Raises:
        ValueError: a rotation has no length, or a number is not finite; names table and row.
    """
    t = np.array(column(rows, table, "translation"), np.float64).reshape(-1, 3)
    q = np.array(column(rows, table, "rotation"), np.float64).reshape(-1, 4)
    length = np.linalg.norm(q, axis=1)
    bad = ~(np.isfinite(t).all(1) & np.isfinite(length) & (length > 1e-9))
    if bad.any():
        row = rows[int(np.flatnonzero(bad)[0])]
        raise ValueError(
            f"{table}.json: row {row['token']} is no pose: translation {row['translation']}, "
            f"rotation {row['rotation']}"
        )
    w, x, y, z = (q / length[:, None]).T
    T = np.zeros((len(rows), 4, 4))
    T[:, 3, 3] = 1
    T[:, :3, 3] = t
    T[:, 0, :3] = np.stack((1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)), 1)
    T[:, 1, :3] = np.stack((2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)), 1)
    T[:, 2, :3] = np.stack((2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)), 1)
    return T


def sensor_velocity(global_T_sensor: Array, time_us: Array, previous: Array) -> Array:
    """(N, 3) float32 m/s of a sensor along its own axes, from the sweep before (else from the one
    after).

    A sweep without neighbours gets 0. Needed to recognise rows without return, which lie on the way
    that the sensor went during its turn.
    """
    count = len(previous)
    after = np.full(count, -1, np.int64)
    linked = np.flatnonzero(previous >= 0)
    after[previous[linked]] = linked
    here = np.arange(count)
    first = np.where(previous >= 0, previous, here)
    last = np.where(previous >= 0, here, np.where(after >= 0, after, here))
    moved = global_T_sensor[last, :3, 3] - global_T_sensor[first, :3, 3]
    seconds = (time_us[last] - time_us[first]) * 1e-6
    velocity = np.divide(
        moved, seconds[:, None], out=np.zeros_like(moved), where=seconds[:, None] > 0
    )
    return np.einsum("nji,nj->ni", global_T_sensor[:, :3, :3], velocity).astype(np.float32)


def pack_strings(values: list[str]) -> Arrays:
    """UTF-8 text of all strings end to end, and where each ends: smaller than fixed width, and
    mappable.
    """
    encoded = [value.encode() for value in values]
    ends = np.cumsum([len(e) for e in encoded], dtype=np.int64)
    return {"text": np.frombuffer(b"".join(encoded), np.uint8), "end": ends}
