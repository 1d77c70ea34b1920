"""Alignment of earlier cameras: properties and hand numbers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from perception3d.geometry import apply_transform, invert_rigid, matrix_from_yaw, rigid_matrix
from perception3d.geometry.temporal import (
    camera_ages_s,
    camera_from_reference,
    chosen_sweep,
    frame_gap_s,
    repeated_times_ns,
    shift_reference,
    training_sweeps,
)


def pose(yaw: float, *t: float) -> Tensor:
    yaw_rad = torch.tensor(yaw, dtype=torch.float64)
    return rigid_matrix(matrix_from_yaw(yaw_rad), torch.tensor(t, dtype=torch.float64))


def test_a_post_stays_where_an_earlier_camera_saw_it() -> None:
    mount, lidar = pose(0.4, 1.5, 0.2, 1.6), pose(-1.5, 0.9, 0.0, 1.8)
    ego_then, ego_now = pose(0.2, 100.0, 50.0, 0.3), pose(0.5, 112.0, 53.0, 0.4)
    post = torch.tensor([[130.0, 60.0, 1.0]], dtype=torch.float64)  # in the map's frame
    seen = apply_transform(invert_rigid(ego_then @ mount), post)
    camera_T_now = camera_from_reference(mount, ego_then, ego_now @ lidar)
    in_now = apply_transform(invert_rigid(ego_now @ lidar), post)
    torch.testing.assert_close(apply_transform(camera_T_now, in_now), seen)


def test_shifting_the_reference_is_aligning_with_the_new_one() -> None:
    mount, lidar = pose(0.4, 1.5, 0.2, 1.6), pose(-1.5, 0.9, 0.0, 1.8)
    exposed, then, now = pose(0.21, 100.2, 50.1, 0.3), pose(0.2, 100.0, 50.0, 0.3), pose(1, 9, 9, 0)
    in_then = camera_from_reference(mount, exposed, then @ lidar)
    in_now = camera_from_reference(mount, exposed, now @ lidar)
    torch.testing.assert_close(shift_reference(in_then, then @ lidar, now @ lidar), in_now)
    torch.testing.assert_close(shift_reference(in_then, then, then), in_then)


def test_ages_are_exact_for_times_of_this_century() -> None:
    reference = torch.tensor([1_533_151_603_547_590_000])
    cameras = reference[:, None] - torch.tensor([[1, 50_000_000, -30_000_000]])
    age = camera_ages_s(reference, cameras)
    torch.testing.assert_close(age, torch.tensor([[1e-9, 0.05, -0.03]], dtype=torch.float64))


def test_gap_is_the_mean_over_cameras() -> None:
    age = torch.tensor([[0.0, 0.1, -0.1, 1.0, 1.3, 0.7], [0.0, 0.0, 0.0, 0.5, 0.5, 0.8]])
    torch.testing.assert_close(frame_gap_s(age), torch.tensor([1.0, 0.6]))
    with pytest.raises(ValueError, match="5 views"):
        frame_gap_s(age[:, :5])
    with pytest.raises(ValueError, match="earlier"):
        frame_gap_s(age.flip(-1))


def test_a_repeated_frame_is_fifteen_periods_old() -> None:
    times = torch.tensor([[5_000_000_000, 5_010_000_000]])
    age = camera_ages_s(
        torch.tensor([5_000_000_000]), torch.cat((times, repeated_times_ns(times)), 1)
    )
    torch.testing.assert_close(frame_gap_s(age), torch.tensor([1.245], dtype=torch.float64))


def test_choice_of_the_earlier_frame() -> None:
    # A key frame adds five sweeps and itself; the list ends after five intervals.
    lists = [min(6 * k, 30) for k in range(7)]
    assert [chosen_sweep(n) for n in lists] == [None, 5, 11, 14, 14, 14, 14]
    assert chosen_sweep(1, 20) == 0


def test_training_draws_from_the_published_range() -> None:
    assert list(training_sweeps(30)) == list(range(3, 27))
    assert list(training_sweeps(12)) == list(range(3, 12))
    for count in (1, 2, 3, 4):
        (only,) = training_sweeps(count)
        assert chosen_sweep(count, only) == min(3, count - 1)
