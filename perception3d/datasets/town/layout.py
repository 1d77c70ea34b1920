"""Streets of a district: lanes, junctions, crossings, stop lines and walkways, in world
coordinates.

All is laid out on a straight canonical grid (3 x 3 nodes, 110 m apart) and then bent by one smooth
`Warp`. Traffic keeps to the right. A street's cross-section is given by its line of the grid, so
that lanes continue across junctions. Every offset is taken from the street's own half width.
"""

from __future__ import annotations

import numpy as np

from perception3d.datasets.town.markings import markings, walking_loops
from perception3d.datasets.town.planar import (
    Points,
    Warp,
    arc,
    densify,
    hermite,
    offset_polyline,
    rectangle,
)
from perception3d.datasets.town.settings import TownSettings, stream
from perception3d.datasets.town.streets import (
    CROSSING_M,
    DISTRICT_M,
    DISTRICTS_PER_ROW,
    JUNCTION_M,
    LANE_M,
    NODES,
    OUTER_CORNER_M,
    OVERLAP_M,
    SPACING_M,
    STRAIGHT_SPEED_MPS,
    STREET_SPEED_MPS,
    TURN_SPEED_MPS,
    WALKWAY_M,
    District,
    Junction,
    Lane,
    Section,
    Street,
    node_position,
)


