"""One sample of a log: what the vehicle saw around one key time, and what is known to be there."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from perception3d.structures.boxes import Boxes3D
from perception3d.structures.checks import check_tensor, move
from perception3d.structures.grid import BEVGrid
from perception3d.structures.points import PointCloud
from perception3d.structures.pose import SE3
from perception3d.structures.rig import CameraRig


@dataclass(frozen=True)
class MapRaster:
    """Map classes on a grid in ``ref``; a cell may belong to several classes or to none.

    Attributes:
        mask: (K, ny, nx) bool.
        classes: K names.
        grid: where the cells lie.
    """

    mask: Tensor
    classes: tuple[str, ...]
    grid: BEVGrid

    def __post_init__(self) -> None:
        shape = (len(self.classes), self.grid.ny, self.grid.nx)
        check_tensor("MapRaster", "mask", self.mask, shape)
        if self.mask.dtype != torch.bool:
            raise ValueError(f"MapRaster.mask must be bool; found {self.mask.dtype}")

    def to(self, device: torch.device | str) -> MapRaster:
        """A copy on another device."""
        return move(self, device)


@dataclass(frozen=True)
class Frame:
    """One sample. Everything geometric is in ``ref``: the LiDAR's frame (nuScenes) at the key
    LiDAR's time.

    Optional parts are None when the data set has none or they were not asked for; augmentation of
    the scene keeps points, boxes and rig consistent with each other, not with the two poses.

    Attributes:
        token: name of the sample in its data set.
        log: name of the drive.
        time_ns: key time, int64 nanoseconds.
        global_SE3_ref, ego_SE3_ref: poses of ``ref`` at the key time.
        images: one (H, W, 3) uint8 RGB tensor a camera, in the order of ``rig.names``.
        previous: the earlier sample that a temporal model asked for.
    """

    token: str
    log: str
    time_ns: int
    global_SE3_ref: SE3
    ego_SE3_ref: SE3
    points: PointCloud | None = None
    images: tuple[Tensor, ...] | None = None
    rig: CameraRig | None = None
    boxes: Boxes3D | None = None
    map: MapRaster | None = None
    previous: Frame | None = None

    def __post_init__(self) -> None:
        if self.images is None:
            return
        if self.rig is None or len(self.rig) != len(self.images):
            cameras = "no rig" if self.rig is None else f"a rig of {len(self.rig)} cameras"
            raise ValueError(f"Frame {self.token}: {len(self.images)} images but {cameras}")
        for name, image, hw in zip(self.rig.names, self.images, self.rig.image_hw.tolist()):
            check_tensor(f"Frame {self.token}", f"images[{name}]", image, (hw[0], hw[1], 3))
            if image.dtype != torch.uint8:
                raise ValueError(
                    f"Frame {self.token}: image of {name} must be uint8; found {image.dtype}"
                )

    def to(self, device: torch.device | str) -> Frame:
        """A copy on another device."""
        return move(self, device)
