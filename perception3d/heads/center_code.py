"""The 10 numbers of a box at a cell of the centre head, and their order.

    slot     0   1   2    3          4         5           6        7        8   9
    branch   reg     height  dim                           rot               vel
    meaning  dx  dy  z    ln length  ln width  ln height   sin yaw  cos yaw  vx  vy

dx, dy are the centre's place in cells from the lower corner of its cell; z is the gravity centre in
metres; yaw is counter-clockwise from +x; m/s. That is the convention of :class:`Boxes3D`.
Checkpoints of WayneMao/PillarNeSt (mmdetection3d before 1.0) have width before length and
yaw_old = -yaw - pi/2; their last layers are folded into this order when they are read
(``PILLARNEST_KEYS`` in :mod:`perception3d.engine.key_tables`), and nothing here knows of it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from perception3d.structures import BEVGrid, Boxes3D

#: Branch -> number of outputs, in the order of the vector.
BOX_BRANCHES = {"reg": 2, "height": 1, "dim": 3, "rot": 2, "vel": 2}
BOX_SLOTS = 10


def encode_at_cells(boxes: Boxes3D, shift: Tensor) -> Tensor:
    """(N, 10) float32 vectors of boxes; unknown (NaN) velocities become 0 (published).

    Args:
        boxes: N boxes.
        shift: (N, 2) place of the centres from the lower corners of their cells (x, y), in cells.
    """
    parts = (
        shift,
        boxes.center_m[:, 2:],
        boxes.size_lwh_m.log(),
        boxes.yaw_rad.sin()[:, None],
        boxes.yaw_rad.cos()[:, None],
        torch.nan_to_num(boxes.velocity_mps, nan=0.0, posinf=torch.inf, neginf=-torch.inf),
    )
    return torch.cat([part.float() for part in parts], dim=1)


def decode_solids(
    vector: Tensor, cell: Tensor, grid: BEVGrid, *, log_limit: float = torch.inf
) -> Tensor:
    """Boxes of vectors, without velocity.

    Args:
        vector: (..., 10) float32.
        cell: (...) int64 flat cell, row * nx + column, of each.
        grid: of the map.
        log_limit: logarithms of sizes are cut to +- this.

    Returns:
        (..., 7) x, y, z (gravity centre), length, width, height in metres, yaw in radians: the
        layout of :mod:`perception3d_ops.box_overlap`.
    """
    column_row = torch.stack((cell % grid.nx, cell // grid.nx), dim=-1)
    low = vector.new_tensor((grid.x_m[0], grid.y_m[0]))
    return torch.cat(
        (
            (column_row + vector[..., :2]) * grid.cell_m + low,
            vector[..., 2:3],
            vector[..., 3:6].clamp(-log_limit, log_limit).exp(),
            torch.atan2(vector[..., 6], vector[..., 7])[..., None],
        ),
        dim=-1,
    )
