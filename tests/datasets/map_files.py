"""Map expansions made by hand, in files that the devkit reads too."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

#: Of the four that the devkit knows.
LOCATION = "boston-seaport"
AREAS = (
    "drivable_area", "road_segment", "road_block", "lane", "lane_connector", "ped_crossing",
    "walkway", "stop_line", "carpark_area",
)  # fmt: skip
LINES = ("road_divider", "lane_divider", "traffic_light")

#: x, y of corners.
Ring = Sequence[tuple[float, float]]


def square(x: float, y: float, w: float, h: float) -> list[tuple[float, float]]:
    """Corners of an upright rectangle, from its lower left one."""
    return [(x, y), (x + w, y), (x + w, y + h), (x, y + h)]


def write_map(root: Path, layers: Mapping[str, Sequence[Any]]) -> None:
    """Write ``maps/expansion/boston-seaport.json``.

    Args:
        root: the data set's folder.
        layers: of each layer the shapes: lines as corners, polygons as (outline, holes).
    """
    tables: dict[str, Any] = {name: [] for name in (*AREAS, *LINES, "node", "polygon", "line")}
    tables.update(version="1.3", canvas_edge=[2979.5, 2118.1], arcline_path_3={}, connectivity={})

    def nodes(ring: Ring) -> list[str]:
        first = len(tables["node"])
        tables["node"] += [
            {"token": f"n{first + i}", "x": float(x), "y": float(y)}
            for i, (x, y) in enumerate(ring)
        ]
        return [f"n{first + i}" for i in range(len(ring))]

    for name, shapes in layers.items():
        for number, shape in enumerate(shapes):
            token = f"{name}{number}"
            if name in LINES:
                tables["line"].append({"token": token, "node_tokens": nodes(shape)})
                tables[name].append({"token": token, "line_token": token})
                continue
            outline, holes = shape
            tables["polygon"].append(
                {
                    "token": token,
                    "exterior_node_tokens": nodes(outline),
                    "holes": [{"node_tokens": nodes(hole)} for hole in holes],
                }
            )
            row = {"token": token, "polygon_token": token}
            if name == "drivable_area":
                row = {"token": token, "polygon_tokens": [token]}  # type: ignore[dict-item]
            if name == "stop_line":
                row["stop_line_type"] = "YIELD"
            tables[name].append(row)
    folder = root / "maps" / "expansion"
    folder.mkdir(parents=True)
    (folder / f"{LOCATION}.json").write_text(json.dumps(tables))
