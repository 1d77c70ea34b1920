"""Changes of a frame: ``transform(frame, rng) -> frame``, frozen values that can be printed and
compared.

The published order for fusion (CMT): ModalMask, GlobalAugment, RangeFilter, ClassFilter,
PointShuffle, ImageAugment. Boxes without points are dropped first (MinPointsFilter). Normalisation
is the model's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from perception3d.datasets.points import ROW, cloud_of, rows_of, select_points
from perception3d.structures import Frame
from perception3d.structures.taxonomy import NUSCENES_CLASSES

Transform = Callable[[Frame, np.random.Generator], Frame]


@dataclass(frozen=True)
class Compose:
    """Several transforms, one after the other."""

    transforms: tuple[Transform, ...]

    def __call__(self, frame: Frame, rng: np.random.Generator) -> Frame:
        """The frame after all of them."""
        for transform in self.transforms:
            frame = transform(frame, rng)
        return frame


@dataclass(frozen=True)
class ModalMask:
    """Blind one sensor of some frames (CMT's masked-modal training), or a chosen one in a test.

    Attributes:
        camera_probability, lidar_probability: of blinding the cameras or the LiDAR; the rest keeps
            both.
        how: "zero" multiplies by 0, as published: black images, every point at the origin with
            features 0, and models still see both sensors. "drop" takes the data away:
            ``Batch.sensor_present`` is False.
    """

    camera_probability: float = 0.25
    lidar_probability: float = 0.25
    how: Literal["zero", "drop"] = "zero"

    def __post_init__(self) -> None:
        if min(self.camera_probability, self.lidar_probability) < 0 or (
            self.camera_probability + self.lidar_probability > 1
        ):
            raise ValueError(
                "probabilities must be >= 0 and sum to at most 1; found "
                f"{self.camera_probability} (camera) and {self.lidar_probability} (LiDAR)"
            )

    def __call__(self, frame: Frame, rng: np.random.Generator) -> Frame:
        """The frame, with one sensor blinded or not."""
        draw = rng.random()
        if draw >= 1 - self.camera_probability:
            return self._without_cameras(frame)
        if draw >= 1 - self.camera_probability - self.lidar_probability:
            return self._without_lidar(frame)
        return frame

    def _without_cameras(self, frame: Frame) -> Frame:
        if frame.images is None or self.how == "drop":
            return replace(frame, images=None)
        return replace(frame, images=tuple(torch.zeros_like(image) for image in frame.images))

    def _without_lidar(self, frame: Frame) -> Frame:
        points = frame.points
        if points is None or self.how == "drop":
            return replace(frame, points=None)
        blind = np.zeros((len(points), ROW), np.float32)
        return replace(frame, points=cloud_of(blind, points.ring))


@dataclass(frozen=True)
class RangeFilter:
    """Keep points inside a volume, and boxes whose centre lies inside its ground plan; borders
    excluded.

    Attributes:
        x_m, y_m, z_m: (low, high) in ``ref``.
    """

    x_m: tuple[float, float] = (-54.0, 54.0)
    y_m: tuple[float, float] = (-54.0, 54.0)
    z_m: tuple[float, float] = (-5.0, 3.0)

    def __call__(self, frame: Frame, rng: np.random.Generator) -> Frame:
        """The frame with what is inside."""
        points, boxes = frame.points, frame.boxes
        low, high = torch.tensor([self.x_m, self.y_m]).T
        if points is not None:
            xyz, borders = rows_of(points), (self.x_m, self.y_m, self.z_m)
            inside = np.ones(len(xyz), bool)
            for axis, (least, most) in enumerate(borders):
                inside &= (xyz[:, axis] > np.float32(least)) & (xyz[:, axis] < np.float32(most))
            points = select_points(points, inside)
        if boxes is not None:
            centers = boxes.center_m[:, :2]
            boxes = boxes.select(((centers > low) & (centers < high)).all(dim=1))
        return replace(frame, points=points, boxes=boxes)


@dataclass(frozen=True)
class ClassFilter:
    """Keep boxes of the named classes; ignored categories (label -1) go too. Labels stay as they
    are.

    Raises:
        ValueError: an unknown class name; lists the known ones.
    """

    classes: tuple[str, ...] = NUSCENES_CLASSES

    def __post_init__(self) -> None:
        unknown = [name for name in self.classes if name not in NUSCENES_CLASSES]
        if unknown:
            raise ValueError(f"unknown classes {unknown}; known are {', '.join(NUSCENES_CLASSES)}")

    def __call__(self, frame: Frame, rng: np.random.Generator) -> Frame:
        """The frame with boxes of these classes."""
        if frame.boxes is None:
            return frame
        labels = torch.tensor(
            [NUSCENES_CLASSES.index(name) for name in self.classes], dtype=torch.int64
        )
        return replace(frame, boxes=frame.boxes.select(torch.isin(frame.boxes.label, labels)))


@dataclass(frozen=True)
class MinPointsFilter:
    """Keep boxes that hold at least so many LiDAR points; boxes whose number is unknown stay."""

    min_points: int = 1

    def __call__(self, frame: Frame, rng: np.random.Generator) -> Frame:
        """The frame with boxes that can be seen."""
        boxes = frame.boxes
        if boxes is None:
            return frame
        keep = (boxes.num_points >= self.min_points) | (boxes.num_points < 0)
        return replace(frame, boxes=boxes.select(keep))


@dataclass(frozen=True)
class PointShuffle:
    """Put points into random order: encoders that keep only the first few of a cell then take
    any.
    """

    def __call__(self, frame: Frame, rng: np.random.Generator) -> Frame:
        """The frame with its points in another order."""
        if frame.points is None:
            return frame
        # Twice as fast as NumPy's permutation.
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        order = torch.randperm(len(frame.points), generator=generator).numpy()
        return replace(frame, points=select_points(frame.points, order))
