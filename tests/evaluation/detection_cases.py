"""Seeded data sets and results files full of hard cases, and both evaluators run on them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from perception3d.evaluation.detection import evaluate_part
from perception3d.evaluation.detection_config import ATTRIBUTES, CATEGORY_CLASS, OFFICIAL
from perception3d.evaluation.detection_file import read_results
from perception3d.evaluation.detection_truth import load_truth
from tests.evaluation.mini_nuscenes import load, quiet

VERSION, CUSTOM, PREDEFINED = "v1.0-mini", "mine", "mini_val"
SCENES = ("scene-0103", "scene-0916", "scene-0061")
CATEGORIES = (*CATEGORY_CLASS, "static_object.bicycle_rack", "animal", "vehicle.emergency.police")
NAN = math.nan

Row = dict[str, Any]


def build(root: Path, seed: int, samples: int = 4, objects: int = 40) -> Path:
    """Writes all 13 tables of a small data set; the third scene is in no split."""
    rng = np.random.default_rng(seed)
    used = [c for c in CATEGORIES if rng.random() < 0.85 or c == "vehicle.car"]
    tables: dict[str, list[Row]] = {
        "category": [{"token": f"c-{name}", "name": name} for name in CATEGORIES],
        "attribute": [{"token": f"a-{name}", "name": name} for name in ATTRIBUTES],
        "visibility": [{"token": str(level), "level": ""} for level in range(1, 5)],
        "sensor": [
            {"token": "s-cam", "channel": "CAM_FRONT", "modality": "camera"},
            {"token": "s-lidar", "channel": "LIDAR_TOP", "modality": "lidar"},
        ],
        "calibrated_sensor": [
            {"token": "k-cam", "sensor_token": "s-cam"},
            {"token": "k-lidar", "sensor_token": "s-lidar"},
        ],
        "log": [{"token": "log", "location": "boston-seaport"}],
        "map": [{"token": "map", "log_tokens": ["log"], "filename": "maps/empty.png"}],
        **{n: [] for n in ("scene", "sample", "sample_data", "ego_pose", "instance")},
        "sample_annotation": [],
    }
    for scene in SCENES:
        _scene(tables, scene, samples, objects, used, rng)
    rng.shuffle(tables["sample_annotation"])  # type: ignore[arg-type]
    rng.shuffle(tables["sample"])  # type: ignore[arg-type]
    folder = root / VERSION
    folder.mkdir(parents=True)
    (root / "maps").mkdir()
    (root / "maps" / "empty.png").write_bytes(b"")
    for name, rows in tables.items():
        (folder / f"{name}.json").write_text(
            json.dumps(rows, indent=int(rng.integers(0, 2)) or None)
        )
    (folder / "splits.json").write_text(json.dumps({CUSTOM: list(SCENES[:2])}))
    return root


def _scene(
    tables: dict[str, list[Row]],
    scene: str,
    count: int,
    objects: int,
    used: list[str],
    rng: np.random.Generator,
) -> None:
    tables["scene"].append({"token": f"t-{scene}", "name": scene, "log_token": "log"})
    ego = np.round(rng.uniform(300, 900, 2))
    tokens = [f"{scene}-{index}" for index in range(count)]
    gaps = rng.choice([0.5, 0.5, 1.5, 2.0], count)
    times = (1_600_000_000_000_000 + np.cumsum(gaps) * 1e6).astype(int).tolist()
    for index, token in enumerate(tokens):
        tables["sample"].append(
            {"token": token, "timestamp": times[index], "scene_token": f"t-{scene}"}
        )
        for sensor, shift in (("cam", 3.0), ("lidar", 0.0)):
            for key in (True, False):
                data = f"{token}-{sensor}-{key}"
                tables["sample_data"].append(
                    {"token": data, "sample_token": token, "ego_pose_token": data,
                     "calibrated_sensor_token": f"k-{sensor}", "is_key_frame": key}
                )  # fmt: skip
                position = [float(ego[0]) + index + shift + (not key), float(ego[1]), 0.0]
                tables["ego_pose"].append({"token": data, "translation": position})
    for number in range(objects):
        _track(tables, scene, tokens, ego, str(rng.choice(used)), number, rng)


def _track(
    tables: dict[str, list[Row]],
    scene: str,
    tokens: list[str],
    ego: np.ndarray,
    category: str,
    number: int,
    rng: np.random.Generator,
) -> None:
    instance = f"i-{scene}-{number}"
    tables["instance"].append({"token": instance, "category_token": f"c-{category}"})
    first, last = sorted(rng.integers(0, len(tokens), 2).tolist())
    name = CATEGORY_CLASS.get(category, "")
    fitting = [a for a in ATTRIBUTES if a.startswith(_family(name))] if name else list(ATTRIBUTES)
    offset = rng.uniform(-45, 45, 2)
    if rng.random() < 0.3:  # whole numbers: exact ties and exact limits of range
        offset = rng.choice([-50.0, -40.0, -30.0, -3.0, 0.0, 3.0, 30.0, 40.0, 50.0], 2)
        offset[1] *= rng.random() < 0.3
    speed = rng.uniform(-3, 3, 2)
    rack = category == "static_object.bicycle_rack"
    size = rng.uniform(0.4, 6, 3) * (5 if rack else 1)
    annotations = [f"{instance}-{index}" for index in range(first, last + 1)]
    for place, index in enumerate(range(first, last + 1)):
        attributes = [f"a-{rng.choice(fitting)}"] if fitting and rng.random() < 0.8 else []
        position = np.array([ego[0] + index, ego[1]]) + offset + speed * place
        tables["sample_annotation"].append(
            {
                "token": annotations[place],
                "sample_token": tokens[index],
                "instance_token": instance,
                "attribute_tokens": attributes,
                "visibility_token": str(rng.integers(1, 5)),
                "translation": [*position.tolist(), float(rng.uniform(0, 2))],
                "size": size.tolist(),
                "rotation": quaternion(rng),
                "prev": annotations[place - 1] if place else "",
                "next": annotations[place + 1] if place + 1 < len(annotations) else "",
                "num_lidar_pts": int(rng.integers(0, 4)),
                "num_radar_pts": int(rng.integers(0, 2)),
            }
        )


def _family(name: str) -> str:
    if name in ("bicycle", "motorcycle"):
        return "cycle"
    return {"pedestrian": "pedestrian", "barrier": "-", "traffic_cone": "-"}.get(name, "vehicle")


def quaternion(rng: np.random.Generator) -> list[float]:
    """Upright, tilted, unnormalised, zero, of -0.0 or of whole numbers."""
    kind = rng.integers(0, 8)
    yaw = rng.uniform(-np.pi, np.pi)
    upright = [math.cos(yaw / 2), 0.0, 0.0, math.sin(yaw / 2)]
    if kind < 4:
        return upright
    if kind == 4:
        return rng.normal(size=4).tolist()
    if kind == 5:
        return [value * 1.001 for value in upright]
    if kind == 6:
        return [1.0, 0.0, 0.0, -0.0] if yaw > 0 else [0.0, 0.0, 0.0, 1.0]
    return [0.0] * 4 if yaw > 2.5 else [1, 0, 0, 0]


def predictions(
    tables: Any, seed: int, *, tokens: list[str] | None = None, ties: bool = True
) -> dict[str, Any]:
    """A results document: jittered copies of the truth, clutter and what is hard.

    Args:
        tables: the devkit's data set.
        seed: of everything random.
        tokens: samples, in the order of the file; those of the split in a random order by default.
        ties: scores with one decimal, so that many are equal.
    """
    rng = np.random.default_rng(seed + 1000)
    if tokens is None:
        tokens = [row["token"] for row in tables.sample if SCENES[2] not in row["token"]]
        rng.shuffle(tokens)
    results: dict[str, list[Row]] = {}
    for token in tokens:
        sample = tables.get("sample", token)
        boxes: list[Row] = []
        for annotation in sample["anns"]:
            row = tables.get("sample_annotation", annotation)
            name = CATEGORY_CLASS.get(row["category_name"])
            name = name or str(rng.choice(OFFICIAL.classes))
            boxes += [_copy(row, name, rng) for _ in range(int(rng.integers(0, 4)))]
        boxes += [_clutter(sample, tables, rng) for _ in range(int(rng.integers(0, 20)))]
        for box in boxes:
            if ties:
                box["detection_score"] = float(np.round(box["detection_score"] * 0.9 + 0.05, 1))
            if rng.random() < 0.03:
                box["velocity"][int(rng.integers(0, 2))] = NAN
            if rng.random() < 0.02:
                box["sample_token"] = str(rng.choice(tokens))
            if rng.random() < 0.02:
                box["num_pts"] = int(rng.integers(0, 2))
        rng.shuffle(boxes)  # type: ignore[arg-type]
        results[token] = boxes
    return {"meta": {"use_lidar": True}, "results": results}


def _copy(row: Row, name: str, rng: np.random.Generator) -> Row:
    center = np.array(row["translation"])
    kind = rng.integers(0, 4)
    if kind == 0:  # exactly at a threshold, or two at equal distances
        center[:2] += rng.choice([-4.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 4.0], 2) * [1, 0]
    else:
        center += rng.normal(size=3) * rng.choice([0.1, 0.5, 2.0])
    near = rng.random() < 0.5
    return {
        "sample_token": row["sample_token"],
        "translation": center.tolist(),
        "size": (np.array(row["size"]) * rng.uniform(0.7, 1.3, 3)).tolist(),
        "rotation": row["rotation"] if near else quaternion(rng),
        "velocity": rng.normal(size=2).tolist(),
        "detection_name": name if rng.random() < 0.9 else str(rng.choice(OFFICIAL.classes)),
        "detection_score": float(rng.uniform()),
        "attribute_name": str(rng.choice(["", *ATTRIBUTES])),
    }


def _clutter(sample: Row, tables: Any, rng: np.random.Generator) -> Row:
    pose = tables.get(
        "ego_pose", tables.get("sample_data", sample["data"]["LIDAR_TOP"])["ego_pose_token"]
    )
    fake = {
        "sample_token": sample["token"],
        "translation": (np.array(pose["translation"]) + rng.uniform(-60, 60, 3)).tolist(),
        "size": [2, 4.5, 1.5],
        "rotation": quaternion(rng),
    }
    return _copy(fake, str(rng.choice(OFFICIAL.classes)), rng)


def official(tables: Any, path: Path, split: str, scratch: Path) -> dict[str, Any] | str:
    """Summary and details of the devkit, or why it failed."""
    with quiet():
        from nuscenes.eval.common.config import config_factory
        from nuscenes.eval.detection.evaluate import DetectionEval

        config = config_factory("detection_cvpr_2019")
        try:
            run = DetectionEval(tables, config, str(path), split, str(scratch), False)
            metrics, curves = run.evaluate()
        except Exception as error:
            return f"{type(error).__name__}: {error}"
    return {
        **metrics.serialize(), "eval_time": 0, "meta": run.meta, "details": curves.serialize(),
    }  # fmt: skip


def ours(root: Path, path: Path, split: str, version: str = VERSION) -> dict[str, Any] | str:
    """The same of our evaluator."""
    truth = load_truth(root, version, split)
    try:
        part = read_results(path, truth, allow_foreign=not truth.samples.official)
        if part.counts.listed == 0:
            return "no boxes"
        result = evaluate_part(part, truth)
    except ValueError as error:
        return f"ValueError: {error}"
    return {**result.summary(), "eval_time": 0, "details": result.details()}


def text(outcome: dict[str, Any]) -> str:
    """Every digit, -0.0 and NaN too."""
    return json.dumps(outcome, sort_keys=True)


def compare(
    root: Path,
    tables: Any,
    document: dict[str, Any] | bytes,
    split: str,
    folder: Path,
    version: str = VERSION,
) -> str:
    """Runs both on a document; asserts that they agree to the last digit. The official verdict."""
    path = folder / "results.json"
    path.write_bytes(document if isinstance(document, bytes) else json.dumps(document).encode())
    expected = official(tables, path, split, folder / "official")
    found = ours(root, path, split, version)
    if isinstance(expected, str):
        assert isinstance(found, str), f"the official code fails ({expected}), ours does not"
        return expected
    assert isinstance(found, dict), f"the official code accepts, ours says {found}"
    for key, curves in expected["details"].items():
        for name, values in curves.items():
            assert repr(found["details"][key][name]) == repr(values), f"{key} {name}"
    assert text(found) == text(expected)
    return "equal"


__all__ = ["CUSTOM", "PREDEFINED", "VERSION", "build", "compare", "load", "predictions"]
