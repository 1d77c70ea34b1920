"""Published Gaussian targets against ours."""

from __future__ import annotations

import pytest
import torch

from perception3d.losses.gaussian import draw_gaussians, gaussian_radius
from tests.golden_cases import golden, load_case

#: Least radius of the published targets, in cells; here it is the caller's.
LEAST_RADIUS = 2


@pytest.mark.parametrize("name", golden("geometry_heatmap"))
def test_golden_geometry_heatmap(name: str) -> None:
    case = load_case(name)
    inputs = case.inputs()
    overlaps = inputs["min_overlaps"].tolist()
    radius = torch.stack([gaussian_radius(inputs["sizes"], min_overlap=o) for o in overlaps])
    case.check("radius", radius)
    case.check("int_radius", radius.long().clamp_min(LEAST_RADIUS))
    label, column, row, reach = inputs["draws"].long().T
    classes, rows, columns = inputs["map_shape"].tolist()
    heat = draw_gaussians(
        torch.stack((row, column), dim=1), reach, label, shape=(classes, rows, columns)
    )
    case.check("heatmap", heat)
    for r in inputs["gaussian_radii"].tolist():
        alone = draw_gaussians(
            torch.full((1, 2), r), torch.tensor([r]), torch.tensor([0]),
            shape=(1, 2 * r + 1, 2 * r + 1),
        )  # fmt: skip
        case.check(f"gaussian_{r}", alone[0])
    case.finish()
