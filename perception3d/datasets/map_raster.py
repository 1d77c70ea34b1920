"""The nuScenes map expansion (polygons and lines of a city) as a raster around one frame."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from perception3d import fast_json
from perception3d.structures import SE3, BEVGrid, Boxes3D, MapRaster
from perception3d.structures.taxonomy import NUSCENES_CLASSES

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
#: cv2 draws at fractions of a pixel of 1 / 2 ** this.
_SUBPIXEL_BITS = 8


@dataclass(frozen=True)
class Shape:
    """A polygon, with holes, or a line; global metres.

    Attributes:
        outline: (N, 2) x, y.
        holes: (M, 2) each.
        low, high: (2,) corners of the bounding box.
    """

    outline: Array
    holes: tuple[Array, ...]
    low: Array
    high: Array


@dataclass(frozen=True)
class MapExpansion:
    """Shapes of every class of one location."""

    location: str
    shapes: dict[str, tuple[Shape, ...]]


@lru_cache(maxsize=8)
def read_map(root: Path, location: str) -> MapExpansion:
    """Read ``maps/expansion/<location>.json`` (version 1.3 or later); kept for later calls.

    Raises:
        FileNotFoundError: there is no such file; lists what is there.
        ValueError: the file is no map expansion.
    """
    folder = root / "maps" / "expansion"
    path = folder / f"{location}.json"
    if not path.is_file():
        found = ", ".join(sorted(p.stem for p in folder.glob("*.json"))) or "none"
        raise FileNotFoundError(
            f"map expansion {path} is missing (found: {found}); unpack the nuScenes map expansion "
            f"pack v1.3 into {root / 'maps'}, or ask for no map"
        )
    try:
        tables = fast_json.loads(path.read_bytes())
        nodes = {node["token"]: (node["x"], node["y"]) for node in tables["node"]}
        polygons = {row["token"]: _polygon(row, nodes) for row in tables["polygon"]}
        lines = {row["token"]: row["node_tokens"] for row in tables["line"]}
        shapes: dict[str, tuple[Shape, ...]] = {}
        for name in MAP_CLASSES[:-1]:
            parts = [
                polygons[token]
                for row in tables[name]
                for token in row.get("polygon_tokens", [row.get("polygon_token")])
            ]
            shapes[name] = tuple(shape for shape in parts if shape is not None)
        dividers = [lines[row["line_token"]] for name in _DIVIDERS for row in tables[name]]
        shapes["divider"] = tuple(
            _shape(np.array([nodes[n] for n in tokens], np.float64))
            for tokens in dividers
            if tokens
        )
    except (fast_json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is no nuScenes map expansion of version 1.3 or later: {error!r}; unpack it "
            "again"
        ) from None
    return MapExpansion(location, shapes)


def rasterize(
    expansion: MapExpansion,
    global_SE3_ref: SE3,
    grid: BEVGrid,
    classes: tuple[str, ...] = MAP_CLASSES,
    *,
    line_cells: int = 1,
) -> MapRaster:
    """Draw the map around a frame.

    The map is flat at height 0 of the global frame; ``ref`` may be tilted against it.

    Args:
        expansion: shapes of the frame's location.
        global_SE3_ref: pose of the frame.
        grid: cells in ``ref``.
        classes: out of MAP_CLASSES, in the order of the raster.
        line_cells: thickness of dividers.

    Raises:
        ValueError: an unknown class.
    """
    unknown = [name for name in classes if name not in MAP_CLASSES]
    if unknown:
        raise ValueError(f"map classes {unknown} do not exist; there are {', '.join(MAP_CLASSES)}")
    ref_SE3_global = global_SE3_ref.inverse()
    R = ref_SE3_global.rotation.numpy()[:2, :2]
    t = ref_SE3_global.translation_m.numpy()[:2]
    origin = np.array([grid.x_m[0], grid.y_m[0]])
    here = global_SE3_ref.translation_m.numpy()[:2]
    reach = float(np.abs([*grid.x_m, *grid.y_m]).max()) * 2**0.5

    def cells(xy: Array) -> Array:
        """Fixed-point pixels; cell 0's centre is pixel 0."""
        pixels = (xy @ R.T + t - origin) / grid.cell_m - 0.5
        return np.round(pixels * 2**_SUBPIXEL_BITS).astype(np.int32)

    mask = np.zeros((len(classes), grid.ny, grid.nx), np.uint8)
    for layer, name in zip(mask, classes):
        for shape in expansion.shapes[name]:
            if (shape.low > here + reach).any() or (shape.high < here - reach).any():
                continue
            outline = cells(shape.outline)
            if name == "divider":
                cv2.polylines(layer, [outline], False, (1,), line_cells, cv2.LINE_8, _SUBPIXEL_BITS)
            elif shape.holes:
                # Drawn apart: a hole must not erase what another polygon has drawn there.
                alone = np.zeros_like(layer)
                cv2.fillPoly(alone, [outline], (1,), cv2.LINE_8, _SUBPIXEL_BITS)
                for hole in shape.holes:
                    cv2.fillPoly(alone, [cells(hole)], (0,), cv2.LINE_8, _SUBPIXEL_BITS)
                layer |= alone
            else:
                cv2.fillPoly(layer, [outline], (1,), cv2.LINE_8, _SUBPIXEL_BITS)
    return MapRaster(torch.from_numpy(mask).bool(), tuple(classes), grid)


