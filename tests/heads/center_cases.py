"""Golden cases of the centre head: their sizes, and the old box convention they are in.

Old (mmdetection3d before 1.0): x, y, z, width, length, height, yaw_old, vx, vy with z at the bottom
and yaw_old = -yaw - pi/2. The project knows it only where published weights are read; these few
functions bring figures from one to the other.
"""

from __future__ import annotations

import math
import re

import torch
from torch import Tensor

from perception3d.heads.center import CenterHead, CenterOutputs
from perception3d.heads.center_code import BOX_BRANCHES
from perception3d.heads.center_decode import Candidates, Suppression
from perception3d.structures import BEVGrid, Boxes3D
from tests.golden_cases import GoldenCase

#: Branches of a task in the order of the published head.
BRANCHES = (*BOX_BRANCHES, "iou", "heatmap")


def specs(case: GoldenCase) -> dict[str, list[int]]:
    """Shapes of inputs and outputs by role."""
    suffix = "_b" if case.name.endswith("_b") else ""
    inputs = {
        name.removeprefix(case.name + ".").removesuffix(suffix): spec["shape"]
        for name, spec in case.input_specs.items()
    }
    return inputs | {name: spec["shape"] for name, spec in case.output_specs.items()}


def tasks_of(case: GoldenCase) -> tuple[int, ...]:
    """Number of classes of each task."""
    shapes = specs(case)
    count = sum(re.fullmatch(r"task\d+_heatmap", name) is not None for name in shapes)
    return tuple(shapes[f"task{t}_heatmap"][1] for t in range(count))


def grid_of(case: GoldenCase) -> BEVGrid:
    """Cells of the head's maps, by what the settings state."""
    ny, nx = specs(case)["task0_heatmap"][2:]
    if "range x,y in" in case.about["settings"]:
        low, high = case.stated(r"range x,y in \[([^]]+)\]")
        x, y, z = (low, high), (low, high), case.stated(r"z \[([^]]+)\]")
    else:
        x0, y0, z0, x1, y1, z1 = case.stated(r"range \[([^]]+)\]")
        x, y, z = (x0, x1), (y0, y1), (z0, z1)
    grid = BEVGrid(x, y, (z[0], z[1]), (x[1] - x[0]) / nx)
    # As the model has it: pillars of a stated size, times the stride.
    (pillar,) = case.stated(r"voxel ([\d.]+) m", [0.15])
    grid = BEVGrid(x, y, (z[0], z[1]), pillar * round(grid.cell_m / pillar))
    assert (grid.ny, grid.nx) == (ny, nx)
    return grid


def head_of(
    case: GoldenCase, *, in_channels: int = 8, suppression: Suppression | None = None
) -> CenterHead:
    """A head of the case's sizes, with the number of candidates that it states."""
    (candidates,) = case.stated(r"max_num (?:\([^)]*\) lowered from \d+ to )?(\d+)", [500])
    return CenterHead(
        in_channels=in_channels,
        grid=grid_of(case),
        tasks=tasks_of(case),
        suppression=suppression,
        max_candidates=int(candidates),
    )


def swap_dim(maps: Tensor) -> Tensor:
    """(B, 3, ...) log sizes from one convention to the other, both ways."""
    return maps[:, [1, 0, 2]]


def swap_rot(maps: Tensor) -> Tensor:
    """(B, 2, ...) sin, cos of yaw from one convention to the other, both ways."""
    return -maps[:, [1, 0]]


SWAPS = {"dim": swap_dim, "rot": swap_rot}


def outputs_of(maps: dict[str, Tensor], tasks: tuple[int, ...]) -> CenterOutputs:
    """Our outputs of raw maps "task{t}_{branch}" in the old convention, differentiably."""
    box = []
    for t in range(len(tasks)):
        own = [SWAPS.get(name, lambda m: m)(maps[f"task{t}_{name}"]) for name in BOX_BRANCHES]
        box.append(torch.cat(own, dim=1))
    return CenterOutputs(
        torch.cat([maps[f"task{t}_heatmap"] for t in range(len(tasks))], dim=1),
        torch.stack(box, dim=1),
        torch.cat([maps[f"task{t}_iou"] for t in range(len(tasks))], dim=1),
    )


def check_maps(case: GoldenCase, outputs: CenterOutputs, tasks: tuple[int, ...]) -> None:
    """All raw maps against the published ones."""
    first = 0
    for t, classes in enumerate(tasks):
        parts = outputs.box[:, t].split(list(BOX_BRANCHES.values()), dim=1)
        for name, part in zip(BOX_BRANCHES, parts):
            case.check(f"task{t}_{name}", SWAPS.get(name, lambda m: m)(part))
        case.check(f"task{t}_iou", outputs.iou[:, t : t + 1])
        case.check(f"task{t}_heatmap", outputs.heat[:, first : first + classes])
        first += classes


def from_old(rows: Tensor, label: Tensor) -> Boxes3D:
    """Boxes of (n, 9) old rows."""
    center = rows[:, :3].clone()
    center[:, 2] += rows[:, 5] / 2
    yaw = -rows[:, 6] - math.pi / 2
    return Boxes3D.build(center, rows[:, [4, 3, 5]], yaw, label, velocity_mps=rows[:, 7:9])


def to_old(found: Candidates, want: Tensor, *, bottom: bool) -> Tensor:
    """(n, 9) old rows; yaw by full turns to the nearest of what is wanted (n, 9)."""
    x, y, z, length, width, height, yaw = found.solid.unbind(1)
    old = -yaw - math.pi / 2
    if len(want) == len(old):
        old = old + 2 * math.pi * torch.round((want[:, 6] - old) / (2 * math.pi))
    z = z - height / 2 if bottom else z
    return torch.cat(
        (torch.stack((x, y, z, width, length, height, old), dim=1), found.velocity_mps), dim=1
    )


def check_boxes(case: GoldenCase, prefix: str, found: Candidates) -> None:
    """Boxes after suppression, in the published order."""
    want = torch.from_numpy(case.arrays[f"out/{prefix}boxes"]).view(case.shape(f"{prefix}boxes"))
    case.check(f"{prefix}labels", found.label)
    case.check(f"{prefix}scores", found.score)
    case.check(f"{prefix}boxes", to_old(found, want, bottom=True))
