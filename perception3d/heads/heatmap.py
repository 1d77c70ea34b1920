"""Queries from heat maps: class peaks on the BEV features and in the images become reference
points.

TransFusion (arXiv 2203.11496, section 3.2) starts its decoder from the peaks of a dense class heat
map instead of a learned table, and trains in a fraction of the steps. Here the same is done on the
LiDAR features and, with a depth beside the class, on the image features; with both sensors the
decoder gets the union.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d

from perception3d.geometry import pixel_rays
from perception3d.heads.heatmap_targets import bev_heat_target, image_targets
from perception3d.heads.queries import QuerySet
from perception3d.losses.focal import gaussian_focal_loss
from perception3d.structures import Batch, BEVFeatures, BEVGrid, ImageFeatures

#: Initial score of every cell: sigmoid(-2.19) is about 0.1, so that background does not dominate
#: (CenterNet).
HEAT_BIAS = -2.19
#: Focal length to which depths refer: images of any scale and lens share one regression.
REFERENCE_FOCAL_PX = 300.0
#: exp(this) is the depth in metres, at the reference focal length, that an untrained network
#: predicts.
INITIAL_LOG_DEPTH = 3.0


class HeatmapQueries(nn.Module):
    """A :class:`perception3d.heads.queries.QuerySource` of heat-map peaks.

    Args:
        channels: C of both feature maps and of the content.
        grid: extent to which reference points are normalised.
        num_classes: K.
        hidden: channels inside the heat and depth branches.
        bev_queries: peaks taken from the BEV map; 0 leaves the BEV branch out.
        image_queries: peaks taken from all images of a sample together; 0 leaves the branch out.
        small_labels: classes smaller than a cell, whose neighbours may all be peaks (no 3x3
        suppression). min_radius_cells: least Gaussian radius of a BEV target.
        bev_weight, heat_weight, depth_weight: weights of the three loss terms.
        lidar_depth_weight: weight of the depth of LiDAR points beside that of box centres, within
        the
            depth term.
    """

    def __init__(
        self,
        *,
        channels: int,
        grid: BEVGrid,
        num_classes: int = 10,
        hidden: int = 64,
        bev_queries: int = 150,
        image_queries: int = 0,
        small_labels: tuple[int, ...] = (5, 8, 9),
        min_radius_cells: int = 1,
        bev_weight: float = 1.0,
        heat_weight: float = 1.0,
        depth_weight: float = 1.0,
        lidar_depth_weight: float = 0.2,
    ) -> None:
        super().__init__()
        if bev_queries + image_queries < 1:
            raise ValueError(
                "HeatmapQueries needs at least one BEV or image query; both counts are 0"
            )
        self.grid, self.num_classes = grid, num_classes
        self.bev_queries, self.image_queries = bev_queries, image_queries
        self.small_labels, self.min_radius_cells = small_labels, min_radius_cells
        self.bev_weight, self.heat_weight = bev_weight, heat_weight
        self.depth_weight, self.lidar_depth_weight = depth_weight, lidar_depth_weight
        self.class_content = nn.Embedding(num_classes, channels)
        # A BEV peak has no height; each class learns where on average its centres lie.
        self.class_height = nn.Parameter(torch.full((num_classes,), 0.5))
        if bev_queries:
            self.bev_heat = _dense_branch(channels, hidden, num_classes, HEAT_BIAS)
        if image_queries:
            self.image_heat = _dense_branch(channels, hidden, num_classes, HEAT_BIAS)
            self.image_depth = _dense_branch(channels, hidden, 1, INITIAL_LOG_DEPTH)

    def forward(
        self, bev: BEVFeatures | None, images: ImageFeatures | None, batch: Batch
    ) -> QuerySet:
        """Union of both sensors' peaks; see :class:`perception3d.heads.queries.QuerySource`.

        Raises:
            ValueError: no sensor is there for which the module has queries.
        """
        references, contents, maps = [], [], {}
        if bev is not None and self.bev_queries:
            maps["bev_heat"] = self.bev_heat(bev.data)
            reference, content = self._from_bev(bev, maps["bev_heat"])
            references.append(reference)
            contents.append(content)
        if images is not None and self.image_queries:
            flat = images.data.flatten(0, 1)
            maps["image_heat"] = self.image_heat(flat).unflatten(0, images.data.shape[:2])
            maps["image_depth"] = self.image_depth(flat).unflatten(0, images.data.shape[:2])
            reference, content = self._from_images(images, maps, batch)
            references.append(reference)
            contents.append(content)
        if not references:
            present = [name for name, x in (("LiDAR", bev), ("camera", images)) if x is not None]
            raise ValueError(
                f"heat-map queries come from {self.bev_queries} BEV and {self.image_queries} image "
                f"peaks, but this batch has {' and '.join(present) or 'no'} features"
            )
        return QuerySet(torch.cat(references, dim=1), torch.cat(contents, dim=1), maps)

    def loss(self, queries: QuerySet, batch: Batch) -> dict[str, Tensor]:
        """Gaussian focal losses of the heat maps and L1 of the log depth, by name."""
        assert batch.boxes is not None
        maps, terms = queries.maps, {}
        if "bev_heat" in maps:
            heat = maps["bev_heat"]
            target = bev_heat_target(
                batch.boxes, self.grid, heat.shape[1:], min_radius=self.min_radius_cells
            )
            terms["bev_heat"] = self.bev_weight * _heat_loss(heat, target)
        if "image_heat" in maps:
            heat = maps["image_heat"]
            targets = image_targets(batch, tuple(heat.shape[2:]))
            log_depth = maps["image_depth"].squeeze(2).float()
            log_depth = log_depth + _log_focal(batch)[:, :, None, None]
            at_center = _masked_mean(
                (log_depth - targets.center_log_depth).abs(), targets.is_center
            )
            at_point = _masked_mean((log_depth - targets.point_log_depth).abs(), targets.has_point)
            terms["image_heat"] = self.heat_weight * _heat_loss(heat, targets.heat)
            terms["image_depth"] = self.depth_weight * (
                at_center + self.lidar_depth_weight * at_point
            )
        return terms

    def _from_bev(self, bev: BEVFeatures, heat_logits: Tensor) -> tuple[Tensor, Tensor]:
        _, _, rows, columns = heat_logits.shape
        label, cell = self._peaks(heat_logits.detach().sigmoid(), self.bev_queries)
        x = (cell % columns + 0.5) / columns
        y = (cell // columns + 0.5) / rows
        reference = torch.stack((x, y, self.class_height[label].clamp(0, 1)), dim=-1)
        return reference, self._content(bev.data.flatten(2), cell, label)

    def _from_images(
        self, images: ImageFeatures, maps: dict[str, Tensor], batch: Batch
    ) -> tuple[Tensor, Tensor]:
        assert batch.rig is not None
        rows, columns = images.data.shape[-2:]
        heat = maps["image_heat"].detach().sigmoid()
        # All views in one in one tall map: the best peaks of a sample, whichever camera they are
        # in.
        tall = heat.transpose(1, 2).flatten(2, 3)
        suppressed = self._suppress(heat.flatten(0, 1)).unflatten(0, heat.shape[:2])
        label, cell = _top(suppressed.transpose(1, 2).reshape(tall.shape), self.image_queries)
        view, within = cell // (rows * columns), cell % (rows * columns)
        uv = torch.stack((within % columns, within // columns), dim=-1).float() + 0.5
        log_depth = maps["image_depth"].detach().float().flatten(1) + _log_focal(batch)[
            :, :, None
        ].expand(-1, -1, rows * columns).flatten(1)
        depth = log_depth.gather(1, cell).clamp(-1.0, 5.0).exp()
        ref_T_image = torch.linalg.inv(batch.rig.ref_to_image()).float()
        of_view = ref_T_image.gather(1, view[..., None, None].expand(-1, -1, 4, 4))
        xyz = pixel_rays(uv[:, :, None] * images.stride, depth[:, :, None], of_view).squeeze(2)
        reference = self._normalised(xyz)
        features = images.data.transpose(1, 2).flatten(2)
        return reference, self._content(features, cell, label)

    def _peaks(self, heat: Tensor, count: int) -> tuple[Tensor, Tensor]:
        return _top(self._suppress(heat), count)

    def _suppress(self, heat: Tensor) -> Tensor:
        """Zero what is not the maximum of its 3x3 neighbourhood, except in small classes."""
        peak = heat == max_pool2d(heat, 3, stride=1, padding=1)
        for label in self.small_labels:
            peak[:, label] = True
        return heat * peak

    def _content(self, features: Tensor, cell: Tensor, label: Tensor) -> Tensor:
        """(B, Q, C) features (B, C, cells) at the cells plus the class's embedding."""
        index = cell[:, None].expand(-1, features.shape[1], -1)
        return features.gather(2, index).transpose(1, 2) + self.class_content(label)

    def _normalised(self, xyz_m: Tensor) -> Tensor:
        low = torch.tensor(self.grid.range_m[:3], device=xyz_m.device)
        high = torch.tensor(self.grid.range_m[3:], device=xyz_m.device)
        return ((xyz_m - low) / (high - low)).clamp(0, 1)