def draw_vehicles(boxes: Boxes3D, grid: BEVGrid, *, ego_SE3_ref: SE3 | None = None) -> Tensor:
    """Ground plans of all vehicles (LSS, arXiv 2008.05711; PETR takes them so).

    Police cars and ambulances are missing: boxes of ignored categories do not say what they are.

    Args:
        boxes: in ``ref``, whatever is seen of them.
        grid: cells in ``ref``.
        ego_SE3_ref: None draws in ``ref``. Published is the vehicle's own frame, turned to the
            LiDAR's axes (x right, y forward): give its pose for that.

    Returns:
        (ny, nx) bool.
    """
    labels = torch.tensor([NUSCENES_CLASSES.index(name) for name in VEHICLE_CLASSES])
    corners = boxes.select(torch.isin(boxes.label, labels)).corners()
    if ego_SE3_ref is not None:
        forward_left = ego_SE3_ref.apply(corners.double().flatten(0, 1))
        right_forward = torch.stack((-forward_left[:, 1], forward_left[:, 0]), dim=-1)
        plan = right_forward.unflatten(0, (-1, 8))
    else:
        plan = corners[..., :2].double()
    origin = np.array([grid.x_m[0], grid.y_m[0]])
    pixels = (plan.numpy() - origin) / grid.cell_m - 0.5
    mask = np.zeros((grid.ny, grid.nx), np.uint8)
    for points in np.round(pixels * 2**_SUBPIXEL_BITS).astype(np.int32):
        # Eight corners of an upright box are four places; the hull orders them.
        hull = cv2.convexHull(points)
        cv2.fillPoly(mask, [hull], (1,), cv2.LINE_8, _SUBPIXEL_BITS)
    return torch.from_numpy(mask).bool()


def _polygon(row: dict[str, Any], nodes: dict[str, tuple[float, float]]) -> Shape | None:
    """A polygon; None for the empty ones that the files hold."""
    if len(row["exterior_node_tokens"]) < 3:
        return None
    holes = [
        np.array([nodes[n] for n in hole["node_tokens"]], np.float64)
        for hole in row["holes"]
        if len(hole["node_tokens"]) >= 3
    ]
    return _shape(
        np.array([nodes[n] for n in row["exterior_node_tokens"]], np.float64), tuple(holes)
    )


def _shape(outline: Array, holes: tuple[Array, ...] = ()) -> Shape:
    return Shape(outline, holes, outline.min(axis=0), outline.max(axis=0))
