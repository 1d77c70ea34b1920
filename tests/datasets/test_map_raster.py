from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from perception3d.datasets.map_raster import MAP_CLASSES, rasterize, read_map
from perception3d.structures import SE3, BEVGrid

GRID = BEVGrid((-20, 20), (-10, 10), (-5, 3), 0.25)
LAYERS = (*MAP_CLASSES[:-1], "road_divider", "lane_divider")


def write_map(root: Path) -> None:
    """A block with a hole, a second block over that hole's corner, a walkway, one divider."""
    nodes: list[dict[str, Any]] = []

    def add(points: list[tuple[float, float]]) -> list[str]:
        names = [f"n{len(nodes) + i}" for i in range(len(points))]
        nodes.extend({"token": n, "x": x, "y": y} for n, (x, y) in zip(names, points))
        return names

    def square(x: float, y: float, w: float, h: float) -> list[tuple[float, float]]:
        return [(x, y), (x + w, y), (x + w, y + h), (x, y + h)]

    polygons = [
        {"token": "p0", "exterior_node_tokens": add(square(95, 95, 20, 10)),
         "holes": [{"node_tokens": add(square(99, 98, 6, 4))}]},
        {"token": "p1", "exterior_node_tokens": add(square(104, 101, 3, 3)), "holes": []},
        {"token": "p2", "exterior_node_tokens": [], "holes": []},
        {"token": "p3", "exterior_node_tokens": add(square(900, 900, 50, 50)), "holes": []},
    ]  # fmt: skip
    tables: dict[str, Any] = {name: [] for name in LAYERS}
    tables.update(version="1.3", node=nodes, polygon=polygons)
    tables["line"] = [{"token": "l0", "node_tokens": add([(90, 100), (110, 100)])}]
    tables["drivable_area"] = [{"token": "d", "polygon_tokens": ["p0", "p1", "p2"]}]
    tables["walkway"] = [{"token": "w", "polygon_token": "p3"}]
    tables["lane_divider"] = [{"token": "v", "line_token": "l0"}]
    folder = root / "maps" / "expansion"
    folder.mkdir(parents=True)
    (folder / "boston-seaport.json").write_text(json.dumps(tables))


def drivable(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    block = (x > 95) & (x < 115) & (y > 95) & (y < 105)
    hole = (x > 99) & (x < 105) & (y > 98) & (y < 102)
    return (block & ~hole) | ((x > 104) & (x < 107) & (y > 101) & (y < 104))


@pytest.mark.parametrize("yaw", [0.0, 0.7, math.pi / 2])
def test_raster_agrees_with_the_polygons(tmp_path: Path, yaw: float) -> None:
    write_map(tmp_path)
    tilted = Rotation.from_euler("zyx", [yaw, 0.02, -0.015]).as_matrix()
    pose = SE3(torch.from_numpy(tilted), torch.tensor([101.0, 99.0, 1.8], dtype=torch.float64))
    raster = rasterize(read_map(tmp_path, "boston-seaport"), pose, GRID)
    assert raster.classes == MAP_CLASSES and raster.mask.shape == (6, 80, 160)
    # Cell centres on the ground (global height 0), in the global frame.
    xy = GRID.centers_m().double().flatten(0, 1)
    R, t = pose.rotation, pose.translation_m
    height = (-t[2] - xy @ R[2, :2]) / R[2, 2]
    ground = pose.apply(torch.cat((xy, height[:, None]), dim=1)).numpy()
    expected = drivable(ground[:, 0], ground[:, 1])
    found = raster.mask[0].flatten().numpy()
    assert expected.sum() > 500
    wrong = np.flatnonzero(found != expected)
    # cv2 fills cells that an edge touches: only cells at an edge may differ.
    assert len(wrong) < 0.12 * expected.sum()
    steps = [(dx, dy) for dx in (-0.27, 0, 0.27) for dy in (-0.27, 0, 0.27)]
    near = [drivable(ground[wrong, 0] + dx, ground[wrong, 1] + dy) for dx, dy in steps]
    assert (np.any(near, axis=0) & ~np.all(near, axis=0)).all()
    assert not raster.mask[MAP_CLASSES.index("walkway")].any()


def test_divider_is_a_line(tmp_path: Path) -> None:
    write_map(tmp_path)
    pose = SE3(torch.eye(3), torch.tensor([101.0, 99.0, 0.0]))
    mask = rasterize(read_map(tmp_path, "boston-seaport"), pose, GRID, ("divider",)).mask[0]
    rows, columns = mask.nonzero().T
    y = GRID.centers_m()[rows, columns][:, 1]
    assert len(rows) >= 80 and float((y - 1.0).abs().max()) <= 0.25
    with pytest.raises(ValueError, match=r"map classes \['lake'\] do not exist"):
        rasterize(read_map(tmp_path, "boston-seaport"), pose, GRID, ("lake",))


def test_missing_and_broken_expansions(tmp_path: Path) -> None:
    write_map(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"onenorth\.json is missing \(found: boston-sea"):
        read_map(tmp_path, "singapore-onenorth")
    (tmp_path / "maps" / "expansion" / "old.json").write_text('{"node": []}')
    with pytest.raises(ValueError, match=r"no nuScenes map expansion.*KeyError"):
        read_map(tmp_path, "old")
