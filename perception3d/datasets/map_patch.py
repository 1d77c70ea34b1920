"""What of a map lies in a turned rectangle, drawn pixel for pixel as nuScenes-devkit draws it.

The devkit's rule (``NuScenesMap.get_map_mask``, version 1.2.0): clip each shape with the rectangle,
turn it, clip it again with the upright rectangle, bring it to pixels. Polygons: corners are rounded
and filled, borders included; then all holes are erased, whatever an earlier polygon has drawn
there. Lines: corners are cut to whole pixels, the way between them is some pixels thick.

Ends of lines at the far border lie on a whole pixel but for the last bit, which decides after the
cut; that is why the arithmetic here follows the devkit's, sum by sum, and the clipping is left to
the same library. The speed comes from what need not be clipped: the corners of all shapes that may
be near are turned at once, and most lie inside, or outside.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import shapely
from numpy.typing import NDArray

Array = NDArray[Any]

#: A shape that stays this far within the border needs no clipping, and one that stays as far
#: outside is not there. Rounding of turned coordinates is a thousand times smaller.
_MARGIN_M = 1e-6


@dataclass(frozen=True)
class Patch:
    """A rectangle on the map and the raster that shows it.

    Attributes:
        center_m: x, y in the map's frame.
        angle_deg: of the raster's x axis, counter-clockwise from the map's.
        size_m: length along the raster's x and y.
        shape: rows (y), columns (x).
    """

    center_m: tuple[float, float]
    angle_deg: float
    size_m: tuple[float, float]
    shape: tuple[int, int]

    def outline(self) -> Any:
        """The rectangle in the map's frame, a polygon."""
        x, y = self.center_m
        width, height = self.size_m
        upright = shapely.box(x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        return shapely.transform(upright, lambda xy: _turned(xy, self.angle_deg, self.center_m))

    def local(self, xy: Array) -> Array:
        """(N, 2) metres from the patch's middle, along its axes, of places on the map."""
        return _turned(xy, -self.angle_deg, self.center_m) + np.negative(self.center_m)

    def pixels(self, local: Array) -> Array:
        """(N, 2) column and row, not rounded, of :meth:`local` places."""
        rows, columns = self.shape
        width, height = self.size_m
        return (local + np.array((width / 2, height / 2))) * (columns / width, rows / height)


@dataclass(frozen=True, eq=False)
class MapShapes:
    """All shapes of a map, ready to be asked for those in a patch.

    Attributes:
        geometry: (S,) polygons and lines (shapely).
        layer: (S,) number of the layer each belongs to.
        line: (S,) bool.
        xy: (N, 2) corners of all rings of all shapes, one after the other.
        ring_first: (R + 1,) first corner of each ring, outlines before their holes.
        shape_ring: (S + 1,) first ring of each shape.
        low, high: (S, 2) corners of bounding boxes.
        plain: (S,) bool: clipping leaves it as it is when it lies inside. Not so for an outline or
            line that crosses itself.
    """

    geometry: Array
    layer: Array
    line: Array
    xy: Array
    ring_first: Array
    shape_ring: Array
    low: Array
    high: Array
    plain: Array

    @classmethod
    def build(cls, layers: Sequence[Sequence[Any]]) -> MapShapes:
        """Of the polygons and lines of every layer, none empty, in the order of drawing."""
        geometry = np.array([shape for layer in layers for shape in layer], dtype=object)
        line = shapely.get_type_id(geometry) == shapely.GeometryType.LINESTRING
        rings, owner = _rings(geometry)
        xy, ring = shapely.get_coordinates(rings, return_index=True)
        bounds = shapely.bounds(geometry).reshape(-1, 4)
        return cls(
            geometry=geometry,
            layer=np.repeat(np.arange(len(layers)), [len(layer) for layer in layers]),
            line=line,
            xy=xy,
            ring_first=np.searchsorted(ring, np.arange(len(rings) + 1)),
            shape_ring=np.searchsorted(owner, np.arange(len(geometry) + 1)),
            low=bounds[:, :2],
            high=bounds[:, 2:],
            plain=np.where(line, shapely.is_simple(geometry), shapely.is_valid(geometry)),
        )

    def draw(self, patch: Patch, layers: Sequence[int], line_px: int) -> Array:
        """(K, rows, columns) uint8, 1 where a layer is; lines are ``line_px`` thick."""
        slot = {layer: number for number, layer in enumerate(layers)}
        mask = np.zeros((len(layers), *patch.shape), np.uint8)
        drawn = sorted(self._pieces(patch, list(layers)), key=lambda piece: piece[0])
        for shape, outlines, holes in drawn:
            canvas = mask[slot[int(self.layer[shape])]]
            if self.line[shape]:
                cv2.polylines(canvas, outlines, False, (1,), line_px)
                continue
            cv2.fillPoly(canvas, outlines, (1,))
            if holes:
                cv2.fillPoly(canvas, holes, (0,))
        return mask

    def _pieces(
        self, patch: Patch, layers: list[int]
    ) -> Iterator[tuple[int, list[Array], list[Array]]]:
        """Number, outlines and holes, in whole pixels, of what each shape shows in the patch."""
        outline = patch.outline()
        low, high = shapely.bounds(outline).reshape(2, 2)
        near = np.flatnonzero(
            ((self.low <= high) & (self.high >= low)).all(axis=1) & np.isin(self.layer, layers)
        )
        if not len(near):
            return
        first, last = (self.ring_first[self.shape_ring[near + end]] for end in (0, 1))
        local = patch.local(np.concatenate([self.xy[a:b] for a, b in zip(first, last)]))
        start = np.cumsum(last - first) - (last - first)
        half = np.array(patch.size_m) / 2
        least = np.minimum.reduceat(local, start)
        most = np.maximum.reduceat(local, start)
        touches = ((least <= half + _MARGIN_M) & (most >= -half - _MARGIN_M)).all(axis=1)
        within = ((least >= -half + _MARGIN_M) & (most <= half - _MARGIN_M)).all(axis=1)
        whole = within & self.plain[near]
        pixels = _whole_pixels(patch.pixels(local), np.repeat(self.line[near], last - first))
        for number in np.flatnonzero(whole):
            shape = near[number]
            ends = self.ring_first[self.shape_ring[shape] : self.shape_ring[shape + 1] + 1]
            ends = ends - first[number] + start[number]
            rings = [pixels[a:b] for a, b in zip(ends, ends[1:])]
            # All corners of a line are one "ring".
            yield int(shape), rings[:1], rings[1:]
        yield from self._clipped(near[touches & ~whole], patch, outline)

    def _clipped(
        self, shapes: Array, patch: Patch, outline: Any
    ) -> Iterator[tuple[int, list[Array], list[Array]]]:
        inside = _of_kind(_intersection(self.geometry[shapes], outline), self.line[shapes])
        inside = shapely.transform(inside, patch.local)
        # Again: turned corners may stand outside by their last bit.
        width, height = patch.size_m
        upright = shapely.box(-width / 2, -height / 2, width / 2, height / 2)
        parts, owner = shapely.get_parts(
            _of_kind(_intersection(inside, upright), self.line[shapes]), return_index=True
        )
        rings, part = _rings(parts)
        if not len(rings):
            return
        xy, ring = shapely.get_coordinates(rings, return_index=True)
        pixels = _whole_pixels(patch.pixels(xy), self.line[shapes][owner[part[ring]]])
        found: dict[int, tuple[list[Array], list[Array]]] = {}
        ends = np.searchsorted(ring, np.arange(len(rings) + 1))
        for number, (a, b) in enumerate(zip(ends, ends[1:])):
            hole = number > 0 and bool(part[number] == part[number - 1])
            shape = int(shapes[owner[part[number]]])
            found.setdefault(shape, ([], []))[hole].append(pixels[a:b])
        for shape, (outlines, holes) in found.items():
            yield shape, outlines, holes


def _turned(xy: Array, angle_deg: float, about: tuple[float, float]) -> Array:
    """Places after a turn; each sum in the order, and right angles as exact, as shapely's."""
    angle = angle_deg * math.pi / 180.0
    c, s = (0.0 if abs(v) < 2.5e-16 else v for v in (math.cos(angle), math.sin(angle)))
    x0, y0 = about
    x, y = xy.T
    return np.stack(
        (c * x + -s * y + (x0 - x0 * c + y0 * s), s * x + c * y + (y0 - x0 * s - y0 * c)), axis=1
    )


def _whole_pixels(pixels: Array, line: Array) -> Array:
    """int32: corners of polygons are rounded, those of lines cut."""
    return np.where(line[:, None], pixels, np.round(pixels)).astype(np.int32)


def _rings(geometry: Array) -> tuple[Array, Array]:
    """Rings of polygons, the outline first; all else as it is. With the number of the geometry."""
    polygon = shapely.get_type_id(geometry) == shapely.GeometryType.POLYGON
    rings, owner = shapely.get_rings(geometry[polygon], return_index=True)
    rings = np.concatenate((rings, geometry[~polygon]))
    owner = np.concatenate((np.flatnonzero(polygon)[owner], np.flatnonzero(~polygon)))
    order = np.argsort(owner, kind="stable")
    return rings[order], owner[order]


def _intersection(geometry: Array, outline: Any) -> Array:
    with np.errstate(invalid="ignore"):  # flags that the library leaves set
        try:
            return shapely.intersection(geometry, outline)
        except shapely.GEOSException:
            # An outline that crosses itself in a way that the devkit, too, cannot clip.
            return shapely.intersection(shapely.make_valid(geometry), outline)


def _of_kind(geometry: Array, line: Array) -> Array:
    """Where shapes only touch the border: what is left of polygons is areas, and of lines lines.

    Where it is not one or the other, the devkit raises an error. (A line of which one point is
    left is a dot there, and here.)
    """
    kind, types = shapely.get_type_id(geometry), shapely.GeometryType
    area = (kind == types.POLYGON) | (kind == types.MULTIPOLYGON)
    for number in np.flatnonzero(~area & ~line | (kind == types.GEOMETRYCOLLECTION)):
        parts = shapely.get_parts(geometry[number])
        wanted = parts[shapely.get_dimensions(parts) == (1 if line[number] else 2)]
        make = shapely.multilinestrings if line[number] else shapely.multipolygons
        geometry[number] = make(wanted)
    return geometry
