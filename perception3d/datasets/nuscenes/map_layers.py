"""The maps that BEV segmentation learns: layers of the map expansion, and the vehicles on them."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import numpy as np
import torch

from perception3d.datasets.map_raster import (
    MAP_CLASSES,
    VEHICLES,
    draw_vehicles,
    rasterize,
    read_map,
)
from perception3d.datasets.nuscenes.reader import NuScenesFrames
from perception3d.structures import BEVGrid, Frame, MapRaster

#: What PETRv2 draws, in the published order.
PETR_LAYERS = ("drivable_area", "divider", VEHICLES)


@dataclass(frozen=True)
class MapLayers:
    """Transform: the frame gets the map around it, vehicles included.

    Comes before boxes are filtered or the scene is augmented: every vehicle counts, seen or not
    (published), and the map follows the augmentation.

    Attributes:
        frames: where the frames come from.
        grid: cells in ``ref``.
        classes: out of MAP_CLASSES and "vehicle".
        line_cells: thickness of dividers; published 2 cells of half a metre.
        vehicles_from_ego: draw vehicles as seen from the vehicle's origin instead of the LiDAR's,
            which lies about a metre ahead of it. Published so: released weights put them there.
    """

    frames: NuScenesFrames
    grid: BEVGrid
    classes: tuple[str, ...] = PETR_LAYERS
    line_cells: int = 2
    vehicles_from_ego: bool = False

    def __call__(self, frame: Frame, rng: np.random.Generator) -> Frame:
        """The frame with its map.

        Raises:
            FileNotFoundError: the map expansion is missing.
            ValueError: boxes are unknown where vehicles are asked for, or an unknown class.
        """
        number = self.frames.index_of(frame.token)
        plan = tuple(name for name in self.classes if name in MAP_CLASSES)
        layers: dict[str, torch.Tensor] = {}
        if plan:
            expansion = read_map(self.frames.root, self.frames.location(number))
            drawn = rasterize(
                expansion, frame.global_SE3_ref, self.grid, plan, line_cells=self.line_cells
            )
            layers = dict(zip(plan, drawn.mask))
        if VEHICLES in self.classes:
            if frame.boxes is None:
                raise ValueError(f"frame {frame.token} has no boxes to draw vehicles from")
            origin = frame.ego_SE3_ref if self.vehicles_from_ego else None
            layers[VEHICLES] = draw_vehicles(frame.boxes, self.grid, ego_SE3_ref=origin)
        unknown = [name for name in self.classes if name not in layers]
        if unknown:
            known = ", ".join((*MAP_CLASSES, VEHICLES))
            raise ValueError(f"map classes {unknown} do not exist; there are {known}")
        mask = torch.stack([layers[name] for name in self.classes])
        return replace(frame, map=MapRaster(mask, self.classes, self.grid))

    def of_token(self, token: str) -> MapRaster:
        """The map of a sample, without a look at sensor files."""
        bare = copy.copy(self.frames)
        bare.cameras = ()
        bare.load_points = bare.load_images = False
        bare.load_boxes = True
        frame = bare[bare.index_of(token)]
        drawn = self(frame, np.random.default_rng(0)).map
        assert drawn is not None
        return drawn
