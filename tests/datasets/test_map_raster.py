"""The map around a frame, against its polygons; missing files. The devkit: test_map_devkit.py."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from perception3d.datasets.augment import SceneChange
from perception3d.datasets.map_raster import MAP_CLASSES, rasterize, read_map
from perception3d.structures import SE3, BEVGrid
from tests.datasets.map_files import square, write_map

GRID = BEVGrid((-20, 20), (-10, 10), (-5, 3), 0.25)


def make_map(root: Path) -> None:
    """A block with a hole, a second block over that hole's corner, a walkway, one divider."""
    write_map(
        root,
        {
            "drivable_area": [
                (square(95, 95, 20, 10), [square(99, 98, 6, 4)]),
                (square(104, 101, 3, 3), []),
                ([], []),
            ],
            "walkway": [(square(900, 900, 50, 50), [])],
            "lane_divider": [[(90, 100), (110, 100)]],
        },
    )


def drivable(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    block = (x > 95) & (x < 115) & (y > 95) & (y < 105)
    hole = (x > 99) & (x < 105) & (y > 98) & (y < 102)
    return (block & ~hole) | ((x > 104) & (x < 107) & (y > 101) & (y < 104))


@pytest.mark.parametrize("yaw", [0.0, 0.7, math.pi / 2])
def test_raster_agrees_with_the_polygons(tmp_path: Path, yaw: float) -> None:
    make_map(tmp_path)
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
    # Corners are rounded to cells and borders drawn: only cells at an edge may differ, up to a cell
    # further on.
    assert len(wrong) < 0.12 * expected.sum()
    steps = [(dx, dy) for dx in (-0.3, 0, 0.3) for dy in (-0.3, 0, 0.3)]
    near = [drivable(ground[wrong, 0] + dx, ground[wrong, 1] + dy) for dx, dy in steps]
    assert (np.any(near, axis=0) & ~np.all(near, axis=0)).all()
    assert not raster.mask[MAP_CLASSES.index("walkway")].any()


def test_divider_is_a_line(tmp_path: Path) -> None:
    make_map(tmp_path)
    pose = SE3(torch.eye(3), torch.tensor([101.0, 99.0, 0.0]))
    mask = rasterize(read_map(tmp_path, "boston-seaport"), pose, GRID, ("divider",)).mask[0]
    rows, columns = mask.nonzero().T
    y = GRID.centers_m()[rows, columns][:, 1]
    # The row that begins at y = 1 and one on each side: 2 cells thick are 3 on an even line.
    assert len(rows) >= 240 and y.unique().tolist() == [0.875, 1.125, 1.375]
    thin = rasterize(
        read_map(tmp_path, "boston-seaport"), pose, GRID, ("divider",), line_cells=1
    ).mask[0]
    assert thin.nonzero()[:, 0].unique().tolist() == [44]
    with pytest.raises(ValueError, match=r"map classes \['lake'\] do not exist"):
        rasterize(read_map(tmp_path, "boston-seaport"), pose, GRID, ("lake",))


def test_at_50_m_a_scale_that_is_left_out_is_ten_cells(tmp_path: Path) -> None:
    """A strip 49.5 to 49.9 m to the right; the scene shrinks by 0.9, to 44.55 m."""
    write_map(tmp_path, {"walkway": [(square(149.5, 80, 0.4, 40), [])]})
    expansion, grid = (
        read_map(tmp_path, "boston-seaport"),
        BEVGrid((-50, 50), (-50, 50), (-5, 3), 0.5),
    )
    pose = SE3(torch.eye(3), torch.tensor([100.0, 100.0, 0.0]))
    first = []
    for apply_scale in (True, False):
        raster = rasterize(
            expansion,
            pose,
            grid,
            ("walkway",),
            change=SceneChange(scale=0.9),
            apply_scale=apply_scale,
        )
        first.append(int(raster.mask[0].nonzero()[:, 1].min()))
    assert first == [189, 199]  # 5 m


def test_missing_and_broken_expansions(tmp_path: Path) -> None:
    make_map(tmp_path)
    with pytest.raises(
        FileNotFoundError, match=r"onenorth\.json is missing \(found: boston-sea"
    ) as e:
        read_map(tmp_path, "singapore-onenorth")
    assert "nuScenes map expansion pack v1.3" in str(e.value)
    assert f"unpack it into {tmp_path / 'maps'}" in str(e.value)
    (tmp_path / "maps" / "expansion" / "old.json").write_text('{"node": []}')
    with pytest.raises(ValueError, match=r"no nuScenes map expansion.*KeyError"):
        read_map(tmp_path, "old")
