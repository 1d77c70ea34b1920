"""A small random data set in nuScenes format: tilted poses, three sweeps a key frame, tracks with
gaps.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from perception3d.datasets.nuscenes.tables import TABLES
from perception3d.structures.taxonomy import (
    CAMERA_CHANNELS,
    NUSCENES_ATTRIBUTES,
    NUSCENES_IGNORED_CATEGORIES,
    NUSCENES_RAW_TO_DETECTION,
)

VERSION = "v1.0-made"
SCENES = ("scene-0001", "scene-0002", "scene-0003")
SPLITS = {"made_train": list(SCENES[:2]), "made_val": [SCENES[2]]}
#: Seconds between key frames: single gaps beyond 1.5 s and double ones beyond 3.0 s both occur.
KEY_STEPS_S = (0.5, 0.5, 1.45, 0.5, 1.6, 1.45, 1.6, 0.5)
IMAGE_HW = (90, 160)
CAMERA_PERIOD_US = 83_000
LOCATION = "boston-seaport"


def token(*parts: object) -> str:
    return hashlib.md5("/".join(map(str, parts)).encode()).hexdigest()


@dataclass
class Tables:
    """Rows of all 13 tables."""

    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def add(self, table: str, **row: Any) -> str:
        self.rows.setdefault(table, []).append(row)
        return str(row["token"])

    def write(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name in TABLES:
            # The layout of the real files: one field a line, no indentation.
            (folder / f"{name}.json").write_text(json.dumps(self.rows.get(name, []), indent=0))


def make_dataset(
    root: Path,
    *,
    seed: int = 0,
    annotated: bool = True,
    speed_mps: float = 8.0,
    version: str = VERSION,
) -> Path:
    """Write the data set below ``root`` and return ``root``."""
    rng = np.random.default_rng(seed)
    tables = Tables()
    _fixed_rows(tables, rng)
    for scene in SCENES:
        _scene(root, tables, scene, rng, annotated, speed_mps)
    tables.write(root / version)
    (root / version / "splits.json").write_text(json.dumps(SPLITS))
    (root / "maps").mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(root / "maps" / "prior.png"), np.zeros((8, 8), np.uint8))
    return root


def edit(root: Path, table: str, change: Callable[[list[dict[str, Any]]], object]) -> None:
    """Let ``change`` alter the rows of one table of a data set."""
    path = root / VERSION / f"{table}.json"
    rows = json.loads(path.read_text())
    change(rows)
    path.write_text(json.dumps(rows))


def _quaternion(rotation: Rotation) -> list[float]:
    x, y, z, w = rotation.as_quat()
    return [float(v) for v in (w, x, y, z)]


def _fixed_rows(tables: Tables, rng: np.random.Generator) -> None:
    for name in (*NUSCENES_RAW_TO_DETECTION, *NUSCENES_IGNORED_CATEGORIES):
        tables.add("category", token=token("category", name), name=name, description="")
    for name in NUSCENES_ATTRIBUTES:
        tables.add("attribute", token=token("attribute", name), name=name, description="")
    for level in range(1, 5):
        tables.add("visibility", token=str(level), level=f"v{level}", description="")
    for channel in ("LIDAR_TOP", *CAMERA_CHANNELS, "RADAR_FRONT"):
        modality = {"L": "lidar", "C": "camera", "R": "radar"}[channel[0]]
        tables.add("sensor", token=token("sensor", channel), channel=channel, modality=modality)
    logs = []
    for scene in SCENES:
        logs.append(
            tables.add(
                "log", token=token("log", scene), logfile=f"log-{scene}", vehicle="v",
                date_captured="2020-01-01", location=LOCATION,
            )
        )  # fmt: skip
    tables.add(
        "map", token="map", log_tokens=logs, category="semantic_prior", filename="maps/prior.png"
    )


def _scene(
    root: Path,
    tables: Tables,
    scene: str,
    rng: np.random.Generator,
    annotated: bool,
    speed_mps: float,
) -> None:
    calibrations = _calibrations(tables, scene, rng)
    times = 1_500_000_000_000_000 + np.cumsum([0.0, *KEY_STEPS_S]) * 1e6
    keys = [int(t) + int(rng.integers(0, 900)) for t in times]
    names = [token(scene, "sample", i) for i in range(len(keys))]
    for i, (name, time) in enumerate(zip(names, keys)):
        tables.add(
            "sample", token=name, timestamp=time, scene_token=token("scene", scene),
            prev=names[i - 1] if i else "", next=names[i + 1] if i + 1 < len(names) else "",
        )  # fmt: skip
    tables.add(
        "scene", token=token("scene", scene), name=scene, description="", nbr_samples=len(names),
        log_token=token("log", scene), first_sample_token=names[0], last_sample_token=names[-1],
    )  # fmt: skip
    heading = rng.uniform(-np.pi, np.pi)
    start = rng.uniform(200, 400, 2)

    def pose(time_us: int) -> dict[str, Any]:
        s = (time_us - keys[0]) * 1e-6
        yaw = heading + 0.05 * s
        xy = start + speed_mps * s * np.array([np.cos(heading), np.sin(heading)])
        tilt = 0.02 * np.sin([s, 1.3 * s])
        rotation = Rotation.from_euler("zyx", [yaw, *tilt])
        return {"translation": [*map(float, xy), 0.0], "rotation": _quaternion(rotation)}

    for channel in ("LIDAR_TOP", *CAMERA_CHANNELS):
        rows = _stream(channel, keys, names, rng)
        _write_stream(root, tables, scene, channel, rows, calibrations[channel], pose, rng)
    if annotated:
        _tracks(tables, scene, names, keys, pose, rng)


def _calibrations(tables: Tables, scene: str, rng: np.random.Generator) -> dict[str, str]:
    out = {}
    down = Rotation.from_matrix(
        [[0, 0, 1], [-1, 0, 0], [0, -1, 0]]
    )  # camera axes in a forward frame
    for i, channel in enumerate(("LIDAR_TOP", *CAMERA_CHANNELS)):
        noise = Rotation.from_euler("xyz", rng.normal(0, 0.02, 3))
        if channel == "LIDAR_TOP":
            rotation, K = Rotation.from_euler("z", -np.pi / 2) * noise, []
        else:
            rotation = Rotation.from_euler("z", 1.05 * (i - 1)) * down * noise
            K = [[126.0, 0.0, 81.5], [0.0, 126.5, 46.25], [0.0, 0.0, 1.0]]
        out[channel] = tables.add(
            "calibrated_sensor", token=token(scene, "calibration", channel),
            sensor_token=token("sensor", channel), rotation=_quaternion(rotation),
            camera_intrinsic=K, translation=[*map(float, rng.normal(0.9, 0.1, 2)), 1.8],
        )  # fmt: skip
    return out


def _stream(
    channel: str, keys: list[int], names: list[str], rng: np.random.Generator
) -> list[tuple[int, str, bool]]:
    """(time, sample, is key) of one sensor: between key frames two LiDAR sweeps, and five images
    of cameras, which have an offset.
    """
    rows = []
    for i, (time, name) in enumerate(zip(keys, names)):
        if channel == "LIDAR_TOP":
            rows += [(time - lag, name, False) for lag in (100_000, 50_000) if i]
            rows.append((time, name, True))
        else:
            time -= int(rng.integers(500, 45_000))
            rows += [(time - n * CAMERA_PERIOD_US, name, False) for n in range(5, 0, -1) if i]
            rows.append((time, name, True))
    return rows


def _write_stream(
    root: Path, tables: Tables, scene: str, channel: str, rows: list[tuple[int, str, bool]],
    calibration: str, pose: Any, rng: np.random.Generator,
) -> None:  # fmt: skip
    data = [token(scene, channel, time) for time, _, _ in rows]
    lidar = channel == "LIDAR_TOP"
    for i, (time, sample, key) in enumerate(rows):
        name = f"{'samples' if key else 'sweeps'}/{channel}/{scene}__{channel}__{time}"
        path = root / (name + (".pcd.bin" if lidar else ".jpg"))
        path.parent.mkdir(parents=True, exist_ok=True)
        if lidar:
            random_points(rng).tofile(path)
        else:
            image = cv2.resize(rng.integers(0, 255, (9, 16, 3), np.uint8), IMAGE_HW[::-1])
            cv2.imwrite(str(path), image)
        tables.add("ego_pose", token=data[i], timestamp=time, **pose(time))
        tables.add(
            "sample_data", token=data[i], sample_token=sample, ego_pose_token=data[i],
            calibrated_sensor_token=calibration, filename=str(path.relative_to(root)),
            fileformat="pcd" if lidar else "jpg", width=0 if lidar else IMAGE_HW[1],
            height=0 if lidar else IMAGE_HW[0], timestamp=time, is_key_frame=key,
            prev=data[i - 1] if i else "", next=data[i + 1] if i + 1 < len(data) else "",
        )  # fmt: skip


def random_points(rng: np.random.Generator, count: int = 400) -> np.ndarray:
    """(N, 5) float32: returns from 0.4 to 40 m and no row without return."""
    azimuth = rng.uniform(-np.pi, np.pi, count)
    distance = rng.uniform(0.4, 40, count)
    xyz = np.stack(
        (distance * np.cos(azimuth), distance * np.sin(azimuth), rng.uniform(-1.9, -0.3, count)), 1
    )
    intensity = rng.integers(0, 256, count)
    return np.column_stack((xyz, intensity, np.arange(count) % 32)).astype(np.float32)


def _tracks(
    tables: Tables,
    scene: str,
    names: list[str],
    keys: list[int],
    pose: Any,
    rng: np.random.Generator,
) -> None:
    categories = [*NUSCENES_RAW_TO_DETECTION, "vehicle.emergency.police", "animal"]
    for number, category in enumerate(categories):
        seen = np.flatnonzero(rng.random(len(names)) < 0.6)
        if number % 5 == 0:
            seen = seen[:1]
        if len(seen) == 0:
            continue
        instance = token(scene, "instance", number)
        annotations = [token(scene, "annotation", number, i) for i in seen]
        tables.add(
            "instance", token=instance, category_token=token("category", category),
            nbr_annotations=len(seen), first_annotation_token=annotations[0],
            last_annotation_token=annotations[-1],
        )  # fmt: skip
        velocity = np.array([*rng.normal(0, 4, 2), rng.normal(0, 0.2)])
        offset = np.array([*rng.uniform(-25, 25, 2), 1.0])
        size = [float(v) for v in rng.uniform(0.5, 5, 3)]
        yaw = rng.uniform(-np.pi, np.pi)
        for k, i in enumerate(seen):
            center = (
                np.array(pose(keys[0])["translation"])
                + offset
                + velocity * (keys[i] - keys[0]) * 1e-6
            )
            tables.add(
                "sample_annotation", token=annotations[k], sample_token=names[i],
                instance_token=instance, visibility_token="4",
                attribute_tokens=_attribute(category), translation=[*map(float, center)], size=size,
                rotation=_quaternion(Rotation.from_euler("z", yaw + 0.1 * i)),
                num_lidar_pts=int(rng.integers(0, 40)), num_radar_pts=int(rng.integers(0, 3)),
                prev=annotations[k - 1] if k else "",
                next=annotations[k + 1] if k + 1 < len(seen) else "",
            )  # fmt: skip


def _attribute(category: str) -> list[str]:
    name = NUSCENES_RAW_TO_DETECTION.get(category, "")
    if name in ("car", "truck", "bus", "trailer", "construction_vehicle"):
        return [token("attribute", "vehicle.moving")]
    if name in ("bicycle", "motorcycle"):
        return [token("attribute", "cycle.with_rider")]
    return [token("attribute", "pedestrian.moving")] if name == "pedestrian" else []
