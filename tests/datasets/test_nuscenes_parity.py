"""The reader against nuscenes-devkit: boxes, velocities, merged sweeps, projection into all
cameras.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from perception3d.datasets.nuscenes import NuScenesFrames
from perception3d.geometry import wrap_to_pi
from perception3d.structures import Frame
from perception3d.structures.taxonomy import (
    CAMERA_CHANNELS,
    NUSCENES_ATTRIBUTES,
    NUSCENES_CLASSES,
    NUSCENES_RAW_TO_DETECTION,
)
from tests.datasets.nuscenes_fixture import VERSION, make_dataset

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    nuscenes = pytest.importorskip("nuscenes.nuscenes")
    data_classes = pytest.importorskip("nuscenes.utils.data_classes")
    geometry_utils = pytest.importorskip("nuscenes.utils.geometry_utils")

METRES, PIXELS = 1e-4, 1e-3


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, list[NuScenesFrames]]:
    root = make_dataset(tmp_path_factory.mktemp("made"), seed=3)
    frames = [NuScenesFrames(root, split, num_sweeps=7) for split in ("made_train", "made_val")]
    return nuscenes.NuScenes(VERSION, str(root), verbose=False), frames


@pytest.fixture(scope="module")
def town(tiny_town: Path) -> tuple[Any, list[NuScenesFrames]]:
    frames = [NuScenesFrames(tiny_town, split) for split in ("town_train", "town_val")]
    return nuscenes.NuScenes(frames[0].version, str(tiny_town), verbose=False), frames


@pytest.fixture(params=["made", pytest.param("town", marks=pytest.mark.slow)])
def pair(request: pytest.FixtureRequest) -> tuple[Any, list[tuple[Frame, dict[str, Any]]], int]:
    devkit, splits = request.getfixturevalue(request.param)
    # The town's splits have six frames; its devkit is slow, so every other one is compared.
    step = 1 if request.param == "made" else 2
    read = [
        (frames[i], devkit.get("sample", token), frames.num_sweeps)
        for frames in splits
        for i, token in list(enumerate(frames.tokens))[::step]
    ]
    return devkit, [r[:2] for r in read], read[0][2]


def test_boxes_and_velocities(pair: Any) -> None:
    devkit, frames, _ = pair
    unknown = known = two_sided = 0
    for frame, sample in frames:
        _, boxes, _ = devkit.get_sample_data(sample["data"]["LIDAR_TOP"])
        assert frame.boxes is not None and len(frame.boxes) == len(boxes) == len(sample["anns"])
        if not boxes:
            continue
        R = frame.global_SE3_ref.rotation.T
        order = match_by_center(frame, np.stack([box.center for box in boxes]))
        for row, box in zip(order, boxes):
            annotation = devkit.get("sample_annotation", box.token)
            ours = frame.boxes.select(torch.tensor([row]))
            assert np.allclose(ours.center_m[0], box.center, atol=METRES)
            assert np.allclose(ours.size_lwh_m[0], box.wlh[[1, 0, 2]], atol=METRES)
            x_axis = box.orientation.rotation_matrix[:, 0]
            turn = wrap_to_pi(ours.yaw_rad - float(np.arctan2(x_axis[1], x_axis[0])))
            assert abs(float(turn)) < 1e-5
            expected = R @ torch.from_numpy(devkit.box_velocity(box.token))
            assert np.allclose(
                ours.velocity_mps[0], expected[:2].numpy(), atol=METRES, equal_nan=True
            )
            finite = bool(expected.isfinite().all())
            unknown, known = unknown + (not finite), known + finite
            two_sided += finite and bool(annotation["prev"]) and bool(annotation["next"])
            assert_same_class(devkit, ours, annotation, box.name)
    assert unknown and known > two_sided > 0


def match_by_center(frame: Frame, centers: np.ndarray) -> list[int]:
    assert frame.boxes is not None
    distance = torch.cdist(torch.from_numpy(centers), frame.boxes.center_m.double())
    order = distance.argmin(dim=1).tolist()
    assert sorted(order) == list(range(len(centers)))
    return order


def assert_same_class(devkit: Any, ours: Any, annotation: dict[str, Any], name: str) -> None:
    detection = NUSCENES_RAW_TO_DETECTION.get(name)
    assert int(ours.label) == (NUSCENES_CLASSES.index(detection) if detection else -1)
    assert int(ours.num_points) == annotation["num_lidar_pts"]
    if detection:
        names = [devkit.get("attribute", token)["name"] for token in annotation["attribute_tokens"]]
        assert int(ours.attribute) == (NUSCENES_ATTRIBUTES.index(names[0]) if names else -1)


def test_merged_sweeps(pair: Any) -> None:
    devkit, frames, num_sweeps = pair
    merged = []
    for frame, sample in frames:
        cloud, ages = data_classes.LidarPointCloud.from_file_multisweep(
            devkit, sample, "LIDAR_TOP", "LIDAR_TOP", nsweeps=num_sweeps
        )
        assert frame.points is not None
        ours = frame.points.features().numpy()
        theirs = np.concatenate((cloud.points, ages)).T
        if len(theirs) > len(ours):
            # The devkit keeps the rows without return that lie outside its square.
            theirs = theirs[np.abs(theirs[:, 2]) + np.abs(theirs[:, :2]).max(axis=1) > 1.0]
        assert ours.shape == theirs.shape
        assert np.abs(ours[:, :4] - theirs[:, :4]).max() < METRES
        assert np.abs(ours[:, 4] - theirs[:, 4]).max() < 1e-6
        assert ours[:, 4].min() == 0
        merged.append(len(np.unique(ours[:, 4])))
    # First frames of a scene have one sweep, later ones as many as are asked for.
    assert min(merged) == 1 and max(merged) == num_sweeps > 2


def test_projection_into_all_cameras(pair: Any) -> None:
    devkit, frames, _ = pair
    for frame, sample in frames:
        assert frame.rig is not None and frame.rig.names == CAMERA_CHANNELS
        xyz_ref = torch.from_numpy(np.random.default_rng(0).uniform(-40, 40, (200, 3)))
        uv, depth = frame.rig.project(xyz_ref)
        for view, channel in enumerate(CAMERA_CHANNELS):
            camera = devkit.get("sample_data", sample["data"][channel])
            points, K = through_devkit(devkit, sample, camera, xyz_ref.numpy().T)
            assert frame.rig.image_hw[view].tolist() == [camera["height"], camera["width"]]
            assert int(frame.rig.time_ns[view]) == camera["timestamp"] * 1000
            front = points[2] > 1
            expected = geometry_utils.view_points(points, K, normalize=True)[:2].T[front]
            assert np.abs(depth[view].numpy() - points[2]).max() < METRES
            assert np.abs(uv[view].numpy()[front] - expected).max() < PIXELS


def through_devkit(
    devkit: Any, sample: dict[str, Any], camera: dict[str, Any], xyz: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The four steps of ``NuScenesExplorer.map_pointcloud_to_image``: LiDAR, ego, global, ego,
    camera.
    """
    matrix = geometry_utils.transform_matrix
    quaternion = pytest.importorskip("pyquaternion").Quaternion
    lidar = devkit.get("sample_data", sample["data"]["LIDAR_TOP"])
    points = np.concatenate((xyz, np.ones((1, xyz.shape[1]))))
    for record, inverse in ((lidar, False), (camera, True)):
        calibration = devkit.get("calibrated_sensor", record["calibrated_sensor_token"])
        pose = devkit.get("ego_pose", record["ego_pose_token"])
        steps = [
            matrix(np.array(row["translation"]), quaternion(row["rotation"]), inverse=inverse)
            for row in ((pose, calibration) if inverse else (calibration, pose))
        ]
        for step in steps:
            points = step @ points
    calibration = devkit.get("calibrated_sensor", camera["calibrated_sensor_token"])
    return points[:3], np.array(calibration["camera_intrinsic"])
