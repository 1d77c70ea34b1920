"""From the maps of the centre head to boxes: candidates, IoU-aware scores, suppression.

Reference: WayneMao/PillarNeSt, ``CenterPlusHead.get_bboxes`` and its IoU-aware
``CenterPointBBoxCoder``, on mmdetection3d v0.18.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from perception3d_ops.box_nms import rotated_nms
from perception3d_ops.circle_nms import circle_nms
from torch import Tensor

from perception3d.heads.center_code import decode_solids
from perception3d.heads.query_decode import DECODED_RANGE_M
from perception3d.structures import BEVGrid

#: Squared distances of circle suppression for the six nuScenes tasks (published).
CIRCLE_DISTANCES_SQ_M2 = (4.0, 12.0, 10.0, 1.0, 0.85, 0.175)


@dataclass(frozen=True)
class Candidates:
    """N boxes of a batch: by sample, in it by task, in it by falling heat.

    Attributes:
        solid: (N, 7) x, y, z, length, width, height, yaw.
        velocity_mps: (N, 2).
        heat, iou, score: (N,) in [0, 1]: of the class, of the IoU branch, and both together.
        label: (N,) int64.
        group: (N,) int64 sample * T + task.
        sizes: (B * T,) int64, candidates of each group.
    """

    solid: Tensor
    velocity_mps: Tensor
    heat: Tensor
    iou: Tensor
    score: Tensor
    label: Tensor
    group: Tensor
    sizes: Tensor

    def select(self, keep: Tensor) -> Candidates:
        """Those of a bool mask (N,) or an index (M,)."""
        if keep.dtype == torch.bool:
            keep = keep.nonzero()[:, 0]  # once: every look at a mask waits for the GPU
        group = self.group[keep]
        return Candidates(
            self.solid[keep],
            self.velocity_mps[keep],
            self.heat[keep],
            self.iou[keep],
            self.score[keep],
            self.label[keep],
            group,
            torch.bincount(group, minlength=len(self.sizes)),
        )


class Suppression(Protocol):
    """Drops candidates that repeat better ones of their task, whatever their class."""

    def __call__(self, found: Candidates, num_tasks: int) -> Candidates:
        """Those that stay: by sample, in it by task, in it by falling score."""
        ...


@dataclass(frozen=True)
class RotatedSuppression:
    """By overlap from above; the released configurations have this one.

    Attributes:
        max_iou: more overlap is dropped.
        min_score: of both scores together.
        pre_limit, post_limit: best candidates of a task that take part, and that stay.
    """

    max_iou: float = 0.2
    min_score: float = 0.1
    pre_limit: int = 1000
    post_limit: int = 83

    def __call__(self, found: Candidates, num_tasks: int) -> Candidates:
        """See :class:`Suppression`."""
        found = found.select(found.score >= self.min_score)
        return found.select(
            rotated_nms(
                found.solid[:, [0, 1, 3, 4, 6]],
                found.score,
                self.max_iou,
                offsets=_offsets(found.sizes),
                pre_limit=self.pre_limit,
                post_limit=self.post_limit,
            )
        )


@dataclass(frozen=True)
class CircleSuppression:
    """By distance of the centres; no score threshold (published).

    Attributes:
        distance_sq_m2: one squared distance a task; what is as near or nearer is dropped.
        post_limit: best candidates of a task that stay.
    """

    distance_sq_m2: tuple[float, ...] = CIRCLE_DISTANCES_SQ_M2
    post_limit: int = 83

    def __call__(self, found: Candidates, num_tasks: int) -> Candidates:
        """See :class:`Suppression`."""
        if len(self.distance_sq_m2) != num_tasks:
            raise ValueError(
                f"circle suppression needs one distance for each of the {num_tasks} tasks; found "
                f"{self.distance_sq_m2}"
            )
        kept = []
        for task, distance_sq in enumerate(self.distance_sq_m2):
            rows = (found.group % num_tasks == task).nonzero()[:, 0]
            offsets = _offsets(found.sizes[task::num_tasks])
            best = circle_nms(
                found.solid[rows, :2],
                found.score[rows],
                distance_sq,
                offsets=offsets,
                post_limit=self.post_limit,
            )
            kept.append(rows[best])
        every = torch.cat(kept)
        return found.select(every[found.group[every].argsort(stable=True)])


@dataclass(frozen=True)
class CenterDecoder:
    """Reads boxes off the maps; the defaults are the published ones.

    Attributes:
        tasks: number of classes of each task.
        grid: of the maps.
        suppression: by overlap or by distance.
        max_candidates: best pairs of cell and class of a task that are looked at. (The published
            code takes so many of every class first, which changes nothing.)
        min_heat: candidates have more.
        iou_power: beta; the score is heat ** (1 - beta) * iou ** beta.
        range_m: centres outside are dropped. Published twice, before and after suppression, which
            changes nothing either.
    """

    tasks: tuple[int, ...]
    grid: BEVGrid
    suppression: Suppression = RotatedSuppression()
    max_candidates: int = 500
    min_heat: float = 0.1
    iou_power: float = 0.5
    range_m: tuple[float, float, float, float, float, float] = DECODED_RANGE_M

    @torch.no_grad()
    def __call__(self, heat: Tensor, box: Tensor, iou: Tensor) -> Candidates:
        """Boxes after suppression; arguments as of :meth:`candidates`."""
        return self.suppression(self.candidates(heat, box, iou), len(self.tasks))

    @torch.no_grad()
    def candidates(self, heat: Tensor, box: Tensor, iou: Tensor) -> Candidates:
        """Boxes before suppression.

        Args:
            heat: (B, K, ny, nx) class logits.
            box: (B, T, 10, ny, nx) vectors.
            iou: (B, T, ny, nx) logits.
        """
        # In half precision many scores would be equal, and their order chance.
        score, label, cell, task = self._peaks(heat.float().sigmoid().flatten(2))
        sample = torch.arange(len(heat), device=heat.device)[:, None].expand_as(cell)
        vector = box.flatten(3)[sample, task, :, cell].float()
        quality = iou.flatten(2)[sample, task, cell].float().sigmoid()
        solid = decode_solids(vector, cell, self.grid)
        keep = (score > self.min_heat) & self._sound(solid, vector)
        group = (sample * len(self.tasks) + task)[keep]
        return Candidates(
            solid[keep],
            vector[keep][:, 8:],
            score[keep],
            quality[keep],
            (score.pow(1 - self.iou_power) * quality.pow(self.iou_power))[keep],
            label[keep],
            group,
            torch.bincount(group, minlength=len(heat) * len(self.tasks)),
        )

    def _peaks(self, heat: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Heat, label, cell and task (B, N) of the best pairs of every task, of (B, K, cells)."""
        cells, first = heat.shape[2], 0
        found = []
        for task, classes in enumerate(self.tasks):
            flat = heat[:, first : first + classes].flatten(1)
            score, index = flat.topk(min(self.max_candidates, flat.shape[1]), dim=1)
            label = first + index // cells
            found.append((score, label, index % cells, torch.full_like(index, task)))
            first += classes
        score, label, cell, task_of = (torch.cat(part, dim=1) for part in zip(*found))
        return score, label, cell, task_of

    def _sound(self, solid: Tensor, vector: Tensor) -> Tensor:
        """Inside the range, and (a guard: published heads have none) a box that can exist."""
        low, high = solid.new_tensor(self.range_m).split(3)
        inside = ((solid[..., :3] >= low) & (solid[..., :3] <= high)).all(dim=-1)
        finite = torch.isfinite(solid).all(dim=-1) & torch.isfinite(vector).all(dim=-1)
        return inside & finite & (solid[..., 3:6] > 0).all(dim=-1)


def _offsets(sizes: Tensor) -> Tensor:
    """(G + 1,) first row of every group of these sizes (G,), and the end."""
    return torch.nn.functional.pad(sizes.cumsum(0), (1, 0))
