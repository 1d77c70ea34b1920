"""Losses of the centre head, all tasks at once.

Reference: WayneMao/PillarNeSt, ``CenterPlusHead.loss``, on mmdetection3d v0.18.1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from perception3d_ops.box_overlap import box_overlap_3d
from torch import Tensor

from perception3d.heads.center_code import decode_solids
from perception3d.heads.center_targets import CenterTargets, task_of_label
from perception3d.losses.box import weighted_l1
from perception3d.losses.focal import gaussian_focal_loss
from perception3d.structures import BEVGrid

#: Weights of the ten slots: velocity a fifth (published).
CODE_WEIGHTS = (1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.2, 0.2)
#: Scores are kept this far from 0 and 1; beyond there is no gradient (published).
SCORE_MARGIN = 1e-4
_LOGIT_LIMIT = math.log((1 - SCORE_MARGIN) / SCORE_MARGIN)
#: Logarithms of sizes are cut to +- this before boxes are compared (published).
LOG_SIZE_LIMIT = 5.0
#: Added to the number of objects that terms are divided by (published).
COUNT_EPS = 1e-4


@dataclass(frozen=True)
class CenterLoss:
    """Weights; the defaults are the published ones.

    Attributes:
        code_weights: of the ten slots of the box term.
        heat_weight, box_weight, iou_weight: of the terms.
        z_as_bottom: the target of the IoU branch takes z for the bottom of a box, as published,
            though z is its gravity centre: heights overlap on [z, z + h]. False compares the boxes
            themselves.
    """

    code_weights: tuple[float, ...] = CODE_WEIGHTS
    heat_weight: float = 1.0
    box_weight: float = 0.25
    iou_weight: float = 1.0
    z_as_bottom: bool = True

    def __call__(
        self,
        heat: Tensor,
        box: Tensor,
        iou: Tensor,
        targets: CenterTargets,
        *,
        tasks: tuple[int, ...],
        grid: BEVGrid,
    ) -> dict[str, Tensor]:
        """Terms of a batch.

        Args:
            heat: (B, K, ny, nx) class logits.
            box: (B, T, 10, ny, nx) vectors.
            iou: (B, T, ny, nx) logits of the overlap of that vector with the true box.
            targets: of the batch.
            tasks: number of classes of each of the T tasks.
            grid: of the maps.

        Returns:
            "task0.loss_heatmap", "task0.loss_bbox", "task0.loss_iou_score", "task1. ...": weighted
            scalars, float32. A task without objects has box and IoU terms of 0.
        """
        at = (targets.sample, targets.task)
        # Indices on both sides of a slice put their rows first: (M, 10).
        predicted = box.flatten(3)[(*at, slice(None), targets.cell)].float()
        logit = iou.flatten(2)[(*at, targets.cell)].float()
        count = torch.bincount(targets.task, minlength=len(tasks)) + COUNT_EPS

        error = weighted_l1(predicted, targets.vector, predicted.new_tensor(self.code_weights))
        overlap = self.overlap(predicted, targets, grid)
        score = logit.clamp(-_LOGIT_LIMIT, _LOGIT_LIMIT).sigmoid()
        terms = {
            "loss_heatmap": self.heat_weight * _heat_terms(heat, targets.heat, tasks),
            "loss_bbox": self.box_weight * _by_task(error, targets.task, tasks) / count,
            "loss_iou_score": self.iou_weight
            * _by_task((score - overlap).abs(), targets.task, tasks)
            / count,
        }
        return {
            f"task{t}.{name}": values[t]
            for t in range(len(tasks))
            for name, values in terms.items()
        }

    @torch.no_grad()
    def overlap(self, predicted: Tensor, targets: CenterTargets, grid: BEVGrid) -> Tensor:
        """(M,) 3-D IoU in [0, 1] of predicted vectors (M, 10) with the targets' boxes."""
        solids = []
        for vector in (predicted.float(), targets.vector):
            solid = decode_solids(vector, targets.cell, grid, log_limit=LOG_SIZE_LIMIT)
            if self.z_as_bottom:
                solid[:, 2] += solid[:, 5] / 2
            solids.append(solid)
        return box_overlap_3d(solids[1], solids[0], aligned=True)


def _heat_terms(logits: Tensor, target: Tensor, tasks: tuple[int, ...]) -> Tensor:
    """(T,) focal losses, each over the number of its cells whose target is exactly 1."""
    limited = logits.float().clamp(-_LOGIT_LIMIT, _LOGIT_LIMIT)
    # alpha is the power of the prediction, gamma that of the target's relief.
    loss = gaussian_focal_loss(limited, target, alpha=2.0, gamma=4.0).sum(dim=(0, 2, 3))
    peaks = (target == 1).sum(dim=(0, 2, 3)).to(loss.dtype)
    task = task_of_label(tasks, loss.device)
    return _by_task(loss, task, tasks) / _by_task(peaks, task, tasks).clamp_min(1)


def _by_task(values: Tensor, task: Tensor, tasks: tuple[int, ...]) -> Tensor:
    """(T,) sums of values (N,) of the same task (N,)."""
    return values.new_zeros(len(tasks)).index_add(0, task, values)
