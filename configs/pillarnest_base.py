"""PillarNeSt-Base (arXiv 2311.17770): configs/pillarnest_tiny.py with a larger backbone.

    python tools/train.py configs/pillarnest_base.py                     the town, on a laptop
    python tools/train.py configs/pillarnest_base.py --data nuscenes     real data, on GPUs

Published, on A100s (four samples a GPU): 63.2 mAP and 69.2 NDS on nuScenes val. Not trained
here. What configs/pillarnest_tiny.py says of the recipe holds here too: no pasted objects yet, so
that the phase of the last five epochs changes nothing, and the peak learning rate is open. The
authors start from ImageNet weights, which fill 41 % of this backbone.
"""

from __future__ import annotations

from pathlib import Path

from configs.pillarnest_tiny import SizeName, SuppressionName, pillarnest
from perception3d.engine.experiment import Experiment, Precision


def experiment(
    *,
    data: str = "auto",
    val_split: str | None = None,
    size: SizeName = "auto",
    suppression: SuppressionName = "rotated",
    sweeps: int | None = None,
    epochs: int | None = None,
    max_steps: int | None = None,
    batch_size: int | None = None,
    accumulate: int = 1,
    lr: float | None = None,
    balance_classes: bool = True,
    ema_decay: float | None = None,
    precision: Precision = "fp32",
    workers: int = 1,
    evaluate_every: int = 0,
    weights: Path | None = None,
    seed: int = 0,
) -> Experiment:
    """Train PillarNeSt-Base.

    Args:
        data: "auto" takes data/nuscenes when it is there, else the generated town; or a folder.
        val_split: evaluate and predict on this split instead (test, for the leaderboard).
        size: town (laptop), published, or auto by the data.
        suppression: of repeated boxes, by overlap (rotated) or by distance (circle).
        sweeps: LiDAR sweeps a sample, the key one included.
        epochs: length of the run.
        max_steps: end after this many steps; without epochs it alone decides the length.
        batch_size: samples a step and process.
        accumulate: steps whose gradients are summed before an update.
        lr: base learning rate; it rises to ten times that during the first 40 % of the run.
        balance_classes: show frames with rare classes more often (CBGS).
        ema_decay: evaluate and save averaged weights.
        precision: fp32, bf16 or fp16.
        workers: loader processes.
        evaluate_every: epochs between evaluations; 0: after the last epoch only; -1: never.
        weights: start from these weights.
        seed: of weights, order, augmentation and noise.
    """
    return pillarnest(
        "base", data=data, val_split=val_split, size=size, suppression=suppression,
        sweeps=sweeps, epochs=epochs, max_steps=max_steps, batch_size=batch_size,
        accumulate=accumulate, lr=lr, balance_classes=balance_classes, ema_decay=ema_decay,
        precision=precision, workers=workers, evaluate_every=evaluate_every, weights=weights,
        seed=seed,
    )  # fmt: skip
