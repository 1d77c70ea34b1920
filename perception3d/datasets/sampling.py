"""Which frame comes when: a pure function of seed and epoch, so that a run can stop and go on
anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

Ints = NDArray[np.int64]


class SampleKey(NamedTuple):
    """One place in a run: which frame, and what its random numbers are drawn from."""

    index: int  # type: ignore[assignment]  # tuple.index, which nobody asks of a key
    epoch: int
    position: int


class EpochSampler(Sampler[SampleKey]):
    """Keys of one epoch for one process.

    The order depends on (seed, epoch) alone. Process ``rank`` takes positions rank, rank +
    world_size, ... of it, so several processes together see what one process with the sum of their
    batches sees, with the same random numbers. Positions beyond the end repeat the beginning, until
    all processes have as many.

    Args:
        num_frames: frames of the data set.
        seed: of the run.
        shuffle: permute; else in order.
        repeats: (num_frames,) how often each frame comes in an epoch, such as
            :func:`class_balanced_repeats`; once when None.
        rank, world_size: this process among all.

    Raises:
        ValueError: there is no frame, repeats do not fit, or rank is outside the world.
    """

    def __init__(
        self,
        num_frames: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        repeats: Ints | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if repeats is not None and (
            repeats.shape != (num_frames,) or int(repeats.min(initial=0)) < 0
        ):
            raise ValueError(
                f"repeats must be {num_frames} counts >= 0; found shape {repeats.shape}, "
                f"minimum {repeats.min(initial=0)}"
            )
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} is outside a world of {world_size} processes")
        frames = np.arange(num_frames, dtype=np.int64)
        self._pool = frames if repeats is None else np.repeat(frames, repeats)
        if len(self._pool) == 0:
            raise ValueError("the data set has no frame to draw from")
        self._seed = seed
        self._shuffle = shuffle
        self._rank = rank
        self._world_size = world_size
        self._epoch = 0
        self._start = 0

    def set_epoch(self, epoch: int, *, start: int = 0) -> None:
        """Choose the epoch, and how many keys of this process to skip at its beginning (to go
        on).
        """
        self._epoch = epoch
        self._start = start

    @property
    def num_keys(self) -> int:
        """Keys of this process in a whole epoch."""
        return -(-len(self._pool) // self._world_size)

    def __len__(self) -> int:
        return max(self.num_keys - self._start, 0)

    def __iter__(self) -> Iterator[SampleKey]:
        # Read once: a change of epoch does not touch an iteration under way.
        epoch, start = self._epoch, self._start
        order = self._pool
        if self._shuffle:
            order = np.random.default_rng([self._seed, epoch]).permutation(order)
        for step in range(start, self.num_keys):
            position = step * self._world_size + self._rank
            yield SampleKey(int(order[position % len(order)]), epoch, position)


def class_balanced_repeats(class_counts: Ints, *, seed: int = 0) -> Ints:
    """How often each frame comes when every class has an equal share of the draws (CBGS).

    Sum over classes the frames that hold a class; every class present gets an equal part of that
    sum, drawn with replacement from its frames. Source: Zhu et al. 2019 (arXiv 1908.09492) section
    3.1, numbers as mmdetection3d's ``CBGSDataset``, which draws once, before training.

    Args:
        class_counts: (N, K) boxes of every class in every frame.
        seed: of the draw.

    Returns:
        (N,) int64 counts.

    Raises:
        ValueError: no frame holds any box.
    """
    holders = [np.flatnonzero(column) for column in class_counts.T > 0]
    total = sum(len(frames) for frames in holders)
    if total == 0:
        raise ValueError("no frame holds a box of any class; class-balanced sampling needs boxes")
    # Every class gets this part, so absent ones leave the epoch shorter, as published.
    part = 1.0 / len(holders)
    rng = np.random.default_rng([seed, 0xCB65])
    repeats = np.zeros(len(class_counts), np.int64)
    for frames in holders:
        if len(frames):
            # The published order of divisions, rounded down.
            draws = int(len(frames) * (part / (len(frames) / total)))
            np.add.at(repeats, rng.choice(frames, draws), 1)
    return repeats
