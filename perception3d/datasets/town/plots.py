"""What lies beside the streets: house plots, car parks and yards, and the shelves on which things
are put down.

A shelf is a strip of ground along a line (a parking strip, the kerb side of a walkway, the verge
before the houses, a row of a car park). Things are put on it one after the other, so rows of parked
cars, racks or barriers need no other geometry.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from perception3d.datasets.town.planar import (
    Occupancy,
    Points,
    arc_lengths,
    corners_of,
    densify,
    offset_polyline,
    rectangle,
)
from perception3d.datasets.town.settings import TownSettings, stream
from perception3d.datasets.town.streets import (
    DISTRICT_M,
    JUNCTION_M,
    LANE_M,
    NODES,
    PARKING_M,
    SPACING_M,
    WALKWAY_M,
    District,
    Street,
)

VERGE_M = 2.2  # between walkway and house fronts
WALKER_HALF_M = 0.42  # kept free on both sides of a walking line
CORNER_M = 17.0  # depth that the horizontal streets' corner houses need
RIM_M = 46.0  # outer plots reach this far beyond the corner nodes


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A building plot beside a street.

    Attributes:
        kind: "house", "car_park", "yard" or "garden".
        street: the street it fronts.
        pose: world centre and heading along the street.
        length_m: along the street; depth_m: away from it.
        polygon: (n, 2) world outline (houses: the oriented rectangle).
        driveway: (n, 2) polygon over the walkway, for car parks and yards.
    """

    kind: str
    street: int
    pose: tuple[float, float, float]
    length_m: float
    depth_m: float
    polygon: Points
    driveway: Points | None = None


@dataclass(frozen=True, kw_only=True)
class Shelf:
    """A strip of ground for putting things down.

    Attributes:
        kind: "strip" (parking along a street), "kerb", "verge", "row" (car park, things stand
            across), "bay" (yard), "front" (edge of a yard).
        line: (n, 2) world centre line.
        depth_m: usable width across the line.
        lane_side: +1 / -1: on which side (left / right of the line) the street lies.
        is_across: things head across the line.
        is_beside_yard: the ground behind it is a yard (workers and barriers belong here).
    """

    kind: str
    line: Points
    depth_m: float
    lane_side: int
    is_across: bool = False
    is_beside_yard: bool = False

    @property
    def length_m(self) -> float:
        """Length of the line."""
        return float(arc_lengths(self.line)[-1])


@dataclass(kw_only=True)
class Lots:
    """Plots and shelves of a district, and the ground that is taken before anything is put down."""

    plots: list[Plot]
    shelves: list[Shelf]
    occupancy: Occupancy


def build_lots(settings: TownSettings, district: District) -> Lots:
    """Divide the ground beside the streets.

    Args:
        settings: gives the seed.
        district: the streets.

    Returns:
        Plots that overlap nothing, and the shelves.
    """
    rng = stream(settings, "district", district.index, "lots")
    occupancy = Occupancy(district.origin_m, DISTRICT_M)
    for street in district.streets:
        for polygon in (street.polygon, *street.walkways):
            occupancy.mark(polygon)
    for junction in district.junctions:
        for polygon in (junction.polygon, *junction.walkways):
            occupancy.mark(polygon)
    shelves: list[Shelf] = []
    plots: list[Plot] = []
    for street in sorted(district.streets, key=lambda s: s.axis):
        for side in (-1, 1):
            plots += _fill_side(district, street, side, rng, occupancy, shelves)
    _second_row(district, rng, occupancy, plots)
    for street in district.streets:
        shelves += _street_shelves(district, street)
    return Lots(plots=plots, shelves=shelves, occupancy=_placing_ground(district, plots))


