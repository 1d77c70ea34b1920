"""Queries from heat maps: class peaks on BEV and image features become reference points.

TransFusion (arXiv 2203.11496, section 3.2) starts its decoder from the peaks of a dense class heat
map instead of a learned table, and trains in a fraction of the steps. Here the same is done on the
LiDAR features and, with a depth beside the class, on the image features; with both sensors the
decoder gets the union. Beside each peak stands a first guess (on the BEV map a whole box, as in
CenterPoint, arXiv 2006.11275; in an image the place and depth of the centre), so that reference
points are finer than cells and the features are taught what the decoder will ask of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d

from perception3d.geometry import pixel_rays
from perception3d.heads.box_code import join_slots
from perception3d.heads.heatmap_targets import (
    BOX_GUESS,
    BevTargets,
    bev_targets,
    image_cells,
    image_targets,
)
from perception3d.heads.image_lift import ImageLift
from perception3d.heads.peak_branch import PeakBranch
from perception3d.heads.queries import Guess, QuerySet
from perception3d.losses.focal import gaussian_focal_loss
from perception3d.structures import Batch, BEVFeatures, BEVGrid, ImageFeatures

#: Focal length to which depths refer: images of any scale and lens share one regression.
REFERENCE_FOCAL_PX = 300.0
#: Centres of boxes lie about this high above a LiDAR on a roof: where guesses start.
INITIAL_Z_M = -1.0
#: exp(this) is the depth in metres, at the reference focal length, that training starts from.
INITIAL_LOG_DEPTH = 3.0
#: Logit of the classes that a query is no peak of. A cell may be a peak of several classes, a query
#: each: if all of them claimed all classes, objects would come several times (LOG.md).
OTHER_LOGIT = -5.0
#: A BEV peak above this score keeps image peaks of its class away from its projection.
KNOWN_SCORE = 0.1
#: Square roots of the thresholds of CenterPoint's circle suppression for the ten nuScenes classes
#: (tianweiy/CenterPoint; WayneMao/PillarNeSt): nearer peaks are the same object, found twice.
CLEARANCE_M = (2.0, 3.46, 3.46, 3.16, 3.16, 1.0, 0.92, 0.92, 0.42, 0.42)
#: Initial shift of the logits of image peaks beside LiDAR's. After short training most of what only
#: an image shows is nothing, and stood above LiDAR's true objects (LOG.md). It is learned.
IMAGE_LOGIT_SHIFT = -2.0
#: A box faster than this moves.
MOVING_MPS = 0.5
#: Weight of the guessed velocity beside the other numbers of a box, by default.
VELOCITY_WEIGHT = 0.2


class HeatmapQueries(nn.Module):
    """A :class:`perception3d.heads.queries.QuerySource` of heat-map peaks.

    Args:
        channels: C of the image features and of the content.
        bev_channels: of the BEV features; None for C.
        grid: extent to which reference points are normalised.
        num_classes: K.
        hidden: channels inside the branches.
        bev_queries: peaks taken from the BEV map; 0 leaves the BEV branch out.
        image_queries: peaks taken from all images of a sample together; 0 leaves the branch out.
        image_queries_alone: the same when there is no BEV map; None for as many.
        lifted_channels: of the image features that the BEV heat map sees beside LiDAR's; 0: none.
        clearance_m: least distance between two BEV peaks of a class, one number a class.
        small_labels: classes smaller than an image cell, whose neighbours may all be peaks.
        min_radius_cells: least Gaussian radius of a BEV target.
        heat_weight, guess_weight: weights of the heat maps' and the guesses' terms. The decoder's
            box losses are in metres and send gradients tens of times as large into the features:
            with weights of 1 the heat maps hardly learn (LOG.md).
        lidar_depth_weight: weight of the depth of LiDAR points beside that of box centres.
        typical_size_lwh_m: a size a class, from which sizes are learned as differences; without
            them the first hundreds of steps go into finding out how large a car is.
        velocity_weight: of the guessed velocity beside the other numbers of a box.
        moving_weight: of moving boxes' velocities beside those of others. Most boxes stand, so that
            the least absolute error is that of "nothing moves" until motion is seen surely.
    """

    def __init__(
        self,
        *,
        channels: int,
        bev_channels: int | None = None,
        grid: BEVGrid,
        num_classes: int = 10,
        hidden: int = 64,
        bev_queries: int = 150,
        image_queries: int = 0,
        image_queries_alone: int | None = None,
        lifted_channels: int = 0,
        clearance_m: Sequence[float] = CLEARANCE_M,
        small_labels: tuple[int, ...] = (5, 8, 9),
        min_radius_cells: int = 1,
        heat_weight: float = 10.0,
        guess_weight: float = 5.0,
        lidar_depth_weight: float = 0.2,
        typical_size_lwh_m: Sequence[Sequence[float]] | None = None,
        velocity_weight: float = VELOCITY_WEIGHT,
        moving_weight: float = 1.0,
    ) -> None:
        super().__init__()
        sizes = torch.ones(num_classes, 3)
        if typical_size_lwh_m is not None:
            sizes = torch.tensor(typical_size_lwh_m)
        if sizes.shape != (num_classes, 3):
            raise ValueError(
                f"typical_size_lwh_m must be {num_classes} x 3; found {tuple(sizes.shape)}"
            )
        if bev_queries + image_queries < 1:
            raise ValueError(
                "HeatmapQueries needs at least one BEV or image query; both counts are 0"
            )
        self.grid = grid
        self.bev_queries, self.image_queries = bev_queries, image_queries
        self.image_queries_alone = image_queries_alone or image_queries
        if len(clearance_m) != num_classes:
            raise ValueError(
                f"clearance_m must hold {num_classes} numbers; found {len(clearance_m)}"
            )
        self.clearance_m = tuple(clearance_m)
        self.small_labels, self.min_radius_cells = small_labels, min_radius_cells
        self.heat_weight, self.guess_weight = heat_weight, guess_weight
        self.lidar_depth_weight = lidar_depth_weight
        self.velocity_weight, self.moving_weight = velocity_weight, moving_weight
        self.class_content = nn.Embedding(num_classes, channels)
        nn.init.normal_(self.class_content.weight, std=0.1)
        self.class_log_size = nn.Parameter(sizes.log())
        self.lift = None
        if bev_queries and lifted_channels:
            self.lift = ImageLift(channels=channels, lifted=lifted_channels)
        if bev_queries:
            bev_channels = channels if bev_channels is None else bev_channels
            bev_channels += lifted_channels
            self.bev = PeakBranch(bev_channels, hidden, num_classes, len(BOX_GUESS))
            self.bev_content = nn.Linear(bev_channels, channels)
            nn.init.constant_(self.bev.guess.bias[2], INITIAL_Z_M)  # type: ignore[index]
            self.box_content = nn.Linear(len(BOX_GUESS), channels)
        if image_queries:
            self.image = PeakBranch(channels, hidden, num_classes, 3)
            nn.init.constant_(self.image.guess.bias[2:], INITIAL_LOG_DEPTH)  # type: ignore[index]
            if bev_queries:
                self.image_logit_shift = nn.Parameter(torch.tensor(IMAGE_LOGIT_SHIFT))

    def forward(
        self, bev: BEVFeatures | None, images: ImageFeatures | None, batch: Batch
    ) -> QuerySet:
        """Union of both sensors' peaks; see :class:`perception3d.heads.queries.QuerySource`.

        Raises:
            ValueError: no sensor is there for which the module has queries.
        """
        found: list[_Found] = []
        maps: dict[str, Tensor] = {}
        if bev is not None and self.bev_queries:
            bev = self._with_images(bev, images, batch)
            maps["bev_heat"], maps["bev_guess"] = self.bev(bev.data)
            found.append(self._from_bev(bev, maps))
        if images is not None and self.image_queries:
            heat, guess = self.image(images.data.flatten(0, 1))
            size = images.data.shape[:2]
            maps["image_heat"], maps["image_guess"] = (
                heat.unflatten(0, size),
                guess.unflatten(0, size),
            )
            found.append(self._from_images(images, maps, batch, known=found))
        if not found:
            present = [name for name, x in (("LiDAR", bev), ("camera", images)) if x is not None]
            raise ValueError(
                f"heat-map queries come from {self.bev_queries} BEV and {self.image_queries} image "
                f"peaks, but this batch has {' and '.join(present) or 'no'} features"
            )
        reference, content, box, logits = (torch.cat(part, dim=1) for part in zip(*found))
        return QuerySet(reference, content, Guess(box, logits), maps)

    def loss(self, queries: QuerySet, batch: Batch) -> dict[str, Tensor]:
        """Gaussian focal losses of the heat maps and L1 losses of the guesses, by name."""
        assert batch.boxes is not None
        terms: dict[str, Tensor] = {}
        if "bev_heat" in queries.maps:
            heat = queries.maps["bev_heat"]
            targets = bev_targets(
                batch.boxes, self.grid, heat.shape[1:], min_radius=self.min_radius_cells
            )
            terms["bev_heat"] = self.heat_weight * _heat_loss(heat, targets.heat)
            weights = (self.velocity_weight, self.moving_weight)
            guess = _guess_loss(queries.maps["bev_guess"], targets, self.class_log_size, weights)
            terms["bev_guess"] = self.guess_weight * guess
        if "image_heat" in queries.maps:
            terms |= self._image_terms(
                queries.maps["image_heat"], queries.maps["image_guess"], batch
            )
        return terms

    def _image_terms(self, heat: Tensor, guess: Tensor, batch: Batch) -> dict[str, Tensor]:
        classes, rows, columns = heat.shape[2:]
        targets = image_targets(batch, (classes, rows, columns))
        log_depth = guess[:, :, 2].float() + _log_focal(batch)[:, :, None, None]
        at_center = _masked_mean((log_depth - targets.center_log_depth).abs(), targets.is_center)
        at_point = _masked_mean((log_depth - targets.point_log_depth).abs(), targets.has_point)
        place = (guess[:, :, :2].float() - targets.center_shift).abs().sum(dim=2)
        depth = at_center + self.lidar_depth_weight * at_point
        return {
            "image_heat": self.heat_weight * _heat_loss(heat, targets.heat),
            "image_depth": self.guess_weight * depth,
            "image_place": self.guess_weight * _masked_mean(place, targets.is_center),
        }

    def _with_images(
        self, bev: BEVFeatures, images: ImageFeatures | None, batch: Batch
    ) -> BEVFeatures:
        if self.lift is None:
            return bev
        if images is None:
            shape = bev.data.shape[-2:]
            lifted = bev.data.new_zeros(len(bev.data), self.lift.lifted, *shape)
        else:
            lifted = self.lift(images, batch, bev.grid)
        return BEVFeatures(torch.cat((bev.data, lifted.to(bev.data.dtype)), dim=1), bev.grid)

    def _from_bev(self, bev: BEVFeatures, maps: dict[str, Tensor]) -> _Found:
        rows, columns = bev.data.shape[-2:]
        score, label, cell = _top(
            self._clear(maps["bev_heat"].detach().sigmoid()), self.bev_queries
        )
        guess = _at(maps["bev_guess"].detach().float().flatten(2), cell)
        # A guess reaches one cell beyond its own; what is wilder is not yet learned.
        shift = guess[..., :2].clamp(-1.5, 1.5)
        x = (cell % columns + 0.5 + shift[..., 0]) / columns
        y = (cell // columns + 0.5 + shift[..., 1]) / rows
        low, high = self.grid.z_m
        z = (guess[..., 2] - low) / (high - low)
        reference = torch.stack((x, y, z), dim=-1).clamp(0, 1)
        content = self.bev_content(_at(bev.data.flatten(2), cell)) + self.class_content(label)
        log_size = guess[..., 3:6] + self.class_log_size[label]
        box = join_slots(self._metres(reference), log_size, guess[..., 6:8], guess[..., 8:10])
        logits = _own_logit(score, label, maps["bev_heat"].shape[1])
        return _Found(reference, content + self.box_content(guess), box, logits)

    def _from_images(
        self,
        images: ImageFeatures,
        maps: dict[str, Tensor],
        batch: Batch,
        known: Sequence[_Found],
    ) -> _Found:
        """Peaks of the images, but for objects that ``known`` peaks hold already.

        Depth from one image is rough: the same object, found twice, would stand at two places.
        """
        assert batch.rig is not None
        rows, columns = images.data.shape[-2:]
        heat = maps["image_heat"].detach().sigmoid()
        peaks = self._suppress(heat.flatten(0, 1)).unflatten(0, heat.shape[:2])
        for found in known:
            peaks = peaks * ~self._shown(found, batch, peaks.shape)
        # All views in one tall map: the best peaks of a sample, whichever camera they are in.
        count = self.image_queries if known else self.image_queries_alone
        score, label, cell = _top(peaks.transpose(1, 2).flatten(2, 3), count)
        view, within = cell // (rows * columns), cell % (rows * columns)
        guess = _at(maps["image_guess"].detach().float().transpose(1, 2).flatten(2), cell)
        uv = torch.stack((within % columns, within // columns), dim=-1) + 0.5
        uv = uv + guess[..., :2].clamp(-1.5, 1.5)
        log_depth = guess[..., 2] + _log_focal(batch).gather(1, view)
        depth = log_depth.clamp(-1.0, 5.0).exp()
        ref_T_image = torch.linalg.inv(batch.rig.ref_to_image()).float()
        of_view = ref_T_image.gather(1, view[..., None, None].expand(-1, -1, 4, 4))
        xyz = pixel_rays(uv[:, :, None] * images.stride, depth[:, :, None], of_view).squeeze(2)
        reference = self._normalised(xyz)
        features = images.data.transpose(1, 2).flatten(2)
        unknown = torch.zeros_like(reference[..., :2])
        box = join_slots(self._metres(reference), self.class_log_size[label], unknown, unknown)
        logits = _own_logit(score, label, heat.shape[2])
        if known:
            logits = logits + self.image_logit_shift
        return _Found(reference, _at(features, cell) + self.class_content(label), box, logits)

    def _shown(self, found: _Found, batch: Batch, shape: Sequence[int]) -> Tensor:
        """Cells in which images show peaks found elsewhere: bool of ``shape`` (B, V, K, h, w).

        A peak covers its class around the projection of its reference point.
        """
        assert batch.rig is not None and batch.images is not None
        shown = torch.zeros(*shape, device=found.reference.device)
        sure = found.logits.amax(dim=2).sigmoid() > KNOWN_SCORE
        label = found.logits.argmax(dim=2)
        centers = self._metres(found.reference)
        projections = batch.rig.ref_to_image().float()
        for sample in range(shape[0]):
            peak = sure[sample].nonzero().squeeze(1)
            cell, _, _ = image_cells(
                centers[sample, peak],
                projections[sample],
                (batch.images.shape[-2], batch.images.shape[-1]),
                (shape[-2], shape[-1]),
            )
            view, seen = (cell >= 0).nonzero(as_tuple=True)
            flat = shown[sample].flatten(2)
            flat[view, label[sample, peak[seen]], cell[view, seen]] = 1
        return max_pool2d(shown.flatten(0, 1), 3, stride=1, padding=1).view(*shape) > 0

    def _clear(self, heat: Tensor) -> Tensor:
        """Zero BEV cells that are not the maximum within the clearance of their class."""
        cell_m = (self.grid.x_m[1] - self.grid.x_m[0]) / heat.shape[-1]
        cleared = torch.zeros_like(heat)
        reach = torch.tensor(self.clearance_m).div(cell_m).long()
        for cells in reach.unique().tolist():
            labels = (reach == cells).nonzero().squeeze(1)
            part = heat[:, labels]
            peak = part == max_pool2d(part, 2 * cells + 1, stride=1, padding=cells)
            cleared[:, labels] = part * peak
        return cleared

    def _suppress(self, heat: Tensor) -> Tensor:
        """Zero what is not the maximum of its 3x3 neighbourhood, except in small classes."""
        peak = heat == max_pool2d(heat, 3, stride=1, padding=1)
        for label in self.small_labels:
            peak[:, label] = True
        return heat * peak

    def _normalised(self, xyz_m: Tensor) -> Tensor:
        low, extent = self._limits(xyz_m.device)
        return ((xyz_m - low) / extent).clamp(0, 1)

    def _metres(self, reference: Tensor) -> Tensor:
        low, extent = self._limits(reference.device)
        return reference * extent + low

    def _limits(self, device: torch.device) -> tuple[Tensor, Tensor]:
        low, high = torch.tensor(self.grid.range_m, device=device).split(3)
        return low, high - low


class _Found(NamedTuple):
    """Peaks of one sensor, fields as in QuerySet and Guess."""

    reference: Tensor
    content: Tensor
    box: Tensor
    logits: Tensor


def _top(heat: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, labels and flat cells (B, Q) of the highest values of (B, K, rows, columns)."""
    cells = heat[0, 0].numel()
    flat = heat.flatten(1)
    score, index = flat.topk(min(count, flat.shape[1]), dim=1)
    return score, index // cells, index % cells


