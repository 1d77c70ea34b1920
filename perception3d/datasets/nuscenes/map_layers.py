"""The maps that BEV segmentation learns: layers of the map expansion, and the vehicles on them."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from perception3d.datasets.augment import GlobalAugment, SceneChange, change_scene
from perception3d.datasets.map_raster import (
    MAP_CLASSES,
    VEHICLES,
    draw_vehicles,
    expansion_file,
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

    Comes before boxes are filtered: every vehicle counts, seen or not (published). Before an
    augmentation of the scene, :class:`SceneWithMap` stands for both.

    Attributes:
        frames: where the frames come from.
        grid: cells in ``ref``.
        classes: out of MAP_CLASSES and "vehicle".
        line_cells: thickness of dividers; published 2 cells of half a metre.
        vehicles_from_ego: draw vehicles as seen from the vehicle's origin instead of the LiDAR's,
            which lies about a metre ahead of it. Published so: released weights put them there.
        else_do: what else can be done when the map expansion is missing, for the error.
    """

    frames: NuScenesFrames
    grid: BEVGrid
    classes: tuple[str, ...] = PETR_LAYERS
    line_cells: int = 2
    vehicles_from_ego: bool = False
    else_do: str = ""

    def __call__(self, frame: Frame, rng: np.random.Generator) -> Frame:
        """The frame with its map; errors as :meth:`draw`."""
        return replace(frame, map=self.draw(frame))

    def draw(
        self, frame: Frame, change: SceneChange | None = None, *, apply_scale: bool = True
    ) -> MapRaster:
        """The map around a frame, or around what becomes of it.

        Args:
            frame: as it was read.
            change: the map is drawn as the changed frame will need it.
            apply_scale: of the change, to the layers of the map expansion.

        Raises:
            FileNotFoundError: the map expansion is missing.
            ValueError: boxes are unknown where vehicles are asked for, or an unknown class.
        """
        plan = tuple(name for name in self.classes if name in MAP_CLASSES)
        layers: dict[str, torch.Tensor] = {}
        if plan:
            location = self.frames.location(self.frames.index_of(frame.token))
            drawn = rasterize(
                read_map(self._root, location),
                frame.global_SE3_ref,
                self.grid,
                plan,
                line_cells=self.line_cells,
                change=change,
                apply_scale=apply_scale,
            )
            layers = dict(zip(plan, drawn.mask))
        if VEHICLES in self.classes:
            if frame.boxes is None:
                raise ValueError(f"frame {frame.token} has no boxes to draw vehicles from")
            layers[VEHICLES] = draw_vehicles(
                frame.boxes,
                self.grid,
                ego_SE3_ref=frame.ego_SE3_ref if self.vehicles_from_ego else None,
                change=change,
            )
        unknown = [name for name in self.classes if name not in layers]
        if unknown:
            known = ", ".join((*MAP_CLASSES, VEHICLES))
            raise ValueError(f"map classes {unknown} do not exist; there are {known}")
        mask = torch.stack([layers[name] for name in self.classes])
        return MapRaster(mask, self.classes, self.grid)

    @cached_property
    def _root(self) -> Path:
        """The data set's folder; the first use looks for the maps of all frames, so that a run
        does not end at the first frame of another city.
        """
        root = self.frames.root
        try:
            for location in sorted({self.frames.location(i) for i in range(len(self.frames))}):
                expansion_file(root, location)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{error}{self.else_do}") from None
        return root

    def of_token(self, token: str) -> MapRaster:
        """The map of a sample, without a look at sensor files."""
        bare = copy.copy(self.frames)
        bare.cameras = ()
        bare.load_points = bare.load_images = False
        bare.load_boxes = True
        return self.draw(bare[bare.index_of(token)])


@dataclass(frozen=True)
class SceneWithMap:
    """Transform: change the whole scene at random, and draw the map as the new scene needs it.

    As published (BEVFusion, ``mit-han-lab/bevfusion``): the shapes are drawn at the turned and
    shifted pose, and the raster is mirrored; nothing is resampled, and no border of an old raster
    shows. There, though, the map does not grow with the scene.

    Attributes:
        scene: draws the change.
        layers: what is drawn; boxes must be unfiltered for vehicles.
        apply_scale: False leaves the map's layers at their size, as published: with scales of 0.9
            to 1.1 they are up to 5 m (10 cells) beside points and boxes at 50 m.
    """

    scene: GlobalAugment
    layers: MapLayers
    apply_scale: bool = True

    def __call__(self, frame: Frame, rng: np.random.Generator) -> Frame:
        """The frame after a random change, with its map; errors as :meth:`MapLayers.draw`."""
        change = self.scene.draw(rng)
        drawn = self.layers.draw(frame, change, apply_scale=self.apply_scale)
        return replace(change_scene(replace(frame, map=None), change), map=drawn)
