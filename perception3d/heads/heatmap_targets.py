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
#: What a BEV cell guesses of the box near it: shift of the centre from the cell's middle in cells,
#: then metres, logarithms of metres, the heading, metres a second.
BOX_GUESS = (
    "dx", "dy", "z", "log_length", "log_width", "log_height", "sin_yaw", "cos_yaw", "vx", "vy",
)  # fmt: skip
_NEIGHBOURS = torch.tensor([(x, y) for y in (-1, 0, 1) for x in (-1, 0, 1)])


@dataclass(frozen=True)
class ImageTargets:
    """Targets of V images of B samples, at the resolution of the feature maps.

    Attributes:
        heat: (B, V, K, h, w) in [0, 1].
        is_center: (B, V, h, w) bool, cells with a box centre.
        center_log_depth: (B, V, h, w) log metres of the nearest centre in the cell, 0 elsewhere.
        center_shift: (B, V, 2, h, w) that centre's place from the cell's middle, in cells (u, v).
        has_point: (B, V, h, w) bool, cells with a LiDAR point and no centre.
        point_log_depth: (B, V, h, w) log metres of the nearest point, 0 elsewhere.
    """

    heat: Tensor
    is_center: Tensor
    center_log_depth: Tensor
    center_shift: Tensor
    has_point: Tensor
    point_log_depth: Tensor


@dataclass(frozen=True)
class BevTargets:
    """Targets of a BEV map of B samples.

    Attributes:
        heat: (B, K, rows, columns) in [0, 1].
        sample, cell: (M,) int64 sample and flat cell of every cell that should guess a box: the one
            that holds its centre, and the eight around it.
        label: (M,) int64 class of the box.
        guess: (M, 10) the box as seen from the cell, in the order of :data:`BOX_GUESS`; NaN where
            unknown.
    """

    heat: Tensor
    sample: Tensor
    cell: Tensor
    label: Tensor
    guess: Tensor


def bev_targets(
    boxes: Sequence[Boxes3D], grid: BEVGrid, shape: Sequence[int], *, min_radius: int
) -> BevTargets:
    """Gaussians at the box centres seen from above, and the boxes for the cells around them.

    Args:
        boxes: one set a sample, in the grid's frame; centres outside and ignored labels are left
            out.
        grid: extent of the map.
        shape: K, rows, columns of the map, whose cells may be larger than the grid's.
        min_radius: least radius in cells.
    """
    classes, rows, columns = shape
    device = boxes[0].center_m.device
    low = torch.tensor([grid.x_m[0], grid.y_m[0]], device=device)
    cell_m = torch.tensor(
        [(grid.x_m[1] - grid.x_m[0]) / columns, (grid.y_m[1] - grid.y_m[0]) / rows], device=device
    )
    limit = torch.tensor([columns, rows], device=device)
    heat, samples, cells, labels, guesses = [], [], [], [], []
    for sample, every in enumerate(boxes):
        place = (every.center_m[:, :2].float() - low) / cell_m
        inside = ((place >= 0) & (place < limit)).all(dim=1) & (every.label >= 0)
        one, place = every.select(inside), place[inside]
        column_row = place.floor().long()
        radius = gaussian_radius(
            one.size_lwh_m[:, :2].float() / cell_m, min_overlap=BEV_MIN_OVERLAP
        )
        radius = radius.long().clamp_min(min_radius)
        heat.append(
            draw_gaussians(column_row.flip(1), radius, one.label, shape=(classes, rows, columns))
        )
        around = column_row[:, None] + _NEIGHBOURS.to(device)
        seen_from = place[:, None] - around - 0.5
        rest = _box_numbers(one)[:, None].expand(-1, len(_NEIGHBOURS), -1)
        on_map = ((around >= 0) & (around < limit)).all(dim=2)
        cells.append((around[..., 1] * columns + around[..., 0])[on_map])
        samples.append(torch.full_like(cells[-1], sample))
        labels.append(one.label[:, None].expand_as(on_map)[on_map])
        guesses.append(torch.cat((seen_from, rest), dim=2)[on_map])
    return BevTargets(
        torch.stack(heat),
        torch.cat(samples),
        torch.cat(cells),
        torch.cat(labels),
        torch.cat(guesses),
    )


