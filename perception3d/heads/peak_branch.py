"""What finds peaks on a map: class heat, and a guess of what stands in each cell."""

from __future__ import annotations

from torch import Tensor, nn

#: Initial score of every cell: sigmoid(-2.19) is about 0.1, so that background does not dominate.
HEAT_BIAS = -2.19


class PeakBranch(nn.Module):
    """Two small convolutions on a map: class heat, and a guess of what stands in each cell.

    Args:
        channels: of the map.
        hidden: channels between the convolutions, shared by both outputs.
        classes, guesses: channels of the outputs.
    """

    def __init__(self, channels: int, hidden: int, classes: int, guesses: int) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(channels, hidden, 3, padding=1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(inplace=True),
        )
        self.heat = nn.Conv2d(hidden, classes, 3, padding=1)
        self.guess = nn.Conv2d(hidden, guesses, 3, padding=1)
        nn.init.normal_(self.heat.weight, std=0.01)
        nn.init.constant_(self.heat.bias, HEAT_BIAS)  # type: ignore[arg-type]
        nn.init.normal_(self.guess.weight, std=0.01)
        nn.init.zeros_(self.guess.bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(B, channels, h, w) -> logits (B, classes, h, w) and guesses (B, guesses, h, w)."""
        hidden = self.trunk(features)
        return self.heat(hidden), self.guess(hidden)
