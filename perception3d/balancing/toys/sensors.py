"""A sensor that starves: LiDAR shows 90 % of the labels, only the camera shows the rest.

    python -m perception3d.balancing.toys.sensors --json toy_sensors.json --picture toy_sensors.png
    python -m perception3d.balancing.toys.sensors --camera rest      # and it shows nothing else

Scores: accuracy with both sensors, without LiDAR, without the camera (features zero), and what a
probe finds in the camera's branch alone. Gradients are those at the branches' outputs, camera's
length by LiDAR's, before and after balancing. Three controls: a constant factor on the camera's
gradient, twice the learning rate for all, and a rule that makes the difference of lengths greater
instead of less.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from perception3d.balancing.balance import Balance
from perception3d.balancing.fuller_intra import FullerIntra
from perception3d.balancing.modality import ModalityRule
from perception3d.balancing.modality_dropout import ModalityDropout
from perception3d.balancing.ogm import Ogm
from perception3d.balancing.toys.clues import (
    SENSORS,
    CameraSees,
    Clues,
    Pair,
    accuracy,
    make_clues,
    probe,
)
from perception3d.balancing.toys.table import cell, gain_cell, print_row, save

Optimizer = Literal["sgd", "adamw"]
#: Rates, falling to 0 in a straight line; SGD has a momentum of 0.9.
RATE: dict[Optimizer, float] = {"sgd": 0.03, "adamw": 0.003}
STEPS, BATCH, TESTS, EVERY = 400, 64, 4000, 20
METRICS = ("both", "lidar off", "camera off", "camera probe")


class Times:
    """Constant factors; 1 and 1 leave all as it is."""

    def __init__(self, *factors: float) -> None:
        self.factors = factors

    def scales(self, norms: Tensor) -> Tensor:
        """See :class:`perception3d.balancing.modality.ModalityRule`."""
        return torch.tensor(self.factors, dtype=norms.dtype)


class Apart:
    """The reverse of FULLER's: factors n_m / mean, the longer gradient becomes longer still."""

    def scales(self, norms: Tensor) -> Tensor:
        """See :class:`perception3d.balancing.modality.ModalityRule`."""
        return norms / norms.mean()


@dataclass(frozen=True)
class Arm:
    """One way of training.

    Attributes:
        rule: between the sensors.
        dropout: how often camera, or LiDAR, is left out.
        faster: what the learning rate is multiplied by.
    """

    rule: ModalityRule
    dropout: tuple[float, float] = (0.0, 0.0)
    faster: float = 1.0


NONE = "none"
ARMS = {
    NONE: Arm(Times(1.0, 1.0)),
    "intra, mean": Arm(FullerIntra(tau="mean")),
    "intra, min": Arm(FullerIntra(tau="min")),
    "intra, max": Arm(FullerIntra(tau="max")),
    "OGM": Arm(Ogm()),
    "OGM, alpha 1": Arm(Ogm(alpha=1.0)),
    "dropout": Arm(Times(1.0, 1.0), (0.2, 0.2)),
    "dropout and intra, mean": Arm(FullerIntra(tau="mean"), (0.2, 0.2)),
    # A power of two: exact in floating point, so that nothing but the optimiser tells.
    "camera x 4": Arm(Times(4.0, 1.0)),
    "rate x 2": Arm(Times(1.0, 1.0), faster=2.0),
    "apart": Arm(Apart()),
}


@dataclass(frozen=True)
class Run:
    """One seed of one arm.

    Attributes:
        both, lidar_off, camera_off, camera_probe: accuracies on unseen samples.
        before: length of the camera's gradient by LiDAR's, every 20 steps, geometric mean of them.
        after: the same behind the balance.
    """

    both: float
    lidar_off: float
    camera_off: float
    camera_probe: float
    before: list[float] = field(repr=False)
    after: list[float] = field(repr=False)

    def scores(self) -> tuple[float, ...]:
        """In the order of ``METRICS``."""
        return self.both, self.lidar_off, self.camera_off, self.camera_probe


