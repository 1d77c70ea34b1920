"""Sweeps of one Argoverse 2 split as frames."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from perception3d.datasets.av2.index import load_index
from perception3d.datasets.av2.log_files import LogFolder
from perception3d.datasets.av2.map_file import rasterize_log_map, read_log_map
from perception3d.datasets.av2.sweeps import SweepFile, merge_sweep_files
from perception3d.datasets.images import read_image
from perception3d.geometry.se3 import invert_rigid
from perception3d.structures import SE3, BEVGrid, Boxes3D, CameraRig, Frame, PointCloud
from perception3d.structures.taxonomy_av2 import (
    AV2_CAMERAS,
    AV2_CLASSES,
    AV2_MAP_CLASSES,
    AV2_RING_CAMERAS,
)

Array = NDArray[Any]


class AV2Frames:
    """Frames of one split, read on demand; ``ref`` is the vehicle (x forward, y left) at the
    sweep's time.

    Every sweep is a sample (10 Hz, all annotated); its token is ``<log id>:<time in ns>``. The
    object holds only a mapped index and may be sent to worker processes, which then share it.

    Args:
        root: folder with the splits.
        split: folder of logs in it: train, val, test, or another.
        num_sweeps: LiDAR sweeps merged, the key one included; a log's first frames have fewer.
        ring: keep laser numbers of the points (0 to 63).
        cameras: out of AV2_CAMERAS, in the order in which frames hold them; empty for no rig.
            Their images differ in size: ``ring_front_center`` stands upright.
        image_reduce: decode images at 1/1, 1/2, 1/4 or 1/8; ``image_aug`` of the rig tells so.
        load_points, load_images, load_boxes: leave out what is not needed. The rig stays without
            images; a camera without image near a sweep then counts as exposed at the sweep's time.
        map_grid, map_classes: raster of the log's map around the vehicle; None for no map.
        missing_sweeps: what to do with annotated times that have no point file, as in a download
            that is not complete: "error", or "drop" them. Without points they are frames as any.
        cache_dir: where the index lies; see :func:`load_index`.
        workers: processes that read logs when the index is built.

    Raises:
        FileNotFoundError: the split or a file of a log is missing, or sweeps with "error".
        ValueError: a file is damaged, an unknown camera, or a number of sweeps below 1.
    """

    classes = AV2_CLASSES

    def __init__(
        self,
        root: str | Path,
        split: str,
        *,
        num_sweeps: int = 1,
        ring: bool = False,
        cameras: tuple[str, ...] = AV2_RING_CAMERAS,
        image_reduce: int = 1,
        load_points: bool = True,
        load_images: bool = True,
        load_boxes: bool = True,
        map_grid: BEVGrid | None = None,
        map_classes: tuple[str, ...] = AV2_MAP_CLASSES,
        missing_sweeps: Literal["error", "drop"] = "error",
        cache_dir: Path | None = None,
        workers: int = 1,
    ) -> None:
        unknown = [name for name in cameras if name not in AV2_CAMERAS]
        if unknown or num_sweeps < 1 or image_reduce not in (1, 2, 4, 8):
            raise ValueError(
                f"num_sweeps must be >= 1, image_reduce 1, 2, 4 or 8 and cameras among "
                f"{AV2_CAMERAS}; found {num_sweeps}, {image_reduce} and {unknown}"
            )
        if missing_sweeps not in ("error", "drop"):
            raise ValueError(f"missing_sweeps must be error or drop; found {missing_sweeps!r}")
        self.root = Path(root)
        self.split = split
        self.num_sweeps = num_sweeps
        self.ring = ring
        self.cameras = tuple(cameras)
        self._views = [AV2_CAMERAS.index(name) for name in self.cameras]
        self.image_reduce = image_reduce
        self.load_points = load_points
        self.load_images = load_images and bool(cameras)
        self.load_boxes = load_boxes
        self.map_grid = map_grid
        self.map_classes = map_classes
        self.index = load_index(self.root, split, cache_dir, workers=workers)
        self._rows = np.arange(len(self.index["sample_time_ns"]))
        if load_points:
            self._rows = self._with_sweeps(missing_sweeps)

    def _with_sweeps(self, missing: str) -> Array:
        present = np.asarray(self.index["sample_has_sweep"])
        lost = np.flatnonzero(~present)
        if len(lost) and missing == "error":
            log, time_ns = self._log(int(lost[0])), int(self.index["sample_time_ns"][lost[0]])
            raise FileNotFoundError(
                f"{len(lost)} of {len(present)} annotated sweeps of {self.root / self.split} are "
                f"missing (first: {log.sweep(time_ns)}); download them, or leave them out with "
                'missing_sweeps="drop"'
            )
        return np.flatnonzero(present)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def tokens(self) -> tuple[str, ...]:
        """``<log id>:<time in ns>`` of all frames, in their order."""
        names = [name.decode() for name in self.index["log_id"].tolist()]
        logs = self.index["sample_log"][self._rows].tolist()
        times = self.index["sample_time_ns"][self._rows].tolist()
        return tuple(f"{names[log]}:{time_ns}" for log, time_ns in zip(logs, times))

    @property
    def fingerprint(self) -> str:
        """Hash of the index's contents and the samples of the split."""
        digest = hashlib.blake2b(self.index.fingerprint.encode(), digest_size=16)
        digest.update("\n".join(self.tokens).encode())
        return digest.hexdigest()

    def index_of(self, token: str) -> int:
        """Number of the frame with this token.

        Raises:
            KeyError: the split has no such sample.
        """
        name, _, time_ns = token.partition(":")
        logs = np.flatnonzero(self.index["log_id"] == name.encode())
        if len(logs) and time_ns.isdigit():
            first, last = self.index["log_offset"][logs[0] : logs[0] + 2].tolist()
            found = first + np.flatnonzero(self.index["sample_time_ns"][first:last] == int(time_ns))
            number = np.flatnonzero(np.isin(self._rows, found))
            if len(number):
                return int(number[0])
        raise KeyError(f"sample {token} is not in split {self.split!r} of {self.root}")

    def row_of(self, number: int) -> int:
        """Row of a frame in the index's samples."""
        return int(self._rows[number])

    def class_counts(self) -> Array:
        """(N, 26) int64 boxes of every class in every frame that hold a LiDAR point, or may."""
        label, offset = self.index["box_label"], self.index["box_offset"]
        seen = (self.index["box_num_points"] != 0) & (label >= 0)
        sample = np.repeat(np.arange(len(offset) - 1), np.diff(offset))[seen]
        classes = len(AV2_CLASSES)
        flat = np.bincount(sample * classes + label[seen], minlength=(len(offset) - 1) * classes)
        return flat.reshape(-1, classes)[self._rows]

    def location(self, number: int) -> str:
        """Short name of the city a frame lies in; empty when its log has no map."""
        log = int(self.index["sample_log"][self._rows[number]])
        return bytes(self.index["log_city"][log]).decode()

    def pose(self, number: int) -> SE3:
        """City from vehicle at the time of a frame."""
        return SE3.from_matrix(_tensor(self.index["sample_city_T_ego"][self.row_of(number)]))

    def log_folder(self, number: int) -> LogFolder:
        """Where the files of a frame's log lie."""
        return self._log(self.row_of(number))

    def _log(self, row: int) -> LogFolder:
        name = bytes(self.index["log_id"][self.index["sample_log"][row]]).decode()
        return LogFolder(self.root / self.split / name)

    def __getitem__(self, number: int) -> Frame:
        """Read one frame.

        Raises:
            IndexError: there is no such frame.
            FileNotFoundError, ValueError: a file is missing or damaged; names it.
        """
        if not -len(self) <= number < len(self):
            raise IndexError(f"frame {number} of a split of {len(self)}")
        row = self.row_of(number)
        index, log = self.index, self._log(row)
        time_ns = int(index["sample_time_ns"][row])
        token = f"{log.log_id}:{time_ns}"
        city_SE3_ref = self.pose(number)
        grid = self.map_grid
        return Frame(
            token=token,
            log=log.log_id,
            time_ns=time_ns,
            global_SE3_ref=city_SE3_ref,
            ego_SE3_ref=SE3.identity(),
            points=self._points(log, row) if self.load_points else None,
            images=self._images(log, row, token) if self.load_images else None,
            rig=self._rig(log, row) if self.cameras else None,
            boxes=self._boxes(row) if self.load_boxes and index.has_boxes else None,
            map=None
            if grid is None
            else rasterize_log_map(read_log_map(log.map), city_SE3_ref, grid, self.map_classes),
        )

    def _points(self, log: LogFolder, row: int) -> PointCloud:
        time_ns, poses = self.index["sample_time_ns"], self.index["sample_city_T_ego"]
        first = int(self.index["log_offset"][self.index["sample_log"][row]])
        present = first + np.flatnonzero(self.index["sample_has_sweep"][first : row + 1])
        ref_T_city = _inverse(poses[row])
        sweeps = [
            SweepFile(
                path=log.sweep(int(time_ns[past])),
                ref_T_ego=None if past == row else ref_T_city @ poses[past],
                age_s=int(time_ns[row] - time_ns[past]) * 1e-9,
            )
            for past in present[::-1][: self.num_sweeps].tolist()
        ]
        return merge_sweep_files(sweeps, ring=self.ring)

    def _rig(self, log: LogFolder, row: int) -> CameraRig:
        """Every camera at its own time: its vehicle's pose then is inside ``cam_SE3_ref``."""
        index, reduce, views = self.index, self.image_reduce, self._views
        number = int(index["sample_log"][row])
        hw = index["log_camera_hw"][number][views]
        if (hw == 0).any():
            missing = [n for n, size in zip(self.cameras, hw.tolist()) if 0 in size]
            raise ValueError(
                f"{log.intrinsics.parent} holds no calibration of {', '.join(missing)}; download "
                "the log's calibration, or leave these out of `cameras`"
            )
        time_ns = np.array(index["image_time_ns"][row][views])
        city_T_ego = np.array(index["image_city_T_ego"][row][views])
        blind = time_ns < 0
        time_ns[blind] = index["sample_time_ns"][row]
        city_T_ego[blind] = index["sample_city_T_ego"][row]
        camera_T_ego = _inverse(index["log_ego_T_camera"][number][views])
        scale = np.diag([1 / reduce, 1 / reduce, 1.0])
        return CameraRig(
            names=self.cameras,
            K=_tensor(index["log_K"][number][views]),
            cam_SE3_ref=_tensor(
                camera_T_ego @ _inverse(city_T_ego) @ index["sample_city_T_ego"][row]
            ),
            image_hw=_tensor(-(-hw // reduce)),
            image_aug=_tensor(np.repeat(scale[None], len(views), axis=0)),
            time_ns=_tensor(time_ns),
        )

    def _images(self, log: LogFolder, row: int, token: str) -> tuple[Tensor, ...]:
        times = self.index["image_time_ns"][row][self._views].tolist()
        missing = [name for name, time_ns in zip(self.cameras, times) if time_ns < 0]
        if missing:
            number = self.index["sample_log"][row]
            unposed = int(self.index["log_unposed_images"][number])
            raise FileNotFoundError(
                f"sample {token} has no image of {', '.join(missing)} within 25 ms in "
                f"{log.image(missing[0], 0).parent.parent} ({unposed} images there have no pose in "
                f"{log.poses.name}); download the log again, or leave these out of `cameras`"
            )
        sizes = self.index["log_camera_hw"][self.index["sample_log"][row]][self._views].tolist()
        return tuple(
            read_image(
                log.image(name, time_ns), token=token, hw=(hw[0], hw[1]), reduce=self.image_reduce
            )
            for name, time_ns, hw in zip(self.cameras, times, sizes)
        )

    def _boxes(self, row: int) -> Boxes3D:
        index = self.index
        these = slice(int(index["box_offset"][row]), int(index["box_offset"][row + 1]))
        R = index["sample_city_T_ego"][row][:3, :3]
        velocity = index["box_velocity_mps"][these] @ R  # rows times R: turned into the vehicle's
        return Boxes3D.build(
            center_m=_tensor(index["box_center_m"][these]).float(),
            size_lwh_m=_tensor(index["box_size_lwh_m"][these]).float(),
            yaw_rad=_tensor(index["box_yaw_rad"][these]).float(),
            label=_tensor(index["box_label"][these]).long(),
            velocity_mps=_tensor(velocity[:, :2]).float(),
            num_points=_tensor(index["box_num_points"][these]).long(),
        )


def _tensor(array: Array) -> Tensor:
    # A copy: the index is mapped read-only, and tensors cannot say so.
    return torch.from_numpy(np.array(array))


def _inverse(T: Array) -> Array:
    return invert_rigid(_tensor(T)).numpy()
