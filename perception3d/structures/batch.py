"""Several samples side by side, as models take them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from perception3d.structures.boxes import Boxes3D
from perception3d.structures.checks import check_same_length, check_tensor, move
from perception3d.structures.pose import SE3
from perception3d.structures.rig import CameraRig


@dataclass(frozen=True)
class Batch:
    """B samples. Points are ragged by offsets; cameras and maps are stacked.

    Attributes:
        tokens: B sample tokens.
        time_ns: (B,) int64 key times.
        global_SE3_ref, ego_SE3_ref: B poses each.
        sensor_present: (B, 2) bool for LiDAR and cameras.
        points: (P, 5) float32 x, y, z, intensity, age of all samples; sample b owns rows
            ``offsets[b]:offsets[b + 1]``. None when there is no LiDAR.
        offsets: (B + 1,) int64, from 0 to P.
        images: (B, V, 3, H, W) uint8 RGB, not normalised. None when there are no cameras.
        rig: stacked over B.
        boxes: one set of boxes a sample, None without ground truth.
        map: (B, K, ny, nx) bool, None without a map.
    """

    tokens: tuple[str, ...]
    time_ns: Tensor
    global_SE3_ref: tuple[SE3, ...]
    ego_SE3_ref: tuple[SE3, ...]
    sensor_present: Tensor
    points: Tensor | None = None
    offsets: Tensor | None = None
    images: Tensor | None = None
    rig: CameraRig | None = None
    boxes: tuple[Boxes3D, ...] | None = None
    map: Tensor | None = None

    def __post_init__(self) -> None:
        size = len(self.tokens)
        check_tensor("Batch", "time_ns", self.time_ns, (size,), floating=False)
        check_tensor("Batch", "sensor_present", self.sensor_present, (size, 2))
        lengths = {
            "tokens": size,
            "global_SE3_ref": len(self.global_SE3_ref),
            "ego_SE3_ref": len(self.ego_SE3_ref),
        }
        if self.boxes is not None:
            lengths["boxes"] = len(self.boxes)
        check_same_length("Batch", **lengths)
        if (self.points is None) != (self.offsets is None):
            raise ValueError("Batch.points and Batch.offsets belong together; one of them is None")
        if self.points is not None and self.offsets is not None:
            check_tensor("Batch", "points", self.points, ("P", 5), floating=True)
            check_tensor("Batch", "offsets", self.offsets, (size + 1,), floating=False)
            if int(self.offsets[0]) != 0 or int(self.offsets[-1]) != len(self.points):
                raise ValueError(
                    f"Batch.offsets must run from 0 to {len(self.points)}; "
                    f"found {self.offsets.tolist()}"
                )
        if self.images is not None:
            if self.rig is None:
                raise ValueError("Batch.images needs Batch.rig")
            shape = (size, len(self.rig), 3, "H", "W")
            check_tensor("Batch", "images", self.images, shape, floating=False)

    def refuse_mixed(self, *, lidar: bool, images: bool) -> None:
        """Raise ValueError if some samples have a sensor that others lack.

        A sample without it would be answered as if that sensor had seen nothing.

        Args:
            lidar, images: whether the model uses that sensor.
        """
        for column, (used, name) in enumerate(((lidar, "LiDAR points"), (images, "images"))):
            present = self.sensor_present[:, column]
            if used and bool(present.any()) and not bool(present.all()):
                without = [t for t, there in zip(self.tokens, present.tolist()) if not there]
                raise ValueError(
                    f"samples {', '.join(without)} have no {name}, others of the batch have: put "
                    "them into batches of their own, or blind the sensor with "
                    'ModalMask(how="zero")'
                )

    @property
    def batch_size(self) -> int:
        """Number of samples."""
        return len(self.tokens)

    def to(self, device: torch.device | str) -> Batch:
        """A copy on another device; the poses, which only writers read, stay where they are."""
        return move(self, device, leave=("global_SE3_ref", "ego_SE3_ref"))
