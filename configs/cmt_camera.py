"""CMT on cameras alone (CMT-C): the heads, losses and schedule of configs/cmt_fusion.py.

python tools/train.py configs/cmt_camera.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from configs.cmt_fusion import experiment as fusion
from perception3d.engine.experiment import Experiment, Precision


def experiment(
    *,
    data: str = "auto",
    size: Literal["auto", "town", "base"] = "auto",
    queries: Literal["auto", "heatmap", "learned"] = "auto",
    epochs: int | None = None,
    max_steps: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    precision: Precision = "fp32",
    workers: int = 1,
    evaluate_every: int = 0,
    weights: Path | None = None,
    seed: int = 0,
) -> Experiment:
    """Train CMT on one sensor.

    Args:
        data: "auto" takes data/nuscenes when it is there, else the generated town; or a folder.
        size: town (laptop), base (published head), or auto by the data.
        queries: where queries start: class peaks of heat maps, or the published learned table.
        epochs: length of the run.
        max_steps: end after this many steps, whatever the epochs.
        batch_size: samples a step and process.
        lr: base learning rate; it rises to a multiple during the first 40 % of the run.
        precision: fp32, bf16 or fp16.
        workers: loader processes.
        evaluate_every: epochs between evaluations; 0: after the last epoch only; -1: never.
        weights: start from these weights.
        seed: of weights, order, augmentation and noise.
    """
    return fusion(
        sensors="camera",
        data=data,
        size=size,
        queries=queries,
        epochs=epochs,
        max_steps=max_steps,
        batch_size=batch_size,
        lr=lr,
        precision=precision,
        workers=workers,
        evaluate_every=evaluate_every,
        weights=weights,
        seed=seed,
    )
