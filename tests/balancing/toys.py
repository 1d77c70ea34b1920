"""Small models with two modalities and two tasks, and gradients of given lengths and angles."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from perception3d.balancing import Balance, Fork


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gram_of(gradients: Tensor) -> Tensor:
    return (gradients @ gradients.T).double()


def everyone(count: int) -> Tensor:
    return torch.ones(count, dtype=torch.bool)


class Joint(nn.Module):
    """Camera and LiDAR maps -> concatenated -> trunk -> two heads. Without fork: plain."""

    def __init__(
        self, fork: Fork | None = None, balance: Balance | None = None, *, seed: int = 0
    ) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.camera, self.lidar = nn.Conv2d(3, 4, 1), nn.Conv2d(2, 6, 1)
        self.trunk = nn.Conv2d(10, 8, 3, padding=1)
        self.heads = nn.ModuleList((nn.Conv2d(8, 1, 1), nn.Conv2d(8, 2, 1)))
        self.fork, self.balance = fork, balance

    def forward(self, images: Tensor, points: Tensor) -> list[Tensor]:
        branches = self.camera(images), self.lidar(points)
        if self.balance is not None:
            branches = self.balance(*branches)
        shared = torch.relu(self.trunk(torch.cat(branches, dim=1)))
        each = [shared] * 2 if self.fork is None else self.fork(shared)
        return [head(x) for head, x in zip(self.heads, each)]


def batch(samples: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = seeded(seed)
    images = torch.randn(samples, 3, 6, 6, generator=generator)
    return images, torch.randn(samples, 2, 6, 6, generator=generator)


def losses(outputs: list[Tensor], scale: tuple[float, float] = (1.0, 1.0)) -> Tensor:
    """Two losses (2,), which want other things of one trunk."""
    first = (outputs[0] - 1).square().mean()
    second = (outputs[1] + 2).abs().mean()
    return torch.stack((first * scale[0], second * scale[1]))


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
