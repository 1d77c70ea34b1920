"""Sensors that fail in a test: LiDAR or cameras gone, one camera black, LiDAR thinned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from perception3d.datasets.nuscenes.earlier import EARLIER
from perception3d.structures import Frame

LIDAR, CAMERAS = "lidar", "cameras"
#: Shares of points that the table of all drops keeps.
THINNED = (0.5, 0.1)


@dataclass(frozen=True)
class SensorDrop:
    """Transform: the frame as it is when something fails.

    Attributes:
        what: "lidar" or "cameras" (the data are gone, as with a broken cable), a camera's name (its
            image is black, that of an
            earlier moment too), or "lidar:0.5" (that share of the points is left, drawn at random).
    """

    what: str

    def __post_init__(self) -> None:
        self._share()

    def __call__(self, frame: Frame, rng: np.random.Generator) -> Frame:
        """The frame without it.

        Raises:
            ValueError: the frame has no such camera.
        """
        if self.what == LIDAR:
            return replace(frame, points=None)
        if self.what == CAMERAS:
            return replace(frame, images=None)
        share = self._share()
        if share is not None:
            if frame.points is None:
                return frame
            kept = torch.from_numpy(rng.random(len(frame.points)) < share)
            return replace(frame, points=frame.points.select(kept))
        return self._without_camera(frame)

    def _without_camera(self, frame: Frame) -> Frame:
        names = () if frame.rig is None else frame.rig.names
        black = (self.what, self.what + EARLIER)
        if frame.images is None or self.what not in names:
            raise ValueError(
                f"there is no sensor {self.what!r} to drop; known: {LIDAR}, {CAMERAS}, "
                f"{LIDAR}:SHARE{''.join(f', {name}' for name in names)}"
            )
        return replace(
            frame,
            images=tuple(
                torch.zeros_like(image) if name in black else image
                for name, image in zip(names, frame.images)
            ),
        )

    def _share(self) -> float | None:
        sensor, colon, text = self.what.partition(":")
        if not colon:
            return None
        try:
            share = float(text)
        except ValueError:
            share = -1.0
        if sensor != LIDAR or not 0 <= share <= 1:
            raise ValueError(
                f"{self.what!r} cannot be dropped; {LIDAR}:0.5 leaves half of the points"
            )
        return share


def every_drop(cameras: Sequence[str], *, lidar: bool) -> tuple[str, ...]:
    """All that can fail of a model's sensors: each as a whole where another is left, and parts.

    Args:
        cameras: names; empty without.
        lidar: whether there is LiDAR.
    """
    whole = (LIDAR, CAMERAS) if cameras and lidar else ()
    thinned = [f"{LIDAR}:{share:g}" for share in THINNED] if lidar else []
    return (*whole, *cameras, *thinned)
