"""What the heat maps of :mod:`perception3d.heads.heatmap` should show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from perception3d.geometry import project_points
from perception3d.losses.gaussian import draw_gaussians, gaussian_radius
from perception3d.structures import Batch, BEVGrid, Boxes3D

#: Overlap that a shifted box must keep: loose from above (CenterPoint), tight in images
#: (CornerNet).
BEV_MIN_OVERLAP = 0.1
IMAGE_MIN_OVERLAP = 0.7
#: Centres nearer to a camera than this are not its business.
NEAREST_DEPTH_M = 1.0


@dataclass(frozen=True)
class ImageTargets:
    """Targets of V images of B samples, at the resolution of the feature maps.

    Attributes:
        heat: (B, V, K, h, w) in [0, 1].
        is_center: (B, V, h, w) bool, cells with a box centre.
        center_log_depth: (B, V, h, w) log metres of the nearest centre in the cell, 0 elsewhere.
        has_point: (B, V, h, w) bool, cells with a LiDAR point and no centre.
        point_log_depth: (B, V, h, w) log metres of the nearest point, 0 elsewhere.
    """

    heat: Tensor
    is_center: Tensor
    center_log_depth: Tensor
    has_point: Tensor
    point_log_depth: Tensor


def bev_heat_target(
    boxes: Sequence[Boxes3D], grid: BEVGrid, shape: Sequence[int], *, min_radius: int
) -> Tensor:
    """(B, K, rows, columns) Gaussians at the box centres seen from above.

    Args:
        boxes: one set a sample, in the grid's frame; centres outside and ignored labels are left
        out. grid: extent of the map.
        shape: K, rows, columns of the map, whose cells may be larger than the grid's.
        min_radius: least radius in cells.
    """
    classes, rows, columns = shape
    cell_x = (grid.x_m[1] - grid.x_m[0]) / columns
    cell_y = (grid.y_m[1] - grid.y_m[0]) / rows
    targets = []
    for one in boxes:
        column = torch.floor((one.center_m[:, 0] - grid.x_m[0]) / cell_x).long()
        row = torch.floor((one.center_m[:, 1] - grid.y_m[0]) / cell_y).long()
        inside = (column >= 0) & (column < columns) & (row >= 0) & (row < rows) & (one.label >= 0)
        size = one.size_lwh_m[:, :2].float() / torch.tensor(
            [cell_x, cell_y], device=one.center_m.device
        )
        radius = gaussian_radius(size, min_overlap=BEV_MIN_OVERLAP).long().clamp_min(min_radius)
        cell = torch.stack((row, column), dim=1)
        targets.append(
            draw_gaussians(
                cell[inside], radius[inside], one.label[inside], shape=(classes, rows, columns)
            )
        )
    return torch.stack(targets)


def image_targets(batch: Batch, shape: tuple[int, int, int]) -> ImageTargets:
    """Targets of all images of a batch with boxes and, where there are points, LiDAR depth.

    Args:
        batch: needs images, rig and boxes.
        shape: K, h, w of the feature maps.
    """
    assert batch.images is not None and batch.rig is not None and batch.boxes is not None
    rows, columns = shape[1:]
    height, width = batch.images.shape[-2:]
    ref_to_image = batch.rig.ref_to_image().float()
    parts = []
    for sample, boxes in enumerate(batch.boxes):
        heat, center_depth = _box_targets(boxes, ref_to_image[sample], (height, width), shape)
        point_depth = torch.full_like(center_depth, torch.inf)
        if batch.points is not None and batch.offsets is not None:
            rows_of_sample = slice(int(batch.offsets[sample]), int(batch.offsets[sample + 1]))
            points = batch.points[rows_of_sample]
            # Older sweeps show moving things where they no longer are.
            points = points[points[:, 4] < 0.06, :3]
            cell, depth = _cells(points, ref_to_image[sample], (height, width), (rows, columns))
            point_depth = _nearest(cell, depth, point_depth)
        parts.append((heat, center_depth, point_depth))
    heat, center_depth, point_depth = (torch.stack(part) for part in zip(*parts))
    is_center = torch.isfinite(center_depth)
    has_point = torch.isfinite(point_depth) & ~is_center
    return ImageTargets(
        heat,
        is_center,
        torch.where(is_center, center_depth, torch.ones_like(center_depth)).log(),
        has_point,
        torch.where(has_point, point_depth, torch.ones_like(point_depth)).log(),
    )


def _box_targets(
    boxes: Boxes3D, ref_to_image: Tensor, image_hw: tuple[int, int], shape: tuple[int, int, int]
) -> tuple[Tensor, Tensor]:
    """Heat (V, K, h, w) and depth (V, h, w), infinite where no centre is."""
    rows, columns = shape[1:]
    views = len(ref_to_image)
    known = boxes.select(boxes.label >= 0)
    cell, depth = _cells(known.center_m.float(), ref_to_image, image_hw, (rows, columns))
    corner_uv, corner_depth = project_points(known.corners().float().reshape(-1, 3), ref_to_image)
    corner_uv = corner_uv.reshape(views, -1, 8, 2)
    complete = (corner_depth.reshape(views, -1, 8) > 0.1).all(dim=-1)
    per_cell = torch.tensor([rows / image_hw[0], columns / image_hw[1]], device=corner_uv.device)
    extent = (corner_uv.amax(dim=2) - corner_uv.amin(dim=2)).flip(-1) * per_cell
    # A box that reaches behind the camera has no extent in the image: a tenth of the width stands
    # for it.
    extent = torch.where(complete[..., None], extent, torch.full_like(extent, columns / 10))
    extent = extent.clamp(max=float(max(rows, columns)))
    heat = []
    for view in range(views):
        visible = cell[view] >= 0
        row_column = torch.stack((cell[view] // columns, cell[view] % columns), dim=1)
        radius = gaussian_radius(extent[view], min_overlap=IMAGE_MIN_OVERLAP).long()
        heat.append(
            draw_gaussians(row_column[visible], radius[visible], known.label[visible], shape=shape)
        )
    empty = torch.full((views, rows, columns), torch.inf, device=cell.device)
    return torch.stack(heat), _nearest(cell, depth, empty)


def _cells(
    xyz: Tensor, ref_to_image: Tensor, image_hw: tuple[int, int], shape: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Flat cell (V, N), -1 where a point is outside the image, and depth (V, N)."""
    rows, columns = shape
    uv, depth = project_points(xyz, ref_to_image)
    column = torch.floor(uv[..., 0] * (columns / image_hw[1]))
    row = torch.floor(uv[..., 1] * (rows / image_hw[0]))
    inside = (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
    inside &= depth > NEAREST_DEPTH_M
    flat = torch.where(inside, row * columns + column, torch.full_like(row, -1))
    return flat.long(), depth


def _nearest(cell: Tensor, depth: Tensor, out: Tensor) -> Tensor:
    """The least depth of the points in every cell; ``out`` (V, h, w) where there is none."""
    views, rows, columns = out.shape
    seen = cell >= 0
    view = torch.arange(views, device=cell.device)[:, None].expand_as(cell)
    flat = out.reshape(-1).clone()
    index = (view * rows * columns + cell)[seen]
    flat.scatter_reduce_(0, index, depth[seen], "amin")
    return flat.view(out.shape)
