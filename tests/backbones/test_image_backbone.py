"""ResNet sizes, frozen statistics; pixels to network input; GridMask."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from perception3d.backbones.image_input import GridMask, ImageNormalize, grid_mask
from perception3d.backbones.image_resnet import ResNet


@pytest.mark.parametrize(
    ("depth", "weights"), [(18, 11_176_512), (34, 21_284_672), (50, 23_508_032), (101, 42_500_160)]
)
def test_published_number_of_weights(depth: int, weights: int) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in ResNet(depth=depth).parameters()) == weights


def test_outputs_declare_channels_and_strides() -> None:
    backbone = ResNet(depth=18, out_stages=(1, 2), width=8).eval()
    maps = backbone(torch.randn(1, 3, 64, 96))
    assert backbone.channels == (16, 32) and backbone.strides == (8, 16)
    assert [tuple(x.shape) for x in maps] == [(1, 16, 8, 12), (1, 32, 4, 6)]
    assert not hasattr(backbone, "layer4")
    with pytest.raises(ValueError, match="18, 34, 50, 101"):
        ResNet(depth=20)
    with pytest.raises(ValueError, match="0 to 3"):
        ResNet(depth=18, out_stages=(4,))


def test_norm_eval_and_checkpointing_change_no_value() -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 3, 32, 32)
    plain = ResNet(depth=50, width=8, norm_eval=True).train()
    saving = ResNet(depth=50, width=8, norm_eval=True, checkpointing=True).train()
    saving.load_state_dict(plain.state_dict())
    for a, b in zip(plain(images), saving(images)):
        torch.testing.assert_close(a, b)
    sum(x.sum() for x in plain(images)).backward()
    sum(x.sum() for x in saving(images)).backward()
    for p, q in zip(plain.parameters(), saving.parameters()):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-4)
    assert torch.equal(plain.bn1.running_mean, torch.zeros(8))
    assert plain.bn1.weight.grad is not None


def test_pixels_are_normalised_blue_first_and_padded_after() -> None:
    pixels = torch.tensor([10, 20, 30], dtype=torch.uint8).view(3, 1, 1).expand(1, 3, 5, 7)
    x = ImageNormalize(multiple=4)(pixels)
    assert x.shape == (1, 3, 8, 8)
    want = [(30 - 103.53) / 57.375, (20 - 116.28) / 57.12, (10 - 123.675) / 58.395]
    torch.testing.assert_close(x[0, :, 0, 0], torch.tensor(want))
    assert float(x[0, :, 5:].abs().max()) == float(x[0, :, :, 7:].abs().max()) == 0.0
    rgb = ImageNormalize(mean=(0, 0, 0), std=(1, 1, 1), bgr=False, multiple=1)(pixels)
    assert rgb[0, :, 0, 0].tolist() == [10.0, 20.0, 30.0]


def test_masked_images_become_the_published_constants() -> None:
    x = ImageNormalize()(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    torch.testing.assert_close(
        x[0, :, 0, 0], torch.tensor([-1.80, -2.03, -2.12]), rtol=0.0, atol=0.01
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": 20}, "depths are 18"),
        ({"out_stages": (4,)}, "0 to 3"),
        ({"out_stages": ()}, "0 to 3"),
        ({"out_stages": (3, 2)}, "ascend"),
        ({"width": 4}, "of 8"),
        ({"frozen_stages": 5}, "up to 4; found 5"),
        ({"style": "torch"}, "found 'torch'"),
        ({"deformable_stages": (2,)}, "ResNet-18"),
        ({"depth": 50, "out_stages": (1,), "deformable_stages": (2,)}, "0 to 1"),
    ],
)
def test_impossible_resnets_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ResNet(**({"depth": 18} | change))


def test_grid_mask_keeps_rows_or_columns() -> None:
    mask = grid_mask(6, 8, 4, 1, 2)
    rows = torch.tensor([False, True, True, False, False, True])
    columns = torch.tensor([False, False, True, True, False, False, True, True])
    assert torch.equal(mask, rows[:, None] | columns)


def test_grid_mask_is_for_training_and_the_same_for_all_images() -> None:
    images = torch.ones(3, 3, 20, 30)
    torch.manual_seed(0)
    module = GridMask(probability=1.0)
    out = module(images)
    assert torch.equal(out, out[:1, :1].expand_as(out))
    assert 0.4 < float(out.mean()) < 1.0
    torch.manual_seed(0)
    assert torch.equal(module(images), out)
    assert torch.equal(module.eval()(images), images)
    assert torch.equal(GridMask(probability=0.0)(images), images)
