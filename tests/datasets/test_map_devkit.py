"""Maps are the devkit's masks, pixel for pixel: in the town, by hand, and of random shapes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from perception3d.datasets.augment import SceneChange
from perception3d.datasets.map_raster import MAP_CLASSES, patch_around, rasterize, read_map
from perception3d.structures import SE3, BEVGrid
from tests.datasets.map_files import LOCATION, square, write_map

pytest.importorskip("nuscenes", reason="nuscenes-devkit is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")

#: The published raster.
GRID = BEVGrid((-50.0, 50.0), (-50.0, 50.0), (-5.0, 3.0), 0.5)
LAYERS = [*MAP_CLASSES[:-1], "road_divider", "lane_divider"]
ANGLES = (0.0, 30.0, 90.0, 180.0, -135.5)


def devkit_map(root: Path) -> Any:
    from nuscenes.map_expansion.map_api import NuScenesMap

    return NuScenesMap(str(root), LOCATION)


def devkit_mask(nusc_map: Any, pose: SE3, grid: BEVGrid = GRID, scale: float = 1.0) -> np.ndarray:
    """Six classes as BEVFusion asks for them, but for its transposition."""
    T = pose.matrix().numpy()
    # Yaw of the x axis, in the published order of operations: last bits decide on ends of lines at
    # the border.
    angle = math.atan2(T[1, 0], T[0, 0]) / math.pi * 180
    height, width = ((high - low) / scale for low, high in (grid.y_m, grid.x_m))
    patch = (T[0, 3], T[1, 3], height, width)
    mask = nusc_map.get_map_mask(patch, angle, LAYERS, (grid.ny, grid.nx))
    return np.concatenate((mask[:5], mask[5:6] | mask[6:7])).astype(bool)


def pose_at(x: float, y: float, angle_deg: float, tilt: float = 0.0) -> SE3:
    R = Rotation.from_euler("zyx", [math.radians(angle_deg), tilt, -0.7 * tilt]).as_matrix()
    return SE3(torch.from_numpy(R), torch.tensor([x, y, 1.8], dtype=torch.float64))


def check(root: Path, poses: list[SE3], grid: BEVGrid = GRID) -> int:
    """Compare at all poses; how many cells are set."""
    theirs, ours = devkit_map(root), read_map(root, LOCATION)
    cells = 0
    for pose in poses:
        want, found = devkit_mask(theirs, pose, grid), rasterize(ours, pose, grid).mask.numpy()
        wrong = dict(zip(MAP_CLASSES, (want != found).sum(axis=(1, 2))))
        assert not (want != found).any(), (pose, wrong)
        cells += int(found.sum())
    return cells


@pytest.fixture
def mended(monkeypatch: pytest.MonkeyPatch) -> None:
    """The devkit, made to draw lines of several parts, at which it fails (with Shapely 2)."""
    from nuscenes.map_expansion.map_api import NuScenesMapExplorer

    def mask_for_lines(lines: Any, mask: np.ndarray) -> np.ndarray:
        for line in getattr(lines, "geoms", [lines]):
            cv2.polylines(mask, [np.array(line.coords).astype(np.int32)], False, (1,), 2)
        return mask

    monkeypatch.setattr(NuScenesMapExplorer, "mask_for_lines", staticmethod(mask_for_lines))


@pytest.mark.slow
def test_town_maps_at_many_poses(tiny_town: Path) -> None:
    rng = np.random.default_rng(0)
    nodes = np.array([(n["x"], n["y"]) for n in devkit_map(tiny_town).node])
    places = nodes[rng.integers(len(nodes), size=60)] + rng.normal(0, 15, (60, 2))
    angles = np.concatenate((rng.uniform(-180, 180, 50), 90.0 * np.arange(-2, 3), np.zeros(5)))
    places[50:] = places[50:].round()
    poses = [pose_at(x, y, a, tilt=0.02) for (x, y), a in zip(places.tolist(), angles.tolist())]
    assert check(tiny_town, poses) > 100_000
    wide = BEVGrid((-40.0, 40.0), (-20.0, 20.0), (-5.0, 3.0), 0.25)
    assert check(tiny_town, poses[:10], wide) > 100_000


CASES: dict[str, dict[str, list[Any]]] = {
    "a hole": {"drivable_area": [(square(80, 80, 40, 30), [square(90, 85, 15, 10)])]},
    "drawn over a hole later": {
        "walkway": [(square(80, 80, 40, 30), [square(90, 85, 15, 10)]), (square(92, 88, 5, 20), [])]
    },
    "erased by a later hole": {
        "walkway": [(square(92, 88, 5, 20), []), (square(80, 80, 40, 30), [square(90, 85, 15, 10)])]
    },
    "a hole across the border": {
        "carpark_area": [(square(60, 60, 120, 70), [square(100, 80, 70, 30)])]
    },
    "all of the patch, and a hole": {
        "drivable_area": [(square(-200, -200, 600, 600), [square(95, 95, 7, 3)])]
    },
    "a fork that the border cuts in two": {
        "stop_line": [([(120, 80), (200, 80), (200, 90), (130, 90), (130, 100), (200, 100),
                        (200, 110), (120, 110)], [])]
    },
    "corners between pixels": {
        "ped_crossing": [(square(80.25, 80.75, 10.5, 7.0), []), (square(90.25, 90.25, 0.1, 9), [])]
    },
    "out of sight": {
        "walkway": [(square(300, 300, 10, 10), [])], "lane_divider": [[(0, 0), (9, 0)]]
    },
    "two areas, one over the other": {
        "drivable_area": [(square(80, 80, 20, 20), []), (square(90, 90, 20, 20), [])]
    },
    "an outline that crosses itself": {
        "walkway": [([(80, 80), (100, 100), (100, 80), (80, 100)], [])],
        "drivable_area": [(square(100, 70, 10, 10), [])],
    },
    "lines": {
        "road_divider": [[(80, 100), (120, 100)], [(90, 60), (95, 99), (180, 120)]],
        "lane_divider": [[(100, 0), (100, 300)], [(149.9, 60), (149.9, 110), (60, 149.9)]],
    },
    "a line along the border, and one to a corner": {
        "lane_divider": [[(150, 60), (150, 110)], [(100, 100), (150, 150)], [(50, 50), (80, 60)]]
    },
    "nothing": {},
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_hand_cases(name: str, tmp_path: Path) -> None:
    write_map(tmp_path, CASES[name])
    poses = [pose_at(100.0, 100.0, angle) for angle in ANGLES]
    poses += [pose_at(137.3, 81.9, angle, tilt=0.03) for angle in ANGLES]
    cells = check(tmp_path, poses)
    assert (cells > 0) == (name not in ("nothing", "out of sight"))
    check(tmp_path, poses, BEVGrid((-12.0, 12.0), (-30.0, 30.0), (-5.0, 3.0), 0.2))


def test_a_hole_by_hand(tmp_path: Path) -> None:
    """A square of 10 m with a hole of 4 m, in cells of a metre about the map's place (100, 100)."""
    write_map(tmp_path, CASES["nothing"] | {
        "drivable_area": [(square(95, 95, 10, 10), [square(98, 98, 4, 4)])],
        "lane_divider": [[(94.9, 107), (104.9, 107)]],
    })  # fmt: skip
    grid = BEVGrid((-10.0, 10.0), (-10.0, 10.0), (-5.0, 3.0), 1.0)
    raster = rasterize(read_map(tmp_path, LOCATION), pose_at(100.0, 100.0, 0.0), grid)
    want = torch.zeros(20, 20, dtype=torch.bool)
    want[5:16, 5:16] = True  # borders included: 11 cells
    want[8:13, 8:13] = False  # those of the hole too
    assert torch.equal(raster.mask[0], want)
    rows, columns = raster.mask[5].nonzero().T
    assert rows.unique().tolist() == [16, 17, 18]  # y = 7 is row 17
    # Cut, not rounded: 4.9 -> 4, and a cell more on both sides for the thickness.
    assert (int(columns.min()), int(columns.max())) == (3, 15)


