"""The rigid transform between two named frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from perception3d.geometry import (
    apply_transform,
    matrix_from_quaternion,
    quaternion_from_matrix,
    rigid_matrix,
    yaw_from_matrix,
)
from perception3d.structures.checks import check_finite, check_tensor, move


@dataclass(frozen=True)
class SE3:
    """A rotation followed by a translation. Named ``dst_SE3_src``, so that products cancel by eye.

    Attributes:
        rotation: (3, 3) float64, orthonormal, determinant +1 (to 1e-4).
        translation_m: (3,) float64, metres.
    """

    rotation: Tensor
    translation_m: Tensor

    def __post_init__(self) -> None:
        check_tensor("SE3", "rotation", self.rotation, (3, 3), floating=True)
        check_tensor("SE3", "translation_m", self.translation_m, (3,), floating=True)
        object.__setattr__(self, "rotation", self.rotation.double())
        object.__setattr__(self, "translation_m", self.translation_m.double())
        check_finite("SE3", "rotation", self.rotation)
        check_finite("SE3", "translation_m", self.translation_m)
        R = self.rotation
        error = float((R @ R.T - torch.eye(3, dtype=R.dtype, device=R.device)).abs().max())
        if error > 1e-4 or float(torch.linalg.det(R)) < 0:
            raise ValueError(
                f"SE3.rotation must be a proper rotation; R R^T is off by {error:.2g}, "
                f"det {float(torch.linalg.det(R)):.3f}"
            )

    @classmethod
    def identity(cls) -> SE3:
        """The transform that moves nothing."""
        return cls(torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64))

    @classmethod
    def from_matrix(cls, T: Tensor) -> SE3:
        """From a (4, 4) rigid matrix."""
        check_tensor("SE3", "matrix", T, (4, 4), floating=True)
        return cls(T[:3, :3].double(), T[:3, 3].double())

    @classmethod
    def from_quaternion(
        cls, wxyz: Sequence[float] | Tensor, translation_m: Sequence[float] | Tensor
    ) -> SE3:
        """From a quaternion, scalar first (any non-zero length), and a translation in metres."""
        q = torch.as_tensor(wxyz, dtype=torch.float64)
        return cls(matrix_from_quaternion(q), torch.as_tensor(translation_m, dtype=torch.float64))

    def matrix(self) -> Tensor:
        """(4, 4) float64."""
        return rigid_matrix(self.rotation, self.translation_m)

    def quaternion_wxyz(self) -> Tensor:
        """(4,) float64 unit quaternion, scalar first and not negative."""
        return quaternion_from_matrix(self.rotation)

    def yaw_rad(self) -> float:
        """Heading of the source frame's x axis in the destination frame, seen from above."""
        return float(yaw_from_matrix(self.rotation))

    def inverse(self) -> SE3:
        """``src_SE3_dst``."""
        return SE3(self.rotation.T, -self.rotation.T @ self.translation_m)

    def __matmul__(self, other: SE3) -> SE3:
        """``a_SE3_b @ b_SE3_c`` is ``a_SE3_c``."""
        return SE3(
            self.rotation @ other.rotation,
            self.rotation @ other.translation_m + self.translation_m,
        )

    def apply(self, xyz_m: Tensor) -> Tensor:
        """Points (..., 3) in metres moved from source to destination frame; keeps their dtype."""
        return apply_transform(self.matrix(), xyz_m)

    def to(self, device: torch.device | str) -> SE3:
        """A copy on another device."""
        return move(self, device)
