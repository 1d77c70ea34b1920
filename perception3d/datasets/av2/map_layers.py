"""The map around a frame as a transform, also under augmentation of the scene."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from perception3d.datasets.augment import SceneChange
from perception3d.datasets.av2.map_file import rasterize_log_map, read_log_map
from perception3d.datasets.av2.reader import AV2Frames
from perception3d.structures import BEVGrid, Frame, MapRaster
from perception3d.structures.taxonomy_av2 import AV2_MAP_CLASSES


@dataclass(frozen=True)
class LogMapLayers:
    """Transform: the frame gets the map of its log; stands where ``MapLayers`` stands for nuScenes,
    also inside ``SceneWithMap``. There is no layer of vehicles.

    Attributes:
        frames: where the frames come from.
        grid: cells in ``ref``.
        classes: out of AV2_MAP_CLASSES.
        line_cells: thickness of dividers.
    """

    frames: AV2Frames
    grid: BEVGrid
    classes: tuple[str, ...] = AV2_MAP_CLASSES
    line_cells: int = 2

    def __call__(self, frame: Frame, rng: np.random.Generator) -> Frame:
        """The frame with its map; errors as :meth:`draw`."""
        return replace(frame, map=self.draw(frame))

    def draw(
        self, frame: Frame, change: SceneChange | None = None, *, apply_scale: bool = True
    ) -> MapRaster:
        """The map around a frame, or around what becomes of it after a change of the scene.

        Raises:
            FileNotFoundError, ValueError: the log's map is missing or damaged; an unknown class.
        """
        folder = self.frames.log_folder(self.frames.index_of(frame.token)).map
        return rasterize_log_map(
            read_log_map(folder),
            frame.global_SE3_ref,
            self.grid,
            self.classes,
            line_cells=self.line_cells,
            change=change,
            apply_scale=apply_scale,
        )

    def of_token(self, token: str) -> MapRaster:
        """The map of a sample, without a look at sensor files."""
        number = self.frames.index_of(token)
        return rasterize_log_map(
            read_log_map(self.frames.log_folder(number).map),
            self.frames.pose(number),
            self.grid,
            self.classes,
            line_cells=self.line_cells,
        )
