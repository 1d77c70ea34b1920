"""The 10 numbers of a box as the published PETR heads predict them.

    slot     0   1   2         3          4             5          6        7        8   9
    meaning  cx  cy  ln width  ln length  cz (gravity)  ln height  sin r    cos r    vx  vy

Slots lie as in :mod:`perception3d.heads.box_code`, but checkpoints of PETR speak of boxes as
mmdetection3d held them before its release 1.0: width before length, and r = -yaw - pi / 2. This is
the only place that knows so.
"""

from __future__ import annotations

import torch
from torch import Tensor

from perception3d.heads.box_code import decode_centers, decode_sizes, join_slots
from perception3d.structures import Boxes3D

#: Denoising moves centres by half the width along x, half the length along y (published; in frames
#: with y ahead this suits vehicles that drive ahead).
NOISE_SIZE_AXES = (1, 0, 2)


def encode_petr_boxes(boxes: Boxes3D) -> Tensor:
    """(N, 10) float32 target vectors. Unknown (NaN) velocities stay NaN: such rows have no loss."""
    sin_cos = torch.stack((-boxes.yaw_rad.cos(), -boxes.yaw_rad.sin()), dim=-1)
    width_length_height = boxes.size_lwh_m[:, list(NOISE_SIZE_AXES)]
    return join_slots(
        boxes.center_m, width_length_height.log(), sin_cos, boxes.velocity_mps
    ).float()


def petr_slots(vector: Tensor) -> Tensor:
    """Vectors (..., 10) in the slots of :mod:`perception3d.heads.box_code`, in PETR's."""
    return torch.cat(
        (
            vector[..., :2],
            vector[..., [3, 2]],
            vector[..., 4:6],
            -vector[..., [7, 6]],
            vector[..., 8:],
        ),
        dim=-1,
    )


def decode_petr_boxes(vector: Tensor, label: Tensor) -> Boxes3D:
    """Boxes of (N, 10) vectors and (N,) labels; finite, with sizes that exp can hold."""
    return Boxes3D.build(
        decode_centers(vector),
        decode_sizes(vector)[:, list(NOISE_SIZE_AXES)],
        torch.atan2(-vector[:, 7], -vector[:, 6]),
        label,
        velocity_mps=vector[:, 8:10],
    )