def test_a_line_that_leaves_and_comes_back(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """There the devkit fails; made to go on, it draws what we draw."""
    write_map(tmp_path, {"lane_divider": [[(100, 100), (180, 110), (100, 120)]]})
    pose = pose_at(100.0, 100.0, 0.0)
    with pytest.raises(TypeError, match="not iterable"):
        devkit_mask(devkit_map(tmp_path), pose)
    found = rasterize(read_map(tmp_path, LOCATION), pose, GRID, ("divider",)).mask[0]
    # Two parts: at the right border one about y = 6.2 m, one about 13.8 m.
    rows = found[:, -1].nonzero()[:, 0]
    assert rows.min() >= 110 and rows.max() <= 130 and not found[117:123, -1].any()
    request.getfixturevalue("mended")
    assert check(tmp_path, [pose_at(100.0, 100.0, angle) for angle in ANGLES]) > 0


@pytest.mark.usefixtures("mended")
@pytest.mark.parametrize("seed", range(8))
def test_random_shapes(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)

    def star(x: float, y: float, radius: float, corners: int) -> list[tuple[float, float]]:
        angles = np.sort(rng.uniform(0, 2 * math.pi, corners))
        r = radius * rng.uniform(0.4, 1.0, corners)
        return list(zip((x + r * np.cos(angles)).tolist(), (y + r * np.sin(angles)).tolist()))

    def area() -> tuple[Any, list[Any]]:
        x, y, radius = *rng.uniform(30, 170, 2), rng.uniform(3, 50)
        holes = [star(x, y, 0.15 * radius, 5)] if rng.random() < 0.5 else []
        return star(x, y, radius, int(rng.integers(5, 40))), holes

    def walk() -> list[tuple[float, float]]:
        steps = rng.normal(0, 12, (int(rng.integers(2, 25)), 2)).cumsum(axis=0)
        return [tuple(p) for p in (rng.uniform(40, 160, 2) + steps).tolist()]

    layers: dict[str, list[Any]] = {name: [area() for _ in range(12)] for name in LAYERS[:5]}
    # Outlines that touch their holes or cross themselves: none of the drivable area's.
    layers["drivable_area"] = [(outline, []) for outline, _ in layers["drivable_area"]]
    layers |= {name: [walk() for _ in range(8)] for name in LAYERS[5:]}
    write_map(tmp_path, layers)
    poses = [pose_at(*rng.uniform(80, 120, 2).tolist(), a, tilt=0.02) for a in ANGLES]
    assert check(tmp_path, poses) > 10_000


def test_a_drivable_area_that_cannot_be_clipped_is_mended(tmp_path: Path) -> None:
    """Outlines that cross themselves are drawn, where the devkit's clipping works and where not."""
    write_map(tmp_path, {"drivable_area": [([(80, 80), (160, 160), (160, 80), (80, 160)], [])]})
    for angle in ANGLES:
        found = rasterize(read_map(tmp_path, LOCATION), pose_at(100.0, 100.0, angle), GRID).mask
        assert found[0].sum() > 1_000


@pytest.mark.usefixtures("mended")
def test_a_changed_scene_is_a_patch_of_the_devkit(tmp_path: Path) -> None:
    """Turn, scale and shift choose the patch; mirrors come after."""
    write_map(tmp_path, CASES["lines"] | CASES["a hole"] | CASES["corners between pixels"])
    theirs, ours = devkit_map(tmp_path), read_map(tmp_path, LOCATION)
    pose = pose_at(103.0, 98.0, 25.0)
    change = SceneChange(0.3, 1.1, (2.0, -1.0, 0.4), flip_x=True, flip_y=True)
    patch = patch_around(pose, GRID, change)
    assert patch.angle_deg == pytest.approx(25.0 - math.degrees(0.3))
    assert patch.size_m == pytest.approx((100 / 1.1, 100 / 1.1))
    middle = torch.linalg.inv(change.matrix()) @ torch.tensor([0.0, 0.0, 0.0, 1.0]).double()
    assert patch.center_m == pytest.approx(pose.apply(middle[None, :3])[0, :2].tolist())
    mask = theirs.get_map_mask(
        (*patch.center_m, *patch.size_m), patch.angle_deg, LAYERS, (200, 200)
    )
    want = np.concatenate((mask[:5], mask[5:6] | mask[6:7])).astype(bool)[:, ::-1, ::-1]
    found = rasterize(ours, pose, GRID, change=change).mask.numpy()
    assert (found == want).all() and found.sum() > 5_000
    assert patch_around(pose, GRID, change, apply_scale=False).size_m == (100.0, 100.0)
