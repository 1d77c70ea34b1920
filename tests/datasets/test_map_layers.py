"""The maps that BEV segmentation learns, vehicles included."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from perception3d.datasets.augment import GlobalAugment, SceneChange, change_scene, transform_scene
from perception3d.datasets.map_raster import MAP_CLASSES, draw_vehicles
from perception3d.datasets.nuscenes import NuScenesFrames
from perception3d.datasets.nuscenes.map_layers import PETR_LAYERS, MapLayers, SceneWithMap
from perception3d.structures import SE3, BEVGrid, Boxes3D, Frame, MapRaster
from perception3d.structures.taxonomy import NUSCENES_CLASSES

GRID = BEVGrid((-20.0, 20.0), (-20.0, 20.0), (-5.0, 3.0), 0.5)


def box(name: str, xy: tuple[float, float], yaw: float = math.pi / 2) -> Boxes3D:
    label = NUSCENES_CLASSES.index(name) if name else -1
    return Boxes3D.build(
        torch.tensor([[*xy, -1.0]]),
        torch.tensor([[4.0, 2.0, 1.5]]),
        torch.tensor([yaw]),
        torch.tensor([label]),
        num_points=torch.tensor([0]),
    )


def cells(mask: torch.Tensor) -> tuple[float, float, float, float]:
    """Middle and extent in metres of what is drawn: x, y, width, height."""
    rows, columns = mask.nonzero(as_tuple=True)
    low, high = columns.min(), columns.max() + 1
    first, last = rows.min(), rows.max() + 1
    return tuple(  # type: ignore[return-value]
        float(v)
        for v in (
            (low + high) / 4 - 20, (first + last) / 4 - 20, (high - low) / 2, (last - first) / 2,
        )
    )  # fmt: skip


def test_a_car_ahead_is_drawn_ahead() -> None:
    mask = draw_vehicles(box("car", (3.0, 10.0)), GRID)
    x, y, width, height = cells(mask)
    assert (x, y) == (pytest.approx(3.0, abs=0.26), pytest.approx(10.0, abs=0.26))
    # 2 m by 4 m, and the cells that its border touches.
    assert 2.0 <= width <= 2.5 and 4.0 <= height <= 4.5


@pytest.mark.parametrize("name", ["bicycle", "motorcycle", "trailer", "construction_vehicle"])
def test_two_wheelers_and_machines_are_vehicles(name: str) -> None:
    assert draw_vehicles(box(name, (0.0, 0.0)), GRID).any()


@pytest.mark.parametrize("name", ["pedestrian", "barrier", "traffic_cone", ""])
def test_others_are_none(name: str) -> None:
    assert not draw_vehicles(box(name, (0.0, 0.0)), GRID).any()


def test_the_published_origin_is_the_vehicle() -> None:
    """A LiDAR 1 m ahead of the vehicle's origin, turned by -90 degrees, as nuScenes mounts it."""
    c = torch.tensor([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]).double()
    pose = SE3(c, torch.tensor([1.0, 0.0, 1.8]).double())
    mask = draw_vehicles(box("car", (3.0, 10.0)), GRID, ego_SE3_ref=pose)
    x, y, _, _ = cells(mask)
    # Seen from there it is 1 m further ahead, and as far to the right.
    assert (x, y) == (pytest.approx(3.0, abs=0.26), pytest.approx(11.0, abs=0.26))


def test_published_pixels_of_a_vehicle() -> None:
    """x 2.1 to 4.1, y 8.9 to 12.9: pixels are round((place + 20) / 0.5), ends included."""
    rows, columns = draw_vehicles(box("car", (3.1, 10.9)), GRID).nonzero(as_tuple=True)
    assert (rows.unique().tolist(), columns.unique().tolist()) == (
        list(range(58, 67)), list(range(44, 49)),
    )  # fmt: skip
    # From the vehicle's origin (no offset here) they are counted from the left, as y is there, and
    # turned afterwards: y = -2.1 is pixel 36 of 80 (35.8), which is column 43 from the left.
    c = torch.tensor([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]).double()
    ego = SE3(c, torch.zeros(3).double())
    rows, columns = draw_vehicles(box("car", (3.1, 10.9)), GRID, ego_SE3_ref=ego).nonzero(
        as_tuple=True
    )
    assert (rows.unique().tolist(), columns.unique().tolist()) == (
        list(range(58, 67)), list(range(43, 48)),
    )  # fmt: skip


