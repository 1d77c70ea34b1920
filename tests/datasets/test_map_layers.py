"""The maps that BEV segmentation learns, vehicles included."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from perception3d.datasets.augment import transform_scene
from perception3d.datasets.map_raster import draw_vehicles
from perception3d.datasets.nuscenes import NuScenesFrames
from perception3d.datasets.nuscenes.map_layers import PETR_LAYERS, MapLayers
from perception3d.structures import SE3, BEVGrid, Boxes3D
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
