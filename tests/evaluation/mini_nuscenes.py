"""A tiny nuScenes data set for evaluation: all 13 tables, no sensor files."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from perception3d.evaluation.devkit import quiet
from perception3d.geometry import matrix_from_quaternion, yaw_from_matrix
from perception3d.structures import SE3, Boxes3D, Prediction
from perception3d.structures.taxonomy import (
    NUSCENES_ATTRIBUTES,
    NUSCENES_CLASSES,
    NUSCENES_RAW_TO_DETECTION,
)

VERSION = "v1.0-mini"
CUSTOM, PREDEFINED = "mine", "mini_val"
ATTRIBUTES = ("", *NUSCENES_ATTRIBUTES)
# category, size w l h, attribute, speed along the heading, offset from the ego vehicle
OBJECTS = [
    ("vehicle.car", (1.9, 4.6, 1.7), "vehicle.moving", 6.0, (12.0, 3.0)),
    ("vehicle.car", (1.8, 4.3, 1.6), "vehicle.parked", 0.0, (-9.0, -6.0)),
    ("vehicle.truck", (2.5, 7.0, 3.0), "vehicle.stopped", 0.0, (25.0, -4.0)),
    ("vehicle.bus.rigid", (2.9, 11.0, 3.5), "vehicle.moving", 4.0, (-30.0, 4.0)),
    ("vehicle.trailer", (2.8, 10.0, 3.8), "vehicle.parked", 0.0, (33.0, 9.0)),
    ("vehicle.construction", (2.7, 6.0, 3.1), "vehicle.parked", 0.0, (-20.0, 15.0)),
    ("human.pedestrian.adult", (0.6, 0.7, 1.8), "pedestrian.moving", 1.2, (6.0, -7.0)),
    ("human.pedestrian.child", (0.5, 0.5, 1.3), "pedestrian.standing", 0.0, (7.0, 8.0)),
    ("vehicle.motorcycle", (0.8, 2.1, 1.5), "cycle.with_rider", 5.0, (15.0, -2.0)),
    ("vehicle.bicycle", (0.6, 1.7, 1.3), "cycle.without_rider", 0.0, (10.0, 10.0)),
    ("vehicle.bicycle", (0.6, 1.7, 1.3), "cycle.without_rider", 0.0, (-12.0, 8.0)),
    ("movable_object.trafficcone", (0.4, 0.4, 1.0), "", 0.0, (5.0, 2.0)),
    ("movable_object.barrier", (2.5, 0.5, 1.0), "", 0.0, (8.0, -3.0)),
    ("static_object.bicycle_rack", (2.0, 4.0, 1.5), "", 0.0, (-12.0, 8.0)),
    ("animal", (0.3, 0.8, 0.6), "", 0.0, (4.0, 4.0)),
]


def _yaw_wxyz(yaw: float) -> list[float]:
    return [math.cos(yaw / 2), 0.0, 0.0, math.sin(yaw / 2)]


def build(root: Path, samples_per_scene: tuple[int, ...] = (2, 1), seed: int = 0) -> Path:
    """Writes the 13 tables, splits.json and an empty map below `root`."""
    rng = np.random.default_rng(seed)
    categories = sorted({item[0] for item in OBJECTS})
    tables: dict[str, list[dict[str, Any]]] = {
        "category": [
            {"token": f"c{i}", "name": name, "description": ""} for i, name in enumerate(categories)
        ],
        "attribute": [
            {"token": name, "name": name, "description": ""} for name in NUSCENES_ATTRIBUTES
        ],
        "visibility": [{"token": "4", "level": "v80-100", "description": ""}],
        "sensor": [{"token": "lidar", "channel": "LIDAR_TOP", "modality": "lidar"}],
        "calibrated_sensor": [
            {
                "token": "cal",
                "sensor_token": "lidar",
                "translation": [0.94, 0.0, 1.84],
                "rotation": _yaw_wxyz(-math.pi / 2),
                "camera_intrinsic": [],
            }
        ],
        "log": [
            {
                "token": "log",
                "logfile": "log",
                "vehicle": "n000",
                "date_captured": "2026-01-01",
                "location": "boston-seaport",
            }
        ],
        "map": [
            {
                "token": "map",
                "log_tokens": ["log"],
                "category": "semantic_prior",
                "filename": "maps/empty.png",
            }
        ],
    }
    for name in ("ego_pose", "sample_data", "sample", "scene", "instance", "sample_annotation"):
        tables[name] = []
    names = ["scene-0103", "scene-0916", "scene-0061"]
    for scene, count in zip(names, samples_per_scene, strict=False):
        _add_scene(tables, scene, count, categories, rng)
    folder = root / VERSION
    folder.mkdir(parents=True)
    (root / "maps").mkdir()
    (root / "maps" / "empty.png").write_bytes(b"")
    for name, rows in tables.items():
        (folder / f"{name}.json").write_text(json.dumps(rows))
    splits = {CUSTOM: names[:2], "one": names[:1], "nothing": []}
    (folder / "splits.json").write_text(json.dumps(splits))
    return root


def _add_scene(
    tables: dict[str, list[dict[str, Any]]],
    scene: str,
    count: int,
    categories: list[str],
    rng: np.random.Generator,
) -> None:
    ego = rng.uniform(300.0, 600.0, 2)
    yaws = rng.uniform(-math.pi, math.pi, len(OBJECTS))
    samples = [f"{scene}-{index:021d}" for index in range(count)]
    tables["scene"].append(
        {
            "token": scene,
            "name": scene,
            "description": "",
            "log_token": "log",
            "nbr_samples": count,
            "first_sample_token": samples[0],
            "last_sample_token": samples[-1],
        }
    )
    for index, token in enumerate(samples):
        time = 1_600_000_000_000_000 + 500_000 * index
        here = [float(ego[0]) + 2.0 * index, float(ego[1]), 0.0]
        chain = {
            "prev": samples[index - 1] if index else "",
            "next": samples[index + 1] if index + 1 < count else "",
        }
        tables["sample"].append({"token": token, "timestamp": time, "scene_token": scene, **chain})
        tables["ego_pose"].append(
            {
                "token": token,
                "timestamp": time,
                "translation": here,
                "rotation": _yaw_wxyz(0.4 * index),
            }
        )
        tables["sample_data"].append(
            {
                "token": token,
                "sample_token": token,
                "ego_pose_token": token,
                "calibrated_sensor_token": "cal",
                "filename": f"samples/LIDAR_TOP/{token}.pcd.bin",
                "fileformat": "pcd",
                "width": 0,
                "height": 0,
                "is_key_frame": True,
                "timestamp": time,
                **chain,
            }
        )
    for number, (category, size, attribute, speed, offset) in enumerate(OBJECTS):
        instance = f"{scene}-{number}"
        tokens = [f"{instance}-{index}" for index in range(count)]
        tables["instance"].append(
            {
                "token": instance,
                "category_token": f"c{categories.index(category)}",
                "nbr_annotations": count,
                "first_annotation_token": tokens[0],
                "last_annotation_token": tokens[-1],
            }
        )
        for index, sample in enumerate(samples):
            yaw, moved = float(yaws[number]), speed * 0.5 * index
            x = float(ego[0]) + offset[0] + moved * math.cos(yaw)
            y = float(ego[1]) + offset[1] + moved * math.sin(yaw)
            tables["sample_annotation"].append(
                {
                    "token": tokens[index],
                    "sample_token": sample,
                    "instance_token": instance,
                    "visibility_token": "4",
                    "attribute_tokens": [attribute] if attribute else [],
                    "translation": [x, y, size[2] / 2],
                    "size": list(size),
                    "rotation": _yaw_wxyz(yaw),
                    "prev": tokens[index - 1] if index else "",
                    "next": tokens[index + 1] if index + 1 < count else "",
                    "num_lidar_pts": 9,
                    "num_radar_pts": 0,
                }
            )


def load(root: Path, version: str = VERSION) -> Any:
    """The devkit's data set object."""
    with quiet():
        from nuscenes import NuScenes

        return NuScenes(version=version, dataroot=str(root), verbose=False)


