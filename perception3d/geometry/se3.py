"""Rigid transforms as 4x4 matrices and unit quaternions (w, x, y, z).

A matrix named ``dst_T_src`` takes homogeneous points of frame ``src`` to frame ``dst``.
"""

from __future__ import annotations

import torch
from torch import Tensor


def matrix_from_quaternion(wxyz: Tensor) -> Tensor:
    """Rotation matrices of quaternions.

    Args:
        wxyz: (..., 4) quaternions, scalar first; normalised here, so any non-zero length will do.

    Returns:
        (..., 3, 3) rotation matrices of the same dtype.

    Raises:
        ValueError: the last dimension is not 4, or a quaternion has no length.
    """
    if wxyz.shape[-1:] != (4,):
        raise ValueError(
            f"a quaternion has 4 numbers (w, x, y, z); found shape {tuple(wxyz.shape)}"
        )
    length = wxyz.norm(dim=-1, keepdim=True)
    if bool((length < 1e-12).any()) or not bool(torch.isfinite(length).all()):
        raise ValueError("a quaternion has zero or non-finite length and stands for no rotation")
    w, x, y, z = (wxyz / length).unbind(-1)
    rows = (
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    )  # fmt: skip
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def quaternion_from_matrix(R: Tensor) -> Tensor:
    """Unit quaternions of rotation matrices, with w >= 0.

    Args:
        R: (..., 3, 3) rotation matrices.

    Returns:
        (..., 4) quaternions, scalar first.
    """
    m = R.flatten(-2)
    m00, m01, m02, m10, m11, m12, m20, m21, m22 = m.unbind(-1)
    # Four candidates, each well conditioned where its own component is large; the largest one is
    # taken.
    squares = torch.stack(
        (1 + m00 + m11 + m22, 1 + m00 - m11 - m22, 1 - m00 + m11 - m22, 1 - m00 - m11 + m22), dim=-1
    )
    candidates = torch.stack(
        (
            torch.stack((squares[..., 0], m21 - m12, m02 - m20, m10 - m01), dim=-1),
            torch.stack((m21 - m12, squares[..., 1], m10 + m01, m02 + m20), dim=-1),
            torch.stack((m02 - m20, m10 + m01, squares[..., 2], m21 + m12), dim=-1),
            torch.stack((m10 - m01, m02 + m20, m21 + m12, squares[..., 3]), dim=-1),
        ),
        dim=-2,
    )
    best = squares.argmax(dim=-1)[..., None, None].expand(*squares.shape[:-1], 1, 4)
    q = candidates.gather(-2, best).squeeze(-2)
    q = q / q.norm(dim=-1, keepdim=True)
    return torch.where(q[..., :1] < 0, -q, q)


def rigid_matrix(R: Tensor, t: Tensor) -> Tensor:
    """(..., 4, 4) homogeneous matrices from rotations (..., 3, 3) and translations (..., 3)."""
    top = torch.cat((R, t.unsqueeze(-1)), dim=-1)
    bottom = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=top.dtype, device=top.device)
    return torch.cat((top, bottom.expand(*top.shape[:-2], 1, 4)), dim=-2)


def invert_rigid(T: Tensor) -> Tensor:
    """Inverse of rigid (..., 4, 4) matrices by transposition; wrong for scaled or mirrored ones."""
    R_inverse = T[..., :3, :3].transpose(-1, -2)
    t = T[..., :3, 3:]
    return rigid_matrix(R_inverse, (-R_inverse @ t).squeeze(-1))


def apply_transform(T: Tensor, xyz: Tensor) -> Tensor:
    """Points moved by one matrix.

    Args:
        T: (4, 4) affine matrix; taken to the dtype of the points.
        xyz: (..., 3) points in metres.

    Returns:
        (..., 3) points of the dtype of ``xyz``.
    """
    T = T.to(xyz)
    return xyz @ T[:3, :3].transpose(0, 1) + T[:3, 3]
