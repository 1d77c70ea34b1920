"""Position codes of CMT: shortcuts against their definitions, hand numbers, edges of the image."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from perception3d.fusion.plane_code import PlanePositionCode
from perception3d.fusion.ray_code import RayPositionCode
from perception3d.fusion.tokens import Cameras, CrossModalTokens
from perception3d.nn.position import (
    grid_centers,
    inverse_sigmoid,
    plane_sine_code,
    uniform_depths,
)
from perception3d.structures import BEVFeatures, BEVGrid, ImageFeatures

RANGE_M = (-54.0, -54.0, -5.0, 54.0, 54.0, 3.0)
LOW, HIGH = torch.tensor(RANGE_M[:3]), torch.tensor(RANGE_M[3:])

# Looks along +x of ref from 1 m above the origin; 100 px focal length, 80 x 60 px.
K = torch.tensor([[100.0, 0.0, 40.0], [0.0, 100.0, 30.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
CAM_T_REF = torch.tensor(
    [[0.0, -1.0, 0.0, 0.0], [0.0, 0.0, -1.0, 1.0], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]],
    dtype=torch.float64,
)
IMAGE_HW = (60, 80)


def ref_to_image() -> Tensor:
    lifted = torch.eye(4, dtype=torch.float64)
    lifted[:3, :3] = K
    return (lifted @ CAM_T_REF)[None, None]


def ray_code() -> RayPositionCode:
    torch.manual_seed(0)
    return RayPositionCode(16, hidden=32, range_m=RANGE_M)


def code_of_ray(code: RayPositionCode, u: float, v: float, one: float = 1.0) -> Tensor:
    """The definition: 64 points, normalised, concatenated, through the MLP."""
    d = uniform_depths(1.0, 54.0, 64)
    pixels = torch.stack((u * d, v * d, one * d, torch.ones_like(d)), dim=-1)
    points = (pixels @ torch.linalg.inv(ref_to_image()[0, 0]).float().T)[:, :3]
    return code.embedding(((points - LOW) / (HIGH - LOW)).flatten())


def test_depths_of_the_published_model() -> None:
    d = uniform_depths(1.0, 54.0, 64)
    assert (float(d[0]), float(d[1]), float(d[63])) == (1.0, 1.828125, 53.171875)


def test_sine_code_holds_y_first() -> None:
    x, y = 0.3, 0.8
    code = plane_sine_code(torch.tensor([x, y]), 256)
    assert code.shape == (512,)
    want = {
        0: math.sin(2 * math.pi * y),
        1: math.cos(2 * math.pi * y),
        2: math.sin(2 * math.pi * y / (1 + 2 / 256)),
        255: math.cos(2 * math.pi * y / (1 + 254 / 256)),
        256: math.sin(2 * math.pi * x),
        511: math.cos(2 * math.pi * x / (1 + 254 / 256)),
    }
    for index, value in want.items():
        assert float(code[index]) == pytest.approx(value, abs=1e-6)


def test_inverse_sigmoid_is_clamped() -> None:
    x = torch.tensor([-1.0, 0.0, 0.25, 1.0, 2.0])
    edge = math.log(1e-5)
    want = torch.tensor([edge, edge, math.log(0.25 / 0.75), -edge, -edge])
    torch.testing.assert_close(inverse_sigmoid(x), want)


@pytest.mark.parametrize(("rows", "columns"), [(5, 7), (1, 4)])
def test_codes_of_a_grid_are_codes_of_its_centres(rows: int, columns: int) -> None:
    torch.manual_seed(0)
    code = PlanePositionCode(16)
    torch.testing.assert_close(code.grid(rows, columns), code.points(grid_centers(rows, columns)))


def test_image_codes_follow_the_definition() -> None:
    code = ray_code()
    got = code.tokens(ref_to_image(), (3, 4), IMAGE_HW)
    assert got.shape == (1, 1, 3, 4, 16)
    for row in range(3):
        for column in range(4):
            want = code_of_ray(code, column * 80 / 4, row * 60 / 3)
            torch.testing.assert_close(got[0, 0, row, column], want, rtol=1e-4, atol=1e-5)


def test_gradients_of_the_ray_code_follow_the_definition() -> None:
    code = ray_code()
    code.tokens(ref_to_image(), (1, 1), IMAGE_HW).square().sum().backward()
    got = [p.grad.clone() for p in code.parameters() if p.grad is not None]
    code.zero_grad()
    code_of_ray(code, 0.0, 0.0).square().sum().backward()
    for a, p in zip(got, code.parameters()):
        assert p.grad is not None
        torch.testing.assert_close(a, p.grad, rtol=1e-3, atol=1e-5)


def point_at(u: float, v: float, depth: float) -> Tensor:
    """The point of ref at pixel (u, v) and depth."""
    camera = torch.tensor([(u - 40) / 100 * depth, (v - 30) / 100 * depth, depth, 1.0])
    return (torch.linalg.inv(CAM_T_REF).float() @ camera)[:3]


@torch.no_grad()
def test_query_code_is_that_of_its_ray_with_the_divisor_a_little_off() -> None:
    code = ray_code()
    depth = 1e-3  # close to the camera, where 1e-6 in the divisor shows
    projection = torch.eye(4, dtype=torch.float64)[None, None]
    point = torch.tensor([20.0, 15.0, 1.0]) * depth
    got = code.queries(point[None, None], projection, IMAGE_HW)[0, 0]

    def through(u: float, v: float, one: float) -> Tensor:
        d = uniform_depths(1.0, 54.0, 64)[:, None]
        return code.embedding(((torch.tensor([u, v, one]) * d - LOW) / (HIGH - LOW)).flatten())

    shrink = depth / (depth + 1e-6)
    want = through(20.0 * shrink, 15.0 * shrink, shrink)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    assert float((got - through(20.0, 15.0, 1.0)).abs().max()) > 5e-4


def test_the_divisor_has_no_gradient() -> None:
    code = ray_code()
    reference = point_at(20.0, 15.0, 10.0)[None, None].requires_grad_()
    code.queries(reference, ref_to_image(), IMAGE_HW).sum().backward()
    assert reference.grad is not None
    T = ref_to_image()[0, 0].float()
    inverse = torch.linalg.inv(ref_to_image()[0, 0]).float()
    free = reference.detach().clone()[0, 0].requires_grad_()
    homogeneous = T[:3, :3] @ free + T[:3, 3]
    d = uniform_depths(1.0, 54.0, 64)
    scaled = homogeneous / (homogeneous[2].detach() + 1e-6) * d[:, None]
    points = scaled @ inverse[:3, :3].T + inverse[:3, 3]
    code.embedding(((points - LOW) / (HIGH - LOW)).flatten()).sum().backward()
    assert free.grad is not None
    torch.testing.assert_close(reference.grad[0, 0], free.grad, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("u", "v", "depth", "seen"),
    [
        (0.0, 15.0, 64.0, True),
        (20.0, 0.0, 64.0, True),
        (79.99, 59.99, 64.0, True),
        (80.0, 15.0, 64.0, False),
        (20.0, 60.0, 64.0, False),
        (-0.01, 15.0, 64.0, False),
        (20.0, -0.01, 64.0, False),
        (20.0, 15.0, -64.0, False),
    ],
)
def test_edges_of_the_image(u: float, v: float, depth: float, seen: bool) -> None:
    code = ray_code()
    # 64 + 1e-6 is 64 in float32, so pixels at the very edge stay exact.
    pixels = torch.tensor([u, v, 1.0]) * depth
    projection = torch.eye(4, dtype=torch.float64)[None, None]
    got = code.queries(pixels[None, None], projection, IMAGE_HW)
    assert bool((got != 0).any()) == seen


def test_a_point_that_no_camera_sees_has_code_zero() -> None:
    got = ray_code().queries(torch.tensor([[[-10.0, 0.0, 1.0]]]), ref_to_image(), IMAGE_HW)
    assert torch.equal(got, torch.zeros(1, 1, 16))


def test_cameras_that_see_the_same_point_add_up() -> None:
    code, point = ray_code(), point_at(20.0, 15.0, 10.0)[None, None]
    once = code.queries(point, ref_to_image(), IMAGE_HW)
    twice = code.queries(point, ref_to_image().expand(1, 2, 4, 4), IMAGE_HW)
    torch.testing.assert_close(twice, 2 * once)


def tokens(**changes: object) -> CrossModalTokens:
    torch.manual_seed(0)
    settings: dict = {
        "channels": 16,
        "range_m": RANGE_M,
        "bev_channels": 4,
        "cameras": True,
    } | changes
    return CrossModalTokens(**settings)


def test_query_position_uses_the_clamped_reference() -> None:
    made = tokens()
    reference = torch.tensor([[[0.0, 1.0, 0.5], [0.3, 0.6, 0.5]]])
    clamped = inverse_sigmoid(reference).sigmoid()
    assert float(clamped[0, 0, 0]) == pytest.approx(1e-5, rel=1e-3)
    got = made.query_position(reference, None)
    assert torch.equal(got, made.plane.points(clamped[..., :2]))
    assert not torch.equal(got[0, 0], made.plane.points(reference[0, 0, :2]))


def test_query_position_adds_both_parts_in_metres() -> None:
    made = tokens()
    reference = torch.tensor([[[0.6, 0.51, 0.7]]])
    cameras = Cameras(ref_to_image(), IMAGE_HW)
    assert made.ray is not None
    metres = inverse_sigmoid(reference).sigmoid() * (HIGH - LOW) + LOW
    rays = made.ray.queries(metres, cameras.ref_to_image, cameras.image_hw)
    assert bool((rays != 0).any())
    total = made.query_position(reference, None) + rays
    torch.testing.assert_close(made.query_position(reference, cameras), total)


def test_memory_is_bev_then_images_in_reading_order() -> None:
    made = tokens()
    bev = BEVFeatures(torch.randn(2, 16, 2, 3), BEVGrid((0.0, 3.0), (0.0, 2.0), (0.0, 1.0), 1.0))
    images = ImageFeatures(torch.randn(2, 1, 16, 2, 2), 16)
    cameras = Cameras(ref_to_image().expand(2, 1, 4, 4), IMAGE_HW)
    memory = made.memory(bev, images, cameras)
    assert memory.data.shape == memory.position.shape == (2, 2 * 3 + 1 * 2 * 2, 16)
    assert torch.equal(memory.data[1, 4], bev.data[1, :, 1, 1])
    assert torch.equal(memory.data[1, 6 + 2], images.data[1, 0, :, 1, 0])
    assert torch.equal(made.memory(bev, None, None).data, memory.data[:, :6])
    assert torch.equal(made.memory(None, images, cameras).position, memory.position[:, 6:])


def test_tokens_refuse_what_they_were_not_built_for() -> None:
    bev = BEVFeatures(torch.randn(1, 4, 2, 2), BEVGrid((0.0, 2.0), (0.0, 2.0), (0.0, 1.0), 1.0))
    images = ImageFeatures(torch.randn(1, 1, 16, 2, 2), 16)
    with pytest.raises(ValueError, match="without LiDAR"):
        tokens(bev_channels=None).share(bev)
    with pytest.raises(ValueError, match="built with cameras"):
        tokens(cameras=False).memory(None, images, Cameras(ref_to_image(), IMAGE_HW))
    with pytest.raises(ValueError, match="found neither"):
        tokens().memory(None, None, None)
