"""The arithmetic of a run: which batch of which epoch belongs to which optimiser step.

Everything random in a run is a function of (seed, position), never of saved generator state:
``step_seed`` for what the model draws (dropout, denoising noise), and the sample key for what the
data draws. This is why a killed run continues bit for bit.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Sizes of a run. A step is one optimiser update of ``accumulate`` batches a process.

    Attributes:
        batches: batches of one process in a full epoch, a multiple of ``accumulate``.
        accumulate: batches per update.
        total_steps: updates of the whole run.
    """

    batches: int
    accumulate: int
    total_steps: int

    @property
    def steps_per_epoch(self) -> int:
        """Updates in a full epoch."""
        return self.batches // self.accumulate

    @property
    def epochs(self) -> int:
        """Epochs that are begun; the last may be cut short by ``total_steps``."""
        return -(-self.total_steps // self.steps_per_epoch)

    def epoch_of(self, step: int) -> int:
        """The epoch that the update after ``step`` finished ones belongs to."""
        return step // self.steps_per_epoch

    def window(self, epoch: int, done_steps: int) -> tuple[int, int]:
        """(first, end): the batches of ``epoch`` still to run after ``done_steps`` updates."""
        before = epoch * self.steps_per_epoch
        first = max(0, done_steps - before)
        end = min(self.steps_per_epoch, self.total_steps - before)
        return first * self.accumulate, end * self.accumulate


def make_plan(
    num_samples: int,
    *,
    batch_size: int,
    accumulate: int,
    world_size: int,
    epochs: int | None,
    max_steps: int | None,
) -> Plan:
    """Work out a run over ``num_samples`` keys an epoch (after class-balanced repeats).

    An epoch holds whole updates only: samples that do not fill one are left to the next shuffle.

    Raises:
        ValueError: an update needs more samples than there are, or no length is given.
    """
    needed = batch_size * world_size * accumulate
    if num_samples < needed:
        raise ValueError(
            f"one update takes {needed} samples (batch_size {batch_size} x {world_size} processes"
            f" x accumulate {accumulate}) but the training set has {num_samples}: lower one of them"
        )
    steps_per_epoch = num_samples // needed
    limits = [] if epochs is None else [epochs * steps_per_epoch]
    limits += [] if max_steps is None else [max_steps]
    if not limits or min(limits) < 1:
        raise ValueError(f"a run needs epochs or max_steps >= 1; found {epochs=} and {max_steps=}")
    return Plan(
        batches=steps_per_epoch * accumulate, accumulate=accumulate, total_steps=min(limits)
    )


def step_seed(seed: int, batch: int, rank: int, part: str = "") -> int:
    """A 63-bit seed for ``part`` of batch ``batch`` of the run (over all epochs) on one process."""
    digest = hashlib.blake2b(f"{seed} {batch} {rank} {part}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
