"""Small logs in the format of the Argoverse 2 sensor data set, with known contents."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
from pyarrow import feather
from scipy.spatial.transform import Rotation

from perception3d.structures.taxonomy_av2 import AV2_CAMERAS, AV2_CLASSES

BEGIN_NS = 315_966_253_000_000_000
SWEEP_NS = 100_000_000
#: A moving object of the first log, seen at every sweep: velocity over ground, m/s.
MOVER_MPS = (3.0, -1.0, 0.0)
EGO_MPS = 8.0


def write_table(path: Path, **columns: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    feather.write_feather(pa.table(columns), str(path), compression="zstd")


def pose_columns(matrices: list[np.ndarray]) -> dict[str, np.ndarray]:
    T = np.stack(matrices)
    x, y, z, w = Rotation.from_matrix(T[:, :3, :3]).as_quat().T
    names = ("qw", "qx", "qy", "qz", "tx_m", "ty_m", "tz_m")
    return dict(zip(names, (w, x, y, z, *T[:, :3, 3].T)))


def camera_hw(name: str) -> tuple[int, int]:
    """A sixteenth of the real sizes; the front camera stands upright."""
    return (128, 97) if name == "ring_front_center" else (97, 128)


def pose_at(time_ns: int) -> np.ndarray:
    """City from vehicle: forward along a slow turn, slightly tilted."""
    s = (time_ns - BEGIN_NS) * 1e-9
    T = np.eye(4)
    T[:3, :3] = Rotation.from_euler("zyx", [0.8 + 0.2 * s, 0.02, -0.01]).as_matrix()
    T[:3, 3] = (700 + EGO_MPS * s, 2200 + 2 * s, -20 + 0.1 * s)
    return T


def make_log(
    folder: Path, *, sweeps: int = 4, annotated: bool = True, images: bool = True, seed: int = 0
) -> Path:
    """Write one log and return its folder."""
    rng = np.random.default_rng(seed)
    times = [BEGIN_NS + i * SWEEP_NS for i in range(sweeps)]
    pose_times = list(times)
    _calibration(folder, rng)
    for time_ns in times:
        _sweep(folder, time_ns, rng)
    if images:
        for view, name in enumerate(AV2_CAMERAS):
            first = BEGIN_NS - 20_000_000 + 3_000_000 * view
            shots = [first + n * 50_000_000 for n in range(2 * sweeps)]
            pose_times += shots
            for time_ns in shots:
                path = folder / "sensors" / "cameras" / name / f"{time_ns}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                picture = cv2.resize(
                    rng.integers(0, 255, (9, 9, 3), np.uint8), camera_hw(name)[::-1]
                )
                cv2.imwrite(str(path), picture)
    pose_times = sorted(set(pose_times))
    write_table(
        folder / "city_SE3_egovehicle.feather",
        timestamp_ns=np.array(pose_times),
        **pose_columns([pose_at(t) for t in pose_times]),
    )
    if annotated:
        _annotations(folder, times, rng)
    _map(folder)
    return folder


def _calibration(folder: Path, rng: np.random.Generator) -> None:
    down = Rotation.from_matrix([[0, 0, 1], [-1, 0, 0], [0, -1, 0]])
    poses, names = [], [*AV2_CAMERAS, "up_lidar", "down_lidar"]
    for number in range(len(names)):
        T = np.eye(4)
        turn = Rotation.from_euler("zyx", [0.7 * number, *rng.normal(0, 0.02, 2)])
        T[:3, :3] = (turn * down).as_matrix()
        T[:3, 3] = (1.5, *rng.normal(0, 0.2, 1), 1.4)
        poses.append(T)
    write_table(
        folder / "calibration" / "egovehicle_SE3_sensor.feather",
        sensor_name=names,
        **pose_columns(poses),
    )
    hw = np.array([camera_hw(name) for name in AV2_CAMERAS], np.uint16)
    write_table(
        folder / "calibration" / "intrinsics.feather",
        sensor_name=list(AV2_CAMERAS),
        fx_px=rng.uniform(100, 120, 9), fy_px=rng.uniform(100, 120, 9),
        cx_px=hw[:, 1] / 2 + 0.3, cy_px=hw[:, 0] / 2 - 0.4,
        k1=np.full(9, -0.2), k2=np.zeros(9), k3=np.zeros(9),
        height_px=hw[:, 0], width_px=hw[:, 1],
    )  # fmt: skip


def _sweep(folder: Path, time_ns: int, rng: np.random.Generator, count: int = 300) -> None:
    xyz = rng.uniform((-60, -60, -1), (60, 60, 3), (count, 3)).astype(np.float16)
    write_table(
        folder / "sensors" / "lidar" / f"{time_ns}.feather",
        x=xyz[:, 0], y=xyz[:, 1], z=xyz[:, 2],
        intensity=rng.integers(0, 256, count).astype(np.uint8),
        laser_number=rng.integers(0, 64, count).astype(np.uint8),
        offset_ns=rng.integers(0, SWEEP_NS, count).astype(np.int32),
    )  # fmt: skip


def _annotations(folder: Path, times: list[int], rng: np.random.Generator) -> None:
    """A mover in every sweep, one object a class in every sweep, an ignored one, one seen once."""
    rows: list[tuple[int, str, str, np.ndarray]] = []
    still = {
        name: (*rng.uniform(-9, 9, 2), 0.5)
        for name in (*AV2_CLASSES, "ANIMAL", "EGO_VEHICLE", "SIGN once")
    }
    for number, time_ns in enumerate(times):
        ego_T_city = np.linalg.inv(pose_at(time_ns))
        s = (time_ns - BEGIN_NS) * 1e-9
        places = {
            "REGULAR_VEHICLE mover": np.array((720.0, 2190.0, -19.0)) + s * np.array(MOVER_MPS)
        }
        for name, offset in still.items():
            places[name] = np.array((700.0, 2200.0, -20.0)) + offset
        for name, place in places.items():
            if name.endswith("once") and number:
                continue
            in_ego = ego_T_city[:3, :3] @ place + ego_T_city[:3, 3]
            rows.append((time_ns, f"track {name}", name.split()[0], in_ego))
    center = np.stack([row[3] for row in rows])
    yaw = rng.uniform(-3, 3, len(rows))
    write_table(
        folder / "annotations.feather",
        timestamp_ns=np.array([row[0] for row in rows]),
        track_uuid=[row[1] for row in rows],
        category=[row[2] for row in rows],
        length_m=np.full(len(rows), 4.0), width_m=np.full(len(rows), 2.0),
        height_m=np.full(len(rows), 1.5),
        qw=np.cos(yaw / 2), qx=np.zeros(len(rows)), qy=np.zeros(len(rows)), qz=np.sin(yaw / 2),
        tx_m=center[:, 0], ty_m=center[:, 1], tz_m=center[:, 2],
        num_interior_pts=rng.integers(0, 5, len(rows)),
    )  # fmt: skip


def _points(*xy: tuple[float, float]) -> list[dict[str, float]]:
    return [{"x": x, "y": y, "z": -20.0} for x, y in xy]


def _map(folder: Path) -> None:
    """Drivable x 690..710, y 2190..2210; a crossing x 700..704, y 2195..2205; lines at y 2198, 2202
    in a street and at y 2207 in an intersection.
    """
    lane = {"lane_type": "VEHICLE", "successors": [], "predecessors": [],
            "left_neighbor_id": None, "right_neighbor_id": None,
            "left_lane_mark_type": "NONE", "right_lane_mark_type": "SOLID_WHITE"}  # fmt: skip
    left, right = _points((690, 2202), (710, 2202)), _points((690, 2198), (710, 2198))
    far = _points((690, 2207), (710, 2207))
    square = _points((690, 2190), (710, 2190), (710, 2210), (690, 2210))
    tables = {
        "drivable_areas": {
            "1": {"id": 1, "area_boundary": square}
        },
        "pedestrian_crossings": {
            "2": {"id": 2, "edge1": _points((700, 2195), (700, 2205)),
                  "edge2": _points((704, 2195), (704, 2205))}
        },
        "lane_segments": {
            "3": {**lane, "id": 3, "is_intersection": False,
                  "left_lane_boundary": left, "right_lane_boundary": right},
            "4": {**lane, "id": 4, "is_intersection": True,
                  "left_lane_boundary": far, "right_lane_boundary": left},
            "5": {**lane, "id": 5, "is_intersection": False,
                  "left_lane_boundary": left[::-1], "right_lane_boundary": left},
        },
    }  # fmt: skip
    folder = folder / "map"
    log_id = folder.parent.name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"log_map_archive_{log_id}____PIT_city_1.json").write_text(json.dumps(tables))
    height = np.full((80, 80), -20.5, np.float16)
    height[:, 40:] = np.nan
    height[10, 20] = -18.0
    np.save(folder / f"{log_id}_ground_height_surface____PIT.npy", height)
    place = {"R": [1.0, 0.0, 0.0, 1.0], "t": [-690.0, -2190.0], "s": 10 / 3}
    (folder / f"{log_id}___img_Sim2_city.json").write_text(json.dumps(place))
