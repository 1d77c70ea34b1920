"""Samples of one split of a nuScenes version as frames."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from perception3d.datasets.images import read_image
from perception3d.datasets.map_raster import MAP_CLASSES, rasterize, read_map
from perception3d.datasets.nuscenes.index import load_index
from perception3d.datasets.nuscenes.splits import choose_version, scenes_of_split
from perception3d.datasets.points import CloseRule, Sweep, merge_sweeps
from perception3d.structures import SE3, BEVGrid, Boxes3D, CameraRig, Frame, MapRaster, PointCloud
from perception3d.structures.taxonomy import CAMERA_CHANNELS, NUSCENES_CLASSES

Array = NDArray[Any]


class NuScenesFrames:
    """Frames of one split, read on demand; ``ref`` is LIDAR_TOP at the key time.

    The object holds only a mapped index and may be sent to worker processes, which then share it.

    Args:
        root: data folder with the version folder, ``samples/``, ``sweeps/`` and ``maps/``.
        split: official split (train, val, test, mini_train, ...) or one of the version's
            ``splits.json``.
        version: version folder; found from the split when None.
        num_sweeps: LiDAR sweeps merged, the key one included (devkit's ``nsweeps``; models
            published with "10 past sweeps", such as CMT, have 11). A scene's first frames have
            fewer.
        drop_close, close_m: removal of points around the sensor; see :func:`merge_sweeps`. Rows
            without return are always dropped.
        ring: keep beam numbers of the points.
        cameras: channels, in the order in which frames hold them; empty for no rig.
        image_reduce: decode images at 1/1, 1/2, 1/4 or 1/8; ``image_aug`` of the rig tells so.
        load_points, load_images, load_boxes: leave out what is not needed; the rig stays without
            images.
        map_grid, map_classes: raster of the map expansion around the vehicle; None for no map.
        cache_dir: where the index lies; see :func:`load_index`.

    Raises:
        FileNotFoundError: data folder, version or a table is missing.
        ValueError: no version has the split, its scenes are not in the tables, an unknown camera,
            or a number of sweeps below 1.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        *,
        version: str | None = None,
        num_sweeps: int = 10,
        drop_close: CloseRule = "all",
        close_m: float = 1.0,
        ring: bool = False,
        cameras: tuple[str, ...] = CAMERA_CHANNELS,
        image_reduce: int = 1,
        load_points: bool = True,
        load_images: bool = True,
        load_boxes: bool = True,
        map_grid: BEVGrid | None = None,
        map_classes: tuple[str, ...] = MAP_CLASSES,
        cache_dir: Path | None = None,
    ) -> None:
        unknown = [name for name in cameras if name not in CAMERA_CHANNELS]
        if unknown or num_sweeps < 1 or image_reduce not in (1, 2, 4, 8):
            raise ValueError(
                f"num_sweeps must be >= 1, image_reduce 1, 2, 4 or 8 and cameras among "
                f"{CAMERA_CHANNELS}; found {num_sweeps}, {image_reduce} and {unknown}"
            )
        self.root = Path(root)
        self.split = split
        self.version = choose_version(self.root, split, version)
        self.num_sweeps = num_sweeps
        self.drop_close: CloseRule = drop_close
        self.close_m = close_m
        self.ring = ring
        self.cameras = tuple(cameras)
        self.image_reduce = image_reduce
        self.load_points = load_points
        self.load_images = load_images and bool(cameras)
        self.load_boxes = load_boxes
        self.map_grid = map_grid
        self.map_classes = map_classes
        self.index = load_index(self.root, self.version, cache_dir)
        self._rows = self._rows_of_split()

    def _rows_of_split(self) -> Array:
        wanted = scenes_of_split(self.root, self.version, self.split)
        names = [name.decode() for name in self.index["scene_name"]]
        missing = sorted(set(wanted) - set(names))
        if missing:
            raise ValueError(
                f"split {self.split!r} names {len(missing)} scenes that "
                f"{self.root / self.version} does not hold (first: {missing[0]}; it holds "
                f"{len(names)}, first: {names[:1]}); the version is incomplete, or splits.json "
                "belongs to another one"
            )
        scenes = np.flatnonzero(np.isin(names, wanted))
        return np.flatnonzero(np.isin(self.index["sample_scene"], scenes))

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def tokens(self) -> tuple[str, ...]:
        """Sample tokens, in the order of the frames."""
        return tuple(token.decode() for token in self.index["sample_token"][self._rows])

    @property
    def fingerprint(self) -> str:
        """Hash of the tables' contents and the samples of the split."""
        digest = hashlib.blake2b(self.index.fingerprint.encode(), digest_size=16)
        digest.update(b"\n".join(self.index["sample_token"][self._rows].tolist()))
        return digest.hexdigest()

    def index_of(self, token: str) -> int:
        """Number of the frame with this sample token.

        Raises:
            KeyError: the split has no such sample.
        """
        found = np.flatnonzero(self.index["sample_token"][self._rows] == token.encode())
        if len(found) == 0:
            raise KeyError(
                f"sample {token} is not in split {self.split!r} of {self.root / self.version}"
            )
        return int(found[0])

    def row_of(self, number: int) -> int:
        """Row of a frame in the index's samples."""
        return int(self._rows[number])

    def class_counts(self) -> Array:
        """(N, 10) int64 boxes of every class in every frame that hold a LiDAR or radar point.

        Boxes without points are left out, as by the "valid" flag of mmdetection3d, which
        class-balanced sampling reads.
        """
        label, offset = self.index["box_label"], self.index["box_offset"]
        seen = (self.index["box_num_lidar"] + self.index["box_num_radar"] > 0) & (label >= 0)
        sample = np.repeat(np.arange(len(offset) - 1), np.diff(offset))[seen]
        classes = len(NUSCENES_CLASSES)
        flat = np.bincount(sample * classes + label[seen], minlength=(len(offset) - 1) * classes)
        return flat.reshape(-1, classes)[self._rows]

    def location(self, number: int) -> str:
        """Name of the map under a frame."""
        scene = self.index["sample_scene"][self._rows[number]]
        return bytes(self.index["log_location"][self.index["scene_log"][scene]]).decode()

    def __getitem__(self, number: int) -> Frame:
        """Read one frame.

        Raises:
            IndexError: there is no such frame.
            FileNotFoundError, ValueError: a blob is missing or damaged; names the file.
        """
        if not -len(self) <= number < len(self):
            raise IndexError(f"frame {number} of a split of {len(self)}")
        row = self.row_of(number)
        index = self.index
        lidar = int(index["sample_lidar"][row])
        global_T_ref = index["lidar_global_T_sensor"][lidar]
        ref_T_global = _inverse(global_T_ref)
        global_SE3_ref = SE3.from_matrix(_tensor(global_T_ref))
        token = bytes(index["sample_token"][row]).decode()
        views = self.camera_rows(row) if self.cameras else None
        scene = index["sample_scene"][row]
        ego_T_ref = index["calibration_ego_T_sensor"][index["lidar_calibration"][lidar]]
        return Frame(
            token=token,
            log=bytes(index["log_name"][index["scene_log"][scene]]).decode(),
            time_ns=int(index["lidar_time_us"][lidar]) * 1000,
            global_SE3_ref=global_SE3_ref,
            ego_SE3_ref=SE3.from_matrix(_tensor(ego_T_ref)),
            points=self._points(lidar, ref_T_global) if self.load_points else None,
            images=self.images(views, token) if views is not None and self.load_images else None,
            rig=self.rig(views, ref_T_global) if views is not None else None,
            boxes=self._boxes(row, ref_T_global) if self.load_boxes and index.has_boxes else None,
            map=None if self.map_grid is None else self._map(number, global_SE3_ref, self.map_grid),
        )

    def _points(self, lidar: int, ref_T_global: Array) -> PointCloud:
        index = self.index
        key_us = int(index["lidar_time_us"][lidar])
        sweeps: list[Sweep] = []
        row = lidar
        while row >= 0 and len(sweeps) < self.num_sweeps:
            sweep = Sweep(
                path=self.root / index.text("lidar_file", row),
                ref_T_sensor=ref_T_global @ index["lidar_global_T_sensor"][row],
                age_s=(key_us - int(index["lidar_time_us"][row])) * 1e-6,
                velocity_mps=index["lidar_velocity_mps"][row],
            )
            sweeps.append(sweep)
            row = int(index["lidar_previous"][row])
        return merge_sweeps(
            sweeps, close_m=self.close_m, drop_close=self.drop_close, ring=self.ring
        )

    def camera_rows(self, row: int) -> Array:
        """(V,) rows of the index's images, one for each of ``cameras``, of a sample's row.

        Raises:
            ValueError: the sample lacks the key image of a camera.
        """
        rows = self.index["sample_cameras"][row][
            [CAMERA_CHANNELS.index(name) for name in self.cameras]
        ]
        if (rows < 0).any():
            missing = [name for name, camera in zip(self.cameras, rows) if camera < 0]
            token = bytes(self.index["sample_token"][row]).decode()
            raise ValueError(
                f"sample {token} has no key image of {', '.join(missing)}; leave these out of "
                "`cameras`"
            )
        return rows

    def rig(self, rows: Array, ref_T_global: Array) -> CameraRig:
        """The cameras of some rows of images (V,), one for each of ``cameras``."""
        index, reduce = self.index, self.image_reduce
        scale = np.diag([1 / reduce, 1 / reduce, 1.0])
        camera_T_ref = _inverse(ref_T_global @ index["camera_global_T_sensor"][rows])
        return CameraRig(
            names=self.cameras,
            K=_tensor(index["calibration_K"][index["camera_calibration"][rows]]),
            cam_SE3_ref=_tensor(camera_T_ref),
            image_hw=_tensor(-(-index["camera_hw"][rows] // reduce)),
            image_aug=_tensor(np.repeat(scale[None], len(rows), axis=0)),
            time_ns=_tensor(index["camera_time_us"][rows] * 1000),
        )

    def images(self, rows: Array, token: str) -> tuple[Tensor, ...]:
        """Pixels of some rows of images (V,); the sample's token is for messages."""
        return tuple(
            read_image(
                self.root / self.index.text("camera_file", camera),
                token=token,
                hw=tuple(self.index["camera_hw"][camera].tolist()),
                reduce=self.image_reduce,
            )
            for camera in rows.tolist()
        )

    def _boxes(self, row: int, ref_T_global: Array) -> Boxes3D:
        index = self.index
        these = slice(int(index["box_offset"][row]), int(index["box_offset"][row + 1]))
        R, t = ref_T_global[:3, :3], ref_T_global[:3, 3]
        heading = index["box_heading"][these] @ R.T
        velocity = index["box_velocity_mps"][these] @ R.T
        return Boxes3D(
            center_m=_tensor(index["box_center_m"][these] @ R.T + t).float(),
            size_lwh_m=_tensor(index["box_size_lwh_m"][these]).float(),
            yaw_rad=_tensor(np.arctan2(heading[:, 1], heading[:, 0])).float(),
            velocity_mps=_tensor(velocity[:, :2]).float(),
            label=_tensor(index["box_label"][these]).long(),
            num_points=_tensor(index["box_num_lidar"][these]).long(),
            attribute=_tensor(index["box_attribute"][these]).long(),
        )

    def _map(self, number: int, global_SE3_ref: SE3, grid: BEVGrid) -> MapRaster:
        expansion = read_map(self.root, self.location(number))
        return rasterize(expansion, global_SE3_ref, grid, self.map_classes)


def _tensor(array: Array) -> Tensor:
    # A copy: the index is mapped read-only, and tensors cannot say so.
    return torch.from_numpy(np.array(array))


def _inverse(T: Array) -> Array:
    """Inverses of (..., 4, 4) rigid matrices."""
    R = np.swapaxes(T[..., :3, :3], -1, -2)
    out = np.zeros_like(T)
    out[..., :3, :3] = R
    out[..., :3, 3] = -np.einsum("...ij,...j->...i", R, T[..., :3, 3])
    out[..., 3, 3] = 1
    return out