def _fill_side(
    district: District,
    street: Street,
    side: int,
    rng: np.random.Generator,
    occupancy: Occupancy,
    shelves: list[Shelf],
) -> list[Plot]:
    """Houses, car parks, yards and gardens along one side, from one end to the other."""
    begin, end = _usable_range(district, street, side)
    special = [str(rng.choice(["car_park", "yard"]))]
    if end - begin > 70:
        special.append("yard" if special[0] == "car_park" else "car_park")
    special_at = sorted(rng.uniform(0.12, 0.75, len(special)))
    lengths = {"house": (13, 24), "garden": (7, 12), "car_park": (24, 31), "yard": (30, 34)}
    plots: list[Plot] = []
    cursor = begin
    while end - cursor > 9:
        progress = (cursor - begin) / (end - begin)
        kind = "garden" if rng.random() < 0.12 else "house"
        if special and progress >= special_at[0]:
            kind = special.pop(0)
            special_at = special_at[1:]
        length = float(rng.uniform(*lengths[kind]))
        if length > end - cursor:
            kind, length = "house", min(length, end - cursor)
        depth = {
            "house": float(rng.uniform(11, 15)),
            "garden": 8.0,
            "car_park": 18.6,
            "yard": 15.5,
        }[kind]
        setback = float(rng.uniform(VERGE_M, VERGE_M + 1.2)) if kind == "house" else VERGE_M
        plot = _plot(district, street, side, kind, cursor, length, setback, depth)
        for _ in range(4):
            if occupancy.is_free(plot.polygon):
                break
            depth -= 2.0
            length -= 1.0
            plot = _plot(district, street, side, kind, cursor + 1.0, length, setback, depth)
        is_complete = kind in ("house", "garden") or (depth >= 15 and length >= 22)
        if occupancy.is_free(plot.polygon) and is_complete and min(depth, length) > 5:
            occupancy.mark(plot.polygon)
            plots.append(plot)
            if kind == "car_park":
                shelves += _car_park_rows(district, street, side, cursor, length)
            elif kind == "yard":
                shelves += _yard_rows(district, street, side, cursor, length)
            cursor += length + float(rng.choice([0.7, 0.7, 2.5, 5.0]))
        else:
            cursor += 4.0
    return plots


def _usable_range(district: District, street: Street, side: int) -> tuple[float, float]:
    """From where to where plots may stand along one side, in street coordinates."""
    i, j = street.start % NODES, street.start // NODES
    crossing = district.columns if street.axis == 0 else district.rows
    k = i if street.axis == 0 else j
    line = j if street.axis == 0 else i
    # On the outside of the grid plots run on beyond the corner nodes and close the view.
    is_outside = (line == 0 and side == (-1 if street.axis == 0 else 1)) or (
        line == NODES - 1 and side == (1 if street.axis == 0 else -1)
    )
    corner = 0.0 if street.axis == 0 else CORNER_M
    begin = crossing[k].half_width_m + WALKWAY_M + 1.2 + corner
    end = SPACING_M - crossing[k + 1].half_width_m - WALKWAY_M - 1.2 - corner
    if is_outside:
        at_start, at_end = k == 0, k + 1 == NODES - 1
        reach = RIM_M if street.axis == 0 else -(crossing[k].half_width_m + WALKWAY_M + 1.0)
        begin = -reach if at_start else 0.0
        end = SPACING_M + reach if at_end else SPACING_M
    return begin, end


def _plot(
    district: District,
    street: Street,
    side: int,
    kind: str,
    start_m: float,
    length_m: float,
    setback_m: float,
    depth_m: float,
) -> Plot:
    front = street.section.half_width_m + WALKWAY_M + setback_m
    middle = street.canonical(start_m + length_m / 2, side * (front + depth_m / 2))
    pose = district.warp.pose(middle, street.direction())
    polygon = corners_of(pose, length_m, depth_m)
    driveway = None
    if kind in ("car_park", "yard"):
        w = street.section.half_width_m
        polygon = _patch(
            district, street, side, start_m, start_m + length_m, front, front + depth_m
        )
        gate = start_m + length_m / 2
        driveway = _patch(district, street, side, gate - 3, gate + 3, w - 0.3, front + 0.6)
    return Plot(
        kind=kind,
        street=street.index,
        pose=pose,
        length_m=length_m,
        depth_m=depth_m,
        polygon=polygon,
        driveway=driveway,
    )


def _patch(
    district: District, street: Street, side: int, a0: float, a1: float, left0: float, left1: float
) -> Points:
    """World outline of a canonical rectangle beside a street."""
    ring = rectangle(a0, left0, a1, left1)
    xy = np.array([street.canonical(a, side * left) for a, left in ring])
    return district.warp(densify(xy, closed=True))


def _second_row(
    district: District, rng: np.random.Generator, occupancy: Occupancy, plots: list[Plot]
) -> None:
    """Houses behind the outer plots: the eye shall not see empty fields at the rim."""
    rim = 7.5
    for edge in range(4):
        cursor = 6.0
        while cursor < DISTRICT_M - 20:
            length = float(rng.uniform(14, 26))
            depth = float(rng.uniform(9, 13))
            along = cursor + length / 2
            at = rim + (depth - 9) / 2 + 1.0
            x, y = [(along, at), (DISTRICT_M - at, along), (along, DISTRICT_M - at), (at, along)][
                edge
            ]
            pose = (
                district.origin_m[0] + x,
                district.origin_m[1] + y,
                0.0 if edge % 2 == 0 else np.pi / 2,
            )
            polygon = corners_of(pose, length, depth)
            if occupancy.is_free(corners_of(pose, length + 1, depth + 1)):
                occupancy.mark(polygon)
                plots.append(
                    Plot(
                        kind="tall_house",
                        street=-1,
                        pose=pose,
                        length_m=length,
                        depth_m=depth,
                        polygon=polygon,
                    )
                )
            cursor += length + float(rng.uniform(1, 6))