def poses(tables: Any, token: str) -> tuple[SE3, SE3]:
    """(global_SE3_ref, ego_SE3_ref) of a sample, `ref` = LIDAR_TOP."""
    data = tables.get("sample_data", tables.get("sample", token)["data"]["LIDAR_TOP"])
    ego = tables.get("ego_pose", data["ego_pose_token"])
    sensor = tables.get("calibrated_sensor", data["calibrated_sensor_token"])
    global_SE3_ego = SE3.from_quaternion(ego["rotation"], ego["translation"])
    ego_SE3_ref = SE3.from_quaternion(sensor["rotation"], sensor["translation"])
    return global_SE3_ego @ ego_SE3_ref, ego_SE3_ref


def _column(rows: list[dict[str, Any]], name: str) -> torch.Tensor:
    return torch.tensor([row[name] for row in rows], dtype=torch.float64)


def perfect_predictions(tables: Any, tokens: Iterable[str]) -> list[Prediction]:
    """Ground truth as predictions with score 1: the official evaluator must answer NDS 1."""
    names = {row["token"]: row["name"] for row in tables.attribute}
    out = []
    for token in tokens:
        global_SE3_ref, ego_SE3_ref = poses(tables, token)
        ref_SE3_global = global_SE3_ref.inverse()
        rows = [tables.get("sample_annotation", a) for a in tables.get("sample", token)["anns"]]
        rows = [
            row
            for row in rows
            if row["category_name"] in NUSCENES_RAW_TO_DETECTION
            and row["num_lidar_pts"] + row["num_radar_pts"] > 0
        ]
        if not rows:
            empty = Prediction(token, Boxes3D.empty(), torch.zeros(0), global_SE3_ref, ego_SE3_ref)
            out.append(empty)
            continue
        velocity = np.stack([tables.box_velocity(row["token"]) for row in rows])[:, :2]
        R = matrix_from_quaternion(_column(rows, "rotation"))
        labels = [NUSCENES_RAW_TO_DETECTION[row["category_name"]] for row in rows]
        attributes = [
            names[row["attribute_tokens"][0]] if row["attribute_tokens"] else "" for row in rows
        ]
        boxes = Boxes3D.build(
            ref_SE3_global.apply(_column(rows, "translation")),
            _column(rows, "size")[:, [1, 0, 2]],
            yaw_from_matrix(ref_SE3_global.rotation @ R),
            torch.tensor([NUSCENES_CLASSES.index(name) for name in labels]),
            velocity_mps=torch.from_numpy(velocity) @ ref_SE3_global.rotation[:2, :2].T,
            attribute=torch.tensor([ATTRIBUTES.index(name) - 1 for name in attributes]),
        )
        score = torch.ones(len(boxes), dtype=torch.float64)
        out.append(Prediction(token, boxes, score, global_SE3_ref, ego_SE3_ref))
    return out