def _dense_branch(channels: int, hidden: int, outputs: int, bias: float) -> nn.Sequential:
    last = nn.Conv2d(hidden, outputs, 3, padding=1)
    nn.init.constant_(last.bias, bias)  # type: ignore[arg-type]
    nn.init.normal_(last.weight, std=0.01)
    return nn.Sequential(
        nn.Conv2d(channels, hidden, 3, padding=1, bias=False),
        nn.BatchNorm2d(hidden),
        nn.ReLU(inplace=True),
        last,
    )


def _top(heat: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Labels and flat cells (B, Q) of the highest values of (B, K, rows, columns)."""
    cells = heat[0, 0].numel()
    flat = heat.flatten(1)
    index = flat.topk(min(count, flat.shape[1]), dim=1).indices
    return index // cells, index % cells


def _log_focal(batch: Batch) -> Tensor:
    """(B, V) log of the present focal length over the reference's."""
    assert batch.rig is not None
    focal = (batch.rig.image_aug @ batch.rig.K)[..., 1, 1].abs().float()
    return (focal / REFERENCE_FOCAL_PX).log()


def _heat_loss(logits: Tensor, target: Tensor) -> Tensor:
    positives = (target == 1).sum().clamp_min(1)
    return gaussian_focal_loss(logits, target).sum() / positives


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, values, torch.zeros_like(values)).sum() / mask.sum().clamp_min(1)