def district_origin(index: int) -> tuple[float, float]:
    """Lower left corner of a district on the canvas [m]."""
    return (
        (index % DISTRICTS_PER_ROW) * DISTRICT_M,
        (index // DISTRICTS_PER_ROW) * DISTRICT_M,
    )


def build_layout(settings: TownSettings, index: int) -> District:
    """Lay out the streets of a district.

    Args:
        settings: gives the seed.
        index: number of the district on the canvas.

    Returns:
        The district: streets, junctions, lanes with their connections, crossings, stop lines and
            walking loops.
    """
    rng = stream(settings, "district", index, "layout")
    origin = district_origin(index)
    warp = Warp(phase=float(rng.uniform(0, 2 * np.pi)), origin_m=origin)
    columns, rows = _sections(rng), _sections(rng)
    splits_phases = bool(rng.random() < 0.5)
    streets: list[Street] = []
    arms: list[dict[int, int]] = [{} for _ in range(NODES * NODES)]
    for node in range(NODES * NODES):
        i, j = node % NODES, node // NODES
        for axis, neighbour, ok in ((0, node + 1, i + 1 < NODES), (1, node + NODES, j + 1 < NODES)):
            if ok:
                section = rows[j] if axis == 0 else columns[i]
                street = _street(len(streets), node, neighbour, axis, section, warp)
                arms[node][axis] = street.index
                arms[neighbour][axis + 2] = street.index
                streets.append(street)
    junctions = [
        _junction(k, arms[k], columns[k % NODES], rows[k // NODES], warp, splits_phases)
        for k in range(NODES * NODES)
    ]
    lanes = _street_lanes(streets, warp)
    _connect(lanes, junctions, streets)
    crossings, stop_lines = markings(junctions, streets, warp)
    return District(
        index=index,
        origin_m=origin,
        warp=warp,
        streets=streets,
        junctions=junctions,
        lanes=lanes,
        crossings=crossings,
        stop_lines=stop_lines,
        loops=walking_loops(columns, rows, warp),
        columns=columns,
        rows=rows,
    )


def _sections(rng: np.random.Generator) -> tuple[Section, ...]:
    kinds = [
        Section(lanes=1, has_parking=True),
        Section(lanes=2, has_parking=True),
        Section(lanes=2, has_parking=False),
    ]
    # One line of each kind in random order would look alike everywhere; the narrow one is the most
    # common.
    picks = rng.choice(3, size=NODES, p=(0.4, 0.45, 0.15))
    return tuple(kinds[k] for k in picks)


def _street(index: int, start: int, end: int, axis: int, section: Section, warp: Warp) -> Street:
    origin = node_position(start)
    w = section.half_width_m
    near, far = JUNCTION_M - OVERLAP_M, SPACING_M - JUNCTION_M + OVERLAP_M

    def world(along_left: Points, *, closed: bool = True) -> Points:
        a, left = along_left[:, 0], along_left[:, 1]
        xy = (
            np.stack([origin[0] + a, origin[1] + left], 1)
            if axis == 0
            else np.stack([origin[0] - left, origin[1] + a], 1)
        )
        return warp(densify(xy, closed=closed))

    def line(left_m: float) -> Points:
        ends = np.array([(JUNCTION_M, left_m), (SPACING_M - JUNCTION_M, left_m)])
        return world(ends, closed=False)

    offsets = [LANE_M * k for k in range(1, section.lanes + (1 if section.has_parking else 0))]
    kerb = (JUNCTION_M - 0.5, SPACING_M - JUNCTION_M + 0.5)
    return Street(
        index=index,
        start=start,
        end=end,
        axis=axis,
        section=section,
        origin_m=origin,
        polygon=world(rectangle(near, -w, far, w)),
        blocks=(
            world(rectangle(JUNCTION_M, -w, SPACING_M - JUNCTION_M, 0)),
            world(rectangle(JUNCTION_M, 0, SPACING_M - JUNCTION_M, w)),
        ),
        centre_line=line(0.0),
        lane_lines=tuple(line(sign * k) for k in offsets for sign in (-1, 1)),
        walkways=(
            world(rectangle(kerb[0], -w - WALKWAY_M, kerb[1], -w)),
            world(rectangle(kerb[0], w, kerb[1], w + WALKWAY_M)),
        ),
    )


def _junction(
    index: int,
    streets: dict[int, int],
    column: Section,
    row: Section,
    warp: Warp,
    splits_phases: bool,
) -> Junction:
    node = np.array(node_position(index))
    wx, wy = column.half_width_m, row.half_width_m
    r = min(5.0, CROSSING_M[0] - 0.3 - max(wx, wy))
    R, far = JUNCTION_M, WALKWAY_M
    outline: list[Points] = []
    walkways: list[Points] = []
    for k, (sx, sy) in enumerate(((1, 1), (-1, 1), (-1, -1), (1, -1))):
        sign = np.array([sx, sy], np.float64)
        horizontal, vertical = (0 if sx > 0 else 2) in streets, (1 if sy > 0 else 3) in streets
        # In the first quadrant, mirrored by the signs: from the horizontal arm round to the
        # vertical one.
        if horizontal and vertical:
            bend = arc((wx + r, wy + r), r, 1.5 * np.pi, np.pi, 7)
            edge = np.concatenate([[(R, wy)], bend, [(wx, R)]])
            walk = np.concatenate(
                [edge, [(wx, R), (wx + far, R), (wx + far, wy + far), (R, wy + far)]]
            )
        elif horizontal or vertical:
            edge = np.array([(R, wy) if horizontal else (wx, R)], np.float64)
            walk = rectangle(0, wy, R, wy + far) if horizontal else rectangle(wx, 0, wx + far, R)
        else:
            c = OUTER_CORNER_M
            edge = arc((wx - c, wy - c), c, 0.0, np.pi / 2, 7)
            walk = np.concatenate(
                [edge, [(0, wy), (0, wy + far), (wx + far, wy + far), (wx + far, 0), (wx, 0)]]
            )
        is_reversed = bool(k % 2)
        outline.append((edge[::-1] if is_reversed else edge) * sign)
        walkways.append(warp(densify(node + walk * sign, closed=True)))
    phases: tuple[tuple[int, ...], ...] = ()
    allows_left = len(streets) == 2 or (len(streets) == 4 and splits_phases)
    if len(streets) == 4:
        phases = ((0,), (1,), (2,), (3,)) if splits_phases else ((0, 2), (1, 3))
    elif len(streets) == 3:
        stem = next(k for k in streets if (k + 2) % 4 not in streets)
        phases = (tuple(k for k in sorted(streets) if k != stem), (stem,))
    polygon: Points = np.concatenate(outline) + node
    return Junction(
        index=index,
        node_m=(float(node[0]), float(node[1])),
        streets=dict(sorted(streets.items())),
        widths_m=(wx, wy),
        phases=phases,
        allows_left=allows_left,
        polygon=warp(densify(polygon, closed=True)),
        walkways=tuple(walkways),
    )


def _street_lanes(streets: list[Street], warp: Warp) -> list[Lane]:
    lanes: list[Lane] = []
    for street in streets:
        for is_backward in (False, True):
            for rank in range(street.section.lanes):
                lines = []
                for across in (rank * LANE_M, (rank + 0.5) * LANE_M, (rank + 1) * LANE_M):
                    ends = [
                        street.canonical(JUNCTION_M, -across),
                        street.canonical(SPACING_M - JUNCTION_M, -across),
                    ]
                    if is_backward:
                        ends = [
                            street.canonical(SPACING_M - JUNCTION_M, across),
                            street.canonical(JUNCTION_M, across),
                        ]
                    lines.append(warp(densify(np.array(ends, np.float64))))
                lanes.append(
                    Lane(
                        index=len(lanes),
                        street=street.index,
                        junction=street.start if is_backward else street.end,
                        arm=street.axis if is_backward else street.axis + 2,
                        exit_arm=-1,
                        rank=rank,
                        turn="straight",
                        left_m=lines[0],
                        centre_m=lines[1],
                        right_m=lines[2],
                        speed_mps=STREET_SPEED_MPS,
                    )
                )
    return lanes


def _connect(lanes: list[Lane], junctions: list[Junction], streets: list[Street]) -> None:
    """Add connectors: right turns outer to outer, left inner to inner, straight lane i to min(i, n
    - 1).
    """
    incoming: dict[tuple[int, int], list[Lane]] = {}
    outgoing: dict[tuple[int, int], list[Lane]] = {}
    for lane in lanes:
        incoming.setdefault((lane.junction, lane.arm), []).append(lane)
        street = streets[lane.street]
        is_backward = lane.junction == street.start
        start = street.end if is_backward else street.start
        outgoing.setdefault((start, street.axis + 2 * is_backward), []).append(lane)
    for junction in junctions:
        for arm in junction.streets:
            sources = incoming[junction.index, arm]
            for exit_arm in junction.streets:
                turn = {0: "straight", 1: "left", 3: "right", 2: "back"}[(exit_arm - arm - 2) % 4]
                targets = outgoing[junction.index, exit_arm]
                last, end = len(sources) - 1, len(targets) - 1
                is_stem = len(junction.streets) == 3 and (arm + 2) % 4 not in junction.streets
                if turn == "back" or (turn == "left" and not (junction.allows_left or is_stem)):
                    continue
                if turn == "straight" or len(junction.streets) == 2:
                    pairs = [(i, min(i, end)) for i in range(last + 1)]
                else:
                    pairs = [(last, end)] if turn == "right" else [(0, 0)]
                for i, o in pairs:
                    _add_connector(lanes, junction.index, exit_arm, turn, sources[i], targets[o])
    for lane in lanes:
        assert lane.exits, "every lane must lead on, or routes die"


def _add_connector(
    lanes: list[Lane], junction: int, exit_arm: int, turn: str, source: Lane, target: Lane
) -> None:
    a, b = source.centre_m, target.centre_m
    start = (*map(float, a[-1]), float(np.arctan2(*(a[-1] - a[-2])[::-1])))
    end = (*map(float, b[0]), float(np.arctan2(*(b[1] - b[0])[::-1])))
    centre = hermite((start[0], start[1], start[2]), (end[0], end[1], end[2]))
    connector = Lane(
        index=len(lanes),
        street=-1,
        junction=junction,
        arm=source.arm,
        exit_arm=exit_arm,
        rank=source.rank,
        turn=turn,
        centre_m=centre,
        left_m=offset_polyline(centre, LANE_M / 2),
        right_m=offset_polyline(centre, -LANE_M / 2),
        speed_mps=STRAIGHT_SPEED_MPS if turn == "straight" else TURN_SPEED_MPS,
        exits=[target.index],
        entries=[source.index],
    )
    lanes.append(connector)
    source.exits.append(connector.index)
    target.entries.append(connector.index)
