"""Segmentation from above by queries on a fixed grid (PETRv2).

Reference: PETRv2, arXiv 2206.01256, section 3.4; megvii-research/PETR, ``PETRHead_seg`` (released
variant: 625 queries, 200 x 200 cells). Map decoders after CVT (arXiv 2205.02833).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate, pixel_unshuffle

from perception3d.heads.petr_query_code import QueryCode
from perception3d.heads.query_decoder import QueryDecoder
from perception3d.losses.focal import sigmoid_focal_loss

#: Classes by their published short names (drivable area, lane and road dividers, vehicles), and
#: weights of their losses.
MAP_TASKS = {"dri": 2.0, "lan": 4.0, "vie": 8.0}

#: Published names of the terms where they differ from those of the weights.
_TERM_NAMES = {"vie": "veh"}

#: A query that starts from a map sees its part of it as this many cells by as many.
PLACED_CELLS = 4


@dataclass(frozen=True)
class MapOutputs:
    """(L, B, K, ny, nx) logits of the decoder layers asked for; rows y, columns x, from minima."""

    logits: Tensor


class UpsampleBlock(nn.Module):
    """Doubles a map and adds the decoder's input, brought to the same size.

    Args:
        in_channels, out_channels: of the map.
        skip_channels: of the decoder's input.
    """

    def __init__(self, in_channels: int, out_channels: int, *, skip_channels: int) -> None:
        super().__init__()
        middle = out_channels // 2
        self.wide = nn.Conv2d(in_channels, middle, 3, padding=1, bias=False)
        self.narrow = nn.Conv2d(middle, out_channels, 1, bias=False)
        self.skip = nn.Conv2d(skip_channels, out_channels, 1)

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        """(N, in, h, w) and (N, skip, h0, w0) -> (N, out, 2 h, 2 w)."""
        # Corners of both maps lie on each other (published).
        x = interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
        x = self.narrow(torch.relu(self.wide(x)))
        return torch.relu(x + interpolate(self.skip(source), size=x.shape[-2:], mode="nearest"))


class MapDecoder(nn.Module):
    """Query features on their grid to logits of one class, 2^blocks times as fine.

    Args:
        channels: of the queries.
        widths: channels behind each block; published 256, 256, 128.
    """

    def __init__(self, channels: int, *, widths: Sequence[int] = (256, 256, 128)) -> None:
        super().__init__()
        inputs = (channels, *widths[:-1])
        self.blocks = nn.ModuleList(
            UpsampleBlock(i, o, skip_channels=channels) for i, o in zip(inputs, widths)
        )
        last = widths[-1]
        self.logits = nn.Sequential(
            nn.Conv2d(last, last, 3, padding=1, bias=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(last, 1, 1),
        )

    def forward(self, source: Tensor) -> Tensor:
        """(N, C, side, side) -> (N, 1, side 2^blocks, side 2^blocks)."""
        x = source
        for block in self.blocks:
            x = block(x, source)
        return self.logits(x)


class SegmentationHead(nn.Module):
    """Queries on a grid of places look at image tokens and turn into maps.

    Published weights count rows from the right (x falls) and columns from the front (y falls) of
    the LiDAR's frame. Outputs and targets of this class are rasters of the project instead: rows y,
    columns x, both rising.

    Args:
        decoder: transformer decoder with C channels, of its own.
        tasks: short name of every class -> weight of its loss, in the order of the map's classes.
        side: queries along each axis; published 25.
        widths: of the map decoders, see :class:`MapDecoder`.
        bev_channels: of a map from above that queries start from, see :meth:`forward`; None for
            queries that start from zeros (published).
        alpha, gamma: of the focal loss; published 0.5, 2.
    """

    points: Tensor

    def __init__(
        self,
        *,
        decoder: QueryDecoder,
        tasks: Mapping[str, float] = MAP_TASKS,
        side: int = 25,
        widths: Sequence[int] = (256, 256, 128),
        bev_channels: int | None = None,
        alpha: float = 0.5,
        gamma: float = 2.0,
    ) -> None:
        super().__init__()
        self.decoder = decoder
        self.query_code = QueryCode(decoder.channels, axes=2)
        self.maps = nn.ModuleDict(
            {task: MapDecoder(decoder.channels, widths=widths) for task in tasks}
        )
        self.place = None
        if bev_channels is not None:
            self.place = nn.Linear(bev_channels * PLACED_CELLS**2, decoder.channels)
        self.tasks = dict(tasks)
        self.side = side
        self.cells = side * 2 ** len(widths)
        self.alpha, self.gamma = alpha, gamma
        self.register_buffer("points", query_grid(side), persistent=False)

    def forward(
        self,
        memory: Tensor,
        memory_position: Tensor,
        *,
        memory_blocked: Tensor | None = None,
        bev: Tensor | None = None,
        position: Tensor | None = None,
        every_layer: bool = True,
    ) -> MapOutputs:
        """Decode the grid of queries.

        Args:
            memory, memory_position: (B, N, C) tokens and their position codes.
            memory_blocked: (B, N) bool, True for padding.
            bev: (B, bev_channels, ny, nx) map of the area that the head draws; each query starts
                from the part that it is to draw.
            position: (B, side^2, C) codes of the queries' places as the memory's cells have them,
                added to the head's own; None for those alone (published).
            every_layer: False draws the last layer's maps only, all that prediction needs.

        Returns:
            Logits of all layers, or of the last one.

        Raises:
            ValueError: a map where none is expected, or none where one is.
        """
        place = self.query_code(self.points).expand(len(memory), -1, -1)
        if position is not None:
            place = place + position
        features = self.decoder(
            self._content(bev), place, memory, memory_position, memory_blocked=memory_blocked
        )
        return MapOutputs(self.draw(features if every_layer else features[-1:]))

    def _content(self, bev: Tensor | None) -> Tensor | None:
        if (bev is None) != (self.place is None):
            raise ValueError(
                "a head with bev_channels draws from a map, one without from images alone; found "
                f"{'no map' if bev is None else 'a map'} and "
                f"{'no' if self.place is None else 'such'} channels"
            )
        if bev is None or self.place is None:
            return None
        cells = adaptive_avg_pool2d(bev, self.side * PLACED_CELLS)
        # Query k = side i + j stands where PETR's layout has cell (i, j).
        parts = pixel_unshuffle(turned(cells), PLACED_CELLS)
        return self.place(parts.flatten(2).transpose(1, 2))

    def draw(self, features: Tensor) -> Tensor:
        """Maps of decoder outputs: (L, B, Q, C) -> (L, B, K, ny, nx) float32 logits."""
        with torch.autocast(features.device.type, enabled=False):
            grid = features.float().transpose(-1, -2).unflatten(-1, (self.side, self.side))
            # One layer after another: maps of all at once take six times the memory.
            layers = [
                torch.cat([decoder(x) for decoder in self.maps.values()], dim=1) for x in grid
            ]
            return turned(torch.stack(layers))

    def loss(self, outputs: MapOutputs, target: Tensor) -> dict[str, Tensor]:
        """Focal loss, mean over cells and samples, by layer and class.

        Args:
            outputs: of all layers.
            target: (B, K, ny, nx) bool, classes in the order of ``tasks``.

        Returns:
            "loss_dri", ... of the last layer, "d0.loss_dri", ... of the others; float32, weighted.

        Raises:
            ValueError: the map has another shape.
        """
        logits = outputs.logits
        if target.shape != logits.shape[1:]:
            raise ValueError(
                f"the head draws maps of (samples, classes, ny, nx) {tuple(logits.shape[1:])}; "
                f"found a target of {tuple(target.shape)}"
            )
        index = (~target.bool()).long().expand(logits.shape)  # 0 = the class, 1 = background
        focal = sigmoid_focal_loss(logits.unsqueeze(-1), index, alpha=self.alpha, gamma=self.gamma)
        by_class = focal.mean(dim=(1, 3, 4, 5))
        terms, last = {}, len(logits) - 1
        for layer, values in enumerate(by_class):
            prefix = "" if layer == last else f"d{layer}."
            for (task, weight), value in zip(self.tasks.items(), values):
                terms[f"{prefix}loss_{_TERM_NAMES.get(task, task)}"] = weight * value
        return terms

    @torch.no_grad()
    def decode(self, outputs: MapOutputs) -> Tensor:
        """(B, K, ny, nx) probabilities of the last layer, on the CPU."""
        return outputs.logits[-1].float().sigmoid().cpu()


def query_grid(side: int) -> Tensor:
    """(side^2, 2) places ((i + .5) / side, (j + .5) / side) of query ``side`` i + j."""
    steps = (torch.arange(side, dtype=torch.float32) + 0.5) / side
    return torch.stack(torch.meshgrid(steps, steps, indexing="ij"), dim=-1).flatten(0, 1)


def turned(raster: Tensor) -> Tensor:
    """Rasters (..., n, n) between PETR's layout and the project's; its own inverse.

    PETR's cell (i, j) lies at x = high - (i + .5) cell, y = high - (j + .5) cell.
    """
    return raster.flip(-1, -2).transpose(-1, -2)