def test_layers_of_a_town(tiny_town: Path) -> None:
    frames = NuScenesFrames(tiny_town, "town_val", load_points=False, load_images=False)
    layers, rng = MapLayers(frames, GRID), np.random.default_rng(0)
    frame = layers(frames[2], rng)
    assert frame.map is not None and frame.map.classes == PETR_LAYERS
    share = dict(zip(PETR_LAYERS, frame.map.mask.float().mean(dim=(1, 2)).tolist()))
    assert 0.15 < share["drivable_area"] < 0.9 and 0.01 < share["divider"] < 0.4
    assert 0.005 < share["vehicle"] < 0.3
    # The vehicle drives on what can be driven on.
    assert bool(frame.map.mask[0, 38:42, 38:42].all())
    # Of a token alone the same map, without any sensor file.
    bare = layers.of_token(frame.token)
    assert torch.equal(bare.mask, frame.map.mask) and bare.grid == GRID
    # It follows the scene: half a turn puts what is ahead behind.
    turned = transform_scene(frame, math.pi, 1.0, np.zeros(3), False, False).map
    assert turned is not None
    assert (turned.mask == frame.map.mask.flip(-1, -2)).float().mean() > 0.995


def test_vehicles_need_boxes_and_classes_must_exist(tiny_town: Path) -> None:
    frames = NuScenesFrames(tiny_town, "town_val", load_points=False, load_images=False)
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="has no boxes to draw vehicles from"):
        MapLayers(frames, GRID)(replace(frames[0], boxes=None), rng)
    with pytest.raises(ValueError, match=r"\['lake'\] do not exist; there are drivable_area"):
        MapLayers(frames, GRID, classes=("vehicle", "lake"))(frames[0], rng)


# Maps of changed scenes.

CHANGES = (
    SceneChange(yaw_rad=0.4),
    SceneChange(yaw_rad=-2.0, scale=1.1),
    SceneChange(yaw_rad=0.3, scale=0.92, shift_m=(1.3, -0.7, 0.2), flip_x=True),
    SceneChange(yaw_rad=0.1, scale=1.05, shift_m=(-2.0, 0.4, 0.0), flip_x=True, flip_y=True),
)
#: Wide enough that a changed map of GRID comes from inside it, and finer.
WIDE = BEVGrid((-40.0, 40.0), (-40.0, 40.0), (-5.0, 3.0), 0.125)


def town_frames(tiny_town: Path) -> NuScenesFrames:
    return NuScenesFrames(tiny_town, "town_val", load_points=False, load_images=False)


def agrees_but_at_edges(found: MapRaster, fine: MapRaster, cells: int) -> None:
    """Where all fine places about a cell's middle agree, the cell must say the same."""
    place = found.grid.centers_m().double().flatten(0, 1)
    reach = torch.arange(-cells, cells + 1) * fine.grid.cell_m
    near = torch.cartesian_prod(reach, reach)
    row_column, inside = fine.grid.index((place[:, None] + near).float().flatten(0, 1))
    said = fine.mask[:, row_column[:, 0], row_column[:, 1]].unflatten(1, (len(place), len(near)))
    clear = (said.all(dim=2) | ~said.any(dim=2)) & inside.unflatten(0, said.shape[1:]).all(dim=1)
    wrong = (found.mask.flatten(1) != said[..., 0]) & clear
    assert not wrong.any(), wrong.sum(dim=1)
    assert clear.float().mean() > 0.5


@pytest.mark.parametrize("change", CHANGES)
def test_a_drawn_map_follows_the_scene(change: SceneChange, tiny_town: Path) -> None:
    """It is the raster of moved shapes: here a fine one, moved cell by cell."""
    frames = town_frames(tiny_town)
    frame = frames[2]
    areas = (*MAP_CLASSES[:-1], "vehicle")
    found = MapLayers(frames, GRID, areas).draw(frame, change)
    fine = MapLayers(frames, WIDE, areas).draw(frame)
    moved = change_scene(replace(frame, map=fine), change).map
    assert moved is not None
    # Corners are rounded, and cells drawn up to a cell further on: two cells apart all is clear.
    agrees_but_at_edges(found, moved, cells=8)


