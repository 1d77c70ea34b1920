"""Position codes of places on the ground plane (CMT, section 3.2 of the paper)."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from perception3d.nn.position import plane_sine_code


class PlanePositionCode(nn.Module):
    """Sine code of normalised x, y followed by an MLP; BEV tokens and queries share its weights.

    Args:
        channels: C; the sine code has 2 C numbers.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.embedding = nn.Sequential(
            nn.Linear(2 * channels, channels), nn.ReLU(), nn.Linear(channels, channels)
        )
        self.channels = channels

    def points(self, xy: Tensor) -> Tensor:
        """Codes (..., C) float32 of places (..., 2), x and y in units of the range."""
        with torch.autocast(xy.device.type, enabled=False):
            return self.embedding(plane_sine_code(xy, self.channels))

    def grid(self, rows: int, columns: int) -> Tensor:
        """Codes (rows * columns, C) float32 of cell centres ((c + .5) / columns, (r + .5) / rows).

        The sine code has a half that depends on the row and a half that depends on the column
        alone, so the first layer is evaluated per row and per column and added: rows + columns
        evaluations instead of rows * columns, the same function.
        """
        first, last = cast(nn.Linear, self.embedding[0]), self.embedding[2]
        device = first.weight.device
        with torch.autocast(device.type, enabled=False):
            y = (torch.arange(rows, device=device) + 0.5) / rows
            x = (torch.arange(columns, device=device) + 0.5) / columns
            code_y = plane_sine_code(y[:, None].expand(-1, 2), self.channels)[:, : self.channels]
            code_x = plane_sine_code(x[:, None].expand(-1, 2), self.channels)[:, self.channels :]
            by_row = linear(code_y, first.weight[:, : self.channels], first.bias)
            by_column = linear(code_x, first.weight[:, self.channels :])
            hidden = torch.relu(by_row[:, None] + by_column[None])
            return last(hidden).flatten(0, 1)
