"""Loaders: batches of an epoch from any position on, the same whatever happened before."""

from __future__ import annotations

import signal
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar

import torch
from torch.utils.data import DataLoader, Dataset

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
            return iter(self._loader)

        return EpochBatches(end - first, start)

    def close(self) -> None:
        """End the worker processes now."""
        self._loader.close()

    def _build(self, samples: Samples) -> tuple[_EpochKeys, BatchLoader]:
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
) -> BatchLoader:
    """Every sample once, in order; process ``rank`` takes each ``world_size``-th."""
    indices = range(rank, len(samples.dataset), world_size)  # type: ignore[arg-type]
    batches = [list(indices[i : i + batch_size]) for i in range(0, len(indices), batch_size)]
    return _loader(samples, batches, min(workers, len(batches)), pin_memory, persistent=False)


class BatchLoader(DataLoader[Any]):
    """PyTorch's loader; errors of the data are raised as they were, whichever process met them."""

    def __iter__(self) -> Any:
        with warnings.catch_warnings():
            # Python >= 3.12 warns about forking with threads alive. The threads here are torch's
            # and TensorBoard's; workers use neither (one torch thread, no logging).
            warnings.filterwarnings(
                "ignore", message=".*multi-threaded, use of fork", category=DeprecationWarning
            )
            batches = super().__iter__()
        return self._raising(batches)

    def close(self) -> None:
        """End the workers that live on between iterations now."""
        if self._iterator is not None:
            _end_workers(self._iterator)
        self._iterator = None

    def _raising(self, batches: Any) -> Iterator[Any]:
        try:
            for batch in batches:
                if isinstance(batch, _DataError):
                    raise batch.kind(batch.text) from _InWorker(batch.trace)
                yield batch
        except BaseException:
            if batches is self._iterator:
                self._iterator = None
            _end_workers(batches)
            raise


def _end_workers(batches: Any) -> None:
    """End the worker processes of an iteration.

    Left to Python's cycle collector, the queues go before the workers have been told to end, and
    each worker then costs five seconds of waiting.
    """
    if hasattr(batches, "_shutdown_workers"):
        batches._shutdown_workers()


class _Batches(Dataset[Any]):
    """Whole batches by their keys. An error of the data is returned, not raised.

    PyTorch would replace an exception in a worker by one whose message is the traceback.
    """

    def __init__(self, samples: Samples) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples.dataset)  # type: ignore[arg-type]

    def __getitems__(self, keys: list[Any]) -> Any:
        try:
            return self.samples.collate([self.samples.dataset[key] for key in keys])
        except (OSError, ValueError) as error:
            kind = next(known for known in _DataError.KINDS if isinstance(error, known))
            return _DataError(kind, str(error), traceback.format_exc())


def _as_it_is(batch: Any) -> Any:
    return batch


class _InWorker(Exception):
    """The traceback of a worker, as the cause of the error that is raised for it."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


@dataclass(frozen=True)
class _DataError:
    """An exception on its way out of a worker: kind and message, which any process can hold."""

    KINDS: ClassVar = (FileNotFoundError, PermissionError, OSError, ValueError)

    kind: type[Exception]
    text: str
    trace: str


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
) -> BatchLoader:
    return BatchLoader(
        _Batches(samples),
        batch_sampler=batches,
        collate_fn=_as_it_is,
        num_workers=workers,
        persistent_workers=persistent and workers > 0,
        prefetch_factor=2 if workers else None,
        pin_memory=pin_memory,
        worker_init_fn=_start_worker,
        generator=torch.Generator(),
    )


def _start_worker(worker: int) -> None:
    # Ctrl-C reaches the whole process group; the training process decides when workers end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import cv2

    # One thread a worker: OpenCV's pool would compete with the other workers and the model.
    cv2.setNumThreads(0)
