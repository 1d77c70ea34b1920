"""Pinhole projection: cameras look along +z, x to the right, y down; pixels are (u, v)."""

from __future__ import annotations

import torch
from torch import Tensor


def project_points(xyz: Tensor, image_T_src: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels and depths of points.

    Args:
        xyz: (N, 3) points in metres, in the frame ``src``.
        image_T_src: (..., 4, 4) matrices that take (x, y, z, 1) to (u d, v d, d, 1).

    Returns:
        uv (..., N, 2) in pixels and depth (..., N) in metres along the optical axis. A point at or
        behind the camera has depth <= 0 and meaningless (but finite) pixels: callers test the depth
        first.
    """
    T = image_T_src.to(xyz.dtype)
    p = xyz @ T[..., :3, :3].transpose(-1, -2) + T[..., None, :3, 3]
    depth = p[..., 2]
    safe = torch.where(depth.abs() < 1e-6, torch.full_like(depth, 1e-6), depth)
    return p[..., :2] / safe[..., None], depth


def pixel_rays(uv: Tensor, depth: Tensor, src_T_image: Tensor) -> Tensor:
    """Points at given depths behind pixels: the inverse of :func:`project_points`.

    Args:
        uv: (..., N, 2) pixels.
        depth: (..., N) metres along the optical axis.
        src_T_image: (..., 4, 4) inverse of the projection matrix.

    Returns:
        (..., N, 3) points in metres, in the frame ``src``.
    """
    T = src_T_image.to(uv.dtype)
    p = torch.cat((uv * depth[..., None], depth[..., None]), dim=-1)
    return p @ T[..., :3, :3].transpose(-1, -2) + T[..., None, :3, 3]
