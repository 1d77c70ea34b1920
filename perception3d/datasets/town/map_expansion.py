"""The map of the town in the nuScenes map-expansion format (version 1.3), and the semantic-prior
picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from perception3d.datasets.town.ground import drivable_polygons
from perception3d.datasets.town.planar import Points
from perception3d.datasets.town.plots import Lots
from perception3d.datasets.town.streets import DISTRICT_M, DISTRICTS_PER_ROW, District, Lane

VERSION = "1.3"
LOCATION = "boston-seaport"  # the devkit accepts only its four locations
CANVAS_M = (2979.5, 2118.1)  # of this location, hard-coded in the devkit's get_map_mask
PIXELS_PER_M = 10
FOREGROUND = 255
_STRAIGHT_RADIUS_M = 1000.0

Record = dict[str, Any]
_LISTS = (
    "node",
    "line",
    "polygon",
    "drivable_area",
    "road_segment",
    "road_block",
    "lane",
    "lane_connector",
    "ped_crossing",
    "walkway",
    "stop_line",
    "carpark_area",
    "road_divider",
    "lane_divider",
    "traffic_light",
)


class MapExpansion:
    """Collects the records of all districts.

    Args:
        token: makes a 32-digit token from meaningful names.
    """

    def __init__(self, token: Callable[..., str]) -> None:
        self.token = token
        self.tables: dict[str, list[Record]] = {name: [] for name in _LISTS}
        self.arclines: dict[str, list[Record]] = {}
        self.connectivity: dict[str, dict[str, list[str]]] = {}

    def document(self) -> Record:
        """The JSON document with its 19 top-level keys."""
        return {
            "version": VERSION,
            "canvas_edge": list(CANVAS_M),
            **self.tables,
            "arcline_path_3": self.arclines,
            "connectivity": self.connectivity,
        }

    def add_district(self, district: District, lots: Lots) -> None:
        """Add everything of one district."""
        self.prefix = f"district-{district.index}"
        drivable = [self._polygon(p) for p in drivable_polygons(district, lots)]
        self._add("drivable_area", polygon_tokens=drivable)
        blocks = self._add_roads(district)
        self._add_lanes(district)
        for crossing in district.crossings:
            self._add(
                "ped_crossing",
                polygon_token=self._polygon(crossing.polygon),
                road_segment_token=self.token(self.prefix, "junction", crossing.junction),
            )
        for area in [w for street in district.streets for w in street.walkways] + [
            w for junction in district.junctions for w in junction.walkways
        ]:
            self._add("walkway", polygon_token=self._polygon(area))
        for plot in lots.plots:
            if plot.driveway is not None:
                self._add(
                    "carpark_area",
                    polygon_token=self._polygon(plot.polygon),
                    orientation=plot.pose[2],
                )
        self._add_lights(district, blocks)

    def _add_roads(self, district: District) -> dict[tuple[int, bool], str]:
        blocks: dict[tuple[int, bool], str] = {}
        for junction in district.junctions:
            self._add(
                "road_segment",
                token=self.token(self.prefix, "junction", junction.index),
                polygon_token=self._polygon(junction.polygon),
                is_intersection=True,
                drivable_area_token="",
            )
        for street in district.streets:
            segment = self.token(self.prefix, "street", street.index)
            self._add(
                "road_segment",
                token=segment,
                polygon_token=self._polygon(street.polygon),
                is_intersection=False,
                drivable_area_token="",
            )
            for is_backward, outline in zip((False, True), street.blocks, strict=True):
                token = self.token(self.prefix, "block", street.index, int(is_backward))
                blocks[street.index, is_backward] = token
                lanes = [k for k in district.lanes if k.street == street.index]
                edge = [k for k in lanes if (k.junction == street.start) == is_backward]
                self._add(
                    "road_block",
                    token=token,
                    polygon_token=self._polygon(outline),
                    from_edge_line_token=self._line(
                        np.stack([edge[0].left_m[0], edge[-1].right_m[0]])
                    ),
                    to_edge_line_token=self._line(
                        np.stack([edge[0].left_m[-1], edge[-1].right_m[-1]])
                    ),
                    road_segment_token=segment,
                )
            self._add(
                "road_divider",
                line_token=self._line(street.centre_line),
                road_segment_token=segment,
            )
            kinds = (street.section.lanes - 1) * 2
            for number, line in enumerate(street.lane_lines):
                kind = "SINGLE_DASHED_WHITE" if number < kinds else "SINGLE_SOLID_WHITE"
                token = self._line(line)
                nodes = self.tables["line"][-1]["node_tokens"]
                segments = [{"node_token": n, "segment_type": kind} for n in nodes]
                self._add("lane_divider", line_token=token, lane_divider_segments=segments)
        return blocks

    def _add_lanes(self, district: District) -> None:
        tokens = [self._lane_token(k) for k in district.lanes]
        for lane, token in zip(district.lanes, tokens, strict=True):
            outline = self._polygon(np.concatenate([lane.right_m, lane.left_m[::-1]]))
            ends = [self._line(np.stack([lane.left_m[k], lane.right_m[k]])) for k in (0, -1)]
            shared = {"token": token, "polygon_token": outline}
            if lane.is_connector:
                self._add("lane_connector", **shared)
            else:
                self._add(
                    "lane",
                    **shared,
                    lane_type="CAR",
                    from_edge_line_token=ends[0],
                    to_edge_line_token=ends[1],
                    left_lane_divider_segments=self._segments(
                        lane.left_m,
                        "DOUBLE_SOLID_YELLOW" if lane.rank == 0 else "SINGLE_DASHED_WHITE",
                    ),
                    right_lane_divider_segments=self._segments(lane.right_m, "SINGLE_SOLID_WHITE"),
                )
            self.arclines[token] = _arclines(lane.centre_m)
            self.connectivity[token] = {
                "incoming": [tokens[k] for k in lane.entries],
                "outgoing": [tokens[k] for k in lane.exits],
            }

    def _add_lights(self, district: District, blocks: dict[tuple[int, bool], str]) -> None:
        for stop in district.stop_lines:
            x, y, yaw = stop.light_pose
            street = district.streets[stop.street]
            from_block = blocks[street.index, street.start == stop.junction]
            towards = np.array([[x, y], [x + 0.5 * np.cos(yaw), y + 0.5 * np.sin(yaw)]])
            light = self.token(self.prefix, "light", stop.junction, stop.arm)
            exits = [
                blocks[k, district.streets[k].end == stop.junction]
                for arm, k in district.junctions[stop.junction].streets.items()
                if arm != stop.arm
            ]
            self._add(
                "traffic_light",
                token=light,
                line_token=self._line(towards),
                traffic_light_type="VERTICAL",
                from_road_block_token=from_block,
                items=[
                    {
                        "color": color,
                        "shape": "CIRCLE",
                        "rel_pos": {
                            "tx": 0.0,
                            "ty": 0.0,
                            "tz": 0.4 * (2 - k),
                            "rx": 0.0,
                            "ry": 0.0,
                            "rz": 0.0,
                        },
                        "to_road_block_tokens": exits,
                    }
                    for k, color in enumerate(("RED", "YELLOW", "GREEN"))
                ],
                pose={"tx": x, "ty": y, "tz": 4.0, "rx": 0.0, "ry": 0.0, "rz": yaw},
            )
            self._add(
                "stop_line",
                polygon_token=self._polygon(stop.polygon),
                stop_line_type="TRAFFIC_LIGHT",
                traffic_light_tokens=[light],
                ped_crossing_tokens=[],
                road_block_token=from_block,
            )

    def _lane_token(self, lane: Lane) -> str:
        return self.token(self.prefix, "lane", lane.index)

    def _add(self, table: str, **fields: Any) -> None:
        token = self.token("map", table, len(self.tables[table]))
        self.tables[table].append({"token": token, **fields})

    def _nodes(self, points: Points) -> list[str]:
        nodes = self.tables["node"]
        tokens = []
        for x, y in points:
            token = self.token("map", "node", len(nodes))
            nodes.append({"token": token, "x": float(x), "y": float(y)})
            tokens.append(token)
        return tokens

    def _line(self, points: Points) -> str:
        token = self.token("map", "line", len(self.tables["line"]))
        self.tables["line"].append({"token": token, "node_tokens": self._nodes(points)})
        return token

    def _polygon(self, points: Points) -> str:
        token = self.token("map", "polygon", len(self.tables["polygon"]))
        record = {"token": token, "exterior_node_tokens": self._nodes(points), "holes": []}
        self.tables["polygon"].append(record)
        return token

    def _segments(self, points: Points, kind: str) -> list[Record]:
        return [{"node_token": token, "segment_type": kind} for token in self._nodes(points)]


def semantic_prior(districts: Sequence[tuple[District, Lots]]) -> NDArray[np.uint8]:
    """Drivable ground as a picture, 10 px/m, row 0 at the largest y, from the canvas corner to the
    last district.

    Args:
        districts: all districts of the town.

    Returns:
        (H, W) uint8, 0 or 255.
    """
    columns = max(d.index % DISTRICTS_PER_ROW for d, _ in districts) + 1
    rows = max(d.index // DISTRICTS_PER_ROW for d, _ in districts) + 1
    side = round(DISTRICT_M * PIXELS_PER_M)
    picture: NDArray[np.uint8] = np.zeros((rows * side, columns * side), np.uint8)
    for district, lots in districts:
        for polygon in drivable_polygons(district, lots):
            pixels = np.round((polygon * PIXELS_PER_M - 0.5) * 16).astype(np.int32)
            cv2.fillPoly(picture, [pixels], (FOREGROUND,), shift=4)
    return picture[::-1]


def _arclines(centre: Points) -> list[Record]:
    """One straight piece a polyline step, in the arc-line form of the devkit (left, straight,
    left).
    """
    steps = np.diff(centre, axis=0)
    lengths = np.hypot(steps[:, 0], steps[:, 1])
    yaw = np.arctan2(steps[:, 1], steps[:, 0])
    return [
        {
            "start_pose": [float(a[0]), float(a[1]), float(h)],
            "end_pose": [float(b[0]), float(b[1]), float(h)],
            "shape": "LSL",
            "radius": _STRAIGHT_RADIUS_M,
            "segment_length": [0.0, float(d), 0.0],
        }
        for a, b, h, d in zip(centre[:-1], centre[1:], yaw, lengths, strict=True)
    ]
