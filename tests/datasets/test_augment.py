"""Augmentations keep points, boxes, cameras and pixels in agreement."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perception3d.datasets.augment import GlobalAugment, ImageAugment, transform_scene
from perception3d.geometry import points_in_boxes
from perception3d.structures import (
    SE3,
    BEVGrid,
    Boxes3D,
    CameraRig,
    Frame,
    MapRaster,
    PointCloud,
)

VIEWS = 3


def made_frame(hw: tuple[int, int] = (180, 320), seed: int = 0) -> Frame:
    """Cameras a third of a turn apart, boxes around, points in them, a bright dot per box in the
    images.
    """
    generator = torch.Generator().manual_seed(seed)
    count = 24
    bearing = torch.arange(count) * (2 * math.pi / count)
    distance = 8 + 20 * torch.rand(count, generator=generator)
    center = torch.stack(
        (distance * torch.cos(bearing), distance * torch.sin(bearing), torch.zeros(count)), dim=1
    )
    boxes = Boxes3D.build(
        center,
        0.5 + 4 * torch.rand(count, 3, generator=generator),
        6 * torch.rand(count, generator=generator),
        torch.arange(count) % 10,
        velocity_mps=torch.randn(count, 2, generator=generator),
    )
    boxes.velocity_mps[3] = float("nan")
    inside = center + 0.2 * (torch.rand(count, 3, generator=generator) - 0.5)
    points = PointCloud(inside, torch.arange(count).float(), torch.rand(count, generator=generator))
    rig = made_rig(hw)
    identity = SE3.identity()
    return Frame("t", "log", 0, identity, identity, points=points, rig=rig, boxes=boxes)


def made_rig(hw: tuple[int, int]) -> CameraRig:
    forward = torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]).double()  # looks along +y
    matrices = torch.eye(4, dtype=torch.float64).repeat(VIEWS, 1, 1)
    for view in range(VIEWS):
        angle = 2 * math.pi * view / VIEWS
        c, s = math.cos(angle), math.sin(angle)
        turn = torch.tensor([[c, -s, 0], [s, c, 0], [0, 0, 1]], dtype=torch.float64)
        matrices[view, :3, :3] = forward @ turn
        matrices[view, :3, 3] = torch.tensor([0.1, 0.2, 0.3])
    K = torch.tensor(
        [[hw[1] * 0.6, 0, hw[1] / 2], [0, hw[1] * 0.6, hw[0] / 2], [0, 0, 1.0]]
    ).double()
    return CameraRig(
        tuple("ABC"),
        K.repeat(VIEWS, 1, 1),
        matrices,
        torch.tensor([hw] * VIEWS),
        torch.eye(3, dtype=torch.float64).repeat(VIEWS, 1, 1),
        torch.zeros(VIEWS, dtype=torch.int64),
    )


def draw_dot(hw: tuple[int, int], uv: torch.Tensor) -> torch.Tensor:
    """A bright blob; pixel (i, j) covers [j, j + 1] x [i, i + 1]."""
    v, u = torch.meshgrid(torch.arange(hw[0]) + 0.5, torch.arange(hw[1]) + 0.5, indexing="ij")
    blob = 250 * torch.exp(-((u - uv[0]) ** 2 + (v - uv[1]) ** 2) / (2 * 3.0**2))
    return blob[..., None].repeat(1, 1, 3).to(torch.uint8)


def find_dot(image: torch.Tensor) -> torch.Tensor:
    weight = image[..., 0].double()
    v, u = torch.meshgrid(
        torch.arange(weight.shape[0]) + 0.5, torch.arange(weight.shape[1]) + 0.5, indexing="ij"
    )
    return torch.stack(((weight * u).sum(), (weight * v).sum())) / weight.sum()


changes = st.tuples(
    st.floats(-3.1, 3.1),
    st.floats(0.5, 2.0),
    st.tuples(*[st.floats(-5, 5)] * 3),
    st.booleans(),
    st.booleans(),
)


@settings(max_examples=30, deadline=None)
@given(changes)
def test_scene_change_leaves_what_cameras_see(change: tuple) -> None:
    frame = made_frame()
    new = transform_scene(frame, change[0], change[1], np.array(change[2]), *change[3:])
    for before, after in (
        (frame.points.xyz_m, new.points.xyz_m),
        (frame.boxes.center_m, new.boxes.center_m),
    ):
        uv, depth = frame.rig.project(before)
        uv_new, depth_new = new.rig.project(after)
        front = depth > 0.5
        assert (uv - uv_new)[front].abs().max() < 0.02
        assert torch.allclose(depth, depth_new, atol=1e-4)
    # Corners too: headings and sizes follow. A mirror exchanges left and right corners.
    order = [3, 2, 1, 0, 7, 6, 5, 4] if change[3] != change[4] else list(range(8))
    uv, depth = frame.rig.project(frame.boxes.corners().flatten(0, 1))
    uv_new, _ = new.rig.project(new.boxes.corners()[:, order].flatten(0, 1))
    assert (uv - uv_new)[depth > 1].abs().max() < 0.05


@settings(max_examples=30, deadline=None)
@given(changes)
def test_scene_change_moves_points_boxes_and_velocities_together(change: tuple) -> None:
    frame = made_frame()
    new = transform_scene(frame, change[0], change[1], np.array(change[2]), *change[3:])
    held = points_in_boxes(
        new.points.xyz_m, new.boxes.center_m, new.boxes.size_lwh_m, new.boxes.yaw_rad
    )
    assert held.diagonal().all()
    assert torch.equal(new.points.intensity, frame.points.intensity)
    assert torch.equal(new.points.age_s, frame.points.age_s)
    # A box that is carried along by its velocity for a second ends where the changed one ends.
    ahead = torch.cat((frame.boxes.velocity_mps, torch.zeros(24, 1)), dim=1)
    later = replace(
        frame, boxes=replace(frame.boxes, center_m=frame.boxes.center_m + ahead.nan_to_num())
    )
    later = transform_scene(later, change[0], change[1], np.array(change[2]), *change[3:])
    moved = (later.boxes.center_m - new.boxes.center_m)[:, :2]
    known = torch.arange(24) != 3
    assert torch.allclose(moved[known], new.boxes.velocity_mps[known], atol=1e-4)
    assert new.boxes.velocity_mps[3].isnan().all()


def test_scene_change_by_hand() -> None:
    boxes = Boxes3D.build(
        torch.tensor([[10.0, 0, 1]]), torch.tensor([[4.0, 2, 1]]), torch.tensor([0.3]),
        torch.tensor([0]), velocity_mps=torch.tensor([[1.0, 0]]),
    )  # fmt: skip
    frame = Frame("t", "l", 0, SE3.identity(), SE3.identity(), boxes=boxes)
    new = transform_scene(frame, math.pi / 2, 2.0, np.array([1.0, 2.0, 3.0]), False, True).boxes
    assert new is not None
    assert torch.allclose(new.center_m, torch.tensor([[1.0, -22.0, 5.0]]), atol=1e-5)
    assert torch.allclose(new.size_lwh_m, torch.tensor([[8.0, 4, 2]]))
    assert torch.allclose(new.yaw_rad, torch.tensor([-(0.3 + math.pi / 2)]))
    assert torch.allclose(new.velocity_mps, torch.tensor([[0.0, -2.0]]), atol=1e-6)


def test_map_follows_the_scene() -> None:
    grid = BEVGrid((-20, 20), (-20, 20), (-5, 3), 0.5)
    xy = grid.centers_m()
    mask = (xy[..., 0] > 3) & (xy[..., 1].abs() < 6)
    frame = replace(made_frame(), map=MapRaster(mask[None], ("drivable_area",), grid))
    new = transform_scene(frame, 0.4, 1.1, np.array([1.0, -2.0, 0.3]), True, False)
    probe = torch.rand(2000, 3) * torch.tensor([16.0, 16, 0]) - 8
    carried = PointCloud(probe, torch.zeros(2000), torch.zeros(2000))
    after = transform_scene(
        replace(frame, points=carried), 0.4, 1.1, np.array([1.0, -2.0, 0.3]), True, False
    ).points.xyz_m
    before_cells, _ = grid.index(probe[:, :2])
    after_cells, inside = grid.index(after[:, :2])
    assert inside.all()
    same = mask[tuple(before_cells.T)] == new.map.mask[0][tuple(after_cells.T)]
    assert same.float().mean() > 0.95


def test_global_augment_draws_within_its_ranges() -> None:
    frame, rng = made_frame(), np.random.default_rng(0)
    augment = GlobalAugment(0.3, (0.9, 1.1), (0.0, 0.0, 0.0), 0.0, 0.0)
    for _ in range(20):
        boxes = augment(frame, rng).boxes
        ratio = boxes.size_lwh_m / frame.boxes.size_lwh_m
        assert 0.9 <= float(ratio.min()) <= float(ratio.max()) <= 1.1 + 1e-6
        turn = torch.remainder(boxes.yaw_rad - frame.boxes.yaw_rad + math.pi, 2 * math.pi) - math.pi
        assert float(turn.abs().max()) <= 0.3 + 1e-5
    mirrored = GlobalAugment(0.0, (1.0, 1.0), (0.0, 0.0, 0.0), 1.0, 0.0)(frame, rng)
    assert torch.allclose(mirrored.boxes.center_m[:, 0], -frame.boxes.center_m[:, 0])


@settings(max_examples=25, deadline=None)
@given(
    st.tuples(st.integers(120, 260), st.integers(250, 420)),
    st.tuples(st.integers(96, 224), st.integers(200, 400)),
    st.sampled_from([(0.94, 1.25), (0.47, 0.625), (0.4, 0.44), None]),
    st.integers(0, 1000),
)
def test_pixels_follow_the_matrix(
    hw: tuple[int, int], output_hw: tuple[int, int], resize: tuple[float, float] | None, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    rig = made_rig(hw)
    # Not at the border, where a cut dot has another centre.
    dots = torch.tensor(rng.uniform([30, 30], [hw[1] - 30, hw[0] - 30], (VIEWS, 2)))
    images = tuple(draw_dot(hw, uv) for uv in dots)
    frame = replace(made_frame(), rig=rig, images=images)
    augment = ImageAugment(output_hw, resize, 0.5) if resize else ImageAugment.test(output_hw)
    new = augment(frame, rng)
    assert new.rig.image_hw.tolist() == [list(output_hw)] * VIEWS
    found = 0
    for image, uv, A in zip(new.images, dots, new.rig.image_aug):
        assert image.shape == (*output_hw, 3)
        expected = (A @ torch.tensor([uv[0], uv[1], 1.0]).double())[:2]
        edge = torch.tensor([output_hw[1], output_hw[0]]) - 14
        if (expected > 14).all() and (expected < edge).all():
            assert (find_dot(image) - expected).abs().max() < 0.12
            found += 1
    # Images of one shape are only scaled: nothing is cut, and no dot lies at the border.
    assert found == VIEWS or resize is not None or hw[0] * output_hw[1] != hw[1] * output_hw[0]


def test_image_augment_keeps_projections_on_the_content() -> None:
    frame = made_frame()
    uv, depth = frame.rig.project(frame.boxes.center_m)
    for seed in range(5):
        new = ImageAugment((128, 256), (0.7, 1.2))(frame, np.random.default_rng(seed))
        A = new.rig.image_aug
        expected = torch.einsum("vij,vnj->vni", A[:, :2, :2], uv) + A[:, None, :2, 2]
        uv_new, depth_new = new.rig.project(frame.boxes.center_m)
        front = depth > 0.1
        assert torch.allclose(uv_new[front], expected[front], atol=1e-6)
        assert torch.equal(depth, depth_new)
        assert (A[:1] == A).all()  # one draw for all views


@pytest.mark.parametrize(
    ("hw", "output_hw", "scale", "left", "top"),
    [
        ((900, 1600), (640, 1600), 1.0, 0, 260),
        ((900, 1600), (320, 800), 0.5, 0, 130),
        ((225, 400), (224, 400), 1.0, 0, 1),
        ((90, 160), (90, 100), 1.0, 30, 0),
    ],
)
def test_test_mode_as_published(
    hw: tuple[int, int], output_hw: tuple[int, int], scale: float, left: int, top: int
) -> None:
    frame = replace(made_frame(), rig=made_rig(hw))
    new = ImageAugment.test(output_hw)(frame, np.random.default_rng(0))
    again = ImageAugment.test(output_hw)(frame, np.random.default_rng(9))
    expected = torch.tensor([[scale, 0, -left], [0, scale, -top], [0, 0, 1]]).double()
    assert torch.allclose(new.rig.image_aug[0], expected)
    assert torch.equal(new.rig.image_aug, again.rig.image_aug)


def test_small_images_are_padded_with_black() -> None:
    white = torch.full((90, 160, 3), 255, dtype=torch.uint8)
    frame = replace(made_frame(), rig=made_rig((90, 160)), images=(white,) * VIEWS)
    new = ImageAugment((100, 200), (1.0, 1.0), 0.0)(frame, np.random.default_rng(0))
    image = new.images[0]
    assert (image[:10] == 0).all() and (image[:, 160:] == 0).all()
    assert (image[10:, :160] == 255).all()
    assert new.rig.image_aug[0].tolist() == [[1, 0, 0], [0, 1, 10], [0, 0, 1]]
