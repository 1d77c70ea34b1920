"""Frames of a split as training and evaluation take them."""

from __future__ import annotations

from collections.abc import Sequence

from perception3d.datasets.collate import collate
from perception3d.datasets.nuscenes import NuScenesFrames
from perception3d.datasets.samples import FrameDataset, Transform
from perception3d.datasets.sampling import class_balanced_repeats
from perception3d.datasets.transforms import Compose
from perception3d.engine.experiment import Samples


def training_frames(
    source: NuScenesFrames, steps: Sequence[Transform], *, seed: int, balance: bool
) -> Samples:
    """Frames after ``steps``, whose random numbers come from ``seed``.

    Args:
        source: frames of a split.
        steps: transforms, in order.
        seed: of the run.
        balance: show frames with rare classes more often (CBGS).
    """
    return Samples(
        dataset=FrameDataset(source, Compose(tuple(steps)), seed=seed),
        collate=collate,
        repeats=class_balanced_repeats(source.class_counts(), seed=seed) if balance else None,
        fingerprint=source.fingerprint,
    )


def evaluation_frames(source: NuScenesFrames, steps: Sequence[Transform]) -> Samples:
    """Frames after ``steps``, each once, with their tokens."""
    return Samples(
        dataset=FrameDataset(source, Compose(tuple(steps))),
        collate=collate,
        fingerprint=source.fingerprint,
        tokens=source.tokens,
    )
