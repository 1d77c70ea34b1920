"""The images of one or two moments, carried to one map seen from above.

PETRv2 shows its decoder where the rays of an earlier frame pass in the present ``ref``, and leaves
it to attention to find that something moved; learned from scratch that takes days. Here both
moments' images are lifted with their predicted depths (LSS, arXiv 2008.05711; BEVDepth, arXiv
2206.10092), each with its own cameras in the present ``ref``: what stands still lies on itself,
what moves lies beside itself, and a convolution over both maps sees by how much (BEVDet4D, arXiv
2203.17054).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from perception3d.geometry import project_points
from perception3d.heads.petr_depth import DepthBranch, Seen, image_losses
from perception3d.nn.conv import conv_norm_relu
from perception3d.structures import Batch, BEVFeatures, BEVGrid, CameraRig, ImageFeatures

#: Nearer to the image plane than this, a point is not looked at.
NEAR_M = 0.5


@dataclass(frozen=True)
class Lifted:
    """What was lifted.

    Attributes:
        map: from above.
        seen: in the images of the current frame.
    """

    map: BEVFeatures
    seen: Seen


class DepthLift(nn.Module):
    """One moment's images to a map: a cell takes what images show of it, as far as it is there.

    A cell looks into the images at some heights. What it finds there counts by the probability
    that the image's depth falls within the cell: the share of the distribution between half a cell
    before and half a cell behind. That is the lifting of LSS, asked for from above: no cell near
    the vehicle is crowded, none far away missed.

    Args:
        depth: predicts depths and what is lifted.
        grid: of the map.
        heights_m: z at which a cell is looked up, in ``ref``.
    """

    points: Tensor

    def __init__(
        self, *, depth: DepthBranch, grid: BEVGrid, heights_m: Sequence[float] = (-1.3, -0.4)
    ) -> None:
        super().__init__()
        self.depth = depth
        self.grid = grid
        self.heights = len(heights_m)
        xy = grid.centers_m().flatten(0, 1).repeat_interleave(self.heights, dim=0)
        z = torch.tensor(tuple(heights_m)).repeat(grid.ny * grid.nx)
        self.register_buffer("points", torch.cat((xy, z[:, None]), dim=1), persistent=False)

    def forward(
        self, images: ImageFeatures, rig: CameraRig, image_hw: tuple[int, int]
    ) -> tuple[Tensor, Seen]:
        """Map (B, lifted, ny, nx), and what the images show.

        Args:
            images: (B, V, C, h, w) of one moment.
            rig: of the same views, in the present ``ref``.
            image_hw: (H, W) of the images before padding: what lies behind is not looked at.
        """
        (samples, views), (h, w) = images.data.shape[:2], images.data.shape[-2:]
        seen = self.depth(images.data, rig, (h * images.stride, w * images.stride))
        rows = seen.context.permute(0, 1, 3, 4, 2).reshape(-1, self.depth.lifted)
        share = seen.depth.softmax(dim=2).permute(0, 1, 3, 4, 2).reshape(-1, self.depth.bins)
        below = nn.functional.pad(share.cumsum(dim=1), (1, 0))
        uv, depth = project_points(self.points, rig.ref_to_image().float())
        inside = (uv >= 0).all(dim=-1) & (uv[..., 0] < image_hw[1]) & (uv[..., 1] < image_hw[0])
        inside &= (depth > NEAR_M) & (depth < self.depth.edges_m[-1])
        sample, view, point = inside.nonzero(as_tuple=True)
        at = uv[sample, view, point] / images.stride - 0.5
        metres = depth[sample, view, point]
        first = (sample * views + view) * (h * w)
        found = self._looked_up(rows, below, first, at, metres, (h, w))
        cells = self.grid.ny * self.grid.nx
        cell = sample * cells + point // self.heights
        total = found.new_zeros(samples * cells, self.depth.lifted).index_add(0, cell, found)
        total = total.view(samples, self.grid.ny, self.grid.nx, -1).permute(0, 3, 1, 2)
        return total, seen

    def _looked_up(
        self,
        rows: Tensor,
        below: Tensor,
        first: Tensor,
        at: Tensor,
        metres: Tensor,
        shape: tuple[int, int],
    ) -> Tensor:
        """(P, lifted) what P points find: bilinear in the image, each pixel by its own depth.

        Args:
            rows: (cells, lifted) of all images.
            below: (cells, D + 1) probability that a cell is nearer than each border of the bins.
            first: (P,) first cell of each point's image.
            at: (P, 2) place x, y in it.
            metres: (P,) depth of the points.
            shape: (h, w) of an image.
        """
        h, w = shape
        half = self.grid.cell_m / 2
        ends = [self._place(metres - half), self._place(metres + half)]
        flat, borders = below.reshape(-1), below.shape[1]
        corner = at.floor()
        part = at - corner
        out = rows.new_zeros(len(at), rows.shape[1])
        for dy in (0, 1):
            for dx in (0, 1):
                x = (corner[:, 0].long() + dx).clamp(0, w - 1)
                y = (corner[:, 1].long() + dy).clamp(0, h - 1)
                cell = first + y * w + x
                mass = [
                    torch.lerp(
                        flat.index_select(0, cell * borders + low),
                        flat.index_select(0, cell * borders + low + 1),
                        beyond,
                    )
                    for low, beyond in ends
                ]
                weight = (part[:, 0] if dx else 1 - part[:, 0]) * (
                    part[:, 1] if dy else 1 - part[:, 1]
                )
                weight = weight * (mass[1] - mass[0])
                out = out + rows.index_select(0, cell) * weight[:, None].to(rows.dtype)
        return out

    def _place(self, metres: Tensor) -> tuple[Tensor, Tensor]:
        """Bin of each depth and how far into it, in [0, 1]; depths outside go to the ends."""
        edges = self.depth.edges_m
        low = (torch.bucketize(metres, edges, right=True) - 1).clamp(0, len(edges) - 2)
        beyond = (metres - edges[low]) / (edges[low + 1] - edges[low])
        return low, beyond.clamp(0, 1)


class TemporalLift(nn.Module):
    """The images of all frames to one map.

    Args:
        lift: of one frame; the same weights serve both.
        frames: 1 or 2, as the model has.
        maps: that are joined. With more than frames the present stands in for the earlier frame, as
            in a scene's first one: a model of one frame then has the weights of one of two.
        channels: of the result.
        depth_weight, image_heat_weight: of the losses in the images.
        earlier_gradient: learn through the earlier frame's images too; False saves a third of a
            step (the weights are those of the current frame's images).
    """

    def __init__(
        self,
        *,
        lift: DepthLift,
        frames: int,
        channels: int,
        maps: int | None = None,
        depth_weight: float = 3.0,
        image_heat_weight: float = 1.0,
        earlier_gradient: bool = True,
    ) -> None:
        super().__init__()
        self.lift = lift
        self.frames, self.channels = frames, channels
        self.maps = frames if maps is None else maps
        if self.maps < frames:
            raise ValueError(f"{frames} frames make as many maps to join; found {self.maps}")
        self.depth_weight, self.image_heat_weight = depth_weight, image_heat_weight
        self.earlier_gradient = earlier_gradient
        self.join = conv_norm_relu(self.maps * lift.depth.lifted, channels)
        wide = channels * 3 // 2
        self.around = nn.Sequential(
            conv_norm_relu(channels, wide, stride=2),
            conv_norm_relu(wide, wide),
            conv_norm_relu(wide, wide),
            nn.Conv2d(wide, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.out = conv_norm_relu(channels, channels)

    def forward(self, images: ImageFeatures, rig: CameraRig, image_hw: tuple[int, int]) -> Lifted:
        """The map of all frames.

        Args:
            images: (B, frames V, C, h, w), the current frame's views first.
            rig: of the same views, in the present ``ref``.
            image_hw: (H, W) of the images before padding.

        Raises:
            ValueError: the views are not those of ``frames`` frames.
        """
        views, more = divmod(images.data.shape[1], self.frames)
        if more:
            raise ValueError(
                f"{images.data.shape[1]} views are not those of {self.frames} frames alike"
            )
        maps, seen = [], []
        for frame in range(self.frames):
            these = slice(frame * views, (frame + 1) * views)
            data = ImageFeatures(images.data[:, these], images.stride)
            learning = torch.is_grad_enabled() and (frame == 0 or self.earlier_gradient)
            with torch.set_grad_enabled(learning):
                lifted, images_show = self.lift(data, rig.views(these), image_hw)
            maps.append(lifted)
            seen.append(images_show)
        maps += maps[:1] * (self.maps - self.frames)
        joined = self.join(torch.cat(maps, dim=1))
        around = nn.functional.interpolate(self.around(joined), size=joined.shape[-2:])
        bev = self.out(torch.relu(joined + around))
        return Lifted(BEVFeatures(bev, self.lift.grid), seen[0])

    def look(self, images: ImageFeatures, rig: CameraRig) -> Seen:
        """What the current frame's images (B, V, C, h, w) show; the first V views of the rig."""
        h, w = images.data.shape[-2:]
        current = rig.views(slice(images.data.shape[1]))
        return self.lift.depth(images.data, current, (h * images.stride, w * images.stride))

    def loss(self, seen: Seen, batch: Batch) -> dict[str, Tensor]:
        """Terms of what images show, by name; see :func:`image_losses`."""
        terms = image_losses(seen, batch, self.lift.depth.edges_m)
        terms["image_depth"] = self.depth_weight * terms["image_depth"]
        terms["image_heat"] = self.image_heat_weight * terms["image_heat"]
        return terms
