"""Loaders: batches of an epoch from any position on, the same whatever happened before."""

from __future__ import annotations

import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader

from perception3d.datasets.sampling import EpochSampler
from perception3d.engine.experiment import Experiment, Samples
from perception3d.engine.plan import Plan, step_seed


class EpochBatches:
    """The batches [first, end) of one epoch; each iteration starts from the first."""

    def __init__(self, length: int, start: Callable[[], Iterator[Any]]) -> None:
        self._length, self._start = length, start

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Any]:
        # A generator: nothing is loaded before the first batch is asked for.
        yield from self._start()


class TrainLoader:
    """Training batches by epoch. Worker processes live on until a phase changes the samples.

    Args:
        experiment: gives samples by epoch, sizes and seed.
        plan: gives the epochs.
        samples: what ``experiment.train`` built (building may be slow, so it is not repeated).
        rank, world_size: this process of how many; each takes its share of every batch.
        pin_memory: for copies to a GPU.
    """

    def __init__(
        self,
        experiment: Experiment,
        plan: Plan,
        samples: Samples,
        *,
        rank: int = 0,
        world_size: int = 1,
        pin_memory: bool = False,
    ) -> None:
        self.experiment, self.plan = experiment, plan
        self.rank, self.world_size, self.pin_memory = rank, world_size, pin_memory
        self._factory: Callable[[], Samples] = experiment.train
        self._keys, self._loader = self._build(samples)

    def epoch(self, epoch: int, done_steps: int) -> EpochBatches:
        """What is left of ``epoch`` after ``done_steps`` updates of the run."""
        factory = self.experiment.train_at(epoch, self.plan.epochs)
        if factory is not self._factory:
            self.close()
            self._keys, self._loader = self._build(factory())
            self._factory = factory
        first, end = self.plan.window(epoch, done_steps)

        def start() -> Iterator[Any]:
            self._keys.select(epoch, first, end)
            # Only workers' private generators depend on it (sample keys seed everything else).
            self._loader.generator.manual_seed(step_seed(self.experiment.seed, epoch, self.rank))
            return iterate(self._loader)

        return EpochBatches(end - first, start)

    def close(self) -> None:
        """End the worker processes now.

        Left to Python's cycle collector, the queues go before the workers have been told to end,
        and each worker then costs five seconds of waiting.
        """
        iterator = getattr(self._loader, "_iterator", None)
        if iterator is not None:
            iterator._shutdown_workers()

    def _build(self, samples: Samples) -> tuple[_EpochKeys, DataLoader[Any]]:
        sampler = _sampler(samples, self.experiment.seed, self.rank, self.world_size)
        keys = _EpochKeys(sampler, self.experiment.batch_size)
        loader = _loader(samples, keys, self.experiment.workers, self.pin_memory)
        return keys, loader


def samples_per_epoch(samples: Samples) -> int:
    """Keys in an epoch over all processes, class-balanced repeats included."""
    return len(_sampler(samples, seed=0))


def eval_loader(
    samples: Samples,
    *,
    batch_size: int,
    workers: int,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
) -> DataLoader[Any]:
    """Every sample once, in order; process ``rank`` takes each ``world_size``-th."""
    indices = range(rank, len(samples.dataset), world_size)  # type: ignore[arg-type]
    batches = [list(indices[i : i + batch_size]) for i in range(0, len(indices), batch_size)]
    return _loader(samples, batches, min(workers, len(batches)), pin_memory, persistent=False)


class _EpochKeys:
    """Batch sampler over part of an epoch; lives in the training process."""

    def __init__(self, sampler: EpochSampler, batch_size: int) -> None:
        self._sampler, self._batch_size = sampler, batch_size
        self._first = self._end = 0

    def select(self, epoch: int, first: int, end: int) -> None:
        self._sampler.set_epoch(epoch, start=first * self._batch_size)
        self._first, self._end = first, end

    def __len__(self) -> int:
        return self._end - self._first

    def __iter__(self) -> Iterator[list[Any]]:
        keys = iter(self._sampler)
        for _ in range(self._first, self._end):
            yield list(islice(keys, self._batch_size))


def _sampler(samples: Samples, seed: int, rank: int = 0, world_size: int = 1) -> EpochSampler:
    return EpochSampler(
        len(samples.dataset),  # type: ignore[arg-type]
        seed=seed,
        shuffle=True,
        repeats=samples.repeats,
        rank=rank,
        world_size=world_size,
    )


def _loader(
    samples: Samples, batches: Any, workers: int, pin_memory: bool, *, persistent: bool = True
) -> DataLoader[Any]:
    return DataLoader(
        samples.dataset,
        batch_sampler=batches,
        collate_fn=samples.collate,
        num_workers=workers,
        persistent_workers=persistent and workers > 0,
        prefetch_factor=2 if workers else None,
        pin_memory=pin_memory,
        worker_init_fn=_start_worker,
        generator=torch.Generator(),
    )


def iterate(loader: DataLoader[Any]) -> Iterator[Any]:
    """Start the loader's workers (a fork) and iterate."""
    with warnings.catch_warnings():
        # Python >= 3.12 warns about forking with threads alive. The threads here are torch's and
        # TensorBoard's; workers use neither (one torch thread, no logging).
        warnings.filterwarnings(
            "ignore", message=".*multi-threaded, use of fork", category=DeprecationWarning
        )
        return iter(loader)


def _start_worker(worker: int) -> None:
    # Ctrl-C reaches the whole process group; the training process decides when workers end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import cv2

    # One thread a worker: OpenCV's pool would compete with the other workers and the model.
    cv2.setNumThreads(0)


def tokens_of(batch: Any) -> Sequence[str]:
    """The sample tokens of a batch, for messages."""
    return tuple(getattr(batch, "tokens", ()))