def train(
    arm: Arm, optimizer: Optimizer, seed: int, known: Clues, unseen: Clues, steps: int = STEPS
) -> Run:
    """Train a pair of sensors on 64 samples a step and score it.

    Args:
        arm: how.
        optimizer: with its rate of ``RATE``.
        seed: of the initial weights.
        known: 64 x steps samples at least.
        unseen: samples to score on.
        steps: of training.

    Raises:
        ValueError: fewer steps than one point of the curves takes.
    """
    if steps < EVERY:
        raise ValueError(f"curves have a point every {EVERY} steps; found {steps} steps in all")
    torch.manual_seed(seed)
    model = Pair(Balance(SENSORS, arm.rule), ModalityDropout(arm.dropout))
    rate, parameters = arm.faster * RATE[optimizer], list(model.parameters())
    optimize: torch.optim.Optimizer
    if optimizer == "sgd":
        optimize = torch.optim.SGD(parameters, lr=rate, momentum=0.9)
    else:
        optimize = torch.optim.AdamW(parameters, lr=rate, fused=True)
    slower = torch.optim.lr_scheduler.LambdaLR(optimize, lambda step: 1 - step / steps)
    logs = []
    for step in range(steps):
        batch = known.part(step * BATCH, (step + 1) * BATCH)
        optimize.zero_grad()
        cross_entropy(model(batch), batch.label).backward()
        optimize.step()
        slower.step()
        record = model.balance.record
        assert record is not None
        logs.append(torch.stack((record.norm, record.norm * record.scale)))
    log = torch.stack(logs).log()  # (steps, before and after, sensors)
    curve = (log[..., 0] - log[..., 1]).unfold(0, EVERY, EVERY).mean(-1).exp()
    model.eval()
    return Run(
        both=accuracy(model, unseen),
        lidar_off=accuracy(model, unseen, without="lidar"),
        camera_off=accuracy(model, unseen, without="camera"),
        camera_probe=probe(model, known.part(0, TESTS), unseen),
        before=curve[:, 0].tolist(),
        after=curve[:, 1].tolist(),
    )


def samples(seed: int, sees: CameraSees, steps: int = STEPS) -> tuple[Clues, Clues]:
    """A seed's training samples, and those that all are scored on."""
    known = make_clues(BATCH * steps, torch.Generator().manual_seed(1000 + seed), sees)
    return known, make_clues(TESTS, torch.Generator().manual_seed(7), sees)


def run(
    optimizer: Optimizer, seeds: int, steps: int, sees: CameraSees, names: Sequence[str]
) -> dict[str, list[Run]]:
    """Each arm's runs by seed; a line is printed as soon as it is known."""
    data = [samples(seed, sees, steps) for seed in range(seeds)]
    runs: dict[str, list[Run]] = {}
    heads = (*METRICS, "both-none", "lidar off-none", "probe-none", "|C|/|L| begin", "end")
    print_row(optimizer, heads, width=16)
    for name in names:
        runs[name] = [
            train(ARMS[name], optimizer, seed, known, unseen, steps)
            for seed, (known, unseen) in enumerate(data)
        ]
        print_row(name, _cells(name, runs), width=16)
    return runs


def _cells(name: str, runs: dict[str, list[Run]]) -> list[str]:
    scores = list(zip(*(one.scores() for one in runs[name])))
    cells = [cell(values) for values in scores]
    if NONE in runs:
        base = list(zip(*(one.scores() for one in runs[NONE])))
        cells += [gain_cell(scores[metric], base[metric]) for metric in (0, 1, 3)]
    else:
        cells += ["-"] * 3
    ends = (sum(one.before[place] for one in runs[name]) / len(runs[name]) for place in (0, -1))
    return cells + [f"{value:.2f}" for value in ends]


def main() -> None:
    """Print a table for each optimiser; a star marks what is larger than two standard errors."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--camera", choices=("all", "rest"), default="all", help="what it shows")
    parser.add_argument("--optimizers", nargs="+", choices=list(RATE), default=list(RATE))
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--json", help="write scores and curves of every seed to this file")
    parser.add_argument("--picture", help="draw the lengths of gradients to this .png or .svg")
    options = parser.parse_args()
    print("mean +- standard error; differences by seed, * where beyond two standard errors")
    begun = time.process_time()
    results = {
        name: run(name, options.seeds, options.steps, options.camera, options.arms)
        for name in options.optimizers
    }
    seconds = time.process_time() - begun
    print(f"{seconds:.0f} s of processor time")
    if options.json:
        settings = f"{options.seeds} seeds, {options.steps} steps, rates {RATE}"
        command = f"python -m perception3d.balancing.toys.sensors --camera {options.camera}"
        plain = {
            optimizer: {name: [_rounded(one) for one in runs] for name, runs in arms.items()}
            for optimizer, arms in results.items()
        }
        save(options.json, command, seconds, {"settings": settings, "runs": plain})
    if options.picture:
        from perception3d.balancing.toys.picture import draw

        curves = {
            optimizer: {name: [one.before for one in runs] for name, runs in arms.items()}
            for optimizer, arms in results.items()
        }
        print(draw(curves, EVERY, options.picture))


def _rounded(one: Run) -> dict[str, float | list[float]]:
    made: dict[str, float | list[float]] = asdict(one)
    for name in ("before", "after"):
        made[name] = [float(f"{value:.3g}") for value in getattr(one, name)]
    return made


if __name__ == "__main__":
    main()
