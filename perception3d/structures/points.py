"""LiDAR points of one sample."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from perception3d.structures.checks import check_same_length, check_tensor, move


@dataclass(frozen=True)
class PointCloud:
    """Points in the frame ``ref``, sweeps already moved to the key LiDAR's time.

    Attributes:
        xyz_m: (N, 3) float32 metres.
        intensity: (N,) float32 in the sensor's own scale (nuScenes: 0 to 255).
        age_s: (N,) float32 >= 0, seconds before the key time; 0 for the key sweep.
        ring: (N,) int16 beam index, or None.
    """

    xyz_m: Tensor
    intensity: Tensor
    age_s: Tensor
    ring: Tensor | None = None

    def __post_init__(self) -> None:
        check_tensor("PointCloud", "xyz_m", self.xyz_m, ("N", 3), floating=True)
        check_tensor("PointCloud", "intensity", self.intensity, ("N",), floating=True)
        check_tensor("PointCloud", "age_s", self.age_s, ("N",), floating=True)
        lengths = {
            "xyz_m": len(self.xyz_m),
            "intensity": len(self.intensity),
            "age_s": len(self.age_s),
        }
        if self.ring is not None:
            check_tensor("PointCloud", "ring", self.ring, ("N",), floating=False)
            lengths["ring"] = len(self.ring)
        check_same_length("PointCloud", **lengths)
        if len(self.age_s) and float(self.age_s.min()) < 0:
            raise ValueError(
                "PointCloud.age_s counts seconds into the past and must be >= 0; "
                f"found {float(self.age_s.min())}"
            )

    def __len__(self) -> int:
        return len(self.xyz_m)

    @classmethod
    def empty(cls) -> PointCloud:
        """A cloud without points."""
        return cls(torch.zeros(0, 3), torch.zeros(0), torch.zeros(0))

    def features(self) -> Tensor:
        """(N, 5) x, y, z, intensity, age."""
        return torch.cat((self.xyz_m, self.intensity[:, None], self.age_s[:, None]), dim=1)

    def select(self, keep: Tensor) -> PointCloud:
        """The points of a bool mask (N,) or an index (M,)."""
        ring = None if self.ring is None else self.ring[keep]
        return PointCloud(self.xyz_m[keep], self.intensity[keep], self.age_s[keep], ring)

    def to(self, device: torch.device | str) -> PointCloud:
        """A copy on another device."""
        return move(self, device)
