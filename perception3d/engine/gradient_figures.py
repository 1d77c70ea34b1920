"""Balancing in a training run: one measurement for all processes, and figures for the log."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from perception3d.balancing import Balance, Fork, own_group


def share_measurements(model: nn.Module) -> None:
    """Let forks and balances sum what they measure over the processes of the run.

    Every process calls this, once, when they know of each other. All of them must then come to
    every fork and balance in every backward pass: blind a sensor with zeros (``ModalMask``) instead
    of leaving it out of some batches.
    """
    parts = [module for module in model.modules() if isinstance(module, (Fork, Balance))]
    group = own_group() if parts else None
    for part in parts:
        part.group = group


def gradient_figures(
    model: nn.Module, grad_norm: Tensor | None, clip_norm: float | None
) -> dict[str, dict[str, Tensor]]:
    """Scalars on the device, by kind and name; empty where no fork or balance did anything.

    "norm", "weight" by task, "cosine" by pair of tasks, "modality_norm", "modality_scale" by
    sensor, and "clip": {"rate": 1 or 0}. What was not calibrated, for it was not finite, counts as
    0. Under fp16 lengths are times the loss scale. Records are taken: none counts twice.
    """
    figures: dict[str, dict[str, Tensor]] = {}
    for module in model.modules():
        if isinstance(module, Fork) and module.record is not None:
            tasks, record = module.rule.tasks, module.record
            norm = torch.where(record.calibrated, record.norm, 0.0)
            figures["norm"] = dict(zip(tasks, norm))
            figures["weight"] = dict(zip(tasks, record.weight))
            figures["cosine"] = {
                f"{first} {second}": record.cosine[i, j].nan_to_num(0.0, 0.0, 0.0)
                for i, first in enumerate(tasks)
                for j, second in enumerate(tasks)
                if i < j
            }
            module.record = None
        if isinstance(module, Balance) and module.record is not None:
            norm = torch.where(module.record.calibrated, module.record.norm, 0.0)
            figures["modality_norm"] = dict(zip(module.modalities, norm))
            figures["modality_scale"] = dict(zip(module.modalities, module.record.scale))
            module.record = None
    if figures and grad_norm is not None and clip_norm is not None:
        length = torch.as_tensor(grad_norm)
        figures["clip"] = {"rate": (length.isfinite() & (length > clip_norm)).float()}
    return figures