def test_mirrors_are_exact(tiny_town: Path) -> None:
    frames = town_frames(tiny_town)
    layers, frame = MapLayers(frames, GRID, MAP_CLASSES), frames[2]
    plain = layers.draw(frame).mask
    turned = layers.draw(frame, SceneChange(yaw_rad=0.2)).mask
    assert torch.equal(layers.draw(frame, SceneChange()).mask, plain)
    assert torch.equal(layers.draw(frame, SceneChange(flip_x=True)).mask, plain.flip(-1))
    assert torch.equal(layers.draw(frame, SceneChange(flip_y=True)).mask, plain.flip(-2))
    both = SceneChange(yaw_rad=0.2, flip_x=True, flip_y=True)
    assert torch.equal(layers.draw(frame, both).mask, turned.flip(-1, -2))


def test_a_map_beside_the_vehicle_is_mirrored_where_it_lies(tiny_town: Path) -> None:
    frames = town_frames(tiny_town)
    aside = BEVGrid((5.0, 15.0), (0.0, 20.0), (-5.0, 3.0), 0.5)
    mirrored = BEVGrid((-15.0, -5.0), (-20.0, 0.0), (-5.0, 3.0), 0.5)
    frame, change = frames[2], SceneChange(flip_x=True, flip_y=True)
    found = MapLayers(frames, mirrored, MAP_CLASSES).draw(frame, change)
    want = MapLayers(frames, aside, MAP_CLASSES).draw(frame)
    assert torch.equal(found.mask, want.mask.flip(-1, -2)) and want.mask.any()


def test_scale_is_for_the_map_too_unless_left_out(tiny_town: Path) -> None:
    frames = town_frames(tiny_town)
    layers, frame = MapLayers(frames, GRID, MAP_CLASSES), frames[2]
    scene = GlobalAugment(0.0, (1.1, 1.1), (0.0, 0.0, 0.0), 0.0, 0.0)
    grown = SceneWithMap(scene, layers)(frame, np.random.default_rng(0))
    published = SceneWithMap(scene, layers, apply_scale=False)(frame, np.random.default_rng(0))
    for new in (grown, published):
        assert new.boxes is not None and frame.boxes is not None
        torch.testing.assert_close(new.boxes.center_m, 1.1 * frame.boxes.center_m)
    assert grown.map is not None and published.map is not None
    assert torch.equal(published.map.mask, layers.draw(frame).mask)
    assert torch.equal(grown.map.mask, layers.draw(frame, SceneChange(scale=1.1)).mask)
    assert (grown.map.mask != published.map.mask).float().mean() > 0.01


def test_scene_with_map_changes_all_alike(tiny_town: Path) -> None:
    frames = town_frames(tiny_town)
    scene, frame = GlobalAugment(), frames[2]
    layers = MapLayers(frames, GRID)
    new = SceneWithMap(scene, layers)(frame, np.random.default_rng(7))
    plain = scene(frame, np.random.default_rng(7))
    assert new.boxes is not None and plain.boxes is not None and new.map is not None
    assert torch.equal(new.boxes.center_m, plain.boxes.center_m)
    change = scene.draw(np.random.default_rng(7))
    assert torch.equal(new.map.mask, layers.draw(frame, change).mask)
    # Vehicles are those of the changed boxes.
    want = draw_vehicles(new.boxes, GRID)
    assert (new.map.mask[2] != want).float().mean() < 0.002


def bare_copy(town: Path, root: Path) -> NuScenesFrames:
    """The town without its maps."""
    for part in ("v1.0-town", "samples", "sweeps"):
        (root / part).symlink_to(town / part)
    return NuScenesFrames(root, "town_train", load_points=False, load_images=False)


def test_a_missing_map_says_what_to_do(tiny_town: Path, tmp_path: Path) -> None:
    frames = bare_copy(tiny_town, tmp_path)
    frame: Frame = frames[0]
    layers = MapLayers(frames, GRID, else_do=" (or --without)")
    with pytest.raises(FileNotFoundError, match=r"boston-seaport\.json is missing") as error:
        layers(frame, np.random.default_rng(0))
    for words in ("nuScenes map expansion pack v1.3", f"{tmp_path / 'maps'}", "(or --without)"):
        assert words in str(error.value)
    # Vehicles alone need none.
    assert MapLayers(frames, GRID, ("vehicle",)).draw(frame).mask.any()
