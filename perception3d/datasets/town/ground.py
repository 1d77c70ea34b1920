"""The ground of a district as a raster: colours for the cameras, materials for the LiDAR.

Row = y (row 0 at the lower edge), column = x. Everything is drawn from the polygons that also make
the map, so picture, points and map agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from perception3d.datasets.town.planar import (
    Points,
    arc_lengths,
    corners_of,
    densify,
    offset_polyline,
    rectangle,
)
from perception3d.datasets.town.plots import Lots
from perception3d.datasets.town.primitives import Material
from perception3d.datasets.town.settings import TownSettings, stream
from perception3d.datasets.town.streets import (
    DISTRICT_M,
    JUNCTION_M,
    LANE_M,
    PARKING_M,
    SPACING_M,
    District,
)

CELL_M = 0.1
WHITE = (214, 214, 208)
YELLOW = (205, 160, 52)
ASPHALT = (92, 92, 94)
SLAB = (158, 154, 147)
GRASS = (88, 103, 58)
GRAVEL = (138, 130, 116)


@dataclass(frozen=True)
class Ground:
    """Raster of the plane z = 0.

    Attributes:
        colour: (H, W, 3) uint8 RGB.
        material: (H, W) uint8, values of `Material` (grass, walkway, car park, asphalt, paint).
        origin_xy_m: (2,) world corner of cell (0, 0).
        cell_m: cell size.
    """

    colour: NDArray[np.uint8]
    material: NDArray[np.uint8]
    origin_xy_m: NDArray[np.float64]
    cell_m: float = CELL_M


class _Painter:
    """Fills polygons into both rasters."""

    def __init__(self, origin_m: tuple[float, float], size_m: float) -> None:
        n = round(size_m / CELL_M)
        self.origin = np.array(origin_m)
        self.colour = np.empty((n, n, 3), np.uint8)
        self.colour[:] = GRASS
        self.material = np.full((n, n), Material.GRASS, np.uint8)

    def fill(self, polygon: Points, colour: Sequence[int], material: Material | None) -> None:
        pixels = np.round(((polygon - self.origin) / CELL_M - 0.5) * 16).astype(np.int32)
        cv2.fillPoly(self.colour, [pixels], colour, lineType=cv2.LINE_AA, shift=4)
        if material is not None:
            cv2.fillPoly(self.material, [pixels], (int(material),), shift=4)

    def line(
        self, line: Points, width_m: float, colour: Sequence[int], material: Material | None
    ) -> None:
        ring = np.concatenate(
            [offset_polyline(line, width_m / 2), offset_polyline(line, -width_m / 2)[::-1]]
        )
        self.fill(ring, colour, material)

    def dashes(self, line: Points, width_m: float, dash_m: float, gap_m: float) -> None:
        s = arc_lengths(line)
        for start in np.arange(1.0, s[-1] - dash_m, dash_m + gap_m):
            at = np.linspace(start, start + dash_m, 4)
            piece = np.stack([np.interp(at, s, line[:, 0]), np.interp(at, s, line[:, 1])], 1)
            self.line(piece, width_m, WHITE, Material.PAINT)


def draw_ground(settings: TownSettings, district: District, lots: Lots) -> Ground:
    """Draw a district's ground (1 to 2 s: once a district, not once a scene).

    Args:
        settings: gives the seed.
        district: the streets.
        lots: car parks, yards and plots.

    Returns:
        The raster of the whole district.
    """
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # rounding must not depend on the machine's number of cores
    try:
        painter = _Painter(district.origin_m, DISTRICT_M)
        rng = stream(settings, "district", district.index, "ground")
        _draw_lots(painter, lots, rng)
        _draw_walkways(painter, district, rng)
        for plot in lots.plots:
            if plot.driveway is not None:
                painter.fill(plot.driveway, (128, 126, 122), Material.CAR_PARK)
        _draw_asphalt(painter, district, rng)
        _draw_paint(painter, district, lots)
        _add_stains(painter, rng)
    finally:
        cv2.setNumThreads(threads)
    return Ground(painter.colour, painter.material, painter.origin)


def drivable_polygons(district: District, lots: Lots) -> list[Points]:
    """World outlines (n, 2) of all ground that vehicles may use: streets, junctions, car parks,
    yards, driveways.
    """
    polygons = [street.polygon for street in district.streets]
    polygons += [junction.polygon for junction in district.junctions]
    for plot in lots.plots:
        if plot.driveway is not None:
            polygons += [plot.polygon, plot.driveway]
    return polygons


def _draw_lots(painter: _Painter, lots: Lots, rng: np.random.Generator) -> None:
    for plot in lots.plots:
        shade = int(rng.integers(-12, 12))
        if plot.kind in ("house", "tall_house"):
            # A paved rim: nobody grows grass to the wall of every house.
            rim = corners_of(plot.pose, plot.length_m + 1.6, plot.depth_m + 4.5)
            if rng.random() < 0.65 and plot.street >= 0:
                painter.fill(rim, [c + shade - 14 for c in SLAB], Material.WALKWAY)
        elif plot.kind == "car_park":
            painter.fill(plot.polygon, [c + shade + 8 for c in ASPHALT], Material.CAR_PARK)
        elif plot.kind == "yard":
            painter.fill(plot.polygon, [c + shade for c in GRAVEL], Material.CAR_PARK)


def _draw_walkways(painter: _Painter, district: District, rng: np.random.Generator) -> None:
    for street in district.streets:
        shade = int(rng.integers(-10, 10))
        w = street.section.half_width_m
        for side, polygon in zip((-1, 1), street.walkways, strict=True):
            painter.fill(polygon, [c + shade for c in SLAB], Material.WALKWAY)
            for along in np.arange(JUNCTION_M, SPACING_M - JUNCTION_M, 1.6):
                joint = np.array([street.canonical(along, side * (w + o)) for o in (0.0, 4.0)])
                painter.line(district.warp(joint), 0.06, [c + shade - 26 for c in SLAB], None)
            for across in (1.35, 2.7):
                ends = [
                    street.canonical(a, side * (w + across))
                    for a in (JUNCTION_M, SPACING_M - JUNCTION_M)
                ]
                painter.line(
                    district.warp(densify(np.array(ends))),
                    0.05,
                    [c + shade - 20 for c in SLAB],
                    None,
                )
    for junction in district.junctions:
        for polygon in junction.walkways:
            painter.fill(polygon, SLAB, Material.WALKWAY)


def _draw_asphalt(painter: _Painter, district: District, rng: np.random.Generator) -> None:
    kerb = (176, 173, 166)
    for polygon in [j.polygon for j in district.junctions] + [s.polygon for s in district.streets]:
        ring = np.concatenate([polygon, polygon[:2]])
        painter.line(ring, 0.3, kerb, Material.WALKWAY)
    for junction in district.junctions:
        painter.fill(junction.polygon, ASPHALT, Material.ASPHALT)
    for street in district.streets:
        painter.fill(street.polygon, ASPHALT, Material.ASPHALT)
        w = street.section.half_width_m
        for _ in range(14):  # repaired places, darker or lighter
            a, o = float(rng.uniform(16, SPACING_M - 18)), float(rng.uniform(-w + 0.5, w - 2.5))
            length, width = float(rng.uniform(1.2, 9)), float(rng.uniform(0.8, 2.4))
            shade = int(rng.integers(-16, 14))
            ring = np.array(
                [street.canonical(*p) for p in rectangle(a, o, a + length, min(o + width, w - 0.2))]
            )
            painter.fill(district.warp(ring), [c + shade for c in ASPHALT], None)
        for lane in range(street.section.lanes * 2):  # worn wheel tracks
            middle = (lane + 0.5 - street.section.lanes) * LANE_M
            for track in (-0.85, 0.85):
                ends = [street.canonical(a, middle + track) for a in (14.5, SPACING_M - 14.5)]
                painter.line(
                    district.warp(densify(np.array(ends))), 0.5, [c - 6 for c in ASPHALT], None
                )


def _draw_paint(painter: _Painter, district: District, lots: Lots) -> None:
    for street in district.streets:
        for side in (-0.16, 0.16):
            painter.line(offset_polyline(street.centre_line, side), 0.14, YELLOW, Material.PAINT)
        lanes = street.section.lanes
        for number, line in enumerate(street.lane_lines):
            is_strip_edge = street.section.has_parking and number // 2 == lanes - 1
            if is_strip_edge:
                painter.line(line, 0.12, WHITE, Material.PAINT)
            else:
                painter.dashes(line, 0.15, 3.0, 4.5)
        if street.section.has_parking:
            for side in (-1, 1):
                for along in np.arange(JUNCTION_M + 4.5, SPACING_M - JUNCTION_M - 3.0, 6.6):
                    o = side * lanes * LANE_M
                    bar = [
                        street.canonical(along, o),
                        street.canonical(along, o + side * PARKING_M),
                    ]
                    painter.line(district.warp(np.array(bar)), 0.12, WHITE, Material.PAINT)
    for crossing in district.crossings:
        _draw_zebra(painter, crossing.lines)
    for stop in district.stop_lines:
        painter.fill(stop.polygon, WHITE, Material.PAINT)
    for lane in district.lanes:
        if not lane.is_connector and district.junctions[lane.junction].phases:
            turns = {district.lanes[k].turn for k in lane.exits}
            _draw_arrow(painter, lane.centre_m, turns)
    _draw_slots(painter, lots)


def _draw_zebra(painter: _Painter, lines: tuple[Points, ...]) -> None:
    """Bars 0.5 m wide, 0.6 m apart, along the traffic, between the outer walking lines."""
    first, last = lines[0], lines[-1]
    reach = (first - last) * (0.5 / 2.5)
    a, b = first + reach, last - reach
    s = arc_lengths(a)
    for at in np.arange(1.2, s[-1] - 1.2, 1.1):
        bar = []
        for side in (a, b):
            bar.append([np.interp(at, s, side[:, 0]), np.interp(at, s, side[:, 1])])
        painter.line(np.array(bar), 0.5, WHITE, Material.PAINT)


def _draw_arrow(painter: _Painter, centre: Points, turns: set[str]) -> None:
    """Turn arrow before the stop line: a shaft and a head for each allowed movement."""
    for back_m in (6.0, 24.0):
        s = arc_lengths(centre)
        at = s[-1] - back_m
        x, y = np.interp(at, s, centre[:, 0]), np.interp(at, s, centre[:, 1])
        ahead = np.array(
            [np.interp(at + 1, s, centre[:, 0]) - x, np.interp(at + 1, s, centre[:, 1]) - y]
        )
        left = np.array([-ahead[1], ahead[0]])
        base = np.array([x, y])

        def shape(points: list[tuple[float, float]]) -> Points:
            return np.array([base + a * ahead + o * left for a, o in points])  # noqa: B023

        painter.fill(
            shape([(-1.4, -0.08), (0.9, -0.08), (0.9, 0.08), (-1.4, 0.08)]), WHITE, Material.PAINT
        )
        if "straight" in turns:
            painter.fill(shape([(0.7, -0.3), (1.9, 0.0), (0.7, 0.3)]), WHITE, Material.PAINT)
        for turn, side in (("left", 1.0), ("right", -1.0)):
            if turn in turns:
                bar = [(0.3, 0.0), (0.3, side * 0.55), (0.5, side * 0.55), (0.5, 0.0)]
                head = [(0.0, side * 0.5), (0.4, side * 1.05), (0.8, side * 0.5)]
                painter.fill(shape(bar), WHITE, Material.PAINT)
                painter.fill(shape(head), WHITE, Material.PAINT)


def _draw_slots(painter: _Painter, lots: Lots) -> None:
    for shelf in lots.shelves:
        if shelf.kind == "row":
            s = arc_lengths(shelf.line)
            left, right = offset_polyline(shelf.line, 2.7), offset_polyline(shelf.line, -2.7)
            for at in np.arange(0.0, s[-1] + 0.01, 2.8):
                ends = [
                    [np.interp(at, s, p[:, 0]), np.interp(at, s, p[:, 1])] for p in (left, right)
                ]
                painter.line(np.array(ends), 0.12, WHITE, Material.PAINT)


def _add_stains(painter: _Painter, rng: np.random.Generator) -> None:
    """Slow changes of brightness: no real ground has one colour."""
    n = painter.colour.shape[0]
    field = np.zeros((n, n), np.float32)
    for cells, strength in ((24, 5.0), (110, 5.0), (500, 4.0)):
        noise = rng.standard_normal((cells, cells)).astype(np.float32)
        field += strength * cv2.resize(noise, (n, n), interpolation=cv2.INTER_LINEAR)
    gain = np.where(painter.material == Material.GRASS, 1.6, 1.0).astype(np.float32)
    np.multiply(field, gain, out=field)
    for channel in range(3):
        plane = painter.colour[:, :, channel] + field
        painter.colour[:, :, channel] = np.clip(np.rint(plane), 0, 255).astype(np.uint8)
