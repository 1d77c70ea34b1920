"""The cameras around the vehicle and how points get into their images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from perception3d.geometry import project_points
from perception3d.structures.checks import check_finite, check_tensor, move

#: Determinants of rigs are 1 (rotations), of the order of the scale (augmentation) or of the focal
#: lengths (K): one below this stands for a matrix that cannot be inverted.
LEAST_DETERMINANT = 1e-9


#: Tensors of a rig, in its order.
_PARTS = ("K", "cam_SE3_ref", "image_hw", "image_aug", "time_ns")


@dataclass(frozen=True)
class CameraRig:
    """V cameras of one sample; a stacked rig has leading batch dimensions on every tensor.

    Each camera exposes at its own time: the ego motion between the key LiDAR's time and the
    camera's is part of ``cam_SE3_ref``. After an augmentation of the scene it may hold scale and
    mirror too.

    Attributes:
        names: V channel names.
        K: (..., V, 3, 3) float64 intrinsics in pixels of the original image.
        cam_SE3_ref: (..., V, 4, 4) float64, from ``ref`` to the camera (z forward, x right, y
        down). image_hw: (..., V, 2) int64 height and width of the image as it now is.
        image_aug: (..., V, 3, 3) float64, original pixels to pixels of the image as it now is.
        time_ns: (..., V) int64.
    """

    names: tuple[str, ...]
    K: Tensor
    cam_SE3_ref: Tensor
    image_hw: Tensor
    image_aug: Tensor
    time_ns: Tensor

    def __post_init__(self) -> None:
        views = len(self.names)
        check_tensor("CameraRig", "K", self.K, ("...", views, 3, 3), floating=True)
        check_tensor(
            "CameraRig", "cam_SE3_ref", self.cam_SE3_ref, ("...", views, 4, 4), floating=True
        )
        check_tensor("CameraRig", "image_hw", self.image_hw, ("...", views, 2), floating=False)
        check_tensor("CameraRig", "image_aug", self.image_aug, ("...", views, 3, 3), floating=True)
        check_tensor("CameraRig", "time_ns", self.time_ns, ("...", views), floating=False)
        for name in ("K", "cam_SE3_ref", "image_aug"):
            value = getattr(self, name)
            check_finite("CameraRig", name, value)
            # Matrices of a rig are multiplied and inverted: half of the digits would be lost in
            # float32.
            object.__setattr__(self, name, value.double())
        self._refuse_singular()

    def __len__(self) -> int:
        return len(self.names)

    def _refuse_singular(self) -> None:
        """Raise ValueError if a matrix has no inverse: rays of its pixels could not be told."""
        names = ("K", "cam_SE3_ref", "image_aug")
        matrices = torch.stack([getattr(self, name)[..., :3, :3] for name in names])
        singular = torch.linalg.det(matrices).abs() < LEAST_DETERMINANT
        if bool(singular.any()):
            place = tuple(singular.nonzero()[0].tolist())
            raise ValueError(
                f"CameraRig.{names[place[0]]} of {self.names[place[-1]]} has no inverse: "
                f"{matrices[place].tolist()}; correct the calibration of this camera, or leave it "
                "out"
            )

    def ref_to_image(self) -> Tensor:
        """(..., V, 4, 4) float64: (x, y, z, 1) in ``ref`` to (u d, v d, d, 1) in present pixels."""
        eye = torch.eye(4, dtype=torch.float64, device=self.K.device)
        lifted = eye.expand(*self.K.shape[:-2], 4, 4).clone()
        lifted[..., :3, :3] = self.image_aug @ self.K
        return lifted @ self.cam_SE3_ref

    def project(self, xyz_ref_m: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels (..., V, N, 2) and depths in metres (..., V, N) of points (N, 3) in ``ref``."""
        return project_points(xyz_ref_m.double(), self.ref_to_image())

    def to(self, device: torch.device | str) -> CameraRig:
        """A copy on another device."""
        return move(self, device)

    def views(self, which: slice) -> CameraRig:
        """Some of the cameras."""
        index = (slice(None),) * (self.time_ns.ndim - 1) + (which,)
        return CameraRig(self.names[which], *(getattr(self, name)[index] for name in _PARTS))

    def beside(self, other: CameraRig, suffix: str) -> CameraRig:
        """These cameras, then those of ``other`` with a suffix to their names."""
        axis = self.time_ns.ndim - 1
        both = (torch.cat((getattr(self, n), getattr(other, n)), dim=axis) for n in _PARTS)
        return CameraRig(self.names + tuple(name + suffix for name in other.names), *both)

    @classmethod
    def stack(cls, rigs: list[CameraRig]) -> CameraRig:
        """One rig with a leading batch dimension.

        Raises:
            ValueError: there is no rig, or their cameras differ.
        """
        if not rigs or any(rig.names != rigs[0].names for rig in rigs):
            raise ValueError(
                f"rigs of one batch must have the same cameras; found {[r.names for r in rigs]}"
            )
        return cls(
            rigs[0].names,
            *(torch.stack([getattr(rig, name) for rig in rigs]) for name in _PARTS),
        )
