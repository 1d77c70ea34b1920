"""A task that starves: the map's loss is a thousand times too small. What helps, and what it costs.

    python -m perception3d.balancing.toys.tasks --json toy_tasks.json
    python -m perception3d.balancing.toys.tasks --seeds 2 --optimizers sgd --arms "plain sum" IMTL-G

Every arm has the same initial weights, scenes, steps and learning rate, of a seed; the rates are
those at which the single tasks learn. A single task's loss is not made small: it is what there is
to reach. Under AdamW each head evens out its own gradient, under SGD the map's head really gets
0.001 of it, whatever is done where the tasks part.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from perception3d.balancing.balance import Balance
from perception3d.balancing.famo import Famo
from perception3d.balancing.fixed import Fixed
from perception3d.balancing.fork import Fork, Length
from perception3d.balancing.gradnorm import GradNorm
from perception3d.balancing.imtl_g import ImtlG
from perception3d.balancing.last_layer import LastLayer
from perception3d.balancing.mgda import Mgda
from perception3d.balancing.pcgrad import PcGrad
from perception3d.balancing.rule import Rule
from perception3d.balancing.toys.street import (
    TASKS,
    Joint,
    Streets,
    box_ap,
    box_loss,
    make_streets,
    map_iou,
    map_loss,
)
from perception3d.balancing.toys.table import cell, gain_cell, print_row, save
from perception3d.balancing.uncertainty import Uncertainty
from perception3d.balancing.uniform import Uniform

Optimizer = Literal["sgd", "adamw"]
#: Rates, falling to 0 in a straight line; SGD has a momentum of 0.9.
RATE: dict[Optimizer, float] = {"sgd": 0.05, "adamw": 0.01}
STEPS, BATCH, TESTS = 300, 4, 300
#: What the map's loss is multiplied by in all joint arms.
STARVED = 1e-3


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way of training.

    Attributes:
        rule: between the tasks.
        length: of the fork's result.
        by_weights: measure gradients by the last shared layer's weights, not by its output.
        intra: FULLER's calibration between the sensors as well.
        scale: of the tasks' losses; 0 leaves a task out.
    """

    rule: Callable[[], Rule]
    length: Length = "rule"
    by_weights: bool = False
    intra: bool = False
    scale: tuple[float, float] = (1.0, STARVED)


def _times(weight: float) -> Arm:
    return Arm(rule=lambda: Fixed({"boxes": 1.0, "map": weight}))


PLAIN, ALONE = "plain sum", ("boxes alone", "map alone")
ARMS = {
    ALONE[0]: Arm(rule=lambda: Uniform(TASKS), scale=(1.0, 0.0)),
    ALONE[1]: Arm(rule=lambda: Uniform(TASKS), scale=(0.0, 1.0)),
    PLAIN: Arm(rule=lambda: Uniform(TASKS)),
    "map x 5": _times(5.0),
    "map x 20": _times(20.0),
    "map x 100": _times(100.0),
    "map x 1000": _times(1000.0),
    "uncertainty": Arm(rule=lambda: Uncertainty(TASKS)),
    "FAMO": Arm(rule=lambda: Famo(TASKS)),
    "GradNorm": Arm(rule=lambda: GradNorm(TASKS)),
    "PCGrad": Arm(rule=lambda: PcGrad(TASKS)),
    "MGDA-UB": Arm(rule=lambda: Mgda(TASKS)),
    "IMTL-G": Arm(rule=lambda: ImtlG(TASKS)),
    "IMTL-G, mean length": Arm(rule=lambda: ImtlG(TASKS), length="mean_norm"),
    "IMTL-G, by weights": Arm(rule=lambda: ImtlG(TASKS), length="mean_norm", by_weights=True),
    "IMTL-G, map x 1000": Arm(rule=lambda: ImtlG(TASKS), scale=(1.0, 1000 * STARVED)),
    "FULLER": Arm(rule=lambda: ImtlG(TASKS), intra=True),
    "FULLER, mean length": Arm(rule=lambda: ImtlG(TASKS), length="mean_norm", intra=True),
}


class Unchanged:
    """Between the sensors: nothing but measuring."""

    def scales(self, norms: Tensor) -> Tensor:
        """See :class:`perception3d.balancing.modality.ModalityRule`."""
        return torch.ones_like(norms)


