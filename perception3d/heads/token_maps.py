"""Maps from above by queries on CMT's memory, each started from what sensors show at its place.

PETRv2's map queries (arXiv 2206.01256, section 3.4) look at CMT's memory (arXiv 2301.01283). The
joint model is ours: the two papers do not meet.

Queries that start from nothing must first learn where they are, which takes epochs; so each starts
from its part of a map: LiDAR's features there, beside image features read at the ground's
projection. What a cell shows by itself is also added to its logits directly (ours): a query draws
several cells, and says what lies around. A sensor that is missing leaves zeros in that map and no
tokens in the memory, so that one sensor alone, and either of two, draws maps: a dense head on
LiDAR's map could not.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import grid_sample, interpolate

from perception3d.heads.image_lift import ImageLift
from perception3d.heads.segmentation import PLACED_CELLS, MapOutputs, SegmentationHead
from perception3d.nn.conv import conv_norm_relu
from perception3d.structures import Batch, BEVFeatures, BEVGrid, ImageFeatures

#: Height of the ground in ``ref``: a LiDAR stands about this high on a roof (nuScenes: 1.84 m).
GROUND_Z_M = -1.8


class TokenMaps(nn.Module):
    """Logits of maps, from a memory of tokens and the sensors' features.

    Args:
        head: queries, decoder, drawing, losses; its ``bev_channels`` are ``channels``.
        grid: of the maps; square, with as many cells as the head draws.
        channels: of the map that queries start from.
        bev_channels: of LiDAR's features; None without LiDAR.
        image_channels: of the image features; None without cameras.
        lifted: channels of what is read in images.

    Raises:
        ValueError: the head draws another number of cells, or no sensor at all.
    """

    points: Tensor
    ground: Tensor

    def __init__(
        self,
        *,
        head: SegmentationHead,
        grid: BEVGrid,
        channels: int,
        bev_channels: int | None,
        image_channels: int | None,
        lifted: int = 32,
    ) -> None:
        super().__init__()
        if (grid.ny, grid.nx) != (head.cells, head.cells):
            raise ValueError(
                f"the head draws {head.cells} x {head.cells} cells, the map's grid has "
                f"{grid.ny} x {grid.nx}"
            )
        if bev_channels is None and image_channels is None:
            raise ValueError("maps need LiDAR features, image features or both; found neither")
        self.head, self.grid = head, grid
        self.bev_channels = bev_channels
        self.lift = None
        if image_channels is not None:
            self.lift = ImageLift(channels=image_channels, lifted=lifted, heights_m=(GROUND_Z_M,))
        inputs = (bev_channels or 0) + (0 if self.lift is None else lifted)
        self.join = nn.Sequential(
            nn.Conv2d(inputs, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            conv_norm_relu(channels, channels),
        )
        self.near = nn.Conv2d(channels, len(head.tasks), 1)
        extent = grid.x_m[1] - grid.x_m[0]
        #: Where the map that queries start from is read: as fine as they see it.
        self.start = BEVGrid(grid.x_m, grid.y_m, grid.z_m, extent / (head.side * PLACED_CELLS))
        self.register_buffer("points", self.start.centers_m(), persistent=False)
        # Query 0 stands where x and y are highest (PETR's layout).
        high = torch.tensor((grid.x_m[1], grid.y_m[1]))
        xy = high - head.points * torch.tensor((extent, grid.y_m[1] - grid.y_m[0]))
        ground = torch.cat((xy, torch.full((len(xy), 1), GROUND_Z_M)), dim=1)
        self.register_buffer("ground", ground, persistent=False)

    def forward(
        self,
        memory: Tensor,
        memory_position: Tensor,
        bev: BEVFeatures | None,
        images: ImageFeatures | None,
        batch: Batch,
        place_code: Callable[[Tensor], Tensor],
    ) -> MapOutputs:
        """Logits of all decoder layers.

        Args:
            memory, memory_position: (B, N, C) tokens and their position codes.
            bev: LiDAR's features (B, bev_channels, ny, nx), on any grid; None: not there.
            images: (B, V, C, h, w); None: not there.
            batch: for the cameras.
            place_code: codes (B, Q, C) of places (B, Q, 3) in metres, such as the memory has.
        """
        parts = []
        rows, columns = self.start.ny, self.start.nx
        if self.bev_channels is not None:
            shape = (len(memory), self.bev_channels, rows, columns)
            parts.append(memory.new_zeros(shape) if bev is None else self._read(bev))
        if self.lift is not None:
            shape = (len(memory), self.lift.lifted, rows, columns)
            parts.append(
                memory.new_zeros(shape)
                if images is None
                else self.lift(images, batch, self.start).to(memory.dtype)
            )
        joined = self.join(torch.cat(parts, dim=1))
        far = self.head(
            memory,
            memory_position,
            bev=joined,
            position=place_code(self.ground.expand(len(memory), -1, -1)),
        )
        cells = (self.grid.ny, self.grid.nx)
        near = interpolate(self.near(joined).float(), cells, mode="bilinear", align_corners=False)
        return MapOutputs(far.logits + near)

    def _read(self, bev: BEVFeatures) -> Tensor:
        """LiDAR's features at the cells of ``start``."""
        low = self.points.new_tensor((bev.grid.x_m[0], bev.grid.y_m[0]))
        high = self.points.new_tensor((bev.grid.x_m[1], bev.grid.y_m[1]))
        at = ((self.points - low) / (high - low) * 2 - 1).expand(len(bev.data), -1, -1, -1)
        # Places in half precision would be off by a fifth of a cell.
        read = grid_sample(bev.data.float(), at, mode="bilinear", align_corners=False)
        return read.to(bev.data.dtype)
