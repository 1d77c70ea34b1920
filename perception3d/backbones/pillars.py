"""The height-aware pillar encoder of PillarNeSt: one linear layer, max + mean pooling."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from perception3d_ops.hard_voxels import HardVoxels, hard_voxels
from torch import Tensor, nn

from perception3d.backbones.pillar_pool import pooled_linear
from perception3d.structures import BEVGrid, Pillars

#: x, y, z, intensity, age; offsets from the mean of the pillar's points; offsets from its centre.
DECORATED_CHANNELS = 5 + 3 + 3

#: Ways to pool the slots of a pillar.
POOLINGS = ("maxavg", "max", "avg")


class PillarEncoder(nn.Module):
    """Published pillar features (arXiv 2311.17770; WayneMao/PillarNeSt ``HeightPillarFeatureNet``).

    Linear without bias -> batch norm -> ReLU -> (max + mean) / 2 over the pillar's slots. The
    published code holds every pillar in ``max_points`` slots, empty ones zeroed before the linear
    layer. An empty slot still passes norm and ReLU, takes part in the maximum and in the sum
    (which is divided by the number of real points), and counts in the training statistics of the
    norm. All of that is kept, but computed on the real points alone: every empty slot holds the
    same vector. :func:`dense_pillar_features` is the definition.

    Args:
        grid: cells and height band; points outside are left out.
        channels: of the features.
        max_points: slots of a pillar; the first points in input order fill them. Published 20.
        max_pillars: cap of a sample in training and in evaluation; published 30,000 and 40,000.
        eps, momentum: of the batch norm; published 1e-3 and 0.01.
        pooling: "maxavg", the published mean of both, or one of them, "max" or "avg", for
            ablations.
        units: 11 numbers that the decorated channels are divided by, kept with the weights; None is
            published: metres and raw intensities as they come. There, places of tens of metres and
            intensities up to 255 drown the decimetres inside a pillar, and a short training learns
            no shapes; :func:`natural_units` brings all channels to the order of one.
    """

    units: Tensor | None

    def __init__(
        self,
        *,
        grid: BEVGrid,
        channels: int,
        max_points: int = 20,
        max_pillars: tuple[int, int] = (30_000, 40_000),
        eps: float = 1e-3,
        momentum: float = 0.01,
        pooling: str = "maxavg",
        units: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise ValueError(f"pooling must be one of {', '.join(POOLINGS)}; found {pooling!r}")
        self.linear = nn.Linear(DECORATED_CHANNELS, channels, bias=False)
        self.norm = nn.BatchNorm1d(channels, eps=eps, momentum=momentum)
        self.grid = grid
        self.channels = channels
        self.max_points = max_points
        self.max_pillars = max_pillars
        self.pooling = pooling
        if units is not None and len(units) != DECORATED_CHANNELS:
            raise ValueError(f"units must be {DECORATED_CHANNELS} numbers; found {len(units)}")
        self.register_buffer("units", None if units is None else torch.tensor(units))

    def forward(self, points: Tensor, offsets: Tensor) -> Pillars:
        """Encode a ragged batch.

        Args:
            points: (P, 5) x, y, z in metres, intensity, age in seconds.
            offsets: (B + 1,) int64, rows of each sample.

        Returns:
            Pillars by sample, then by first point. A sample, or all of them, may have none.
        """
        grid = self.grid
        height_m = grid.z_m[1] - grid.z_m[0]
        with torch.autocast(points.device.type, enabled=False):
            points = points.float()
            voxels = hard_voxels(
                points[:, :3],
                offsets,
                range_m=grid.range_m,
                cell_m=(grid.cell_m, grid.cell_m, height_m),
                max_points=self.max_points,
                max_voxels=self.max_pillars[0 if self.training else 1],
            )
            decorated = decorate(points[voxels.point], voxels, grid)
            if self.units is not None:
                decorated = decorated / self.units
            features = self.pool(decorated, voxels.voxel, voxels.count)
        return Pillars(voxels.index[:, [0, 2, 3]], features, grid, len(offsets) - 1)

    def pool(self, decorated: Tensor, pillar: Tensor, count: Tensor) -> Tensor:
        """Linear, norm, ReLU and pooling of ragged rows.

        Args:
            decorated: (K, 11) float32 kept points; inputs, no gradient goes there.
            pillar: (K,) int64 pillar of each row, ascending.
            count: (M,) int64 rows of each pillar, 1 to ``max_points``.

        Returns:
            (M, channels) float32.
        """
        scale, shift = self._affine(decorated, len(count) * self.max_points)
        weight = self.linear.weight * scale.unsqueeze(1)
        highest, total = pooled_linear(decorated, weight, shift, pillar, count)
        empty = torch.relu(shift)
        free = (self.max_points - count).unsqueeze(1).to(total.dtype)
        highest = torch.where(free > 0, torch.maximum(highest, empty), highest)
        mean = (total + free * empty) / count.unsqueeze(1)
        return _pool(highest, mean, self.pooling)

    def _affine(self, decorated: Tensor, slots: int) -> tuple[Tensor, Tensor]:
        """The batch norm as y = x * scale + shift, both (C,). An empty slot (x = 0) becomes shift.

        In training the moments of x = W f over all slots follow from those of f (11 numbers and
        their products, in double precision), which saves several passes over (K, C) and their
        gradients.
        """
        norm = self.norm
        assert norm.running_mean is not None and norm.running_var is not None
        if norm.training and slots > 0:
            f = decorated.double()
            W = self.linear.weight.double()
            first = f.sum(dim=0) / slots
            covariance = f.T @ f / slots - torch.outer(first, first)
            mean = (W @ first).float()
            variance = ((W @ covariance) * W).sum(dim=1).clamp(min=0).float()
            self._update_statistics(mean.detach(), variance.detach() * slots / max(slots - 1, 1))
        else:
            mean, variance = norm.running_mean, norm.running_var
        scale = norm.weight * torch.rsqrt(variance + norm.eps)
        return scale, norm.bias - mean * scale

    def _update_statistics(self, mean: Tensor, unbiased_variance: Tensor) -> None:
        norm = self.norm
        assert norm.running_mean is not None and norm.running_var is not None
        assert norm.num_batches_tracked is not None and norm.momentum is not None
        with torch.no_grad():
            norm.num_batches_tracked += 1
            norm.running_mean.lerp_(mean, norm.momentum)
            norm.running_var.lerp_(unbiased_variance, norm.momentum)


def decorate(points: Tensor, voxels: HardVoxels, grid: BEVGrid) -> Tensor:
    """Inputs of the linear layer.

    Args:
        points: (K, 5) float32 kept points in the order of ``voxels.point``.
        voxels: the pillars.
        grid: their cells.

    Returns:
        (K, 11): x, y, z, intensity, age | x, y, z minus the mean of the pillar's kept points | x,
        y minus the pillar's centre, z minus the centre of the height band.
    """
    xyz = points[:, :3]
    mean = voxels.mean(xyz)
    return torch.cat(
        (points, xyz - mean[voxels.voxel], xyz - pillar_centers(voxels.index, grid)[voxels.voxel]),
        1,
    )


def natural_units(grid: BEVGrid) -> tuple[float, ...]:
    """Sizes of the decorated channels on a grid, about one standard deviation each."""
    reach, half_cell = (grid.x_m[1] - grid.x_m[0]) / 4, grid.cell_m / 2
    point = (reach, reach, 1.5, 30.0, 0.25)
    return (*point, half_cell, half_cell, 0.5, half_cell, half_cell, 1.5)


def pillar_centers(index: Tensor, grid: BEVGrid) -> Tensor:
    """(V, 3) float32 x, y, z centres of pillars ``index`` (V, 4) = sample, z, y, x."""
    size = torch.tensor([grid.cell_m, grid.cell_m, grid.z_m[1] - grid.z_m[0]], device=index.device)
    low = torch.tensor(grid.range_m[:3], device=index.device)
    return index[:, [3, 2, 1]] * size + (size / 2 + low)


def dense_pillar_features(
    encoder: PillarEncoder, slots: Tensor, count: Tensor, center: Tensor
) -> Tensor:
    """The published computation, slot by slot: the definition of :class:`PillarEncoder`.

    Args:
        encoder: its linear layer and norm are used (and the norm's statistics updated in training).
        slots: (M, S, 5) points of each pillar, kept ones first, zeros after.
        count: (M,) kept points.
        center: (M, 3) centres of the pillars.

    Returns:
        (M, channels).
    """
    valid = torch.arange(slots.shape[1], device=slots.device) < count[:, None]
    xyz = slots[..., :3]
    mean = xyz.sum(dim=1, keepdim=True) / count[:, None, None]
    decorated = torch.cat((slots, xyz - mean, xyz - center[:, None]), dim=-1) * valid[..., None]
    x = torch.relu(encoder.norm(encoder.linear(decorated).transpose(1, 2))).transpose(1, 2)
    return _pool(x.max(dim=1).values, x.sum(dim=1) / count[:, None], encoder.pooling)


def _pool(highest: Tensor, mean: Tensor, pooling: str) -> Tensor:
    return {"maxavg": (highest + mean) / 2, "max": highest, "avg": mean}[pooling]