def _at(flat: Tensor, cell: Tensor) -> Tensor:
    """(B, Q, C) columns of (B, C, cells) at (B, Q) cells."""
    return flat.gather(2, cell[:, None].expand(-1, flat.shape[1], -1)).transpose(1, 2)


def _own_logit(score: Tensor, label: Tensor, classes: int) -> Tensor:
    """(B, Q, K) logits: the peak's own score at its class, little elsewhere."""
    logits = torch.full((*label.shape, classes), OTHER_LOGIT, device=label.device)
    own = torch.logit(score.float(), eps=1e-6).clamp_min(OTHER_LOGIT)
    return logits.scatter(2, label[..., None], own[..., None])


def _log_focal(batch: Batch) -> Tensor:
    """(B, V) log of the present focal length over the reference's."""
    assert batch.rig is not None
    focal = (batch.rig.image_aug @ batch.rig.K)[..., 1, 1].abs().float()
    return (focal / REFERENCE_FOCAL_PX).log()


def _heat_loss(logits: Tensor, target: Tensor) -> Tensor:
    positives = (target == 1).sum().clamp_min(1)
    return gaussian_focal_loss(logits, target).sum() / positives


def _guess_loss(
    guess: Tensor, targets: BevTargets, class_log_size: Tensor, weights: tuple[float, float]
) -> Tensor:
    """L1 over the numbers of a box, averaged over the cells that should guess one."""
    predicted = guess.float().flatten(2).transpose(1, 2)[targets.sample, targets.cell]
    predicted = predicted + nn.functional.pad(class_log_size[targets.label], (3, 4))
    weight = torch.ones(len(BOX_GUESS), device=guess.device)
    velocity_weight, moving_weight = weights
    weight[-2:] = velocity_weight
    known = torch.isfinite(targets.guess)
    error = torch.where(known, predicted - torch.nan_to_num(targets.guess), 0.0).abs()
    if moving_weight != 1:
        moves = targets.guess[:, -2:].norm(dim=1) > MOVING_MPS
        weight = weight.repeat(len(error), 1)
        weight[moves, -2:] *= moving_weight
    return (error * weight).sum() / max(len(targets.cell), 1)


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, values, torch.zeros_like(values)).sum() / mask.sum().clamp_min(1)
