"""What balancing did in a step, as figures for the log."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from perception3d.balancing import Balance, Fork


def gradient_figures(
    model: nn.Module, grad_norm: Tensor | None, clip_norm: float | None
) -> dict[str, dict[str, Tensor]]:
    """Scalars on the device, by kind and name; empty for a model without fork and balance.

    "norm", "weight" by task, "cosine" by pair of tasks, "modality_norm", "modality_scale" by
    sensor, and "clip": {"rate": 1 or 0}.
    """
    figures: dict[str, dict[str, Tensor]] = {}
    for module in model.modules():
        if isinstance(module, Fork) and module.record is not None:
            tasks, record = module.rule.tasks, module.record
            figures["norm"] = dict(zip(tasks, record.norm))
            figures["weight"] = dict(zip(tasks, record.weight))
            figures["cosine"] = {
                f"{first} {second}": record.cosine[i, j].nan_to_num()
                for i, first in enumerate(tasks)
                for j, second in enumerate(tasks)
                if i < j
            }
        if isinstance(module, Balance) and module.record is not None:
            figures["modality_norm"] = dict(zip(module.modalities, module.record.norm))
            figures["modality_scale"] = dict(zip(module.modalities, module.record.scale))
    if figures and grad_norm is not None and clip_norm is not None:
        figures["clip"] = {"rate": torch.as_tensor(grad_norm > clip_norm).float()}
    return figures
