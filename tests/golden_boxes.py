"""What several golden cases of query heads share: ground truth, range, denoising."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from perception3d.heads.query_denoising import DenoisingBuilder
from perception3d.structures import Boxes3D
from tests.golden_cases import GoldenCase

#: Published by CMT; cases state it where the result depends on it.
PUBLISHED_RANGE_M = (-54.0, -54.0, -5.0, 54.0, 54.0, 3.0)

Range = tuple[float, float, float, float, float, float]


def range_of(case: GoldenCase) -> Range:
    """x, y, z minima, then maxima in metres, to which reference points are normalised."""
    x0, y0, z0, x1, y1, z1 = case.stated(r"point range \[([^]]+)\]", PUBLISHED_RANGE_M)
    return x0, y0, z0, x1, y1, z1


def published_boxes(rows: Tensor, label: Tensor) -> Boxes3D:
    """Boxes of a case: (n, 9) x, y, z of the bottom, sizes, yaw, velocity."""
    center = rows[:, :3].clone()
    center[:, 2] += rows[:, 5] / 2
    return Boxes3D.build(center, rows[:, 3:6], rows[:, 6], label, velocity_mps=rows[:, 7:9])


def boxes_of(inputs: dict[str, Tensor]) -> list[Boxes3D]:
    """Ground truth of every sample."""
    samples = sum(key.startswith("gt_boxes_") for key in inputs)
    return [
        published_boxes(
            inputs[f"gt_boxes_{i}"].reshape(-1, 9), inputs[f"gt_labels_{i}"].reshape(-1)
        )
        for i in range(samples)
    ]


def denoising_builder(
    case: GoldenCase, noise: Tensor, boxes: Sequence[Boxes3D], *, queries: int, classes: int
) -> DenoisingBuilder:
    """The builder of a case; where no limit of groups is stated, there are as many as the noise
    has rows for.
    """
    groups = len(noise) // sum(len(b) for b in boxes)
    return DenoisingBuilder(
        range_m=range_of(case),
        num_classes=classes,
        query_budget=queries,
        max_groups=int(case.stated(r"at most (\d+) groups", [groups])[0]),
        noise_scale=case.stated(r"noise_scale[ =]([\d.]+)", [DenoisingBuilder.noise_scale])[0],
        split=case.stated(r"\bsplit[ =]([\d.]+)", [DenoisingBuilder.split])[0],
    )
