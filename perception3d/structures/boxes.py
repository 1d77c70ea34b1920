"""Oriented 3-D boxes with velocity and class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from perception3d.geometry import box_corners, wrap_to_pi
from perception3d.structures.checks import check_finite, check_same_length, check_tensor, move


@dataclass(frozen=True)
class Boxes3D:
    """N upright boxes in one frame (``ref`` unless a name says otherwise).

    Attributes:
        center_m: (N, 3) gravity centres.
        size_lwh_m: (N, 3) length (along the heading), width, height; > 0.
        yaw_rad: (N,) counter-clockwise from +x, kept in [-pi, pi).
        velocity_mps: (N, 2) vx, vy along the frame's axes; NaN = unknown.
        label: (N,) int64 index into the data set's classes; -1 = a class that is ignored.
        num_points: (N,) int64 LiDAR points inside; -1 = unknown.
        attribute: (N,) int64 index into the data set's attributes; -1 = none.
    """

    center_m: Tensor
    size_lwh_m: Tensor
    yaw_rad: Tensor
    velocity_mps: Tensor
    label: Tensor
    num_points: Tensor
    attribute: Tensor

    def __post_init__(self) -> None:
        for name, columns in (("center_m", 3), ("size_lwh_m", 3), ("velocity_mps", 2)):
            check_tensor("Boxes3D", name, getattr(self, name), ("N", columns), floating=True)
        check_tensor("Boxes3D", "yaw_rad", self.yaw_rad, ("N",), floating=True)
        for name in ("label", "num_points", "attribute"):
            check_tensor("Boxes3D", name, getattr(self, name), ("N",), floating=False)
        check_same_length("Boxes3D", **{f.name: len(getattr(self, f.name)) for f in fields(self)})
        check_finite("Boxes3D", "center_m", self.center_m)
        check_finite("Boxes3D", "size_lwh_m", self.size_lwh_m)
        check_finite("Boxes3D", "yaw_rad", self.yaw_rad)
        positive = (self.size_lwh_m > 0).all(dim=1)
        if not bool(positive.all()):
            row = int((~positive).nonzero()[0, 0])
            raise ValueError(
                f"Boxes3D.size_lwh_m must be > 0; box {row} has (length, width, height) = "
                f"{self.size_lwh_m[row].tolist()}"
            )
        object.__setattr__(self, "yaw_rad", wrap_to_pi(self.yaw_rad))

    @classmethod
    def build(
        cls,
        center_m: Tensor,
        size_lwh_m: Tensor,
        yaw_rad: Tensor,
        label: Tensor,
        *,
        velocity_mps: Tensor | None = None,
        num_points: Tensor | None = None,
        attribute: Tensor | None = None,
    ) -> Boxes3D:
        """Boxes from what is known; the rest becomes NaN velocity, -1 points, -1 attribute."""
        unknown = torch.full_like(label, -1)
        if velocity_mps is None:
            velocity_mps = torch.full_like(center_m[:, :2], float("nan"))
        return cls(
            center_m,
            size_lwh_m,
            yaw_rad,
            velocity_mps,
            label,
            unknown if num_points is None else num_points,
            unknown.clone() if attribute is None else attribute,
        )

    @classmethod
    def empty(cls) -> Boxes3D:
        """No boxes."""
        return cls.build(
            torch.zeros(0, 3), torch.zeros(0, 3), torch.zeros(0), torch.zeros(0, dtype=torch.int64)
        )

    @classmethod
    def cat(cls, parts: Sequence[Boxes3D]) -> Boxes3D:
        """Boxes of several sets, in order."""
        if not parts:
            return cls.empty()
        return cls(*(torch.cat([getattr(p, f.name) for p in parts]) for f in fields(cls)))

    def __len__(self) -> int:
        return len(self.center_m)

    def select(self, keep: Tensor) -> Boxes3D:
        """The boxes of a bool mask (N,) or an index (M,)."""
        return Boxes3D(*(getattr(self, f.name)[keep] for f in fields(self)))

    def corners(self) -> Tensor:
        """(N, 8, 3) corners; order as in :func:`perception3d.geometry.box_corners`."""
        return box_corners(self.center_m, self.size_lwh_m, self.yaw_rad)

    def to(self, device: torch.device | str) -> Boxes3D:
        """A copy on another device."""
        return move(self, device)
