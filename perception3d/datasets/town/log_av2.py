"""The Argoverse 2 writer: the files of one log from the readings of one scene.

Categories (Argoverse 2 has none for barriers, debris, racks and things to push: these get no box):
a cycle with its rider is one object in the town, and is called by its rider.
"""

from __future__ import annotations

import io
import json
import math
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from perception3d.datasets.town import rig, rig_av2
from perception3d.datasets.town.agents import Agent
from perception3d.datasets.town.files import BlobWriter
from perception3d.datasets.town.ground import drivable_polygons
from perception3d.datasets.town.planar import Points
from perception3d.datasets.town.plots import Lots
from perception3d.datasets.town.record_av2 import Reading
from perception3d.datasets.town.settings import TownSettings
from perception3d.datasets.town.streets import DISTRICT_M, District, Lane
from perception3d.datasets.town.tables import (
    FIRST_SCENE_US,
    JPEG_QUALITY,
    SCENE_STEP_US,
    Tokens,
)
from perception3d.datasets.town.world import SceneWorld

CITY = "TWN"
HEIGHT_CELL_M = 0.3
_LANE_IDS_FROM = 1000

#: Kind of an agent -> category; kinds that are not listed get no box.
CATEGORIES = {
    "car": "REGULAR_VEHICLE",
    "ambulance": "REGULAR_VEHICLE",
    "police_car": "REGULAR_VEHICLE",
    "truck": "TRUCK",
    "construction_vehicle": "LARGE_VEHICLE",
    "bus": "BUS",
    "trailer": "VEHICULAR_TRAILER",
    "motorcycle": "MOTORCYCLE",
    "bicycle": "BICYCLE",
    "pedestrian": "PEDESTRIAN",
    "traffic_cone": "CONSTRUCTION_CONE",
    "stroller": "STROLLER",
    "wheelchair": "WHEELCHAIR",
    "personal_mobility": "WHEELED_RIDER",
    "animal": "DOG",
}
_RIDERS = {"motorcycle": "MOTORCYCLIST", "bicycle": "BICYCLIST"}


def category_of(agent: Agent) -> str | None:
    """Category of an agent, None for what Argoverse 2 does not annotate."""
    if agent.has_rider and agent.kind in _RIDERS:
        return _RIDERS[agent.kind]
    return CATEGORIES.get(agent.kind)


def log_id(settings: TownSettings, scene: str) -> str:
    """Name of a scene's log: a UUID that is the same in every run."""
    return str(uuid.UUID(Tokens(settings)("av2", scene)))


