"""Two tasks, one of which starves: what calibration does about it, in a plain PyTorch loop.

    python -m perception3d.balancing.example
    python -m perception3d.balancing.example --seeds 5 --steps 400 --map-scale 1

Little scenes of 24 x 24 cells, seen by two sensors: LiDAR shows where objects stand, the camera
where the road runs and, faintly, the objects. One trunk serves both tasks; the map's loss is
multiplied by 0.001, as if somebody had chosen its unit badly. Trained with AdamW, which evens out
each head's own gradients; the trunk gets a mixture, and that is what the rules differ in.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from statistics import mean, stdev

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, conv2d

from perception3d.balancing.balance import Balance
from perception3d.balancing.fixed import Fixed
from perception3d.balancing.fork import Fork
from perception3d.balancing.imtl_g import ImtlG
from perception3d.balancing.pcgrad import PcGrad
from perception3d.balancing.rule import Rule
from perception3d.balancing.uniform import Uniform

SIZE, TASKS = 24, ("objects", "map")


def scenes(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Camera (N, 2, 24, 24), LiDAR (N, 1, 24, 24), and what is to be found: objects, road."""
    place = torch.arange(SIZE, dtype=torch.float32)
    y, x = torch.meshgrid(place, place, indexing="ij")
    slope, offset, wave = torch.randn(3, count, 1, 1, generator=generator)
    middle = SIZE / 2 + 4 * offset + 0.4 * slope * (y - SIZE / 2)
    middle = middle + 2 * torch.sin(y / 4 + 3 * wave)
    road = ((x - middle).abs() < 4).float()[:, None]
    centers = (torch.rand(count, 1, SIZE, SIZE, generator=generator) < 0.012).float()
    objects = conv2d(centers, torch.ones(1, 1, 3, 3), padding=1).clamp(max=1)
    noise = torch.randn(3, count, 1, SIZE, SIZE, generator=generator)
    lidar = objects + 0.6 * noise[0]
    camera = torch.cat((0.5 * road + noise[1], 0.3 * objects + noise[2]), dim=1)
    return camera, lidar, objects, road


class Joint(nn.Module):
    """Two branches, a trunk, two heads; with a fork between the tasks, and a balance if asked."""

    def __init__(self, rule: Rule, *, intra: bool) -> None:
        super().__init__()
        self.camera, self.lidar = _conv(2, 8), _conv(1, 8)
        self.balance = Balance(("camera", "lidar")) if intra else None
        self.trunk = nn.Sequential(_conv(16, 12), _conv(12, 12), _conv(12, 12))
        self.fork = Fork(rule)
        self.heads = nn.ModuleList(nn.Conv2d(12, 1, 1) for _ in TASKS)

    def forward(self, camera: Tensor, lidar: Tensor) -> list[Tensor]:
        """(N, 1, 24, 24) logits of both tasks."""
        seen = self.camera(camera), self.lidar(lidar)
        if self.balance is not None:
            seen = self.balance(*seen)
        shared = self.trunk(torch.cat(seen, dim=1))
        return [head(x) for head, x in zip(self.heads, self.fork(shared))]


def _conv(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU())


def train(
    rule: Rule,
    *,
    intra: bool = False,
    seed: int = 0,
    steps: int = 300,
    scale: tuple[float, float] = (1.0, 1e-3),
) -> tuple[float, float]:
    """IoU of objects and road on held-out scenes, after so many steps of eight scenes.

    Args:
        rule: between the tasks.
        intra: balance the sensors as well.
        seed: of weights and scenes.
        steps: of training.
        scale: what the tasks' losses are multiplied by; 0 leaves a task out.
    """
    torch.manual_seed(seed)
    model = Joint(rule, intra=intra)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(1000 + seed)
    for _ in range(steps):
        camera, lidar, *targets = scenes(8, generator)
        outputs = model(camera, lidar)
        losses = torch.stack(
            [
                k * binary_cross_entropy_with_logits(found, want)
                for k, found, want in zip(scale, outputs, targets)
            ]
        )
        optimizer.zero_grad()
        model.fork.rule.total(losses).backward()
        optimizer.step()
    camera, lidar, *targets = scenes(100, torch.Generator().manual_seed(7))
    with torch.no_grad():
        found = model.eval()(camera, lidar)
    scores = [iou(one > 0, want > 0) for one, want in zip(found, targets)]
    return scores[0], scores[1]


def iou(found: Tensor, want: Tensor) -> float:
    """Intersection over union of two masks."""
    return float((found & want).sum() / (found | want).sum().clamp_min(1))


#: Arms: the rule, whether sensors are balanced, and which tasks are trained.
ARMS: dict[str, tuple[Callable[[], Rule], bool, tuple[float, float]]] = {
    "objects alone": (lambda: Uniform(TASKS), False, (1.0, 0.0)),
    "map alone": (lambda: Uniform(TASKS), False, (0.0, 1.0)),
    "plain sum": (lambda: Uniform(TASKS), False, (1.0, 1.0)),
    "map x 100": (lambda: Fixed({"objects": 1.0, "map": 100.0}), False, (1.0, 1.0)),
    "map x 1000": (lambda: Fixed({"objects": 1.0, "map": 1000.0}), False, (1.0, 1.0)),
    "PCGrad": (lambda: PcGrad(TASKS), False, (1.0, 1.0)),
    "IMTL-G (inter)": (lambda: ImtlG(TASKS), False, (1.0, 1.0)),
    "FULLER (inter, intra)": (lambda: ImtlG(TASKS), True, (1.0, 1.0)),
}


def main() -> None:
    """Print a table: mean over seeds, and its standard error."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--map-scale", type=float, default=1e-3)
    options = parser.parse_args()
    print(f"{'':24}{'objects IoU':>16}{'road IoU':>16}")
    for name, (rule, intra, used) in ARMS.items():
        scale = (used[0], used[1] * options.map_scale)
        runs = [
            train(rule(), intra=intra, seed=seed, steps=options.steps, scale=scale)
            for seed in range(options.seeds)
        ]
        cells = []
        for task, values in enumerate(zip(*runs)):
            error = stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
            cells.append(f"{mean(values):.3f} +- {error:.3f}" if used[task] else "-")
        print(f"{name:24}{cells[0]:>16}{cells[1]:>16}", flush=True)


if __name__ == "__main__":
    main()
