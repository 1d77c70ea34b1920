"""A world of labels with two sensors of unequal worth, a small joint model, and its scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from perception3d.balancing.balance import Balance
from perception3d.balancing.modality_dropout import ModalityDropout

SENSORS = ("camera", "lidar")
#: Labels are three bits; numbers that each sensor gives; width of the branches' outputs.
BITS, READINGS, FEATURES, HIDDEN = 3, 12, 16, 32
LABELS = 2**BITS
#: Share of the samples in which LiDAR shows the label; in the others it shows noise alone.
SEEN_BY_LIDAR = 0.9
#: In which samples the camera shows it: in all, or only where LiDAR does not.
CameraSees = Literal["all", "rest"]


@dataclass(frozen=True)
class Clues:
    """Readings of camera and LiDAR (N, 12) each, and the label (N,), 0 to 7."""

    camera: Tensor
    lidar: Tensor
    label: Tensor

    def part(self, start: int, stop: int) -> Clues:
        """Samples start to stop - 1."""
        return Clues(self.camera[start:stop], self.lidar[start:stop], self.label[start:stop])


def make_clues(count: int, generator: torch.Generator, sees: CameraSees = "all") -> Clues:
    """Samples at random.

    LiDAR shows the label's bits as they are. The camera hides each: it is whether two signs agree,
    which one layer cannot see; and it is half as loud. Both are mixed over all readings, in the
    same way in every sample.
    """
    bits = torch.randint(2, (count, BITS), generator=generator)
    label = (bits * 2 ** torch.arange(BITS)).sum(1)
    shown = (torch.rand(count, 1, generator=generator) < SEEN_BY_LIDAR).float()
    lidar = (2.0 * bits - 1) * shown
    first = 2.0 * torch.randint(2, (count, BITS), generator=generator) - 1
    camera = torch.cat((first, first * (2 * bits - 1)), 1)
    if sees == "rest":
        camera = camera * (1 - shown)
    world = torch.Generator().manual_seed(0)
    readings = []
    for code in (camera, 2 * lidar):
        mix, _ = torch.linalg.qr(torch.randn(READINGS, READINGS, generator=world))
        noise = torch.randn(count, READINGS, generator=generator)
        readings.append(code @ mix[: code.shape[1]] + 0.3 * noise)
    return Clues(readings[0], readings[1], label)


class Pair(nn.Module):
    """A branch for each sensor, what balances them, concatenation, a classifier."""

    def __init__(self, balance: Balance, dropout: ModalityDropout) -> None:
        super().__init__()
        self.camera, self.lidar = _branch(), _branch()
        self.balance, self.dropout = balance, dropout
        width = 2 * FEATURES
        self.head = nn.Sequential(nn.Linear(width, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, LABELS))

    def forward(self, clues: Clues, *, without: str | None = None) -> Tensor:
        """(N, 8) logits; ``without`` a sensor its features are zero, as in modality dropout."""
        seen = self.balance(self.camera(clues.camera), self.lidar(clues.lidar))
        seen = self.dropout(*seen)
        kept = [x * (name != without) for name, x in zip(SENSORS, seen)]
        logits: Tensor = self.head(torch.cat(kept, dim=1))
        return logits


def _branch() -> nn.Module:
    layers = nn.Linear(READINGS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, FEATURES), nn.ReLU()
    return nn.Sequential(*layers)


@torch.no_grad()
def accuracy(model: Pair, clues: Clues, *, without: str | None = None) -> float:
    """Share of right labels."""
    return float((model(clues, without=without).argmax(1) == clues.label).double().mean())


@torch.no_grad()
def probe(model: Pair, known: Clues, unseen: Clues) -> float:
    """What the camera's branch has learned, whatever the head makes of it: accuracy of a ridge
    regression of the labels by its features, fitted to known samples."""

    def features(clues: Clues) -> Tensor:
        found = model.camera(clues.camera).double()
        return torch.cat((found, torch.ones(len(found), 1, dtype=torch.float64)), 1)

    x = features(known)
    ridge = 1e-3 * len(x) * torch.eye(x.shape[1], dtype=torch.float64)
    weights = torch.linalg.solve(x.T @ x + ridge, x.T @ one_hot(known.label, LABELS).double())
    guess = (features(unseen) @ weights).argmax(1)
    return float((guess == unseen.label).double().mean())
