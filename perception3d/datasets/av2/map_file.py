"""The map of an Argoverse 2 log: polygons and lines as a raster around a frame, and ground height.

Every log brings the map of its surroundings in the city's frame, so there is no map to download
beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from perception3d import fast_json
from perception3d.datasets.augment import SceneChange
from perception3d.datasets.map_raster import patch_around
from perception3d.structures import SE3, BEVGrid, MapRaster
from perception3d.structures.taxonomy_av2 import AV2_MAP_CLASSES

if TYPE_CHECKING:  # shapely is loaded by who draws maps
    from perception3d.datasets.map_patch import MapShapes

Array = NDArray[Any]


@lru_cache(maxsize=8)
def read_log_map(folder: Path) -> MapShapes:
    """Shapes of ``log_map_archive_*.json``; layer k is class k of AV2_MAP_CLASSES.

    Crossings are the area between their two edges. Dividers are both boundaries of every lane
    segment that lies in no intersection, painted or not; one that two lanes share is kept once.

    Args:
        folder: the log's map folder.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no map of a log.
    """
    path = _only_file(folder, "log_map_archive_*.json", "map")
    try:
        return _shapes(fast_json.loads(path.read_bytes()))
    except (fast_json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is no Argoverse 2 map, or is cut short: {error!r}; download it again"
        ) from None


def _only_file(folder: Path, pattern: str, what: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise FileNotFoundError(
            f"{folder} holds {len(found)} files {pattern}, expected one; download the {what} of "
            "the log again, or ask for no map"
        )
    return found[0]


def _shapes(tables: dict[str, Any]) -> MapShapes:
    import shapely

    from perception3d.datasets.map_patch import MapShapes

    def corners(points: list[dict[str, float]]) -> list[tuple[float, float]]:
        return [(point["x"], point["y"]) for point in points]

    outlines = [corners(area["area_boundary"]) for area in tables["drivable_areas"].values()]
    drivable = [shapely.Polygon(outline) for outline in outlines if len(outline) >= 3]
    crossings = []
    for row in tables["pedestrian_crossings"].values():
        near, far = corners(row["edge1"]), corners(row["edge2"])
        area = shapely.Polygon(near + far[::-1])
        crossings.append(area if area.is_valid else shapely.Polygon(near + far))
    lines: dict[tuple[tuple[float, float], ...], Any] = {}
    for lane in tables["lane_segments"].values():
        for side in ("left_lane_boundary", "right_lane_boundary"):
            line = tuple(corners(lane[side]))
            if lane["is_intersection"] or len(line) < 2:
                continue
            lines.setdefault(min(line, line[::-1]), shapely.LineString(line))
    return MapShapes.build([drivable, crossings, list(lines.values())])


def rasterize_log_map(
    shapes: MapShapes,
    city_SE3_ref: SE3,
    grid: BEVGrid,
    classes: tuple[str, ...] = AV2_MAP_CLASSES,
    *,
    line_cells: int = 2,
    change: SceneChange | None = None,
    apply_scale: bool = True,
) -> MapRaster:
    """Draw the map around a frame, by the rules of nuScenes maps (``map_raster.rasterize``).

    Args:
        shapes: of the frame's log.
        city_SE3_ref: pose of the frame.
        grid: cells in ``ref``.
        classes: out of AV2_MAP_CLASSES, in the order of the raster.
        line_cells: thickness of dividers.
        change, apply_scale: of the scene, as there.

    Raises:
        ValueError: an unknown class.
    """
    unknown = [name for name in classes if name not in AV2_MAP_CLASSES]
    if unknown:
        raise ValueError(
            f"map classes {unknown} do not exist; there are {', '.join(AV2_MAP_CLASSES)}"
        )
    patch = patch_around(city_SE3_ref, grid, change, apply_scale=apply_scale)
    layers = [AV2_MAP_CLASSES.index(name) for name in classes]
    mask = torch.from_numpy(shapes.draw(patch, layers, line_cells)).bool()
    if change is not None:
        mask = mask.flip([a for a, flip in ((-1, change.flip_x), (-2, change.flip_y)) if flip])
    return MapRaster(mask, tuple(classes), grid)


@dataclass(frozen=True, eq=False)
class GroundHeight:
    """Height of the ground over the city's plane, from a raster of 0.3 m.

    Attributes:
        height_m: (rows, columns) float32, NaN where it is not known; row = y, column = x.
        origin_m: (2,) float64 shift of the city's x, y before scaling.
        R: (2, 2) float64 turn from the city's to the raster's axes.
        cells_per_m: float.
    """

    height_m: Array
    origin_m: Array
    R: Array
    cells_per_m: float

    def at(self, xy_m: Array) -> Array:
        """(N,) heights at places (N, 2) of the city; NaN outside the raster and where unknown."""
        xy = np.asarray(xy_m, np.float64)
        cell = ((xy @ self.R.T + self.origin_m) * self.cells_per_m).astype(np.int64)
        rows, columns = self.height_m.shape
        inside = ((cell >= 0) & (cell < (columns, rows))).all(axis=1)
        out = np.full(len(xy), np.nan)
        out[inside] = self.height_m[cell[inside, 1], cell[inside, 0]]
        return out


@lru_cache(maxsize=8)
def read_ground_height(folder: Path) -> GroundHeight:
    """Of a log's map folder.

    Raises:
        FileNotFoundError, ValueError: a file is missing or damaged.
    """
    raster = _only_file(folder, "*_ground_height_surface____*.npy", "ground height")
    place = _only_file(folder, "*___img_Sim2_city.json", "ground height")
    try:
        height = np.load(raster, allow_pickle=False)
        sim = fast_json.loads(place.read_bytes())
        return GroundHeight(
            height.astype(np.float32),
            np.array(sim["t"], np.float64).reshape(2),
            np.array(sim["R"], np.float64).reshape(2, 2),
            float(sim["s"]),
        )
    except (fast_json.JSONDecodeError, KeyError, TypeError, ValueError, EOFError) as error:
        raise ValueError(
            f"{raster} or {place.name} is damaged: {error!r}; download the log's map again"
        ) from None
