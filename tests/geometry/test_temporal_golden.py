"""Published alignment of the previous frame, from poses to matrices, against ours."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from perception3d.datasets.augment import ImageAugment, transform_scene
from perception3d.geometry import invert_rigid, matrix_from_quaternion, rigid_matrix
from perception3d.geometry.temporal import camera_ages_s, camera_from_reference
from perception3d.structures import SE3, CameraRig, Frame
from tests.golden_cases import GoldenCase, golden, load_case


def pose(inputs: dict[str, Tensor], name: str) -> Tensor:
    rotation = matrix_from_quaternion(inputs[f"{name}_rotation"].double())
    return rigid_matrix(rotation, inputs[f"{name}_translation"].double())


def nanoseconds(seconds: Tensor) -> Tensor:
    return (seconds.double() * 1e6).round().long() * 1000


def aligned_rig(case: GoldenCase, inputs: dict[str, Tensor]) -> CameraRig:
    mounts, K = pose(inputs, "camera2ego"), inputs["camera_intrinsic"].double()
    global_T_ref = pose(inputs, "lidar_ego2global") @ pose(inputs, "lidar2ego")
    frames = ("current", "previous")
    extrinsics = [
        camera_from_reference(mounts, pose(inputs, f"{frame}_ego2global"), global_T_ref)
        for frame in frames
    ]
    height, width = (int(case.stated(p)[0]) for p in (r"from (\d+)x\d+ to", r"from \d+x(\d+) to"))
    views = len(frames) * len(K)
    return CameraRig(
        tuple(f"view{i}" for i in range(views)),
        K.repeat(len(frames), 1, 1),
        torch.cat(extrinsics),
        torch.tensor([height, width]).expand(views, 2),
        torch.eye(3, dtype=torch.float64).expand(views, 3, 3),
        torch.cat([nanoseconds(inputs[f"{frame}_time"]) for frame in frames]),
    )


@pytest.mark.parametrize("name", golden("petr_temporal"))
def test_golden_petr_temporal(name: str) -> None:
    case = load_case(name)
    inputs = case.inputs()
    rig = aligned_rig(case, inputs)
    time_ns = nanoseconds(inputs["lidar_time"])
    case.check("extrinsics_T", rig.cam_SE3_ref)
    case.check("lidar2img", rig.ref_to_image())
    ages = camera_ages_s(time_ns, rig.time_ns)
    case.check("timestamp", ages)
    intrinsics = torch.eye(4, dtype=torch.float64).repeat(len(rig), 1, 1)
    intrinsics[:, :3, :3] = rig.K
    case.check("intrinsics", intrinsics)
    ref_T_camera = invert_rigid(rig.cam_SE3_ref)
    case.check("sensor2lidar_rotation", ref_T_camera[:, :3, :3])
    case.check("sensor2lidar_translation", ref_T_camera[:, :3, 3])

    frame = Frame("", "", int(time_ns), SE3.identity(), SE3.identity(), rig=rig)
    out = tuple(int(case.stated(p)[0]) for p in (r" to (\d+)x\d+ \(", r" to \d+x(\d+) \("))
    frame = ImageAugment.test((out[0], out[1]))(frame, np.random.default_rng(0))
    assert frame.rig is not None
    case.check("lidar2img_resized", frame.rig.ref_to_image())
    angle, scale = float(inputs["bev_angle"]), float(inputs["bev_scale"])
    frame = transform_scene(frame, angle, scale, np.zeros(3), False, False)
    assert frame.rig is not None
    case.check("lidar2img_augmented", frame.rig.ref_to_image())
    case.finish()
