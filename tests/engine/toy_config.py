"""A config for tests of the command line and of processes that are killed."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))

from toy import ToyBatch, ToyData, ToyModel, collate, toy_experiment

from perception3d.engine.experiment import Experiment, Samples

Place = Literal["model", "loss", "predict"]


class SlowModel(ToyModel):
    """Leaves time to be killed or interrupted, and says on stdout when that is."""

    def __init__(self, pause_s: float, pause_in: Place) -> None:
        super().__init__()
        self.pause_s, self.pause_in = pause_s, pause_in
        self.pause("model")

    def loss(self, outputs: Any, batch: Any) -> Any:
        self.pause("loss")
        return super().loss(outputs, batch)

    def predict(self, outputs: Any, batch: Any) -> Any:
        self.pause("predict")
        return super().predict(outputs, batch)

    def pause(self, place: Place) -> None:
        if self.pause_s and place == self.pause_in:
            print(f"pause in {place}", flush=True)
            time.sleep(self.pause_s)


@dataclass(frozen=True)
class SGD:
    """One step moves the weights by the gradient times lr."""

    lr: float

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=self.lr)


def double_collate(items: Any) -> ToyBatch:
    batch = collate(items)
    return ToyBatch(batch.tokens, batch.x.double(), batch.y.double())


def plain_double_model() -> nn.Module:
    return ToyModel(dropout=0, norm=False).double()


def experiment(
    *,
    epochs: int = 4,
    workers: int = 0,
    ema: float | None = 0.9,
    save_every_steps: int = 1,
    pause_s: float = 0.0,
    pause_in: Place = "loss",
    batch_size: int = 2,
    grid: tuple[int, int] = (2, 3),
    mode: Literal["noisy", "exact"] = "noisy",
    augment: bool = True,
) -> Experiment:
    """A toy that trains in a second.

    Args:
        epochs: passes over the data.
        workers: loader processes.
        ema: decay of the averaged weights.
        save_every_steps: steps between checkpoints.
        pause_s: time added to each batch.
        pause_in: where in the model.
        batch_size: samples a process.
        grid: two numbers.
        mode: with dropout, noise and BatchNorm; or without, in double precision and by plain SGD.
        augment: change the samples.
    """
    if mode == "exact":
        return toy_experiment(
            model=plain_double_model,
            train=lambda: Samples(dataset=ToyData(), collate=double_collate, fingerprint="exact"),
            optimizer=SGD(1e-2),
            val=lambda: Samples(dataset=ToyData(7), collate=double_collate, fingerprint="val"),
            epochs=epochs,
            batch_size=batch_size,
            accumulate=1,
            clip_norm=None,
            ema_decay=None,
            evaluate_every=epochs,
        )
    return toy_experiment(
        model=partial(SlowModel, pause_s, pause_in),
        epochs=epochs,
        workers=workers,
        ema_decay=ema,
        save_every_steps=save_every_steps,
        batch_size=batch_size,
    )
