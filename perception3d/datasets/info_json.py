"""mmdetection3d's nuScenes info (version 2 layout) written as JSON -> Frame.

Layout as in ``tools/dataset_converters/update_infos_to_v2.py`` of mmdetection3d: matrices by name,
``lidar2cam`` with the ego motion between LiDAR and camera inside, boxes (x, y, z, l, w, h, yaw) in
the LiDAR frame with z at the centre, times in seconds, NaN as null.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from perception3d import fast_json
from perception3d.datasets.images import read_image
from perception3d.datasets.points import Sweep, merge_sweeps
from perception3d.structures import SE3, Boxes3D, CameraRig, Frame, PointCloud
from perception3d.structures.taxonomy import CAMERA_CHANNELS, NUSCENES_CLASSES

Array = NDArray[Any]
Info = dict[str, Any]


def read_info_json(
    path: Path | str,
    *,
    data_root: Path | str | None = None,
    number: int = 0,
    load_points: bool = True,
    load_images: bool = True,
) -> Frame:
    """One key frame of an info file; a single sweep.

    Points without return and within 1 m (square) of the sensor are dropped.

    Args:
        path: JSON file with ``metainfo`` and ``data_list``.
        data_root: folder of images and points; that of the file when None.
        number: entry of ``data_list``.
        load_points, load_images: leave out what is not needed.

    Raises:
        FileNotFoundError: the file, an image or the point file is missing.
        ValueError: the file has another layout, an unknown class or a damaged blob.
    """
    path = Path(path)
    root = path.parent if data_root is None else Path(data_root)
    if not path.is_file():
        raise FileNotFoundError(f"info file {path} does not exist")
    try:
        content = fast_json.loads(path.read_bytes())
        categories, entries = content["metainfo"]["categories"], content["data_list"]
        if not 0 <= number < len(entries):
            raise ValueError(f"{path} has {len(entries)} entries; there is no number {number}")
        return _frame(entries[number], categories, root, load_points, load_images)
    except (fast_json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no info file of version 2 in JSON: {error!r}") from None


def _frame(info: Info, categories: dict[str, int], root: Path, points: bool, images: bool) -> Frame:
    token = str(info["token"])
    ego_SE3_ref = _pose(info["lidar_points"]["lidar2ego"])
    rig, names = _rig(info)
    files = [root / name for name in names]
    decoded = tuple(read_image(file, token=token) for file in files) if images else None
    if decoded is not None:
        sizes = torch.tensor([image.shape[:2] for image in decoded], dtype=torch.int64)
        rig = CameraRig(rig.names, rig.K, rig.cam_SE3_ref, sizes, rig.image_aug, rig.time_ns)
    lidar_file = root / Path(info["lidar_points"]["lidar_path"]).name
    time_ns = _nanoseconds(info["timestamp"])
    return Frame(
        token=token,
        log=lidar_file.name.split("__")[0],
        time_ns=time_ns,
        global_SE3_ref=_pose(info["ego2global"]) @ ego_SE3_ref,
        ego_SE3_ref=ego_SE3_ref,
        points=_points(lidar_file, info, rig, time_ns) if points else None,
        images=decoded,
        rig=rig,
        boxes=_boxes(info["instances"], categories) if "instances" in info else None,
    )


def _pose(matrix: list[list[float]]) -> SE3:
    """The rotation nearest to a stored one, which single precision left off by 1e-7."""
    T = torch.tensor(matrix, dtype=torch.float64)
    U, _, Vh = torch.linalg.svd(T[:3, :3])
    return SE3(U @ Vh, T[:3, 3])


def _nanoseconds(seconds: float) -> int:
    # Times are whole microseconds; doubles of this size hold 0.2 us.
    return round(seconds * 1e6) * 1000


def _rig(info: Info) -> tuple[CameraRig, list[str]]:
    cameras = info["images"]
    names = tuple(name for name in CAMERA_CHANNELS if name in cameras)
    entries = [cameras[name] for name in names]
    count = len(names)
    rig = CameraRig(
        names=names,
        K=torch.tensor([e["cam2img"] for e in entries], dtype=torch.float64)[:, :3, :3],
        cam_SE3_ref=torch.stack([_pose(e["lidar2cam"]).matrix() for e in entries]),
        # The layout's default, replaced by the real sizes once images are read.
        image_hw=torch.tensor([(e.get("height", 900), e.get("width", 1600)) for e in entries]),
        image_aug=torch.eye(3, dtype=torch.float64).repeat(count, 1, 1),
        time_ns=torch.tensor([_nanoseconds(e["timestamp"]) for e in entries]),
    )
    return rig, [Path(e["img_path"]).name for e in entries]


def _points(path: Path, info: Info, rig: CameraRig, time_ns: int) -> PointCloud:
    velocity = _sensor_velocity(info, rig, time_ns)
    return merge_sweeps([Sweep(path, np.eye(4), 0.0, velocity)])


def _sensor_velocity(info: Info, rig: CameraRig, time_ns: int) -> Array:
    """(3,) m/s of the LiDAR along its axes, from the ego poses that the cameras' matrices imply.

    The file tells no earlier sweep, but each camera's ``lidar2cam`` holds where the vehicle was
    when it exposed; the earliest one gives the longest way.
    """
    first = int(rig.time_ns.argmin())
    seconds = (time_ns - int(rig.time_ns[first])) * 1e-9
    if seconds < 5e-3:
        return np.zeros(3)
    lidar_SE3_ego = _pose(info["lidar_points"]["lidar2ego"]).inverse()
    ego_SE3_cam = _pose(info["images"][rig.names[first]]["cam2ego"])
    before_SE3_ref = lidar_SE3_ego @ ego_SE3_cam @ SE3.from_matrix(rig.cam_SE3_ref[first])
    return (-before_SE3_ref.inverse().translation_m / seconds).numpy()


def _boxes(instances: list[Info], categories: dict[str, int]) -> Boxes3D:
    """Labels are mapped by name: the order of classes differs from file to file."""
    unknown = [name for name in categories if name not in NUSCENES_CLASSES]
    if unknown:
        raise ValueError(f"classes {unknown} are not among {', '.join(NUSCENES_CLASSES)}")
    label_of = {value: NUSCENES_CLASSES.index(name) for name, value in categories.items()} | {
        -1: -1
    }
    if not instances:
        return Boxes3D.empty()
    box = torch.tensor([i["bbox_3d"] for i in instances], dtype=torch.float32)
    velocity = [[float("nan") if v is None else v for v in i["velocity"]] for i in instances]
    return Boxes3D.build(
        box[:, :3],
        box[:, 3:6],
        box[:, 6],
        torch.tensor([label_of[i["bbox_label_3d"]] for i in instances]),
        velocity_mps=torch.tensor(velocity, dtype=torch.float32),
        num_points=torch.tensor([i["num_lidar_pts"] for i in instances]),
    )
