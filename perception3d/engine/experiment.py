"""`Experiment`: one run as a typed value. Config files build it; the engine runs it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from torch import nn
from torch.utils.data import Dataset

from perception3d.engine.backbone_weights import BackboneWeights
from perception3d.engine.optim import ConstantSchedule, OptimizerSettings, Schedule
from perception3d.engine.part_weights import PartWeights
from perception3d.evaluation.rules import Modalities

Precision = Literal["fp32", "bf16", "fp16"]


class Metrics(Protocol):
    """Scores of one evaluation (evaluation.metrics.DetectionMetrics is one)."""

    def summary(self) -> dict[str, float]:
        """The headline figures by name ("NDS", "mAP", ...)."""

    def table(self) -> str:
        """All of them as text."""


class Evaluator(Protocol):
    """Collects predictions, then scores them (evaluation.nuscenes.NuScenesEvaluator is one)."""

    def reset(self) -> None:
        """Forget everything."""

    def process(self, predictions: Sequence[Any]) -> None:
        """Take the predictions of some samples."""

    def evaluate(self) -> Metrics:
        """Scores; every sample must have been processed. Keeps its own files."""


@runtime_checkable
class CountingEvaluator(Protocol):
    """An evaluator of which every process counts its own samples; counts then add up.

    What it looks at (maps of 200 x 200 cells, ...) need not travel between processes.
    """

    def reset(self) -> None:
        """Forget everything."""

    def process(self, predictions: Sequence[Any]) -> None:
        """Count some samples."""

    def counted(self) -> Any:
        """Counts so far, to be sent to another process; None for no sample."""

    def merge(self, counts: Any) -> None:
        """Take over what another process counted."""

    def rest(self, prediction: Any) -> Any:
        """The prediction without what only this evaluator looks at."""


@dataclass(frozen=True, kw_only=True)
class Samples:
    """A data set as the engine takes it.

    Attributes:
        dataset: ``len``; indexed by a ``SampleKey`` in training, by an int in evaluation.
        collate: samples -> batch with ``.to(device)`` and ``.tokens``.
        repeats: how often each index appears in an epoch (class-balanced sampling), or None.
        fingerprint: changes when the data changes; kept in the run folder, checked on resume.
        tokens: sample tokens in order, for writing and checking submissions; or None.
    """

    dataset: Dataset[Any]
    collate: Callable[[Sequence[Any]], Any]
    repeats: Any | None = None
    fingerprint: str = ""
    tokens: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Phase:
    """From ``first_epoch`` on, train on other samples (a "fade": the last epochs without pasting).

    A negative ``first_epoch`` counts from the end: -5 is the last five epochs.
    """

    first_epoch: int
    train: Callable[[], Samples]


@dataclass(frozen=True, kw_only=True)
class Expected:
    """A score that the run should reach: ``value`` +- ``tolerance``, and who says so."""

    metric: str
    value: float
    tolerance: float
    source: str

    def verdict(self, scores: dict[str, float]) -> str:
        """One line that compares."""
        found = scores.get(self.metric, float("nan"))
        word = "as expected" if abs(found - self.value) <= self.tolerance else "NOT as expected"
        return (
            f"{self.metric} {found:.4f}: {word} ({self.value:g} +- {self.tolerance:g},"
            f" {self.source})"
        )


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One run: what to train, on what, how, and what should come out.

    Attributes:
        name: folder name of the run, unless the command line gives another.
        model: builds the model (parameters are drawn from ``seed``).
        train: builds the training samples.
        optimizer: builds the optimiser from the model.
        val: builds the validation samples, or None.
        schedule: learning rate (and beta1) by step.
        phases: changes of the training samples by epoch.
        epochs, max_steps: length of the run; the shorter one counts, one must be given.
        batch_size: samples a process and batch. val_batch_size: the same for evaluation.
        accumulate: batches per optimiser update.
        clip_norm: limit of the gradient's L2 norm (35 in all published configs), or None.
        precision: fp32, bf16 (autocast) or fp16 (autocast with loss scaling, CUDA only).
        ema_decay: evaluate and save averaged weights, or None.
        seed: decides weights, order, augmentation and noise.
        workers: loader processes; 0 loads in the training process.
        evaluators: each builds an evaluator that may write into the folder it is given.
        best_by: the evaluators' figure that chooses best.safetensors (higher is better).
        modalities: sensors that the model uses, as a submission states them.
        evaluate_every: epochs between evaluations; the last epoch always has one, 0 = only that,
            None = never.
        weights: initial weights (a safetensors file), or None.
        backbone_weights: instead, initial weights of a backbone or of some parts alone, or None.
        channels_last: memory format of 4-D parameters; faster convolutions on some machines.
        find_unused_parameters: for several processes when a step may leave parameters unused.
        log_every: steps between lines of metrics.jsonl.
        save_every_s, save_every_steps: a rolling checkpoint after that time or so many steps.
        expected: scores to reach.
    """

    name: str
    model: Callable[[], nn.Module]
    train: Callable[[], Samples]
    optimizer: OptimizerSettings
    val: Callable[[], Samples] | None = None
    schedule: Schedule = field(default_factory=ConstantSchedule)
    phases: tuple[Phase, ...] = ()
    epochs: int | None = None
    max_steps: int | None = None
    batch_size: int = 1
    val_batch_size: int | None = None
    accumulate: int = 1
    clip_norm: float | None = 35.0
    precision: Precision = "fp32"
    ema_decay: float | None = None
    seed: int = 0
    workers: int = 1
    evaluators: tuple[Callable[[Path], Evaluator], ...] = ()
    best_by: str = "NDS"
    modalities: Modalities = field(default_factory=Modalities)
    evaluate_every: int | None = 1
    weights: Path | None = None
    backbone_weights: BackboneWeights | PartWeights | None = None
    channels_last: bool = False
    find_unused_parameters: bool = False
    log_every: int = 10
    save_every_s: float = 60.0
    save_every_steps: int | None = None
    expected: tuple[Expected, ...] = ()

    def __post_init__(self) -> None:
        if not self.name or "/" in self.name or self.name.startswith("."):
            raise ValueError(f"an experiment's name is a plain folder name; found {self.name!r}")
        for key, least in _LEAST.items():
            value = getattr(self, key)
            if value is not None and value < least:
                raise ValueError(f"Experiment.{key} must be at least {least}; found {value}")
        if self.epochs is None and self.max_steps is None:
            raise ValueError("Experiment needs epochs or max_steps")
        if self.precision not in ("fp32", "bf16", "fp16"):
            raise ValueError(f"precision is fp32, bf16 or fp16; found {self.precision!r}")
        if self.weights is not None and self.backbone_weights is not None:
            raise ValueError("weights hold a backbone already; give them or backbone_weights")
        if self.clip_norm is not None and self.clip_norm <= 0:
            raise ValueError(f"clip_norm must be > 0, or None to clip nothing; {self.clip_norm=}")

    def train_at(self, epoch: int, epochs: int) -> Callable[[], Samples]:
        """The factory of the training samples of an epoch, out of ``epochs``."""
        factory, latest = self.train, -1
        for phase in self.phases:
            first = phase.first_epoch if phase.first_epoch >= 0 else epochs + phase.first_epoch
            if latest < max(0, first) <= epoch:
                factory, latest = phase.train, max(0, first)
        return factory


_LEAST = {
    "epochs": 1,
    "max_steps": 1,
    "batch_size": 1,
    "val_batch_size": 1,
    "accumulate": 1,
    "workers": 0,
    "evaluate_every": 0,
    "log_every": 1,
    "save_every_steps": 1,
}
