"""Angles about the vertical axis: counter-clockwise from +x, in radians."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def wrap_to_pi(yaw: Tensor) -> Tensor:
    """The same angles in [-pi, pi)."""
    wrapped = torch.remainder(yaw + math.pi, 2 * math.pi) - math.pi
    # In floating point the remainder of a tiny negative number is the divisor itself.
    return torch.where(wrapped >= math.pi, wrapped - 2 * math.pi, wrapped)


def matrix_from_yaw(yaw: Tensor) -> Tensor:
    """(..., 3, 3) rotations about z by (...,) angles."""
    c, s = torch.cos(yaw), torch.sin(yaw)
    zero, one = torch.zeros_like(c), torch.ones_like(c)
    return torch.stack((c, -s, zero, s, c, zero, zero, zero, one), dim=-1).unflatten(-1, (3, 3))


def yaw_from_matrix(R: Tensor) -> Tensor:
    """Heading (...,) of the x axis after the rotations (..., 3, 3), seen from above."""
    return torch.atan2(R[..., 1, 0], R[..., 0, 0])
