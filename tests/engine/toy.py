"""A small world for engine tests: regression on keyed noise with dropout and BatchNorm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from perception3d.datasets.sampling import SampleKey
from perception3d.engine.experiment import Experiment, Samples
from perception3d.engine.optim import AdamWSettings, CyclicSchedule
from perception3d.structures import SE3, Boxes3D, Prediction


@dataclass(frozen=True)
class ToyBatch:
    tokens: tuple[str, ...]
    x: Tensor
    y: Tensor

    def to(self, device: torch.device | str) -> ToyBatch:
        return ToyBatch(self.tokens, self.x.to(device), self.y.to(device))


class ToyData(Dataset[Any]):
    """y = sum of x, with augmentation noise from the key alone."""

    def __init__(self, number: int = 24, *, shift: float = 0.0) -> None:
        self.number, self.shift = number, shift

    def __len__(self) -> int:
        return self.number

    def __getitem__(self, key: SampleKey | int) -> tuple[str, np.ndarray]:
        index, *draw = key if isinstance(key, SampleKey) else (key, 0, 0)
        x = np.random.default_rng([7, index]).normal(size=8)
        noise = np.random.default_rng([1, *draw]).normal(size=8)
        return f"sample{index}", (x + 0.1 * noise + self.shift).astype(np.float32)


def collate(items: Sequence[tuple[str, np.ndarray]]) -> ToyBatch:
    x = torch.from_numpy(np.stack([x for _, x in items]))
    return ToyBatch(tuple(token for token, _ in items), x, x.sum(1, keepdim=True))


class ToyModel(nn.Module):
    """Follows the model contract; draws random numbers in every step."""

    def __init__(self, *, dropout: float = 0.2, norm: bool = True, width: int = 16) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(8, width),
            nn.BatchNorm1d(width) if norm else nn.Identity(),
            nn.ReLU(),
            nn.Dropout(dropout),
        )
        self.head = nn.Linear(width, 1)
        self.noise = dropout > 0

    def denoising(self, batch: ToyBatch) -> Tensor | None:
        return 0.01 * torch.randn_like(batch.x) if self.noise else None

    def forward(self, batch: ToyBatch, denoising: Tensor | None = None) -> Tensor:
        return self.head(self.body(batch.x if denoising is None else batch.x + denoising))

    def loss(self, outputs: Tensor, batch: ToyBatch) -> dict[str, dict[str, Tensor]]:
        error = outputs - batch.y
        return {
            "boxes": {"l2": error.square().mean(), "l1": error.abs().mean()},
            "map": {"size": 0.01 * outputs.square().mean()},
        }

    def predict(self, outputs: Tensor, batch: ToyBatch) -> list[Prediction]:
        pose = SE3.identity()
        return [
            Prediction(token, Boxes3D.empty(), torch.zeros(0), pose, pose) for token in batch.tokens
        ]


@dataclass(frozen=True)
class ToyMetrics:
    nds: float

    def table(self) -> str:
        return f"NDS {self.nds:.3f}"

    def summary(self) -> dict[str, float]:
        return {"NDS": self.nds, "mAP": self.nds / 2}


class ToyEvaluator:
    """Scores the number of samples seen; writes nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tokens: list[str] = []

    def reset(self) -> None:
        self.tokens = []

    def process(self, predictions: Sequence[Any]) -> None:
        self.tokens += [p.token for p in predictions]

    def evaluate(self) -> ToyMetrics:
        assert self.tokens == [f"sample{i}" for i in range(len(self.tokens))]
        return ToyMetrics(len(self.tokens) / 100)


def train_samples() -> Samples:
    return Samples(dataset=ToyData(), collate=collate, fingerprint="toy-train")


def val_samples() -> Samples:
    return Samples(
        dataset=ToyData(7),
        collate=collate,
        fingerprint="toy-val",
        tokens=tuple(f"sample{i}" for i in range(7)),
    )


def toy_experiment(**changes: Any) -> Experiment:
    """4 epochs of 6 updates of 2 batches of 2, averaged weights, the published cycle."""
    settings: dict[str, Any] = {
        "name": "toy",
        "model": ToyModel,
        "train": train_samples,
        "val": val_samples,
        "optimizer": AdamWSettings(lr=1e-2),
        "schedule": CyclicSchedule(peak_ratio=4),
        "epochs": 4,
        "batch_size": 2,
        "accumulate": 2,
        "ema_decay": 0.9,
        "workers": 0,
        "evaluators": (ToyEvaluator,),
        "evaluate_every": 2,
        "log_every": 1,
    }
    return Experiment(**{**settings, **changes})
