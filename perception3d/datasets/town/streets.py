"""The parts of a street plan: sections, lanes, streets, junctions, crossings and their district."""

from __future__ import annotations

from dataclasses import dataclass, field

from perception3d.datasets.town.planar import Points, Warp

DISTRICT_M = 340.0
DISTRICTS_PER_ROW = 8
NODES = 3  # a side
SPACING_M = 110.0
MARGIN_M = 60.0
LANE_M = 3.5
PARKING_M = 3.0  # a bus fits
WALKWAY_M = 4.0
JUNCTION_M = 17.5  # lanes end and start at this distance from a node
CROSSING_M = (12.5, 16.0)
STOP_LINE_M = (17.0, 17.6)
OVERLAP_M = 3.5  # roads reach into the junction polygon, or map and picture show gaps
OUTER_CORNER_M = 4.0
WALKER_LANES_M = (1.7, 2.5, 3.3)  # from the kerb
DIRECTIONS = ((1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0))  # east, north, west, south
STREET_SPEED_MPS = 10.5
TURN_SPEED_MPS = 4.8
STRAIGHT_SPEED_MPS = 9.0


@dataclass(frozen=True, kw_only=True)
class Section:
    """Cross-section of a street: lanes each way and a parking strip on both sides or none."""

    lanes: int
    has_parking: bool

    @property
    def half_width_m(self) -> float:
        """From the centre line to the kerb."""
        return self.lanes * LANE_M + (PARKING_M if self.has_parking else 0.0)


@dataclass(kw_only=True)
class Lane:
    """A lane of a street or a connector through a junction.

    Attributes:
        index: place in `District.lanes`.
        street: street number, -1 for a connector.
        junction: where a lane ends, or where a connector lies.
        arm: direction number of the arm of `junction` by which its traffic comes.
        exit_arm: for a connector the arm by which it leaves, else -1.
        rank: 0 = next to the centre line.
        turn: "straight", "left", "right".
        centre_m: (n, 2) world polyline in driving direction; left_m, right_m its borders.
        speed_mps: what drivers want to drive here.
        exits: lanes that follow.
        entries: lanes that lead here.
    """

    index: int
    street: int
    junction: int
    arm: int
    exit_arm: int
    rank: int
    turn: str
    centre_m: Points
    left_m: Points
    right_m: Points
    speed_mps: float
    exits: list[int] = field(default_factory=list)
    entries: list[int] = field(default_factory=list)

    @property
    def is_connector(self) -> bool:
        """Whether it lies inside a junction."""
        return self.street < 0


@dataclass(frozen=True, kw_only=True)
class Street:
    """A street between two neighbouring nodes, drawn from `start` (west or south) to `end`."""

    index: int
    start: int
    end: int
    axis: int  # 0 runs east, 1 runs north
    section: Section
    origin_m: tuple[float, float]  # canonical place of the start node
    polygon: Points
    blocks: tuple[Points, Points]  # the halves with and against the direction of drawing
    centre_line: Points
    lane_lines: tuple[Points, ...]  # between lanes of one direction, and beside parking strips
    walkways: tuple[Points, Points]  # right and left side

    def canonical(self, along_m: float, left_m: float) -> tuple[float, float]:
        """Street coordinates (from the start node along, and to the left) -> canonical grid."""
        x, y = self.origin_m
        return (x + along_m, y + left_m) if self.axis == 0 else (x - left_m, y + along_m)

    def direction(self, *, is_backward: bool = False) -> tuple[float, float]:
        """Canonical unit vector along the street."""
        return DIRECTIONS[self.axis + 2 * is_backward]


@dataclass(frozen=True, kw_only=True)
class Crossing:
    """A zebra over one arm of a junction: polygon, and the straight lines walkers take (kerb to
    kerb).
    """

    junction: int
    arm: int
    street: int
    polygon: Points
    lines: tuple[Points, ...]


@dataclass(frozen=True, kw_only=True)
class StopLine:
    """Where the traffic of one arm waits, and the place and heading of its traffic light."""

    junction: int
    arm: int
    street: int
    polygon: Points
    light_pose: tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Junction:
    """A node of the grid.

    Attributes:
        streets: street number by arm (direction number).
        phases: groups of arms that have green together; empty = no lights.
        widths_m: half widths of the vertical and the horizontal street.
    """

    index: int
    node_m: tuple[float, float]
    streets: dict[int, int]
    widths_m: tuple[float, float]
    phases: tuple[tuple[int, ...], ...]
    allows_left: bool
    polygon: Points
    walkways: tuple[Points, ...]


@dataclass(kw_only=True)
class District:
    """One 340 m x 340 m part of the town (world coordinates unless said otherwise)."""

    index: int
    origin_m: tuple[float, float]
    warp: Warp
    streets: list[Street]
    junctions: list[Junction]
    lanes: list[Lane]
    crossings: list[Crossing]
    stop_lines: list[StopLine]
    loops: list[tuple[Points, ...]]  # closed walking paths round each block, one a walker lane
    columns: tuple[Section, ...]
    rows: tuple[Section, ...]


def node_position(node: int) -> tuple[float, float]:
    """Canonical place of a node [m]."""
    return (MARGIN_M + SPACING_M * (node % NODES), MARGIN_M + SPACING_M * (node // NODES))
