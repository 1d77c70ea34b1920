"""Rigid transforms, rotations and projection: properties that hold for any input."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from perception3d.geometry import (
    apply_transform,
    box_corners,
    invert_rigid,
    matrix_from_quaternion,
    matrix_from_yaw,
    pixel_rays,
    points_in_boxes,
    project_points,
    quaternion_from_matrix,
    rigid_matrix,
    wrap_to_pi,
    yaw_from_matrix,
)

unit = st.floats(-1, 1)
metres = st.floats(-100, 100)
angles = st.floats(-50, 50)
quaternions = st.tuples(unit, unit, unit, unit).filter(lambda q: sum(x * x for x in q) > 1e-3)
vectors = st.tuples(metres, metres, metres)


def double(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@given(quaternions)
def test_quaternion_to_matrix_and_back(q: tuple[float, ...]) -> None:
    R = matrix_from_quaternion(double(q))
    assert torch.allclose(R @ R.T, torch.eye(3, dtype=torch.float64), atol=1e-12)
    assert float(torch.linalg.det(R)) == pytest.approx(1)
    again = quaternion_from_matrix(R)
    assert float(again[0]) >= 0
    assert torch.allclose(matrix_from_quaternion(again), R, atol=1e-12)


def test_half_turns_have_no_weak_component() -> None:
    for axis in range(3):
        q = torch.zeros(4, dtype=torch.float64)
        q[axis + 1] = 1
        assert torch.allclose(quaternion_from_matrix(matrix_from_quaternion(q)).abs(), q)


@given(quaternions, vectors, vectors)
def test_inverse_brings_points_back(
    q: tuple[float, ...], t: tuple[float, ...], p: tuple[float, ...]
) -> None:
    T = rigid_matrix(matrix_from_quaternion(double(q)), double(t))
    point = double([p])
    assert torch.allclose(
        apply_transform(invert_rigid(T), apply_transform(T, point)), point, atol=1e-9
    )
    assert torch.allclose(invert_rigid(T) @ T, torch.eye(4, dtype=torch.float64), atol=1e-9)


@given(angles)
def test_yaw_wraps_and_comes_back(yaw: float) -> None:
    wrapped = wrap_to_pi(double([yaw]))
    assert -math.pi <= float(wrapped) < math.pi
    assert math.cos(float(wrapped)) == pytest.approx(math.cos(yaw), abs=1e-9)
    difference = wrap_to_pi(yaw_from_matrix(matrix_from_yaw(double([yaw]))) - wrapped)
    assert abs(float(difference)) < 1e-9 or abs(abs(float(difference)) - 2 * math.pi) < 1e-9


@pytest.mark.parametrize("yaw", [-1e-9, math.pi, -math.pi, 3 * math.pi, 0.0])
def test_wrap_stays_below_pi_in_float32(yaw: float) -> None:
    pi = float(torch.tensor(math.pi))  # float32 rounds pi up
    assert -pi <= float(wrap_to_pi(torch.tensor(yaw))) < pi


@given(st.floats(0.5, 80), st.floats(-0.6, 0.6), st.floats(-0.6, 0.6))
def test_projection_round_trip(depth: float, x: float, y: float) -> None:
    K = torch.eye(4, dtype=torch.float64)
    K[:3, :3] = double([[300, 0, 200], [0, 310, 110], [0, 0, 1]])
    point = double([[x * depth, y * depth, depth]])
    uv, found_depth = project_points(point, K)
    assert float(found_depth) == pytest.approx(depth)
    assert float(uv[0, 0]) == pytest.approx(300 * x + 200)
    assert torch.allclose(pixel_rays(uv, found_depth, torch.linalg.inv(K)), point, atol=1e-9)


def test_point_behind_the_camera_has_negative_depth_and_finite_pixels() -> None:
    uv, depth = project_points(torch.tensor([[1.0, 1.0, -2.0], [1.0, 1.0, 0.0]]), torch.eye(4))
    assert depth.tolist() == [-2.0, 0.0]
    assert bool(torch.isfinite(uv).all())


def test_corners_by_hand() -> None:
    corners = box_corners(
        torch.tensor([[10.0, 5.0, 1.0]]),
        torch.tensor([[4.0, 2.0, 2.0]]),
        torch.tensor([math.pi / 2]),
    )
    # Heading +y: the front left corner of the bottom lies at x - width / 2, y + length / 2.
    assert torch.allclose(corners[0, 0], torch.tensor([9.0, 7.0, 0.0]), atol=1e-6)
    assert torch.allclose(corners[0, 3], torch.tensor([11.0, 7.0, 0.0]), atol=1e-6)
    assert torch.allclose(corners[0, 6], torch.tensor([11.0, 3.0, 2.0]), atol=1e-6)


@given(vectors, angles, st.tuples(*[st.floats(0.1, 20)] * 3))
def test_corners_shrunk_are_inside_and_grown_are_outside(
    center: tuple[float, ...], yaw: float, size: tuple[float, ...]
) -> None:
    boxes = double([center]), double([size]), double([yaw])
    corners = box_corners(*boxes)[0]
    inside = double([center]) + (corners - double([center])) * 0.999
    outside = double([center]) + (corners - double([center])) * 1.001
    assert bool(points_in_boxes(inside, *boxes).all())
    assert not bool(points_in_boxes(outside, *boxes).any())


def test_zero_quaternion_is_refused() -> None:
    with pytest.raises(ValueError, match="zero or non-finite"):
        matrix_from_quaternion(torch.zeros(4))
    with pytest.raises(ValueError, match=r"4 numbers"):
        matrix_from_quaternion(torch.zeros(3))
