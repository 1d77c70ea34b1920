"""The 10 numbers of a box as the published CMT and PETR heads predict them.

This is the only place that knows their order.

A head concatenates its branches (center 2, height 1, dim 3, rot 2, vel 2). Targets, matching and
decoding of the published code read that vector in another order than the names say, so by training

    slot     0   1   2            3           4             5            6        7        8   9
    branch   center  height       dim[0]      dim[1]        dim[2]       rot[0]   rot[1]   vel
    meaning  cx  cy  ln length    ln width    cz (gravity)  ln height    sin yaw  cos yaw  vx  vy

The height branch is bounded by the range's z extent, so lengths end at exp(z_max): 20.1 m for
z_max = 3. Checkpoints need exactly this (junjie18/CMT, issues 71 and 103).
"""

from __future__ import annotations

import torch
from torch import Tensor

from perception3d.structures import Boxes3D

#: Branch -> number of outputs, in the order of the vector.
BOX_BRANCHES = {"center": 2, "height": 1, "dim": 3, "rot": 2, "vel": 2}

#: Length of the vector, and how many of its leading slots take part in matching (velocity does
#: not).
BOX_SLOTS = 10
MATCHED_SLOTS = 8


def encode_boxes(boxes: Boxes3D) -> Tensor:
    """(N, 10) float32 target vectors. Unknown (NaN) velocities become 0 (published)."""
    return join_slots(
        boxes.center_m,
        boxes.size_lwh_m.log(),
        torch.stack((boxes.yaw_rad.sin(), boxes.yaw_rad.cos()), dim=-1),
        torch.nan_to_num(boxes.velocity_mps, nan=0.0, posinf=torch.inf, neginf=-torch.inf),
    ).float()


def join_slots(center: Tensor, log_size: Tensor, sin_cos: Tensor, velocity: Tensor) -> Tensor:
    """(..., 10) vectors of centres (3), log l, w, h (3), sin and cos of yaw (2), velocity (2)."""
    return torch.cat(
        (
            center[..., :2],
            log_size[..., :2],
            center[..., 2:],
            log_size[..., 2:],
            sin_cos,
            velocity,
        ),
        dim=-1,
    )


def decode_centers(vector: Tensor) -> Tensor:
    """(..., 3) gravity centres in metres of (..., 10) vectors."""
    return vector[..., [0, 1, 4]]


def decode_boxes(vector: Tensor, label: Tensor) -> Boxes3D:
    """Boxes of (N, 10) vectors and (N,) labels; finite, with sizes that exp can hold."""
    return Boxes3D.build(
        decode_centers(vector),
        decode_sizes(vector),
        torch.atan2(vector[:, 6], vector[:, 7]),
        label,
        velocity_mps=vector[:, 8:10],
    )


def decode_sizes(vector: Tensor) -> Tensor:
    """(..., 3) length, width, height in metres of (..., 10) vectors."""
    return vector[..., [2, 3, 5]].exp()
