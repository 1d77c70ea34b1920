"""Knobs of joint training that several configs share: tasks, and the rules between them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import nn

from perception3d.balancing import (
    Aligned,
    CaGrad,
    Fixed,
    GradNorm,
    ImtlG,
    LastLayer,
    Mgda,
    PcGrad,
    Rule,
    Uncertainty,
    Uniform,
)
from perception3d.models.fuller import DETECTION, SEGMENTATION

Tasks = Literal["det,map", "det", "map"]
RuleName = Literal[
    "imtl_g", "uniform", "fixed", "uncertainty", "gradnorm", "pcgrad", "mgda", "cagrad", "aligned"
]

MeasuredAt = Literal["features", "weights"]

#: Rules that need nothing but the tasks' names.
RULES: dict[str, Callable[[list[str]], Rule]] = {
    "imtl_g": ImtlG, "uniform": Uniform, "uncertainty": Uncertainty, "gradnorm": GradNorm,
    "pcgrad": PcGrad, "mgda": Mgda, "cagrad": CaGrad, "aligned": Aligned,
}  # fmt: skip


def task_names(tasks: Tasks) -> list[str]:
    """Names of the tasks in losses and rules."""
    named = {"det": DETECTION, "map": SEGMENTATION}
    return [named[task] for task in tasks.split(",")]


def refuse_senseless(tasks: Tasks, map_weight: float, map_scale: float) -> None:
    """Raise ValueError for knobs of the map's loss that these tasks have no use for."""
    if tasks != "det,map" and map_weight != 1.0:
        raise ValueError(f"--map-weight is for --tasks det,map; found {tasks}")
    if "map" not in tasks and map_scale != 1.0:
        raise ValueError(f"--map-scale is for tasks with map; found {tasks}")


def make_rule(name: RuleName, tasks: list[str], map_weight: float) -> Rule:
    """The rule between the tasks that are trained.

    Raises:
        ValueError: a weight that this rule does not take.
    """
    if name == "fixed":
        return Fixed({task: map_weight if task == SEGMENTATION else 1.0 for task in tasks})
    if map_weight != 1.0:
        raise ValueError(f"--map-weight is for --rule fixed; found {name}")
    return RULES[name](tasks)


def measured_at(where: MeasuredAt, layer: nn.Module) -> LastLayer | None:
    """For a fork behind ``layer``: by its convolutions' weights (norms not counted), or None."""
    if where == "features":
        return None
    return LastLayer(layer, weights=[p for p in layer.parameters() if p.ndim > 1])
