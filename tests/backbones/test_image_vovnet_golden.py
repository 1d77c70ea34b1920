"""The published VoVNet against ours."""

from __future__ import annotations

import pytest
import torch

from perception3d.backbones.image_vovnet import VoVNet
from perception3d.engine.checkpoints import load_published
from tests.golden_cases import golden, load_case


@pytest.mark.parametrize("name", golden("vovnet99"))
@torch.no_grad()
def test_golden_vovnet(name: str) -> None:
    case = load_case(name)
    stages = sorted(int(output.removeprefix("stage")) for output in case.output_specs)
    backbone = VoVNet(
        # The number in "V-99" counts the convolutions of stem and blocks.
        depth=sum(weight.endswith("/conv.weight") for weight in case.weight_shapes),
        width=case.weight_shapes["img_backbone.stem.stem_1/conv.weight"][0],
        out_stages=[stage - 2 for stage in stages],
        norm_eval=True,
    )
    load_published(backbone, case.weights(), prefix="image.backbone.")
    for stage, x in zip(stages, backbone.eval()(case.inputs()["img"])):
        case.check(f"stage{stage}", x)
    case.finish()
