"""The cameras of an earlier moment beside those of a frame, for models that see two of them.

Which moment: PETRv2 (arXiv 2206.01256; megvii-research/PETR) counts camera frames in a list of its
own making; without camera sweeps (the images between key frames) a wanted gap in time decides.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from perception3d.datasets.nuscenes.reader import NuScenesFrames
from perception3d.geometry.se3 import invert_rigid
from perception3d.geometry.temporal import (
    REPEATED_AGE_S,
    chosen_sweep,
    repeated_times_ns,
    training_sweeps,
)
from perception3d.structures import CameraRig, Frame

log = logging.getLogger(__name__)

Array = NDArray[Any]

#: Key frames that the published list goes back, and the camera frames of each interval between
#: two: five sweeps, then the earlier key frame itself.
INTERVALS, SWEEPS = 5, 5
#: What the names of earlier cameras end with.
EARLIER = " earlier"


def published_list(frames: NuScenesFrames, number: int) -> Array:
    """(n, V) rows of the index's images before a frame, newest first; n <= 30, 6 a key frame.

    A camera that lacks a sweep has the neighbouring newer image in its place, as published. So
    without any camera sweeps the first five of an interval are its newer key frame.
    """
    index = frames.index
    sample = frames.row_of(number)
    found: list[Array] = []
    for _ in range(INTERVALS):
        before = int(index["sample_previous"][sample])
        if before < 0:
            break
        rows = frames.camera_rows(sample)
        for _ in range(SWEEPS):
            older = index["camera_previous"][rows]
            is_sweep = (older >= 0) & ~index["camera_is_key"][older]
            rows = np.where(is_sweep, older, rows)
            found.append(rows)
        found.append(frames.camera_rows(before))
        sample = before
    return np.array(found, np.int64).reshape(-1, len(frames.cameras))


def rows_before(frames: NuScenesFrames, number: int, gap_s: float) -> Array | None:
    """(V,) rows of the images that are nearest to ``gap_s`` before those of a frame.

    Key frames and sweeps of the same scene count; None for the first frame of a scene.
    """
    index = frames.index
    sample = frames.row_of(number)
    if index["sample_previous"][sample] < 0:
        return None
    time_us = index["camera_time_us"]
    chosen = []
    for now in frames.camera_rows(sample).tolist():
        wanted = int(time_us[now]) - round(gap_s * 1e6)
        row, best = int(index["camera_previous"][now]), -1
        while row >= 0 and (best < 0 or abs(time_us[row] - wanted) < abs(time_us[best] - wanted)):
            best, row = row, int(index["camera_previous"][row])
        if best < 0:
            return None
        chosen.append(best)
    return np.array(chosen, np.int64)


@dataclass(frozen=True)
class EarlierCameras:
    """Transform: the cameras of an earlier moment stand behind those of the frame.

    The frame's images and rig then have 2 V views: now, then the same cameras earlier, seen from
    the present ``ref``; only the vehicle's motion is undone. Comes before every other transform. A
    scene's first frame repeats its own images, with the published age.

    Attributes:
        frames: where the frames come from; with images.
        rule: "test" takes the published 15th camera frame back (1.25 s), "training" a random one
            of the published range; both need camera sweeps. "gap" takes what is nearest to
            ``gap_s``.
        gap_s: wanted time between both moments.

    Raises:
        ValueError: the frames have no cameras or images, or a gap that is not positive.
    """

    frames: NuScenesFrames
    rule: Literal["test", "training", "gap"] = "test"
    gap_s: float = 1.25

    def __post_init__(self) -> None:
        if not self.frames.load_images:
            raise ValueError("earlier cameras need frames with images; these have none")
        if self.rule not in ("test", "training", "gap") or not self.gap_s > 0:
            raise ValueError(
                "rule must be test, training or gap, and gap_s positive; found "
                f"{self.rule!r}, {self.gap_s}"
            )

    def __call__(self, frame: Frame, rng: np.random.Generator) -> Frame:
        """The frame with 2 V views.

        Raises:
            FileNotFoundError, ValueError: an earlier image is missing or damaged, or the published
                list holds no earlier image at the chosen place because there are no sweeps.
        """
        if frame.rig is None or frame.images is None:
            raise ValueError(f"frame {frame.token} has no cameras to put earlier ones behind")
        rows = self._rows(self.frames.index_of(frame.token), rng)
        if rows is None:
            _say_repeated(type(self).__name__)
            earlier = replace(frame.rig, time_ns=repeated_times_ns(frame.rig.time_ns))
            return _with_views(frame, frame.images, earlier)
        global_T_ref = frame.global_SE3_ref.matrix()
        earlier = self.frames.rig(rows, invert_rigid(global_T_ref).numpy())
        if float((frame.rig.time_ns - earlier.time_ns).double().mean()) <= 0:
            raise ValueError(
                f"frame {frame.token}: the published list holds this frame itself where an earlier "
                "one is wanted, for the data set has no camera sweeps; take the rule 'gap'"
            )
        return _with_views(frame, self.frames.images(rows, frame.token), earlier)

    def _rows(self, number: int, rng: np.random.Generator) -> Array | None:
        if self.rule == "gap":
            return rows_before(self.frames, number, self.gap_s)
        found = published_list(self.frames, number)
        wanted = chosen_sweep(len(found))
        if self.rule == "training" and wanted is not None:
            wanted = chosen_sweep(len(found), int(rng.choice(training_sweeps(len(found)))))
        return None if wanted is None else found[wanted]


@lru_cache(maxsize=1)
def _say_repeated(name: str) -> None:
    """One line in the log of each process, however many scenes begin."""
    log.info(
        f"{name}: a scene's first frame has no earlier one; its own images stand in for it, "
        f"{REPEATED_AGE_S} s old (published)"
    )


def _with_views(frame: Frame, images: tuple[torch.Tensor, ...], earlier: CameraRig) -> Frame:
    rig = frame.rig
    assert rig is not None and frame.images is not None
    return replace(frame, images=frame.images + images, rig=rig.beside(earlier, EARLIER))
