"""The region of interest of an Argoverse 2 log: the drivable area, and 5 m around it.

As av2 0.3.6 makes it (`map/map_api.py`, `utils/raster.py`, `utils/dilation_utils.py`): polygons
drawn by Pillow on cells of 0.1 m, dilated by the exact distance. Its quirks are kept:

* The raster spans the drivable area's bounding box in whole metres, so the 5 m are cut there.
* Indices are cut towards zero, so a band of 0.1 m below the raster's low edges counts as its first
  row or column.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception3d import fast_json

Array = NDArray[Any]

CELLS_PER_M = 10.0
DILATION_CELLS = 50
_MARGIN_CELLS = 1e-5
"""Rounding moves a corner by less than 1e-8 cells."""

_SIDES = [(1, 1, 1), (1, -1, 1), (1, -1, -1), (1, 1, -1)]
_UNIT_CORNERS = np.array(_SIDES + [(-1, y, z) for _, y, z in _SIDES], dtype=np.float64)
"""In the official order: a row's rounding may depend on its place in a matrix product."""


class RegionOfInterest:
    """The raster of one log.

    Attributes:
        mask: (H, W) uint8, the drivable area; row = y, column = x.
        origin_xy: (2,) minus the raster's corner, metres in the city frame.
    """

    def __init__(self, polygons_xy_m: Sequence[Array]) -> None:
        """Draws the drivable area.

        Args:
            polygons_xy_m: (K, 2) vertices each, city frame.

        Raises:
            ValueError: there is no polygon.
            ModuleNotFoundError: Pillow is not installed.
        """
        from PIL import Image, ImageDraw

        from perception3d.evaluation.av2_kernels import column_distance

        if not polygons_xy_m:
            raise ValueError("the map has no drivable area, so no region of interest")
        vertices = np.concatenate(polygons_xy_m)
        low = [math.floor(value) for value in vertices.min(axis=0)]
        high = [math.ceil(value) for value in vertices.max(axis=0)]
        self.origin_xy = np.array([-low[0], -low[1]], dtype=np.float64)
        width, height = (int((high[i] - low[i] + 1) * CELLS_PER_M) for i in (0, 1))
        self.mask: Array = np.zeros((height, width), np.uint8)
        # Pillow draws into the array: to copy a picture out of it takes longer than to draw it.
        image = Image.frombuffer("L", (width, height), self.mask, "raw", "L", 0, 1)
        image.readonly = 0
        draw = ImageDraw.Draw(image)
        for polygon in polygons_xy_m:
            cells = np.round((polygon + self.origin_xy) * CELLS_PER_M).astype(np.int32)
            # The official polygons are closed by their first vertex.
            corners = [tuple(cell) for cell in cells.tolist()]
            draw.polygon([*corners, corners[0]], fill=1, outline=1)
        self._away = column_distance(self.mask, DILATION_CELLS + 1)

    @classmethod
    def of_log(cls, folder: str | Path) -> RegionOfInterest:
        """Of a log's folder, which holds map/log_map_archive_*.json.

        Raises:
            ValueError: there is not exactly one map, or it cannot be read.
        """
        files = sorted(Path(folder).glob("map/log_map_archive_*.json"))
        if len(files) != 1:
            raise ValueError(
                f"{folder} has {len(files)} maps (map/log_map_archive_*.json), needed is one; "
                "complete the log, or evaluate without the region of interest"
            )
        try:
            areas = fast_json.loads(files[0].read_bytes())["drivable_areas"].values()
            polygons = [
                np.array([(point["x"], point["y"]) for point in area["area_boundary"]], np.float64)
                for area in areas
            ]
            return cls(polygons)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{files[0]} is no map of a log: {error!r}") from error

    def contains(self, xy_m: Array) -> Array:
        """(N,) bool of (N, 2) points of the city frame."""
        from perception3d.evaluation.av2_kernels import cells_inside

        scaled = (np.asarray(xy_m, np.float64) + self.origin_xy) * CELLS_PER_M
        cells = np.clip(scaled, -2.0, 1e9).astype(np.int64)  # cuts towards zero
        return cells_inside(self._away, DILATION_CELLS, cells)

    def touches(self, box: Array, asked: Array, pose: Array, R: Array, t: Array) -> Array:
        """Which boxes have at least one of their eight corners in the region.

        Args:
            box: (N, 10) in the ego frame.
            asked: (N,) bool; False is returned for others.
            pose: (N,) index into the poses.
            R, t: (P, 3, 3), (P, 3) of city_SE3_ego.

        Returns:
            (N,) bool, equal to the official answers to the last cell.
        """
        from perception3d.evaluation.av2_kernels import corners_inside

        answer = corners_inside(
            self._away, DILATION_CELLS, self.origin_xy, CELLS_PER_M, _MARGIN_CELLS,
            box, asked, pose, R, t,
        )  # fmt: skip
        unsure = np.flatnonzero(answer == 2)
        if len(unsure):
            answer[unsure] = self._touches_exactly(box[unsure], R[pose[unsure]], t[pose[unsure]])
        return answer == 1

    def _touches_exactly(self, box: Array, R: Array, t: Array) -> Array:
        """The official arithmetic, operation by operation, for the few whose last bits decide."""
        from scipy.spatial.transform import Rotation

        rotation = Rotation.from_quat(box[:, [7, 8, 9, 6]]).as_matrix()
        inside = np.empty(len(box), bool)
        for i in range(len(box)):
            city_T_ego, ego_T_object = np.eye(4), np.eye(4)
            city_T_ego[:3, :3], city_T_ego[:3, 3] = R[i], t[i]
            ego_T_object[:3, :3], ego_T_object[:3, 3] = rotation[i], box[i, :3]
            T = city_T_ego @ ego_T_object
            corners = ((box[i, 3:6] / 2.0) * _UNIT_CORNERS) @ T[:3, :3].T + T[:3, 3]
            inside[i] = self.contains(corners[:, :2]).any()
        return inside
