"""A data set of tables and a results file of the size and class mix of nuScenes val, generated.

Real scene names of the split `val` are used, so the devkit takes it for the official split.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import orjson

from perception3d.evaluation.detection_config import ATTRIBUTES, CATEGORY_CLASS, OFFICIAL
from perception3d.evaluation.detection_split import scene_names

VERSION, SPLIT = "v1.0-trainval", "val"
#: Share of annotated boxes by category, as published for nuScenes (rounded).
MIX = {
    "vehicle.car": 0.43,
    "human.pedestrian.adult": 0.19,
    "movable_object.barrier": 0.13,
    "movable_object.trafficcone": 0.085,
    "vehicle.truck": 0.077,
    "vehicle.trailer": 0.022,
    "vehicle.bus.rigid": 0.014,
    "vehicle.construction": 0.013,
    "vehicle.motorcycle": 0.011,
    "vehicle.bicycle": 0.010,
    "static_object.bicycle_rack": 0.002,
    "movable_object.debris": 0.016,
}
_SCENES = 150


def generate(root: Path, *, samples: int, boxes: int, truth: int, seed: int = 0) -> Path:
    """Writes the 13 tables below `root` and results.json beside them.

    Args:
        root: a new folder.
        samples: of the split, spread over its 150 scenes.
        boxes: predicted ones a sample.
        truth: annotated ones a sample.
        seed: of everything random.

    Returns:
        The results file.
    """
    rng = np.random.default_rng(seed)
    folder = root / VERSION
    folder.mkdir(parents=True)
    (root / "maps").mkdir()
    (root / "maps" / "empty.png").write_bytes(b"")
    names = scene_names(folder, SPLIT)[:_SCENES]
    tables = _fixed_tables(names)
    with (root / "results.json").open("wb") as results:
        results.write(b'{"meta":{"use_camera":true,"use_lidar":true},"results":{')
        done = 0
        for number, name in enumerate(names):
            count = samples * (number + 1) // len(names) - done
            _scene(tables, name, count, boxes, truth, results, first=done == 0, rng=rng)
            done += count
        results.write(b"}}")
    for table, rows in tables.items():
        (folder / f"{table}.json").write_bytes(orjson.dumps(rows))
    return root / "results.json"


def _fixed_tables(names: list[str]) -> dict[str, list[dict[str, Any]]]:
    return {
        "category": [{"token": _token(c), "name": c, "description": ""} for c in MIX],
        "attribute": [{"token": _token(a), "name": a, "description": ""} for a in ATTRIBUTES],
        "visibility": [{"token": str(n), "level": "", "description": ""} for n in range(1, 5)],
        "sensor": [{"token": _token("lidar"), "channel": "LIDAR_TOP", "modality": "lidar"}],
        "calibrated_sensor": [
            {"token": _token("cal"), "sensor_token": _token("lidar"), "camera_intrinsic": []}
        ],
        "log": [{"token": _token("log"), "location": "boston-seaport"}],
        "map": [
            {"token": _token("map"), "log_tokens": [_token("log")], "filename": "maps/empty.png"}
        ],
        "scene": [
            {"token": _token(name), "name": name, "log_token": _token("log")} for name in names
        ],
        **{
            name: []
            for name in ("sample", "sample_data", "ego_pose", "instance", "sample_annotation")
        },
    }


def _token(text: str) -> str:
    return f"{text:-<32}"[-32:]


def _scene(
    tables: dict[str, list[dict[str, Any]]],
    name: str,
    count: int,
    boxes: int,
    truth: int,
    results: Any,
    *,
    first: bool,
    rng: np.random.Generator,
) -> None:
    categories = rng.choice(list(MIX), truth, p=np.array(list(MIX.values())) / sum(MIX.values()))
    ego = rng.uniform(300, 1500, 2)
    offset = rng.normal(size=(truth, 2)) * 20
    speed = rng.normal(size=(truth, 2)) * (rng.random((truth, 1)) < 0.4) * 3
    size = rng.uniform(0.5, 5, (truth, 3))
    yaw = rng.uniform(-np.pi, np.pi, truth)
    tracks = [f"{name}-{number:04d}" for number in range(truth)]
    for track, category in zip(tracks, categories):
        tables["instance"].append({"token": _token(track), "category_token": _token(category)})
    for index in range(count):
        token = _token(f"{name}-sample-{index:03d}")
        here = [float(ego[0] + 2 * index), float(ego[1]), 0.0]
        time = 1_600_000_000_000_000 + 500_000 * index
        tables["sample"].append(
            {"token": token, "timestamp": time, "scene_token": _token(name), "prev": "", "next": ""}
        )
        tables["ego_pose"].append(
            {"token": token, "timestamp": time, "translation": here, "rotation": [1, 0, 0, 0]}
        )
        tables["sample_data"].append(
            {"token": token, "sample_token": token, "ego_pose_token": token, "timestamp": time,
             "calibrated_sensor_token": _token("cal"), "is_key_frame": True,
             "filename": f"samples/LIDAR_TOP/{token}.pcd.bin", "fileformat": "pcd"}
        )  # fmt: skip
        center = np.concatenate(
            [here[:2] + offset + speed * 0.5 * index, np.full((truth, 1), 1.0)], axis=1
        )
        rotation = np.stack([np.cos(yaw / 2), 0 * yaw, 0 * yaw, np.sin(yaw / 2)], axis=1)
        _annotate(tables, token, tracks, categories, center, size, rotation, index, count, rng)
        listed = _predict(token, categories, center, size, yaw, speed, here, boxes, rng)
        comma = b"" if first and index == 0 else b","
        results.write(comma + orjson.dumps(token) + b":" + orjson.dumps(listed))


def _annotate(
    tables: dict[str, list[dict[str, Any]]], token: str, tracks: list[str], categories: Any,
    center: np.ndarray, size: np.ndarray, rotation: np.ndarray, index: int, count: int,
    rng: np.random.Generator,
) -> None:  # fmt: skip
    points = rng.integers(0, 60, len(tracks)).tolist()
    rows = zip(tracks, categories, center.tolist(), size.tolist(), rotation.tolist(), points)
    for track, category, xyz, wlh, wxyz, lidar in rows:
        attributes = _attributes(CATEGORY_CLASS.get(str(category), ""))
        tables["sample_annotation"].append(
            {
                "token": _token(f"{track}-{index:03d}"),
                "sample_token": token,
                "instance_token": _token(track),
                "visibility_token": "4",
                "attribute_tokens": [_token(attributes[lidar % len(attributes)])]
                if attributes
                else [],
                "translation": xyz,
                "size": wlh,
                "rotation": wxyz,
                "prev": _token(f"{track}-{index - 1:03d}") if index else "",
                "next": _token(f"{track}-{index + 1:03d}") if index + 1 < count else "",
                "num_lidar_pts": lidar,
                "num_radar_pts": 0,
            }
        )


def _predict(
    token: str, categories: Any, center: np.ndarray, size: np.ndarray, yaw: np.ndarray,
    speed: np.ndarray, here: list[float], boxes: int, rng: np.random.Generator,
) -> list[dict[str, Any]]:  # fmt: skip
    """Most objects are found, several times, with noise; the rest is clutter of low score."""
    known = np.array([i for i, c in enumerate(categories) if c in CATEGORY_CLASS], int)
    source = rng.choice(known, boxes)
    clutter = np.arange(boxes) >= min(boxes, 3 * len(known))
    noise = np.where(clutter, 0.0, rng.choice([0.2, 0.6, 2.0], boxes))[:, None]
    xyz = center[source] + rng.normal(size=(boxes, 3)) * noise
    xyz[clutter, :2] = here[:2] + rng.normal(size=(int(clutter.sum()), 2)) * 25
    wlh = size[source] * rng.uniform(0.8, 1.25, (boxes, 3))
    turned = yaw[source] + rng.normal(size=boxes) * 0.2
    velocity = speed[source] + rng.normal(size=(boxes, 2)) * 0.3
    score = np.where(clutter, rng.uniform(0.001, 0.2, boxes), rng.uniform(0.05, 0.95, boxes))
    names = [CATEGORY_CLASS[str(categories[i])] for i in source]
    rotation = np.stack([np.cos(turned / 2), 0 * turned, 0 * turned, np.sin(turned / 2)], axis=1)
    rows = zip(
        xyz.tolist(), wlh.tolist(), rotation.tolist(), velocity.tolist(), names, score.tolist()
    )
    return [
        {
            "sample_token": token,
            "translation": translation,
            "size": wlh_m,
            "rotation": wxyz,
            "velocity": v,
            "detection_name": name,
            "detection_score": value,
            "attribute_name": (_attributes(name) or [""])[0],
        }
        for translation, wlh_m, wxyz, v, name, value in rows
    ]


def _attributes(name: str) -> list[str]:
    assert name == "" or name in OFFICIAL.classes
    family = {"pedestrian": "pedestrian", "bicycle": "cycle", "motorcycle": "cycle"}
    if name in ("", "barrier", "traffic_cone"):
        return []
    return [a for a in ATTRIBUTES if a.startswith(family.get(name, "vehicle") + ".")]
