"""Typed experiments, training, run folders, weights, prediction.

Only `engine.training` imports Lightning; it is imported where a run starts.
"""

from perception3d.engine.experiment import Expected, Experiment, Phase, Samples
from perception3d.engine.optim import (
    AdamWSettings,
    ConstantSchedule,
    CosineSchedule,
    CyclicSchedule,
    GroupRule,
)

__all__ = [
    "AdamWSettings",
    "ConstantSchedule",
    "CosineSchedule",
    "CyclicSchedule",
    "Expected",
    "Experiment",
    "GroupRule",
    "Phase",
    "Samples",
]
