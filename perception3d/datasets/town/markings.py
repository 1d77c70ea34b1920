"""What is painted on the streets and where people walk: crossings, stop lines, walking loops."""

from __future__ import annotations

import numpy as np

from perception3d.datasets.town.planar import (
    Points,
    Warp,
    arc,
    densify,
    rectangle,
)
from perception3d.datasets.town.streets import (
    CROSSING_M,
    DIRECTIONS,
    LANE_M,
    NODES,
    OUTER_CORNER_M,
    STOP_LINE_M,
    WALKER_LANES_M,
    Crossing,
    Junction,
    Section,
    StopLine,
    Street,
    node_position,
)


def markings(
    junctions: list[Junction], streets: list[Street], warp: Warp
) -> tuple[list[Crossing], list[StopLine]]:
    """Zebras and stop lines on the arms of all junctions that have lights.

    Args:
        junctions: of the district.
        streets: of the district.
        warp: canonical grid -> world.

    Returns:
        Crossings and stop lines, one each an arm.
    """
    crossings: list[Crossing] = []
    stop_lines: list[StopLine] = []
    for junction in junctions:
        if not junction.phases:
            continue
        for arm, number in junction.streets.items():
            section = streets[number].section
            w = section.half_width_m
            to_world = _ArmFrame(junction.node_m, arm, warp)
            lines = tuple(
                to_world(np.array([(d, -w - 0.85), (d, w + 0.85)]))
                for d in np.linspace(CROSSING_M[0] + 0.5, CROSSING_M[1] - 0.5, 4)
            )
            zebra = rectangle(CROSSING_M[0], -w, CROSSING_M[1], w)
            crossings.append(
                Crossing(
                    junction=junction.index,
                    arm=arm,
                    street=number,
                    polygon=to_world(zebra, closed=True),
                    lines=lines,
                )
            )
            # Traffic comes towards the node on its own right: the left side of the outward arm.
            bar = rectangle(STOP_LINE_M[0], 0.1, STOP_LINE_M[1], section.lanes * LANE_M)
            post = to_world(
                np.array([(CROSSING_M[1] + 0.6, w + 0.5), (CROSSING_M[1] + 1.6, w + 0.5)])
            )
            outward = post[-1] - post[0]
            stop_lines.append(
                StopLine(
                    junction=junction.index,
                    arm=arm,
                    street=number,
                    polygon=to_world(bar, closed=True),
                    light_pose=(
                        float(post[0, 0]),
                        float(post[0, 1]),
                        float(np.arctan2(outward[1], outward[0])),
                    ),
                )
            )
    return crossings, stop_lines


class _ArmFrame:
    """Coordinates (outward from a node, to the left) of one arm -> world."""

    def __init__(self, node_m: tuple[float, float], arm: int, warp: Warp) -> None:
        self.node = np.array(node_m)
        self.outward = np.array(DIRECTIONS[arm])
        self.left = np.array([-self.outward[1], self.outward[0]])
        self.warp = warp

    def __call__(self, points: Points, *, closed: bool = False) -> Points:
        xy = self.node + points[:, :1] * self.outward + points[:, 1:] * self.left
        return self.warp(densify(xy, closed=closed))


def walking_loops(
    columns: tuple[Section, ...], rows: tuple[Section, ...], warp: Warp
) -> list[tuple[Points, ...]]:
    """Closed walking paths round each block, and one round the whole grid on the outside.

    Args:
        columns: sections of the streets that run north.
        rows: sections of the streets that run east.
        warp: canonical grid -> world.

    Returns:
        For each loop its walker lanes as closed world polylines, the first point repeated at the
        end.
    """
    xs = [node_position(k)[0] for k in range(NODES)]
    ys = [node_position(k * NODES)[1] for k in range(NODES)]
    wx = [s.half_width_m for s in columns]
    wy = [s.half_width_m for s in rows]
    loops = []
    for i in range(NODES - 1):
        for j in range(NODES - 1):
            lanes = []
            for a in WALKER_LANES_M:
                box = (
                    xs[i] + wx[i] + a,
                    ys[j] + wy[j] + a,
                    xs[i + 1] - wx[i + 1] - a,
                    ys[j + 1] - wy[j + 1] - a,
                )
                lanes.append(warp(_rounded(box, 1.5)))
            loops.append(tuple(lanes))
    outside = []
    for a in WALKER_LANES_M:
        box = (xs[0] - wx[0] - a, ys[0] - wy[0] - a, xs[-1] + wx[-1] + a, ys[-1] + wy[-1] + a)
        outside.append(warp(_rounded(box, OUTER_CORNER_M + a)))
    loops.append(tuple(outside))
    return loops


def _rounded(box: tuple[float, float, float, float], r: float) -> Points:
    """Closed counter-clockwise ring (first point repeated) of a rectangle with rounded corners."""
    x0, y0, x1, y1 = box
    corners = [
        arc((x1 - r, y0 + r), r, -np.pi / 2, 0.0, 6),
        arc((x1 - r, y1 - r), r, 0.0, np.pi / 2, 6),
        arc((x0 + r, y1 - r), r, np.pi / 2, np.pi, 6),
        arc((x0 + r, y0 + r), r, np.pi, 1.5 * np.pi, 6),
    ]
    ring = np.concatenate(corners)
    return densify(np.concatenate([ring, ring[:1]]), 1.5)
