"""Balancing in a training run: one measurement for all processes, and figures for the log."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from perception3d.balancing import Balance, Fork, LastLayer, own_group


def balancing_parts(model: nn.Module) -> list[Fork | Balance]:
    """The forks and balances of a model."""
    return [module for module in model.modules() if isinstance(module, (Fork, Balance))]


def share_measurements(parts: Sequence[Fork | Balance]) -> None:
    """Let forks and balances sum what they measure over the processes of the run.

    Every process calls this, once, when they know of each other. All of them must then come to
    every fork and balance in every backward pass: blind a sensor with zeros (``ModalMask``) instead
    of leaving it out of some batches.
    """
    group = own_group() if parts else None
    for part in parts:
        if isinstance(part, Fork) and isinstance(part.measure, LastLayer):
            part.measure.group = group  # it sums gradients; their products are then the same
        else:
            part.group = group


def gradient_figures(
    parts: Sequence[Fork | Balance], grad_norm: Tensor | None, clip_norm: float | None
) -> dict[str, dict[str, Tensor]]:
    """Scalars on the device, by kind and name; empty where no part did anything.

    "norm", "weight" by task, "cosine" by pair of tasks, "modality_norm", "modality_scale" by
    sensor, and "clip": {"rate": 1 or 0}. What was not calibrated, for it was not finite, counts as
    0. Under fp16 lengths are times the loss scale. Records are taken: none counts twice.
    """
    figures: dict[str, dict[str, Tensor]] = {}
    for part in parts:
        if part.record is None:
            continue
        norm = torch.where(part.record.calibrated, part.record.norm, 0.0)
        if isinstance(part, Balance):
            figures["modality_norm"] = dict(zip(part.modalities, norm))
            figures["modality_scale"] = dict(zip(part.modalities, part.record.scale))
        else:
            tasks, cosine = part.rule.tasks, part.record.cosine.nan_to_num(0.0, 0.0, 0.0)
            figures["norm"] = dict(zip(tasks, norm))
            figures["weight"] = dict(zip(tasks, part.record.weight))
            figures["cosine"] = {
                f"{first} {second}": cosine[i, j]
                for i, first in enumerate(tasks)
                for j, second in enumerate(tasks)
                if i < j
            }
        part.record = None
    if figures and grad_norm is not None and clip_norm is not None:
        length = torch.as_tensor(grad_norm)
        figures["clip"] = {"rate": (length.isfinite() & (length > clip_norm)).float()}
    return figures
