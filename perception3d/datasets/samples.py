"""Frames with their transforms as a PyTorch data set without state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from torch.utils.data import Dataset

from perception3d.datasets.sampling import SampleKey
from perception3d.structures import Frame

Transform = Callable[[Frame, np.random.Generator], Frame]


class FrameSource(Protocol):
    """Anything that holds frames by number."""

    def __len__(self) -> int:
        """Number of frames."""
        ...

    def __getitem__(self, number: int) -> Frame:
        """One frame."""
        ...


class FrameDataset(Dataset[Frame]):
    """Frames after a transform; random numbers come from the key, not from a state.

    Args:
        frames: where frames are read from.
        transform: called with the frame and a generator; None changes nothing.
        seed: of the run.
    """

    def __init__(
        self, frames: FrameSource, transform: Transform | None = None, *, seed: int = 0
    ) -> None:
        self.frames = frames
        self.transform = transform
        self.seed = seed

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, key: SampleKey | int) -> Frame:
        """The frame of a key of training, or frame number ``key`` (evaluation: epoch 0, position =
        number).
        """
        if isinstance(key, SampleKey):
            index, epoch, position = key
        else:
            index, epoch, position = int(key), 0, int(key)
        frame = self.frames[index]
        if self.transform is None:
            return frame
        return self.transform(frame, np.random.default_rng([self.seed, epoch, position]))