class LogWriter:
    """Writes the files of one log.

    Args:
        settings: the town.
        world: the scene.
        blobs: writes files.
        folder: of the log, below the writer's root.
    """

    def __init__(
        self, settings: TownSettings, world: SceneWorld, blobs: BlobWriter, folder: str
    ) -> None:
        self.settings = settings
        self.world = world
        self.blobs = blobs
        self.folder = folder
        self.start_ns = (FIRST_SCENE_US + world.plan.index * SCENE_STEP_US) * 1000
        self.poses: dict[int, NDArray[np.float64]] = {}
        self.boxes: list[dict[str, Any]] = []

    def write(self, readings: Iterable[Reading], views: tuple[rig.Camera, ...]) -> dict[str, int]:
        """Write everything.

        Returns:
            category -> boxes that hold a LiDAR point.
        """
        for reading in readings:
            time_ns = self.start_ns + reading.time_us * 1000
            self.poses[time_ns] = rig_av2.world_SE3_ego(reading.pose)
            self._write_sweep(reading, time_ns)
            for picture in reading.pictures:
                exposed_ns = self.start_ns + picture.time_us * 1000
                self.poses[exposed_ns] = rig_av2.world_SE3_ego(picture.pose)
                ok, data = cv2.imencode(
                    ".jpg", picture.image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
                )
                assert ok
                name = f"sensors/cameras/{picture.camera.channel}/{exposed_ns}.jpg"
                self.blobs.write(f"{self.folder}/{name}", data.tobytes())
            self._add_boxes(reading, time_ns)
        self._write_calibration(views)
        self._write_boxes()
        self._write_map()
        # Last: readers know a log by this file.
        times = sorted(self.poses)
        columns: dict[str, Any] = {"timestamp_ns": np.array(times, np.int64)}
        columns.update(_pose_columns(np.stack([self.poses[t] for t in times])))
        self._write_feather("city_SE3_egovehicle.feather", columns)
        found: dict[str, int] = {}
        for box in self.boxes:
            found[box["category"]] = found.get(box["category"], 0) + (box["num_interior_pts"] > 0)
        return found

    def _write_sweep(self, reading: Reading, time_ns: int) -> None:
        turn = reading.turn
        columns = dict(zip("xyz", np.ascontiguousarray(turn.xyz_m.T)))
        columns["intensity"] = turn.intensity
        columns["laser_number"] = turn.laser
        columns["offset_ns"] = turn.offset_ns
        self._write_feather(f"sensors/lidar/{time_ns}.feather", columns)

    def _add_boxes(self, reading: Reading, time_ns: int) -> None:
        token = Tokens(self.settings)
        for label in reading.labels:
            agent = self.world.agents[label.agent]
            category = category_of(agent)
            if category is None:
                continue
            track = uuid.UUID(token("av2", self.world.plan.name, "track", label.agent))
            x, y, z = label.center_m
            length, width, height = agent.size_lwh_m
            self.boxes.append(
                {
                    "timestamp_ns": time_ns, "track_uuid": str(track), "category": category,
                    "length_m": length, "width_m": width, "height_m": height,
                    "qw": math.cos(label.yaw_rad / 2), "qx": 0.0, "qy": 0.0,
                    "qz": math.sin(label.yaw_rad / 2), "tx_m": x, "ty_m": y, "tz_m": z,
                    "num_interior_pts": label.num_points,
                }
            )  # fmt: skip

    def _write_boxes(self) -> None:
        text, whole = ("track_uuid", "category"), ("timestamp_ns", "num_interior_pts")
        names = (
            "timestamp_ns", "track_uuid", "category", "length_m", "width_m", "height_m",
            "qw", "qx", "qy", "qz", "tx_m", "ty_m", "tz_m", "num_interior_pts",
        )  # fmt: skip
        columns: dict[str, Any] = {}
        for name in names:
            values = [box[name] for box in self.boxes]
            kind = np.int64 if name in whole else np.float64
            columns[name] = values if name in text else np.array(values, kind)
        self._write_feather("annotations.feather", columns)

    def _write_calibration(self, views: tuple[rig.Camera, ...]) -> None:
        mounts = {view.channel: view.ego_SE3_camera for view in views}
        for T in mounts.values():
            T[2, 3] -= rig_av2.EGO_HEIGHT_M  # the town counts from the ground
        mounts.update((unit.name, unit.ego_SE3_unit) for unit in rig_av2.UNITS)
        self._write_feather(
            "calibration/egovehicle_SE3_sensor.feather",
            {"sensor_name": list(mounts), **_pose_columns(np.stack(list(mounts.values())))},
        )
        focal = np.array([view.focal_px for view in views])
        centre = np.array([view.centre_px for view in views]).reshape(-1, 2)
        none = np.zeros(len(views))
        columns = {
            "sensor_name": [view.channel for view in views],
            "fx_px": focal, "fy_px": focal, "cx_px": centre[:, 0], "cy_px": centre[:, 1],
            "k1": none, "k2": none, "k3": none,
            "height_px": np.array([view.height for view in views], np.uint16),
            "width_px": np.array([view.width for view in views], np.uint16),
        }  # fmt: skip
        self._write_feather("calibration/intrinsics.feather", columns)

    def _write_map(self) -> None:
        district, lots = self.world.district.layout, self.world.district.lots
        name = Path(self.folder).name
        document = json.dumps(map_document(district, lots)).encode()
        self.blobs.write(
            f"{self.folder}/map/log_map_archive_{name}____{CITY}_city_{district.index}.json",
            document,
        )
        cells = math.ceil(DISTRICT_M / HEIGHT_CELL_M)
        buffer = io.BytesIO()
        np.save(buffer, np.zeros((cells, cells), np.float16))  # the town is flat
        self.blobs.write(
            f"{self.folder}/map/{name}_ground_height_surface____{CITY}.npy", buffer.getvalue()
        )
        x, y = district.origin_m
        place = {"R": [1.0, 0.0, 0.0, 1.0], "t": [-x, -y], "s": 1 / HEIGHT_CELL_M}
        self.blobs.write(
            f"{self.folder}/map/{name}___img_Sim2_city.json", json.dumps(place).encode()
        )

    def _write_feather(self, name: str, columns: dict[str, Any]) -> None:
        import pyarrow
        from pyarrow import feather

        sink = pyarrow.BufferOutputStream()
        feather.write_feather(pyarrow.table(columns), sink, compression="zstd")
        self.blobs.write(f"{self.folder}/{name}", sink.getvalue().to_pybytes())