def _box_numbers(boxes: Boxes3D) -> Tensor:
    """(N, 8) what :data:`BOX_GUESS` lists after the place."""
    parts = (
        boxes.center_m[:, 2:],
        boxes.size_lwh_m.log(),
        boxes.yaw_rad.sin()[:, None],
        boxes.yaw_rad.cos()[:, None],
        boxes.velocity_mps,
    )
    return torch.cat([part.float() for part in parts], dim=1)


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
        heat, center_depth, shift = _box_targets(
            boxes, ref_to_image[sample], (height, width), shape
        )
        point_depth = torch.full_like(center_depth, torch.inf)
        if batch.points is not None and batch.offsets is not None:
            rows_of_sample = slice(int(batch.offsets[sample]), int(batch.offsets[sample + 1]))
            points = batch.points[rows_of_sample]
            # Older sweeps show moving things where they no longer are.
            points = points[points[:, 4] < 0.06, :3]
            cell, depth, _ = image_cells(
                points, ref_to_image[sample], (height, width), (rows, columns)
            )
            point_depth = _nearest(cell, depth, point_depth)
        parts.append((heat, center_depth, shift, point_depth))
    heat, center_depth, shift, point_depth = (torch.stack(part) for part in zip(*parts))
    is_center = torch.isfinite(center_depth)
    has_point = torch.isfinite(point_depth) & ~is_center
    return ImageTargets(
        heat,
        is_center,
        torch.where(is_center, center_depth, torch.ones_like(center_depth)).log(),
        shift,
        has_point,
        torch.where(has_point, point_depth, torch.ones_like(point_depth)).log(),
    )


def _box_targets(
    boxes: Boxes3D, ref_to_image: Tensor, image_hw: tuple[int, int], shape: tuple[int, int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Heat (V, K, h, w), depth (V, h, w), infinite where no centre is, and shift (V, 2, h, w)."""
    rows, columns = shape[1:]
    views = len(ref_to_image)
    known = boxes.select(boxes.label >= 0)
    cell, depth, shift = image_cells(
        known.center_m.float(), ref_to_image, image_hw, (rows, columns)
    )
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
    nearest = _nearest(cell, depth, empty)
    # The shift belongs to the box whose depth won the cell.
    of_view = torch.arange(views, device=cell.device)[:, None].expand_as(cell)
    won = (cell >= 0) & (nearest.flatten(1).gather(1, cell.clamp_min(0)) == depth)
    shifts = torch.zeros(views, rows * columns, 2, device=cell.device)
    shifts[of_view[won], cell[won]] = shift[won]
    return torch.stack(heat), nearest, shifts.transpose(1, 2).unflatten(2, (rows, columns))


def image_cells(
    xyz: Tensor, ref_to_image: Tensor, image_hw: tuple[int, int], shape: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Flat cell (V, N), -1 where a point is outside the image, depth (V, N), shift (V, N, 2)."""
    rows, columns = shape
    uv, depth = project_points(xyz, ref_to_image)
    place = uv * torch.tensor([columns / image_hw[1], rows / image_hw[0]], device=uv.device)
    column, row = place.floor().unbind(-1)
    inside = (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
    inside &= depth > NEAREST_DEPTH_M
    flat = torch.where(inside, row * columns + column, torch.full_like(row, -1))
    return flat.long(), depth, place - place.floor() - 0.5


def _nearest(cell: Tensor, depth: Tensor, out: Tensor) -> Tensor:
    """The least depth of the points in every cell; ``out`` (V, h, w) where there is none."""
    views, rows, columns = out.shape
    seen = cell >= 0
    view = torch.arange(views, device=cell.device)[:, None].expand_as(cell)
    flat = out.reshape(-1).clone()
    index = (view * rows * columns + cell)[seen]
    flat.scatter_reduce_(0, index, depth[seen], "amin")
    return flat.view(out.shape)
