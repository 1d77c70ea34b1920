"""The repository's own config, small and short, with a checkpoint every second step."""

from __future__ import annotations

from dataclasses import replace

from configs.cmt_fusion import Sensors
from configs.cmt_fusion import experiment as cmt
from perception3d.engine.experiment import Experiment


def experiment(*, data: str = "auto", sensors: Sensors = "fusion") -> Experiment:
    """Train eight steps of CMT on a town.

    Args:
        data: folder of the town.
        sensors: as of the config.
    """
    run = cmt(
        data=data,
        sensors=sensors,
        voxel_m=2.0,
        sweeps=2,
        batch_size=2,
        epochs=8,
        max_steps=8,
        evaluate_every=-1,
        mask_sensors=sensors == "fusion",
        ema_decay=0.9,
    )
    return replace(run, name="town", save_every_steps=2, log_every=1)
