"""The nuScenes map expansion (polygons and lines of a city) as a raster around one frame.

Drawn as published (BEVFusion, arXiv 2205.13542; PETRv2): pixel for pixel the masks of
nuScenes-devkit (:mod:`perception3d.datasets.map_patch`) for a patch whose middle is the LiDAR's
place and whose angle is the yaw of its x axis. What this leaves out: roll and pitch (on a slope of
2 degrees the ground 50 m away is drawn less than 10 cm off), and half a cell: corners are rounded
to cells, so an area begins at the cell nearest to its border and ends one cell after the other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from perception3d import fast_json
from perception3d.datasets.augment import SceneChange
from perception3d.structures import SE3, BEVGrid, Boxes3D, MapRaster
from perception3d.structures.taxonomy import NUSCENES_CLASSES

if TYPE_CHECKING:  # shapely is loaded by who draws maps
    from perception3d.datasets.map_patch import MapShapes, Patch

Array = NDArray[Any]

#: Classes of BEV segmentation (as in BEVFusion); "divider" is road and lane dividers together.
MAP_CLASSES = ("drivable_area", "ped_crossing", "walkway", "stop_line", "carpark_area", "divider")

#: The layer that boxes make, see :func:`draw_vehicles`.
VEHICLES = "vehicle"
#: Detection classes whose nuScenes category begins with "vehicle.": two-wheelers too.
VEHICLE_CLASSES = (
    "car", "truck", "construction_vehicle", "bus", "trailer", "motorcycle", "bicycle",
)  # fmt: skip

_DIVIDERS = ("road_divider", "lane_divider")
#: Of the corners of a box.
_BOTTOM_FACE = slice(0, 4)


@dataclass(frozen=True)
class MapExpansion:
    """Shapes of every class of one location; layer k of them is class k of MAP_CLASSES."""

    location: str
    shapes: MapShapes


@lru_cache(maxsize=8)
def read_map(root: Path, location: str) -> MapExpansion:
    """Read ``maps/expansion/<location>.json`` (version 1.3 or later); kept for later calls.

    Raises:
        FileNotFoundError: there is no such file; names the download.
        ValueError: the file is no map expansion.
    """
    path = expansion_file(root, location)
    try:
        return MapExpansion(location, _shapes(fast_json.loads(path.read_bytes())))
    except (fast_json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is no nuScenes map expansion of version 1.3 or later: {error!r}; unpack it "
            "again"
        ) from None


def expansion_file(root: Path, location: str) -> Path:
    """Where the map of a location lies.

    Raises:
        FileNotFoundError: there is no such file; names the download.
    """
    folder = root / "maps" / "expansion"
    path = folder / f"{location}.json"
    if not path.is_file():
        found = ", ".join(sorted(p.stem for p in folder.glob("*.json"))) or "none"
        raise FileNotFoundError(
            f"map expansion {path} is missing (found: {found}); download the nuScenes map "
            "expansion pack v1.3 (nuScenes-map-expansion-v1.3.zip, nuscenes.org) and unpack it "
            f"into {root / 'maps'}, or ask for no map"
        )
    return path


def rasterize(
    expansion: MapExpansion,
    global_SE3_ref: SE3,
    grid: BEVGrid,
    classes: tuple[str, ...] = MAP_CLASSES,
    *,
    line_cells: int = 2,
    change: SceneChange | None = None,
    apply_scale: bool = True,
) -> MapRaster:
    """Draw the map around a frame.

    Args:
        expansion: shapes of the frame's location.
        global_SE3_ref: pose of the frame.
        grid: cells in ``ref``.
        classes: out of MAP_CLASSES, in the order of the raster.
        line_cells: thickness of dividers; published 2.
        change: of the scene about the origin of ``ref``: the map is drawn where the changed frame
            lies, then mirrored, so that it fits points and boxes after the same change.
        apply_scale: the map grows with the scene. BEVFusion's did not (its issue 439): the patch
            keeps its size, and at 50 m a scale of 1.1 puts the map 5 m off.

    Raises:
        ValueError: an unknown class.
    """
    unknown = [name for name in classes if name not in MAP_CLASSES]
    if unknown:
        raise ValueError(f"map classes {unknown} do not exist; there are {', '.join(MAP_CLASSES)}")
    patch = patch_around(global_SE3_ref, grid, change, apply_scale=apply_scale)
    layers = [MAP_CLASSES.index(name) for name in classes]
    mask = torch.from_numpy(expansion.shapes.draw(patch, layers, line_cells)).bool()
    if change is not None:
        mirrored = [axis for axis, flip in ((-1, change.flip_x), (-2, change.flip_y)) if flip]
        mask = mask.flip(mirrored)
    return MapRaster(mask, tuple(classes), grid)


def patch_around(
    global_SE3_ref: SE3,
    grid: BEVGrid,
    change: SceneChange | None = None,
    *,
    apply_scale: bool = True,
) -> Patch:
    """The part of the map under a grid, before any mirror; arguments as :func:`rasterize`."""
    from perception3d.datasets.map_patch import Patch

    T, x_m, y_m, scale = global_SE3_ref.matrix(), grid.x_m, grid.y_m, 1.0
    if change is not None:
        T = T @ torch.linalg.inv(change.unmirrored())
        x_m = (-x_m[1], -x_m[0]) if change.flip_x else x_m
        y_m = (-y_m[1], -y_m[0]) if change.flip_y else y_m
        scale = change.scale if apply_scale else 1.0
    yaw = math.atan2(float(T[1, 0]), float(T[0, 0]))
    middle = (x_m[0] + x_m[1]) / 2 / scale, (y_m[0] + y_m[1]) / 2 / scale
    c, s = math.cos(yaw), math.sin(yaw)
    return Patch(
        center_m=(
            float(T[0, 3]) + c * middle[0] - s * middle[1],
            float(T[1, 3]) + s * middle[0] + c * middle[1],
        ),
        angle_deg=yaw / math.pi * 180,
        size_m=((x_m[1] - x_m[0]) / scale, (y_m[1] - y_m[0]) / scale),
        shape=(grid.ny, grid.nx),
    )


def draw_vehicles(
    boxes: Boxes3D,
    grid: BEVGrid,
    *,
    ego_SE3_ref: SE3 | None = None,
    change: SceneChange | None = None,
) -> Tensor:
    """Ground plans of all vehicles, corners rounded to cells (LSS, arXiv 2008.05711; PETR takes
    them so).

    Police cars and ambulances are missing: boxes of ignored categories do not say what they are.

    Args:
        boxes: in ``ref``, whatever is seen of them.
        grid: cells in ``ref``.
        ego_SE3_ref: None draws in ``ref``. Published is the vehicle's own frame (x forward, y
            left), turned to the LiDAR's axes after drawing: give its pose for that.
        change: of the scene, to draw the boxes after it.

    Returns:
        (ny, nx) bool.
    """
    labels = torch.tensor([NUSCENES_CLASSES.index(name) for name in VEHICLE_CLASSES])
    bottom = boxes.select(torch.isin(boxes.label, labels)).corners()[:, _BOTTOM_FACE].double()
    plan = bottom[..., :2]
    if ego_SE3_ref is not None:
        forward_left = ego_SE3_ref.apply(bottom.flatten(0, 1)).unflatten(0, (-1, 4))
        plan = torch.stack((-forward_left[..., 1], forward_left[..., 0]), dim=-1)
    if change is not None:
        new_T_ref = change.matrix()[:, [0, 1, 3]][:2]
        plan = plan @ new_T_ref[:, :2].T + new_T_ref[:, 2]
    x, y = plan.numpy()[..., 0], plan.numpy()[..., 1]
    rows = np.round((y - grid.y_m[0]) / grid.cell_m)
    if ego_SE3_ref is None:
        columns = np.round((x - grid.x_m[0]) / grid.cell_m)
    else:  # counted from the left, as drawn in the vehicle's frame
        columns = grid.nx - 1 - np.round((grid.x_m[1] - x) / grid.cell_m)
    mask = np.zeros((grid.ny, grid.nx), np.uint8)
    for corners in np.stack((columns, rows), axis=-1).astype(np.int32):
        cv2.fillPoly(mask, [corners], (1,))
    return torch.from_numpy(mask).bool()


def _shapes(tables: dict[str, Any]) -> MapShapes:
    """Shapes of all classes, in the order of the tables.

    Left out as in the devkit: empty ones, and polygons that cross themselves (but for the drivable
    area, where it asks not).
    """
    import shapely

    from perception3d.datasets.map_patch import MapShapes

    nodes = {node["token"]: (node["x"], node["y"]) for node in tables["node"]}

    def ring(tokens: list[str]) -> list[tuple[float, float]]:
        return [nodes[token] for token in tokens]

    polygons = {
        row["token"]: shapely.Polygon(
            ring(row["exterior_node_tokens"]),
            [ring(h["node_tokens"]) for h in row["holes"] if len(h["node_tokens"]) >= 3],
        )
        for row in tables["polygon"]
        if len(row["exterior_node_tokens"]) >= 3
    }
    lines = {
        row["token"]: shapely.LineString(ring(row["node_tokens"]))
        for row in tables["line"]
        if len(row["node_tokens"]) >= 2
    }
    layers = []
    for name in MAP_CLASSES[:-1]:
        tokens = [
            token
            for row in tables[name]
            for token in row.get("polygon_tokens", [row.get("polygon_token")])
        ]
        layer = [polygons[token] for token in tokens if token in polygons]
        layers.append([p for p in layer if name == "drivable_area" or p.is_valid])
    tokens = [row["line_token"] for name in _DIVIDERS for row in tables[name]]
    layers.append([lines[token] for token in tokens if token in lines])
    return MapShapes.build(layers)
