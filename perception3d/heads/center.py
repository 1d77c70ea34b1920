"""The centre head of PillarNeSt: boxes at the peaks of class heat maps, rescored by their IoU.

Reference: CenterPoint, arXiv 2006.11275, with the IoU branch of PillarNeSt, arXiv 2311.17770;
WayneMao/PillarNeSt, ``CenterPlusHead``, for what the papers leave open.

    BEV map -> shared conv -> task: conv, conv -> class heat
                           |        conv, conv -> reg, height, dim, rot, vel: the box at the cell
                           |        conv, conv -> iou: how well that box will fit
                           +-> next task ...
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from perception3d.heads.center_code import BOX_BRANCHES
from perception3d.heads.center_decode import CenterDecoder, RotatedSuppression, Suppression
from perception3d.heads.center_loss import CenterLoss
from perception3d.heads.center_targets import CenterAssigner
from perception3d.heads.peak_branch import HEAT_BIAS
from perception3d.nn.conv import conv_norm_relu
from perception3d.structures import BEVFeatures, BEVGrid, Boxes3D

#: Classes of each task: car | truck, construction vehicle | bus, trailer | barrier | motorcycle,
#: bicycle | pedestrian, traffic cone. Labels count through them (published).
NUSCENES_TASKS = (1, 2, 2, 1, 2, 2)


@dataclass(frozen=True)
class CenterOutputs:
    """What the head says of B samples, K classes in T tasks, float32.

    Attributes:
        heat: (B, K, ny, nx) class logits.
        box: (B, T, 10, ny, nx) vectors; slots as in :mod:`perception3d.heads.center_code`.
        iou: (B, T, ny, nx) logits of the overlap that the box is expected to have.
    """

    heat: Tensor
    box: Tensor
    iou: Tensor


class CenterHead(nn.Module):
    """Shared convolution, then for every task seven branches of two convolutions.

    Args:
        in_channels: of the BEV map.
        grid: of the BEV map and of the outputs.
        tasks: number of classes of each task; labels count through them.
        channels: of the shared and the hidden convolutions; published 64.
        loss: weights.
        suppression: by overlap (released configurations) or by distance.
        max_candidates: of a task, before suppression; published 500.
        iou_power: share of the expected overlap in the score, see :class:`CenterDecoder`.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        grid: BEVGrid,
        tasks: tuple[int, ...] = NUSCENES_TASKS,
        channels: int = 64,
        loss: CenterLoss | None = None,
        suppression: Suppression | None = None,
        max_candidates: int = 500,
        iou_power: float = 0.5,
    ) -> None:
        super().__init__()
        if not tasks or min(tasks) < 1:
            raise ValueError(f"tasks must name at least one class each; found {tasks}")
        self.in_channels = in_channels
        self.grid = grid
        self.tasks = tasks
        self.num_classes = sum(tasks)
        self.shared = conv_norm_relu(in_channels, channels)
        self.task_branches = nn.ModuleList(_branches(channels, classes) for classes in tasks)
        self.assign = CenterAssigner(tasks, grid)
        self.center_loss = CenterLoss() if loss is None else loss
        self.decoder = CenterDecoder(
            tasks,
            grid,
            RotatedSuppression() if suppression is None else suppression,
            max_candidates=max_candidates,
            iou_power=iou_power,
        )

    def forward(self, features: BEVFeatures) -> CenterOutputs:
        """(B, in_channels, ny, nx) on the head's grid -> raw maps.

        Raises:
            ValueError: the map has another grid.
        """
        if features.grid != self.grid:
            raise ValueError(f"the head was built for {self.grid}; the map has {features.grid}")
        shared = self.shared(features.data)
        raw = [
            {name: branch(shared) for name, branch in cast(nn.ModuleDict, task).items()}
            for task in self.task_branches
        ]
        return CenterOutputs(
            torch.cat([maps["heatmap"] for maps in raw], dim=1),
            torch.stack(
                [torch.cat([maps[name] for name in BOX_BRANCHES], dim=1) for maps in raw], dim=1
            ),
            torch.cat([maps["iou"] for maps in raw], dim=1),
        )

    def loss(self, outputs: CenterOutputs, boxes: Sequence[Boxes3D]) -> dict[str, Tensor]:
        """Terms by name, see :class:`CenterLoss`; ``boxes`` hold one set a sample."""
        with torch.autocast(outputs.heat.device.type, enabled=False):
            return self.center_loss(
                outputs.heat,
                outputs.box,
                outputs.iou,
                self.assign(boxes),
                tasks=self.tasks,
                grid=self.grid,
            )

    @torch.no_grad()
    def decode(self, outputs: CenterOutputs) -> list[tuple[Boxes3D, Tensor]]:
        """Boxes and scores (n,) of every sample by falling score, on the CPU.

        At most 83 a task with the published limits. Dropped: what :class:`CenterDecoder` drops.
        """
        found = self.decoder(outputs.heat, outputs.box, outputs.iou)
        boxes = Boxes3D.build(
            found.solid[:, :3],
            found.solid[:, 3:6],
            found.solid[:, 6],
            found.label,
            velocity_mps=found.velocity_mps,
        ).to("cpu")
        sample, score = (found.group // len(self.tasks)).cpu(), found.score.cpu()
        results = []
        for b in range(len(outputs.heat)):
            rows = (sample == b).nonzero()[:, 0]
            rows = rows[score[rows].argsort(descending=True, stable=True)]
            results.append((boxes.select(rows), score[rows]))
        return results


def _branches(channels: int, classes: int) -> nn.ModuleDict:
    sizes = {**BOX_BRANCHES, "iou": 1, "heatmap": classes}
    branches = nn.ModuleDict(
        {
            name: nn.Sequential(
                conv_norm_relu(channels, channels), _WholeConv2d(channels, size, 3, padding=1)
            )
            for name, size in sizes.items()
        }
    )
    nn.init.constant_(branches["heatmap"][1].bias, HEAT_BIAS)  # type: ignore[index]
    return branches


class _WholeConv2d(nn.Conv2d):
    """In float32 also under autocast: of 500 scores in bfloat16, 30 differ; metres round alike."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.float())