def train(
    arm: Arm, optimizer: Optimizer, seed: int, streets: Streets, *, steps: int = STEPS
) -> Joint:
    """A joint model, trained on four scenes a step, in evaluation mode.

    Args:
        arm: how.
        optimizer: with its rate of ``RATE``.
        seed: of the initial weights.
        streets: 4 x steps scenes at least.
        steps: of training.
    """
    torch.manual_seed(seed)
    fork = Fork(arm.rule(), length=arm.length)
    model = Joint(fork, Balance(("camera", "lidar"), None if arm.intra else Unchanged()))
    if arm.by_weights:
        fork.measure = LastLayer(model.trunk[-1])
    rate, scale = RATE[optimizer], torch.tensor(arm.scale)
    parameters = list(model.parameters())
    optimize: torch.optim.Optimizer
    if optimizer == "sgd":
        optimize = torch.optim.SGD(parameters, lr=rate, momentum=0.9, fused=True)
    else:
        optimize = torch.optim.AdamW(parameters, lr=rate, fused=True)
    slower = torch.optim.lr_scheduler.LambdaLR(optimize, lambda step: 1 - step / steps)
    looks_again = "losses after the step" in fork.rule.needs
    for step in range(steps):
        batch = streets.part(step * BATCH, (step + 1) * BATCH)
        optimize.zero_grad()
        fork.rule.total(scale * task_losses(model, batch)).backward()
        optimize.step()
        slower.step()
        if looks_again:
            with torch.no_grad():
                fork.rule.after_step(scale * task_losses(model, batch))
    return model.eval()


def task_losses(model: Joint, batch: Streets) -> Tensor:
    """(2,) of boxes and map."""
    boxes, road = model(batch)
    return torch.stack((box_loss(boxes, batch), map_loss(road, batch)))


@torch.no_grad()
def scores(model: Joint, streets: Streets) -> tuple[float, float]:
    """Average precision of boxes, mean IoU of the map."""
    boxes, road = model(streets)
    return box_ap(boxes, streets), map_iou(road, streets)


def training_streets(seed: int, steps: int = STEPS) -> Streets:
    """What a seed's arms are trained on."""
    return make_streets(BATCH * steps, torch.Generator().manual_seed(1000 + seed))


def test_streets() -> Streets:
    """What all are scored on; no training scene is among them."""
    return make_streets(TESTS, torch.Generator().manual_seed(7))


Runs = dict[str, list[tuple[float, float]]]


def run(optimizer: Optimizer, seeds: int, steps: int, names: Sequence[str] = tuple(ARMS)) -> Runs:
    """Scores of each arm by seed; a line is printed as soon as it is known."""
    data, unseen = [training_streets(seed, steps) for seed in range(seeds)], test_streets()
    runs: Runs = {}
    heads = ("boxes AP", "map IoU", "boxes-alone", "map-alone", "boxes-sum", "map-sum")
    print_row(optimizer, heads, width=17)
    for name in names:
        models = (
            train(ARMS[name], optimizer, seed, streets, steps=steps)
            for seed, streets in enumerate(data)
        )
        runs[name] = [scores(model, unseen) for model in models]
        print_row(name, _cells(name, runs), width=17)
    return runs


def _cells(name: str, runs: Runs) -> list[str]:
    cells = []
    for base in (None, ALONE, (PLAIN, PLAIN)):
        for task in range(2):
            values = [score[task] for score in runs[name]]
            if not ARMS[name].scale[task] or (base and base[task] not in runs):
                cells.append("-")
            elif base is None:
                cells.append(cell(values))
            else:
                cells.append(gain_cell(values, [score[task] for score in runs[base[task]]]))
    return cells


def main() -> None:
    """Print a table for each optimiser; a star marks what is larger than two standard errors."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--optimizers", nargs="+", choices=list(RATE), default=list(RATE))
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--json", help="write the scores of every seed to this file")
    options = parser.parse_args()
    print("mean +- standard error; differences by seed, * where beyond two standard errors")
    begun = time.process_time()
    results = {
        name: run(name, options.seeds, options.steps, options.arms) for name in options.optimizers
    }
    seconds = time.process_time() - begun
    print(f"{seconds:.0f} s of processor time")
    if options.json:
        settings = f"{options.seeds} seeds, {options.steps} steps, rates {RATE}"
        command = "python -m perception3d.balancing.toys.tasks"
        save(options.json, command, seconds, {"settings": settings, "scores": results})


if __name__ == "__main__":
    main()
