"""Published necks against ours."""

from __future__ import annotations

import pytest
import torch

from perception3d.engine.checkpoints import load_published
from perception3d.nn.fpn import CPFPN, UpsampleConcatNeck
from tests.golden_cases import golden, load_case


@pytest.mark.parametrize("name", golden("cpfpn_vov", "cpfpn_r50"))
@torch.no_grad()
def test_golden_cpfpn(name: str) -> None:
    case = load_case(name)
    inputs = case.inputs()
    levels = [inputs[f"feat{i}"] for i in range(len(inputs))]
    channels = case.weight_shapes["img_neck.fpn_convs.0.conv.weight"][0]
    neck = CPFPN([x.shape[1] for x in levels], channels, num_outputs=len(case.output_specs))
    load_published(neck, case.weights(), prefix="image.neck.")
    for i, out in enumerate(neck.eval()(levels)):
        case.check(f"out{i}", out)
    case.finish()


@pytest.mark.parametrize("name", golden("pillarnest_neck_tiny"))
@torch.no_grad()
def test_golden_pillarnest_neck(name: str) -> None:
    case = load_case(name)
    maps = [value for _, value in sorted(case.inputs().items())]
    shapes = case.weight_shapes
    neck = UpsampleConcatNeck(
        [x.shape[1] for x in maps],
        [shapes[f"pts_neck.deblocks.{i}.1.weight"][0] for i in range(len(maps))],
        [maps[0].shape[-1] // x.shape[-1] for x in maps],
    )
    load_published(neck, case.weights(), prefix="lidar.neck.")
    case.check("neck", neck.eval()(maps))
    case.finish()
