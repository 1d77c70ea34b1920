"""What the maps of the centre head should show.

Reference: CenterPoint, arXiv 2006.11275, section 4; mmdetection3d v0.18.1, ``CenterHead``, as
WayneMao/PillarNeSt trains it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from perception3d.heads.center_code import encode_at_cells
from perception3d.losses.gaussian import draw_gaussians, gaussian_radius
from perception3d.structures import BEVGrid, Boxes3D


@dataclass(frozen=True)
class CenterTargets:
    """Targets of B samples: a map a class, and a list of the objects that have a cell.

    Attributes:
        heat: (B, K, ny, nx) float32 in [0, 1], exactly 1 at the centres' cells.
        sample, task, slot, cell: (M,) int64 of every object. ``cell`` is row * nx + column;
            ``slot`` counts the objects of its sample and task, by class and then in the order of
            the boxes; objects outside the map leave theirs empty.
        vector: (M, 10) as in :mod:`perception3d.heads.center_code`.
    """

    heat: Tensor
    sample: Tensor
    task: Tensor
    slot: Tensor
    cell: Tensor
    vector: Tensor


@dataclass(frozen=True)
class CenterAssigner:
    """Gives boxes to cells; the defaults are the published ones.

    Attributes:
        tasks: number of classes of each task; labels count through them.
        grid: of the head's maps.
        min_overlap: a box shifted by the Gaussian's radius overlaps the true one so much.
        min_radius: in cells.
        max_objects: of a task and sample; further ones have no target.
    """

    tasks: tuple[int, ...]
    grid: BEVGrid
    min_overlap: float = 0.1
    min_radius: int = 2
    max_objects: int = 500

    @torch.no_grad()
    def __call__(self, boxes: Sequence[Boxes3D]) -> CenterTargets:
        """Targets of one set of boxes a sample.

        Boxes of unknown classes are left out. Cells are truncated towards zero, as published: a
        centre less than a cell below the range falls into cell 0, with a negative dx or dy.
        """
        grid, classes = self.grid, sum(self.tasks)
        every = Boxes3D.cat(boxes)
        device = every.center_m.device
        counts = torch.tensor([len(one) for one in boxes], device=device)
        sample = torch.arange(len(boxes), device=device)
        sample = sample.repeat_interleave(counts, output_size=len(every))
        known = (every.label >= 0) & (every.label < classes)
        # By sample, then class; the sort is stable. Tasks follow, for labels count through them.
        order = (sample * classes + every.label)[known].argsort(stable=True)
        every, sample = every.select(known).select(order), sample[known][order]
        task = task_of_label(self.tasks, device)[every.label]
        slot = _rank(sample * len(self.tasks) + task)
        low = torch.tensor((grid.x_m[0], grid.y_m[0]), device=device)
        place = (every.center_m[:, :2].float() - low) / grid.cell_m
        column_row = place.trunc()
        limit = torch.tensor((grid.nx, grid.ny), device=device)
        used = ((column_row >= 0) & (column_row < limit)).all(dim=1) & (slot < self.max_objects)
        one, place, column_row = every.select(used), place[used], column_row[used]
        sample, task, slot = sample[used], task[used], slot[used]
        row_column = column_row.long().flip(1)
        return CenterTargets(
            self._heat(one, row_column, sample, len(boxes)),
            sample,
            task,
            slot,
            row_column[:, 0] * grid.nx + row_column[:, 1],
            encode_at_cells(one, place - column_row),
        )

    def _heat(self, boxes: Boxes3D, row_column: Tensor, sample: Tensor, batch: int) -> Tensor:
        size_cells = boxes.size_lwh_m[:, :2].float() / self.grid.cell_m
        radius = gaussian_radius(size_cells, min_overlap=self.min_overlap).long()
        radius = radius.clamp_min(self.min_radius)
        shape = (sum(self.tasks), self.grid.ny, self.grid.nx)
        # Sample by sample: drawing holds a map for every box at once.
        rows = [(sample == b).nonzero()[:, 0] for b in range(batch)]
        return torch.stack(
            [draw_gaussians(row_column[r], radius[r], boxes.label[r], shape=shape) for r in rows]
        )


def task_of_label(tasks: Sequence[int], device: torch.device) -> Tensor:
    """(K,) int64 task of every label."""
    sizes = torch.tensor(tasks, device=device)
    return torch.arange(len(tasks), device=device).repeat_interleave(sizes, output_size=sum(tasks))


def _rank(group: Tensor) -> Tensor:
    """(N,) int64 place of every row among those of its group; groups (N,) ascend."""
    first = torch.searchsorted(group, group)
    return torch.arange(len(group), device=group.device) - first
