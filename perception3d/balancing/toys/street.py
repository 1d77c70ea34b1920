"""Little streets seen from above: boxes and a map of two classes, a joint model, losses, scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid, max_pool2d

from perception3d.balancing.balance import Balance
from perception3d.balancing.fork import Fork

#: Cells of a scene's side; boxes of a scene at most, one a quarter; width of the trunk.
SIZE, BOXES, WIDTH = 16, 4, 16
TASKS = ("boxes", "map")
#: Channels of the box head: heat, offset (x, y) in cells, log size (x, y).
BOX_CHANNELS = 5
#: Of the box loss: the tasks' gradients where they part are then of one order before
#: anybody scales a loss.
BOX_UNIT = 0.1
#: Found boxes looked at in a scene, and the overlap that makes one right.
FOUND, OVERLAP = 8, 0.5


@dataclass(frozen=True)
class Streets:
    """Scenes (N, ...) of 16 x 16 cells; x to the right, y up, cell (0, 0) from 0 to 1.

    Attributes:
        camera: (N, 3, 16, 16) road, crossing, and faintly the boxes.
        lidar: (N, 1, 16, 16) boxes.
        box: (N, 4, 4) center and size (x, y, size x, size y) in cells.
        present: (N, 4) bool, which boxes there are.
        heat: (N, 16, 16) 1 at the cells of the centers, a bell around them.
        road: (N, 2, 16, 16) road and crossing, 0 or 1.
    """

    camera: Tensor
    lidar: Tensor
    box: Tensor
    present: Tensor
    heat: Tensor
    road: Tensor

    def part(self, start: int, stop: int) -> Streets:
        """Scenes start to stop - 1."""
        tensors = (self.camera, self.lidar, self.box, self.present, self.heat, self.road)
        return Streets(*(tensor[start:stop] for tensor in tensors))


def make_streets(count: int, generator: torch.Generator) -> Streets:
    """Scenes at random."""

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    place = torch.arange(SIZE) + 0.5
    y, x = torch.meshgrid(place, place, indexing="ij")
    middle = 5 + 6 * uniform(count, 1, 1) + (uniform(count, 1, 1) - 0.5) * (y - SIZE / 2)
    middle = middle + 1.5 * torch.sin(y / 3 + 6 * uniform(count, 1, 1))
    road = (x - middle).abs() < 3
    crossing = road & ((y - 3 - 10 * uniform(count, 1, 1)).abs() < 1.5)
    quarter = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]) * SIZE / 2
    center = quarter + 2 + 4 * uniform(count, BOXES, 2)
    size = 2 + uniform(count, BOXES, 2) * torch.tensor([2.5, 1.5])
    present = uniform(count, BOXES) < 0.7
    present[:, 0] |= ~present.any(1)
    apart = torch.stack((x, y), -1) - center[:, :, None, None]
    inside = (apart.abs() < size[:, :, None, None] / 2).all(-1) & present[:, :, None, None]
    filled = inside.any(1).float()
    noise = torch.randn(4, count, SIZE, SIZE, generator=generator)
    seen = (0.8 * road + noise[0], crossing + noise[1], 0.3 * filled + noise[2])
    return Streets(
        camera=torch.stack(seen, 1),
        lidar=(filled + 0.3 * noise[3])[:, None],
        box=torch.cat((center, size), -1),
        present=present,
        heat=_heat(center.floor(), present),
        road=torch.stack((road, crossing), 1).float(),
    )


def _heat(cell: Tensor, present: Tensor) -> Tensor:
    place = torch.arange(SIZE)
    square = (place - cell[..., 0, None]).square()[:, :, None, :]
    square = square + (place - cell[..., 1, None]).square()[..., None]
    return ((-square / 2).exp() * present[..., None, None]).amax(1)


class Joint(nn.Module):
    """Two branches, a balance between them, a shared trunk, a fork, two heads.

    Norms after the convolutions let plain SGD train it.
    """

    def __init__(self, fork: Fork, balance: Balance) -> None:
        super().__init__()
        self.camera, self.lidar = _conv(3, WIDTH // 2), _conv(1, WIDTH // 2)
        self.balance, self.fork = balance, fork
        self.trunk = nn.Sequential(*(_conv(WIDTH, WIDTH) for _ in range(3)))
        boxes, road = nn.Conv2d(WIDTH, BOX_CHANNELS, 1), nn.Conv2d(WIDTH, 2, 1)
        # Heat begins at 0.1: centers are rare, and the first steps need not learn that.
        nn.init.constant_(cast(Tensor, boxes.bias)[:1], -2.2)
        self.heads = nn.ModuleList((boxes, road))

    def forward(self, streets: Streets) -> list[Tensor]:
        """Boxes (N, 5, 16, 16) and map logits (N, 2, 16, 16)."""
        seen = self.balance(self.camera(streets.camera), self.lidar(streets.lidar))
        shared = self.fork(self.trunk(torch.cat(seen, dim=1)))
        return [head(features) for head, features in zip(self.heads, shared)]


def _conv(inputs: int, outputs: int) -> nn.Module:
    layers = nn.Conv2d(inputs, outputs, 3, padding=1), nn.GroupNorm(4, outputs), nn.ReLU()
    return nn.Sequential(*layers)


def box_loss(found: Tensor, streets: Streets) -> Tensor:
    """Focal loss of the heat (as CenterNet's) and L1 of the boxes, by the number of boxes."""
    cell, wanted = streets.box[..., :2].floor(), streets.present
    logit, heat = found[:, 0], streets.heat
    score, here = logit.sigmoid(), heat == 1
    right = -((1 - score) ** 2) * logsigmoid(logit) * here
    wrong = -((1 - heat) ** 4) * score**2 * logsigmoid(-logit) * ~here
    at = cell.long()
    sample = torch.arange(len(at))[:, None].expand(-1, BOXES)
    code = found[sample, 1:, at[..., 1], at[..., 0]]
    target = torch.cat((streets.box[..., :2] - cell, streets.box[..., 2:].log()), -1)
    off = (code - target).abs().sum(-1) * wanted
    return BOX_UNIT * ((right + wrong).sum() + off.sum()) / wanted.sum()


def map_loss(found: Tensor, streets: Streets) -> Tensor:
    """Cross entropy: mean over cells, summed over the two classes."""
    return 2 * binary_cross_entropy_with_logits(found, streets.road)


def map_iou(found: Tensor, streets: Streets) -> float:
    """Mean over the classes of intersection over union, at a probability of 0.5."""
    positive, true = found > 0, streets.road > 0
    both = (positive & true).sum((0, 2, 3))
    return float((both / (positive | true).sum((0, 2, 3)).clamp_min(1)).mean())


def box_ap(found: Tensor, streets: Streets) -> float:
    """Average precision of boxes at an overlap of 0.5: area below precision over recall.

    Peaks of the heat are matched in the order of their scores over all scenes, each true box once.
    """
    heat = found[:, 0]
    peak = torch.where(max_pool2d(heat, 3, 1, 1) == heat, heat, -torch.inf)
    score, at = peak.flatten(1).topk(FOUND)
    code = found[:, 1:].flatten(2).gather(2, at[:, None].expand(-1, 4, -1)).transpose(1, 2)
    corner = torch.stack((at % SIZE, at // SIZE), -1)
    # Untrained sizes may be anything; e^5 cells are far beyond a scene.
    box = torch.cat((corner + code[..., :2], code[..., 2:].clamp(max=5).exp()), -1)
    overlap = overlaps(box, streets.box) * streets.present[:, None]
    best, which = overlap.max(-1)
    taken: set[tuple[int, int]] = set()
    hits = []
    for flat in score.flatten().argsort(descending=True).tolist():
        sample, one = divmod(flat, FOUND)
        key = sample, int(which[sample, one])
        hit = bool(best[sample, one] >= OVERLAP) and key not in taken
        hits.append(hit)
        if hit:
            taken.add(key)
    hit_count = torch.tensor(hits, dtype=torch.float64)
    precision = hit_count.cumsum(0) / torch.arange(1, len(hits) + 1)
    # The best precision at this recall or a greater one, as average precision is defined.
    envelope = precision.flip(0).cummax(0).values.flip(0)
    return float((envelope * hit_count).sum() / streets.present.sum())


def overlaps(a: Tensor, b: Tensor) -> Tensor:
    """(N, P, Q) intersection over union of boxes (N, P, 4) and (N, Q, 4) along the axes."""
    a, b = a[:, :, None], b[:, None]
    low = torch.maximum(a[..., :2] - a[..., 2:] / 2, b[..., :2] - b[..., 2:] / 2)
    high = torch.minimum(a[..., :2] + a[..., 2:] / 2, b[..., :2] + b[..., 2:] / 2)
    both = (high - low).clamp(min=0).prod(-1)
    return both / (a[..., 2:].prod(-1) + b[..., 2:].prod(-1) - both)