def _line(district: District, street: Street, a0: float, a1: float, left_m: float) -> Points:
    ends = np.array([street.canonical(a0, left_m), street.canonical(a1, left_m)])
    return district.warp(densify(ends))


def _car_park_rows(
    district: District, street: Street, side: int, start_m: float, length_m: float
) -> list[Shelf]:
    front = street.section.half_width_m + WALKWAY_M + VERGE_M
    a0, a1, gate = start_m + 0.5, start_m + length_m - 0.5, start_m + length_m / 2
    rows = []
    for left, ranges in ((3.3, ((a0, gate - 3.2), (gate + 3.2, a1))), (15.2, ((a0, a1),))):
        for b0, b1 in ranges:
            rows.append(
                Shelf(
                    kind="row",
                    line=_line(district, street, b0, b1, side * (front + left)),
                    depth_m=5.6,
                    lane_side=-side,
                    is_across=True,
                )
            )
    return rows


def _yard_rows(
    district: District, street: Street, side: int, start_m: float, length_m: float
) -> list[Shelf]:
    front = street.section.half_width_m + WALKWAY_M + VERGE_M
    a0, a1, gate = start_m + 0.8, start_m + length_m - 0.8, start_m + length_m / 2
    rows = [
        Shelf(
            kind="bay",
            line=_line(district, street, a0, a1, side * (front + left)),
            depth_m=3.6,
            lane_side=-side,
            is_beside_yard=True,
        )
        for left in (6.0, 10.6)
    ]
    for b0, b1 in ((a0, gate - 3.4), (gate + 3.4, a1)):
        rows.append(
            Shelf(
                kind="front",
                line=_line(district, street, b0, b1, side * (front + 1.2)),
                depth_m=1.6,
                lane_side=-side,
                is_beside_yard=True,
            )
        )
    return rows


def _street_shelves(district: District, street: Street) -> list[Shelf]:
    w = street.section.half_width_m
    shelves = []
    for side in (-1, 1):
        a0, a1 = JUNCTION_M + 3.0, SPACING_M - JUNCTION_M - 3.0
        if street.section.has_parking:
            strip = _line(district, street, a0, a1, side * (w - PARKING_M / 2))
            shelves.append(Shelf(kind="strip", line=strip, depth_m=PARKING_M, lane_side=-side))
        for kind, left, depth in (("kerb", 0.68, 0.9), ("verge", WALKWAY_M + 1.1, 1.7)):
            line = _line(district, street, a0, a1, side * (w + left))
            shelves.append(Shelf(kind=kind, line=line, depth_m=depth, lane_side=-side))
    return shelves


def _placing_ground(district: District, plots: list[Plot]) -> Occupancy:
    """Ground on which nothing may be put down: driving lanes, junctions, walking lines, houses,
    driveways.
    """
    ground = Occupancy(district.origin_m, DISTRICT_M)
    for street in district.streets:
        lanes_m = street.section.lanes * LANE_M
        corners = np.array(
            [
                street.canonical(a, o)
                for a, o in rectangle(12.0, -lanes_m, SPACING_M - 12.0, lanes_m)
            ]
        )
        ground.mark(district.warp(densify(corners, closed=True)))
    for junction in district.junctions:
        ground.mark(junction.polygon)
    for crossing in district.crossings:
        for line in crossing.lines:
            ground.mark(_ribbon(line, 0.45, extend_m=0.5))
    for loop in district.loops:
        for lane in loop:
            for k in range(0, len(lane) - 1, 8):
                ground.mark(_ribbon(lane[k : k + 9], WALKER_HALF_M))
    for plot in plots:
        if plot.kind in ("house", "tall_house"):
            ground.mark(plot.polygon)
        if plot.driveway is not None:
            ground.mark(plot.driveway)
    return ground


def _ribbon(line: Points, half_m: float, extend_m: float = 0.0) -> Points:
    direction = line[-1] - line[0]
    direction = direction / np.linalg.norm(direction) * extend_m
    longer = np.concatenate([[line[0] - direction], line[1:-1], [line[-1] + direction]])
    return np.concatenate([offset_polyline(longer, half_m), offset_polyline(longer, -half_m)[::-1]])
