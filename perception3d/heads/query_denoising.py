"""Query denoising of CMT: boxes with moved centres as extra queries whose answer is known.

Reference: DN-DETR (arXiv 2203.01305) as junjie18/CMT runs it (``prepare_for_dn``): only the
position is noised; denoising queries carry neither label nor size. Training only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from perception3d.heads.box_code import encode_boxes
from perception3d.structures import Boxes3D

#: Share of noise vectors u in [-1, 1]^3 with |u| <= split is PI / 6 * split^3; the published
#: code's pi.
PI = 3.14159


@dataclass(frozen=True)
class Denoising:
    """P denoising slots a sample, placed before the ordinary queries, and N rows that hold a box.

    Slots are group-major: group g of sample b holds the sample's boxes in slots g * M .. g * M +
    n_b - 1, M being the largest number of boxes in the batch. Slots without a box sit at reference
    (0, 0, 0), take part in attention and get no loss. Rows run over groups, then samples, then
    boxes.

    Attributes:
        reference: (B, P, 3) normalised reference points.
        num_groups: G; P = G * M.
        sample: (N,) int64 sample of each row.
        slot: (N,) int64 its slot.
        box_index: (N,) int64 its box in the concatenation of all samples' usable boxes.
        true_label: (N,) int64 class of the box.
        label: (N,) int64 class target: the background index where the noise was large.
        target: (N, 10) clean box vectors.
        positive_share: expected share of rows that keep their class.
        mean_rows: N averaged over the processes of a distributed run, at least 1.
    """

    reference: Tensor
    num_groups: int
    sample: Tensor
    slot: Tensor
    box_index: Tensor
    true_label: Tensor
    label: Tensor
    target: Tensor
    positive_share: float
    mean_rows: float

    @property
    def num_slots(self) -> int:
        """P."""
        return self.reference.shape[1]

    def blocked(self, num_queries: int) -> Tensor:
        """(P + Q, P + Q) bool mask of self-attention, True = the row must not see the column.

        Ordinary queries never see denoising ones; a group sees itself and all ordinary queries.
        """
        device = self.reference.device
        group = torch.arange(self.num_slots, device=device) // (self.num_slots // self.num_groups)
        ordinary = torch.full((num_queries,), -1, device=device)
        group = torch.cat((group, ordinary))
        return (group[:, None] != group[None]) & (group >= 0)[None]


@dataclass(frozen=True)
class DenoisingBuilder:
    """Makes denoising queries from ground truth.

    Attributes:
        range_m: x, y, z minima, then maxima, that references are normalised to.
        num_classes: also the background label.
        query_budget: the number of groups is at most budget // M; published 900, the number of
            queries. None does not reduce it (published for PETR).
        max_groups: published 10.
        noise_scale: centres move by up to this share of half the size along each axis (yaw
            ignored).
        split: rows whose noise vector is longer are labelled background; published 0.75.
        size_axes: which of length, width, height bounds the noise along x, y, z.
        encode: boxes to (N, 10) target vectors.
    """

    range_m: tuple[float, float, float, float, float, float]
    num_classes: int
    query_budget: int | None
    max_groups: int = 10
    noise_scale: float = 1.0
    split: float = 0.75
    size_axes: tuple[int, int, int] = (0, 1, 2)
    encode: Callable[[Boxes3D], Tensor] = encode_boxes

    def __call__(self, boxes: Sequence[Boxes3D], noise: Tensor | None = None) -> Denoising | None:
        """Queries for a batch, or None when there is no box or no room for a single group.

        In a distributed run every process must call this once a step: they exchange N.

        Args:
            boxes: one set a sample; labels outside 0 .. num_classes - 1 are left out.
            noise: (N, 3) uniform numbers in [0, 1) in row order, u = 2 noise - 1; drawn if None.
        """
        if self.query_budget == 0:  # the same on every process: nothing to exchange
            return None
        boxes = [usable_boxes(b, self.num_classes) for b in boxes]
        counts = [len(b) for b in boxes]
        largest = max(counts, default=0)
        groups = self.max_groups if largest else 0
        if largest and self.query_budget is not None:
            groups = min(groups, self.query_budget // largest)
        every = Boxes3D.cat(boxes)
        device = every.center_m.device
        mean_rows = mean_over_processes(groups * len(every), device)
        if groups == 0:
            return None
        box_index = torch.arange(len(every), device=device).repeat(groups)
        group = torch.arange(groups, device=device).repeat_interleave(len(every))
        sample = torch.cat([torch.full((n,), b, device=device) for b, n in enumerate(counts)])
        within = torch.cat([torch.arange(n, device=device) for n in counts])
        slot = within[box_index] + group * largest
        if noise is None:
            noise = torch.rand(len(box_index), 3, device=device)
        u = noise * 2 - 1
        centers_m = every.center_m.float()[box_index]
        half_size_m = every.size_lwh_m[:, list(self.size_axes)].float()[box_index] / 2
        low, high = centers_m.new_tensor(self.range_m[:3]), centers_m.new_tensor(self.range_m[3:])
        noised = (centers_m + u * half_size_m * self.noise_scale - low) / (high - low)
        reference = noised.new_zeros(len(boxes), groups * largest, 3)
        reference[sample[box_index], slot] = noised.clamp(0, 1)
        true_label = every.label[box_index]
        return Denoising(
            reference=reference,
            num_groups=groups,
            sample=sample[box_index],
            slot=slot,
            box_index=box_index,
            true_label=true_label,
            label=torch.where(u.norm(dim=-1) > self.split, self.num_classes, true_label),
            target=self.encode(every)[box_index],
            positive_share=PI / 6 * self.split**3,
            mean_rows=max(mean_rows, 1.0),
        )


def mean_over_processes(count: int, device: torch.device) -> float:
    """A count averaged over the processes of a distributed run; all of them must ask."""
    if not (dist.is_available() and dist.is_initialized()):
        return float(count)
    total = torch.tensor(float(count), device=device)
    dist.all_reduce(total)
    return float(total) / dist.get_world_size()


def usable_boxes(boxes: Boxes3D, num_classes: int) -> Boxes3D:
    """The boxes that can be targets: class known to the head (-1 stands for ignored classes)."""
    return boxes.select((boxes.label >= 0) & (boxes.label < num_classes))
