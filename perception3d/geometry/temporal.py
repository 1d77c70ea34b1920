"""Cameras of several moments seen from one: alignment by poses, ages, choice of the earlier frame.

A matrix named ``dst_T_src`` takes homogeneous points of frame ``src`` to frame ``dst``. Only the
vehicle's motion is undone: what moves by itself stays where an earlier camera saw it (PETRv2, arXiv
2206.01256, section 3.2; megvii-research/PETR for what the paper leaves open).
"""

from __future__ import annotations

from torch import Tensor

from perception3d.geometry.se3 import invert_rigid

#: Camera frames between the current and the earlier one at test time, minus one: 15 periods of 12
#: Hz, about 1.25 s (published).
TEST_SWEEP = 14

#: Earlier frames drawn from in training, as positions in the list of earlier frames (published).
TRAINING_SWEEPS = (3, 26)

#: Cameras of one moment expose within this time of each other (nuScenes: 0.045 s), those of two
#: moments do not.
LEAST_GAP_S = 0.05

#: Age given to the current images where a scene has no earlier ones: 15 periods of 0.083 s
#: (published).
REPEATED_AGE_S = 1.245


def camera_from_reference(
    ego_T_camera: Tensor, global_T_ego: Tensor, global_T_ref: Tensor
) -> Tensor:
    """Extrinsics of cameras, each at its own time, in a reference frame at another time.

    Args:
        ego_T_camera: (..., 4, 4) mounting of each camera on the vehicle.
        global_T_ego: (..., 4, 4) pose of the vehicle when each camera exposed.
        global_T_ref: (4, 4) or broadcast: pose of the reference frame at the key time.

    Returns:
        (..., 4, 4) ``camera_T_ref``: ref -> global -> vehicle at the camera's time -> camera.
    """
    return invert_rigid(global_T_ego @ ego_T_camera) @ global_T_ref


def shift_reference(camera_T_then: Tensor, global_T_then: Tensor, global_T_now: Tensor) -> Tensor:
    """Extrinsics of earlier cameras, moved into the current reference frame.

    Args:
        camera_T_then: (..., 4, 4) from the reference frame of the earlier sample to its cameras.
        global_T_then, global_T_now: (..., 4, 4) rigid poses of both reference frames, broadcast.

    Returns:
        (..., 4, 4) ``camera_T_now``.
    """
    return camera_T_then @ (invert_rigid(global_T_then) @ global_T_now)


def camera_ages_s(reference_time_ns: Tensor, camera_time_ns: Tensor) -> Tensor:
    """Seconds (..., V) float64 by which cameras exposed before the key time, negative after it.

    Args:
        reference_time_ns: (...) int64 key times.
        camera_time_ns: (..., V) int64.
    """
    # The difference is taken in integers: float64 holds times of this century to 200 ns only.
    return (reference_time_ns.unsqueeze(-1) - camera_time_ns).double() * 1e-9


def frame_gap_s(age_s: Tensor) -> Tensor:
    """Time between both frames of every sample: mean over cameras of (earlier - current) age.

    Args:
        age_s: (..., 2 V) seconds: V cameras of the current frame, then the same V earlier.

    Returns:
        (...) seconds.

    Raises:
        ValueError: an odd number of views, or a gap of no more than :data:`LEAST_GAP_S`: velocities
            are displacements divided by it.
    """
    if age_s.shape[-1] % 2 or age_s.shape[-1] == 0:
        raise ValueError(
            "views must be those of the current frame, then the same cameras of the earlier one; "
            f"found {age_s.shape[-1]} views"
        )
    current, earlier = age_s.unflatten(-1, (2, -1)).unbind(-2)
    gap = (earlier - current).mean(dim=-1)
    if not bool((gap > LEAST_GAP_S).all()):
        raise ValueError(
            f"the earlier frame must be earlier by more than {LEAST_GAP_S} s; found gaps of "
            f"{gap.tolist()} s. The first half of the views belongs to the current frame, the "
            "second are the same cameras earlier"
        )
    return gap


def chosen_sweep(count: int, wanted: int = TEST_SWEEP) -> int | None:
    """Which of the earlier camera frames of a scene serves, newest = 0; None where there is none.

    Args:
        count: how many there are: 6 more with every key frame of nuScenes, 30 at most (published).
        wanted: position to take where the scene is long enough, else the oldest.
    """
    return min(wanted, count - 1) if count > 0 else None


def training_sweeps(count: int) -> range:
    """Positions from which training draws the earlier frame, each as likely as the others.

    Args:
        count: as in :func:`chosen_sweep`; a draw passes through that function too, which cuts
            positions that short lists lack.
    """
    first, last = TRAINING_SWEEPS
    return range(first, max(min(last + 1, count), first + 1))


def repeated_times_ns(camera_time_ns: Tensor) -> Tensor:
    """Times of a first frame's images where they stand in for the missing earlier ones."""
    return camera_time_ns - round(REPEATED_AGE_S * 1e9)
