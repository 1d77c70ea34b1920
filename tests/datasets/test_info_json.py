"""A real nuScenes key frame, read from mmdetection3d's info."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from perception3d.datasets import ImageAugment, collate, read_info_json
from perception3d.datasets.points import read_point_file
from perception3d.geometry import points_in_boxes
from perception3d.structures import Frame
from perception3d.structures.taxonomy import CAMERA_CHANNELS, NUSCENES_CLASSES


@pytest.fixture(scope="module")
def folder(realdata: Path) -> Path:
    return realdata / "nuscenes_frame"


@pytest.fixture(scope="module")
def frame(folder: Path) -> Frame:
    return read_info_json(folder / "frame.json")


@pytest.fixture(scope="module")
def info(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "frame.json").read_text())["data_list"][0]


def test_contents(frame: Frame) -> None:
    assert frame.token == "ca9a282c9e77460f8360f564131a8af5"
    assert frame.time_ns == 1532402927647951000
    assert frame.log == "n015-2018-07-24-11-22-45+0800"
    assert frame.rig is not None and frame.rig.names == CAMERA_CHANNELS
    assert [tuple(image.shape) for image in frame.images or ()] == [(900, 1600, 3)] * 6
    lag_ms = (frame.rig.time_ns - frame.time_ns) / 1e6
    assert lag_ms.tolist() == pytest.approx([-35.491, -27.612, -43.107, -10.426, -0.528, -20.058])


def test_rows_without_return_and_own_car_are_dropped(frame: Frame) -> None:
    # 34,688 rows, of which 4,393 have no return; 3,636 lie within 1 m of the sensor, and 245 more
    # in the corners of the square.
    assert frame.points is not None and len(frame.points) == 34_688 - 4_393 - 3_636 - 245
    assert float(frame.points.xyz_m.norm(dim=1).min()) > 0.9


def test_boxes_hold_their_points(frame: Frame, folder: Path) -> None:
    boxes = frame.boxes
    assert boxes is not None and len(boxes) == 69
    rows = torch.from_numpy(read_point_file(next(folder.glob("*.pcd.bin")))[:, :3])
    inside = points_in_boxes(rows, boxes.center_m, boxes.size_lwh_m, boxes.yaw_rad).sum(dim=0)
    assert int((inside == boxes.num_points).sum()) == 61
    assert int(boxes.velocity_mps.isnan().any(dim=1).sum()) == 2


def test_classes_are_mapped_by_name(frame: Frame) -> None:
    # The file's own order of classes is another one (trailer is 2, barrier 9).
    names = Counter(
        NUSCENES_CLASSES[i] if i >= 0 else "ignored" for i in frame.boxes.label.tolist()
    )
    assert names == {
        "pedestrian": 30, "barrier": 22, "car": 8, "traffic_cone": 3, "truck": 2, "bicycle": 1,
        "bus": 1, "construction_vehicle": 1, "ignored": 1,
    }  # fmt: skip


def test_centres_project_to_where_the_file_says(frame: Frame, info: dict[str, Any]) -> None:
    uv, depth = frame.rig.project(frame.boxes.center_m)
    matched = 0
    for view, name in enumerate(frame.rig.names):
        for seen in info["cam_instances"][name]:
            error = (uv[view] - torch.tensor(seen["center_2d"])).norm(dim=1)
            error[(depth[view] - seen["depth"]).abs() > 0.05] = np.inf
            best = int(error.argmin())
            assert float(error[best]) < 0.5
            # The order of the file's classes again; ignored ones are -1 in both.
            assert int(frame.boxes.num_points[best]) == info["instances"][best]["num_lidar_pts"]
            matched += 1
    assert matched == 84


def test_frame_becomes_a_batch(frame: Frame) -> None:
    small = ImageAugment.test((320, 800))(frame, np.random.default_rng(0))
    batch = collate([small])
    assert batch.images.shape == (1, 6, 3, 320, 800)
    assert batch.rig.image_aug[0, 0].tolist() == [[0.5, 0, 0], [0, 0.5, -130], [0, 0, 1]]


def test_bad_files(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.json does not exist"):
        read_info_json(tmp_path / "nothing.json")
    content = json.loads((folder / "frame.json").read_text())
    path = tmp_path / "frame.json"
    shutil.copy(folder / "frame.json", path)
    with pytest.raises(FileNotFoundError, match="of sample ca9a282c"):
        read_info_json(path)
    with pytest.raises(ValueError, match="has 1 entries; there is no number 1"):
        read_info_json(path, number=1, load_points=False, load_images=False)
    content["metainfo"]["categories"]["tram"] = 10
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"classes \['tram'\] are not among car, truck"):
        read_info_json(path, load_points=False, load_images=False)
    path.write_text("{}")
    with pytest.raises(ValueError, match="no info file of version 2"):
        read_info_json(path)