def _pose_columns(T: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Columns qw .. tz_m of poses (N, 4, 4)."""
    import torch

    from perception3d.geometry.se3 import quaternion_from_matrix

    q = quaternion_from_matrix(torch.from_numpy(T[:, :3, :3].copy())).numpy()
    columns = dict(zip(("qw", "qx", "qy", "qz"), np.ascontiguousarray(q.T)))
    columns.update(zip(("tx_m", "ty_m", "tz_m"), np.ascontiguousarray(T[:, :3, 3].T)))
    return columns


def map_document(district: District, lots: Lots) -> dict[str, Any]:
    """The map of a district as a log's map JSON."""
    areas = drivable_polygons(district, lots)
    crossings = {}
    for number, crossing in enumerate(district.crossings):
        half = len(crossing.polygon) // 2
        crossings[str(number)] = {
            "id": number,
            "edge1": _points(crossing.polygon[:half]),
            "edge2": _points(crossing.polygon[half:][::-1]),
        }
    return {
        "drivable_areas": {
            str(k): {"id": k, "area_boundary": _points(area)} for k, area in enumerate(areas)
        },
        "pedestrian_crossings": crossings,
        "lane_segments": {
            str(_LANE_IDS_FROM + lane.index): _lane(lane, district) for lane in district.lanes
        },
    }


def _lane(lane: Lane, district: District) -> dict[str, Any]:
    def beside(rank: int) -> int | None:
        if lane.is_connector:
            return None
        return next(
            (
                _LANE_IDS_FROM + other.index
                for other in district.lanes
                if (other.street, other.junction, other.rank) == (lane.street, lane.junction, rank)
            ),
            None,
        )

    left, right = beside(lane.rank - 1), beside(lane.rank + 1)
    marks = ("NONE", "NONE")
    if not lane.is_connector:
        marks = (
            "DASHED_WHITE" if left is not None else "DOUBLE_SOLID_YELLOW",
            "DASHED_WHITE" if right is not None else "SOLID_WHITE",
        )
    return {
        "id": _LANE_IDS_FROM + lane.index,
        "is_intersection": lane.is_connector,
        "lane_type": "VEHICLE",
        "left_lane_boundary": _points(lane.left_m),
        "left_lane_mark_type": marks[0],
        "right_lane_boundary": _points(lane.right_m),
        "right_lane_mark_type": marks[1],
        "successors": [_LANE_IDS_FROM + k for k in lane.exits],
        "predecessors": [_LANE_IDS_FROM + k for k in lane.entries],
        "left_neighbor_id": left,
        "right_neighbor_id": right,
    }


def _points(line: Points) -> list[dict[str, float]]:
    return [{"x": float(x), "y": float(y), "z": 0.0} for x, y in line]
