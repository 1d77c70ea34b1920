"""The nuScenes v1.0 writer: blobs and table rows of a scene, and the merge of all scenes into one
data set.

World and sensors know nothing of this file; another format needs only another writer of the same
readings.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from perception3d import fast_json
from perception3d.datasets.town import rig
from perception3d.datasets.town.agents import CATEGORIES
from perception3d.datasets.town.files import BlobWriter
from perception3d.datasets.town.map_expansion import LOCATION
from perception3d.datasets.town.record import CameraReading, Label, Labels, LidarReading
from perception3d.datasets.town.settings import KEY_FRAME_HZ, TownSettings
from perception3d.datasets.town.world import SceneWorld

VERSION = "v1.0-town"
JPEG_QUALITY = 90
FIRST_SCENE_US = 1_735_725_600_000_000  # 2025-01-01 10:00 UTC; a scene every hour
SCENE_STEP_US = 3_600_000_000
Row = dict[str, Any]
Tables = dict[str, list[Row]]

# Raw category -> detection class and its range in the official evaluation, for the generator's own
# count.
DETECTION_RANGES_M = {
    "car": 50.0,
    "truck": 50.0,
    "bus": 50.0,
    "trailer": 50.0,
    "construction_vehicle": 50.0,
    "pedestrian": 40.0,
    "motorcycle": 40.0,
    "bicycle": 40.0,
    "traffic_cone": 30.0,
    "barrier": 30.0,
}
_EXTRA_CATEGORIES = (
    "human.pedestrian.child",
    "human.pedestrian.construction_worker",
    "human.pedestrian.police_officer",
    "vehicle.bus.bendy",
)
_ATTRIBUTES = (
    "vehicle.moving",
    "vehicle.stopped",
    "vehicle.parked",
    "cycle.with_rider",
    "cycle.without_rider",
    "pedestrian.sitting_lying_down",
    "pedestrian.standing",
    "pedestrian.moving",
)
_VISIBILITY = ((0.4, "v0-40"), (0.6, "v40-60"), (0.8, "v60-80"), (1.01, "v80-100"))


class Tokens:
    """Tokens that are md5 sums of meaningful names: the same in every run.

    Args:
        settings: the town; its seed is part of every token.
    """

    def __init__(self, settings: TownSettings) -> None:
        self.seed = settings.seed

    def __call__(self, *names: object) -> str:
        """32 hexadecimal digits."""
        text = "/".join(["town", str(self.seed), *map(str, names)])
        return hashlib.md5(text.encode()).hexdigest()


class SceneTables:
    """Writes the blobs of one scene and collects its table rows.

    Args:
        settings: the town.
        world: the scene.
        blobs: writes files.
    """

    def __init__(self, settings: TownSettings, world: SceneWorld, blobs: BlobWriter) -> None:
        self.settings = settings
        self.world = world
        self.blobs = blobs
        self.name = world.plan.name
        self.token = Tokens(settings)
        self.log = f"town{settings.seed}-d{world.plan.district:02d}-{self.name}"
        self.start_us = FIRST_SCENE_US + world.plan.index * SCENE_STEP_US
        self.data: dict[str, list[Row]] = {}
        self.poses: list[Row] = []
        self.annotations: dict[int, list[Row]] = {}
        self.learnable: dict[str, int] = dict.fromkeys(DETECTION_RANGES_M, 0)
        self.frames = settings.key_frames_per_scene

    def write(self, readings: Iterable[LidarReading | CameraReading | Labels]) -> None:
        """Write all readings of the scene."""
        next_key = 0
        for reading in readings:
            if isinstance(reading, Labels):
                self._add_labels(reading)
                next_key = reading.key_frame + 1
                continue
            key = reading.key_frame
            # The table's rule: data between key frames belong to the sample that FOLLOWS.
            sample = next_key if key is None else key
            if isinstance(reading, LidarReading):
                self._add_data("LIDAR_TOP", reading, sample, reading.points.tobytes(), (0, 0))
            else:
                view = reading.camera
                size = (view.width, view.height)
                self._add_data(view.channel, reading, sample, _jpeg(reading.image), size)

    def part(self) -> dict[str, Any]:
        """The scene's rows by table, and its count of learnable boxes."""
        rows: list[Row] = []
        for channel in sorted(self.data):
            rows += _chained(self.data[channel])
        instances, annotations = self._instances()
        tables: Tables = {
            "log": [self._log()],
            "scene": [self._scene()],
            "sample": self._samples(),
            "sample_data": rows,
            "ego_pose": self.poses,
            "calibrated_sensor": self._calibration(),
            "instance": instances,
            "sample_annotation": annotations,
        }
        return {"scene": self.name, "tables": tables, "learnable": self.learnable}

    def _add_data(
        self,
        channel: str,
        reading: LidarReading | CameraReading,
        sample: int,
        blob: bytes,
        size: tuple[int, int],
    ) -> None:
        time_us = self.start_us + reading.time_us
        is_key = reading.key_frame is not None
        extension = "pcd.bin" if channel == "LIDAR_TOP" else "jpg"
        folder = "samples" if is_key else "sweeps"
        name = f"{folder}/{channel}/{self.log}__{channel}__{time_us}.{extension}"
        self.blobs.write(name, blob)
        token = self.token(self.name, channel, time_us)
        x, y, yaw = (float(v) for v in reading.pose)
        self.poses.append(
            {
                "token": token,
                "timestamp": time_us,
                "rotation": _quaternion(yaw),
                "translation": [x, y, 0.0],
            }
        )
        self.data.setdefault(channel, []).append(
            {
                "token": token,
                "sample_token": self._sample_token(sample),
                "ego_pose_token": token,
                "calibrated_sensor_token": self.token(self.name, "calibration", channel),
                "timestamp": time_us,
                "fileformat": extension.split(".")[0],
                "is_key_frame": is_key,
                "height": size[1],
                "width": size[0],
                "filename": name,
            }
        )

    def _add_labels(self, labels: Labels) -> None:
        sample = self._sample_token(labels.key_frame)
        ego_row = next(
            row for row in reversed(self.poses) if row["token"] == self._lidar_token(labels)
        )
        ego = ego_row["translation"]
        for label in labels.labels:
            agent = self.world.agents[label.agent]
            length, width, height = agent.size_lwh_m
            x, y, yaw = label.pose
            self.annotations.setdefault(label.agent, []).append(
                {
                    "token": self.token(self.name, "annotation", labels.key_frame, label.agent),
                    "sample_token": sample,
                    "instance_token": self._instance_token(label.agent),
                    "visibility_token": _visibility(label),
                    "attribute_tokens": [self.token("attribute", label.attribute)]
                    if label.attribute
                    else [],
                    "translation": [x, y, height / 2],
                    "size": [width, length, height],
                    "rotation": _quaternion(yaw),
                    "num_lidar_pts": label.num_points,
                    "num_radar_pts": 0,
                }
            )
            is_racked = agent.kind == "bicycle" and self.world.is_in_rack(label.agent)
            reach = DETECTION_RANGES_M.get(agent.kind, 0.0)
            if label.num_points and not is_racked and math.hypot(x - ego[0], y - ego[1]) < reach:
                self.learnable[agent.kind] += 1

    def _instances(self) -> tuple[list[Row], list[Row]]:
        instances, annotations = [], []
        for number in sorted(self.annotations):
            rows = _chained(self.annotations[number])
            annotations += rows
            instances.append(
                {
                    "token": self._instance_token(number),
                    "category_token": self.token(
                        "category", self.world.agents[number].raw_category
                    ),
                    "nbr_annotations": len(rows),
                    "first_annotation_token": rows[0]["token"],
                    "last_annotation_token": rows[-1]["token"],
                }
            )
        return instances, annotations

    def _samples(self) -> list[Row]:
        rows = [
            {
                "token": self._sample_token(k),
                "timestamp": self.start_us + k * (1_000_000 // KEY_FRAME_HZ),
                "scene_token": self.token("scene", self.name),
            }
            for k in range(self.frames)
        ]
        return _chained(rows)

    def _scene(self) -> Row:
        plan = self.world.plan
        light = "Night" if plan.night else "Day"
        air = f", fog {plan.fog:.3f}/m" if plan.fog else ""
        return {
            "token": self.token("scene", self.name),
            "log_token": self.token("log", self.name),
            "nbr_samples": self.frames,
            "first_sample_token": self._sample_token(0),
            "last_sample_token": self._sample_token(self.frames - 1),
            "name": self.name,
            "description": f"{light}{air}, town district {plan.district}",
        }

    def _log(self) -> Row:
        return {
            "token": self.token("log", self.name),
            "logfile": self.log,
            "vehicle": "town",
            "date_captured": "2025-01-01",
            "location": LOCATION,
        }

    def _calibration(self) -> list[Row]:
        mounts: list[tuple[str, Any, Any, list[list[float]]]] = [
            ("LIDAR_TOP", rig.LIDAR_TOP.translation_m, rig.LIDAR_TOP.quaternion_wxyz, [])
        ]
        for view in rig.scaled(self.settings.image_scale):
            mounts.append((view.channel, view.translation_m, view.quaternion_wxyz, view.K.tolist()))
        rows = []
        for channel, translation, quaternion, K in mounts:
            q = np.array(quaternion) / np.linalg.norm(quaternion)
            rows.append(
                {
                    "token": self.token(self.name, "calibration", channel),
                    "sensor_token": self.token("sensor", channel),
                    "translation": list(translation),
                    "rotation": q.tolist(),
                    "camera_intrinsic": K,
                }
            )
        return rows

    def _lidar_token(self, labels: Labels) -> str:
        time_us = self.start_us + labels.key_frame * (1_000_000 // KEY_FRAME_HZ)
        return self.token(self.name, "LIDAR_TOP", time_us)

    def _sample_token(self, number: int) -> str:
        return self.token(self.name, "sample", number)

    def _instance_token(self, agent: int) -> str:
        return self.token(self.name, "instance", agent)


def fixed_tables(settings: TownSettings, log_tokens: list[str], map_file: str) -> Tables:
    """The tables that do not depend on the scenes: category, attribute, visibility, sensor, map."""
    token = Tokens(settings)
    names = sorted({*CATEGORIES.values(), *_EXTRA_CATEGORIES})
    channels = ["LIDAR_TOP", *(view.channel for view in rig.CAMERAS)]
    return {
        "category": [
            {
                "token": token("category", name),
                "name": name,
                "description": f"{name} of the generated town.",
            }
            for name in names
        ],
        "attribute": [
            {
                "token": token("attribute", name),
                "name": name,
                "description": name.replace(".", ": "),
            }
            for name in _ATTRIBUTES
        ],
        "visibility": [
            {
                "token": str(k + 1),
                "level": level,
                "description": f"{level[1:].replace('-', ' to ')} % of the object is visible",
            }
            for k, (_, level) in enumerate(_VISIBILITY)
        ],
        "sensor": [
            {
                "token": token("sensor", channel),
                "channel": channel,
                "modality": "lidar" if channel == "LIDAR_TOP" else "camera",
            }
            for channel in channels
        ],
        "map": [
            {
                "token": token("map"),
                "log_tokens": log_tokens,
                "category": "semantic_prior",
                "filename": map_file,
            }
        ],
    }


def merge_parts(settings: TownSettings, parts: list[Path], map_file: str) -> Tables:
    """All 13 tables from the scenes' part files.

    Args:
        settings: the town.
        parts: one file a scene, in the order of the scenes.
        map_file: the semantic-prior picture, relative to the data set's folder.

    Returns:
        table name -> rows.
    """
    tables: Tables = {}
    for path in parts:
        for name, rows in fast_json.loads(path.read_bytes())["tables"].items():
            tables.setdefault(name, []).extend(rows)
    tables.update(fixed_tables(settings, [row["token"] for row in tables["log"]], map_file))
    return tables


def _chained(rows: list[Row]) -> list[Row]:
    """The rows in order, each with the tokens of its neighbours ("" at the ends)."""
    tokens = ["", *(row["token"] for row in rows), ""]
    return [{**row, "prev": tokens[k], "next": tokens[k + 2]} for k, row in enumerate(rows)]


def _quaternion(yaw: float) -> list[float]:
    return [math.cos(yaw / 2), 0.0, 0.0, math.sin(yaw / 2)]


def _visibility(label: Label) -> str:
    return str(next(k + 1 for k, (limit, _) in enumerate(_VISIBILITY) if label.visible <= limit))


def _jpeg(image: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    ok, data = cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    assert ok
    return data.tobytes()
