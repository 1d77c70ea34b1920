"""VoVNet: sizes, names, the block by hand, frozen parts, recomputation."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from perception3d.backbones.image_vovnet import VOVNET_DEPTHS, VoVNet


def test_v99_has_the_published_number_of_weights() -> None:
    """69,523,520 learn; running statistics, which do not, are buffers."""
    with torch.device("meta"):
        backbone = VoVNet()
    assert sum(p.numel() for p in backbone.parameters()) == 69_523_520
    assert backbone.channels == (768, 1024) and backbone.strides == (16, 32)


@pytest.mark.parametrize("slim", [False, True])
@pytest.mark.parametrize("depth", VOVNET_DEPTHS)
def test_weights_of_every_depth_are_those_of_its_table(depth: int, slim: bool) -> None:
    layers, blocks = VOVNET_DEPTHS[depth]
    inner = (64, 80, 96, 112) if slim else (128, 160, 192, 224)
    outer = (112, 256, 384, 512) if slim else (256, 512, 768, 1024)
    want = 9 * (3 * 64 + 64 * 64 + 64 * 128) + 2 * (64 + 64 + 128)
    before = 128
    for count, middle, out in zip(blocks, inner, outer):
        for _ in range(count):
            want += 9 * middle * (before + (layers - 1) * middle) + 2 * layers * middle
            want += (before + layers * middle) * out + 2 * out + out * out + out
            before = out
    with torch.device("meta"):
        backbone = VoVNet(depth=depth, slim=slim)
    assert sum(p.numel() for p in backbone.parameters()) == want
    # The number in the name counts the convolutions.
    convs = [n for n, m in backbone.named_modules() if isinstance(m, nn.Conv2d) and "ese" not in n]
    assert len(convs) == depth


def test_outputs_declare_channels_and_strides() -> None:
    backbone = VoVNet(depth=19, width=8, out_stages=(0, 2)).eval()
    maps = backbone(torch.randn(1, 3, 64, 96))
    assert backbone.channels == (32, 96) and backbone.strides == (4, 16)
    assert [tuple(x.shape) for x in maps] == [(1, 32, 16, 24), (1, 96, 4, 6)]
    assert not hasattr(backbone, "stage5")


def test_odd_maps_round_like_the_published_pooling() -> None:
    """Windows of 3 without padding, the last one may hang over: n -> ceil((n - 3) / 2) + 1."""
    backbone = VoVNet(depth=19, width=8, out_stages=(0, 1, 2, 3)).eval()
    sizes = [tuple(x.shape[-2:]) for x in backbone(torch.randn(1, 3, 4 * 29, 4 * 26))]
    assert sizes == [(29, 26), (14, 13), (7, 6), (3, 3)]


def test_a_block_joins_its_input_and_all_layers() -> None:
    torch.manual_seed(0)
    backbone = VoVNet(depth=39, width=8).eval()
    first, second = backbone.stage4.OSA4_1, backbone.stage4.OSA4_2
    for block, adds in ((first, False), (second, True)):
        x = torch.randn(1, 64 if block is first else 96, 4, 6)
        outputs = [x]
        for i in range(5):
            conv, norm, _ = block.layers[i]
            outputs.append(torch.relu(norm(conv(outputs[-1]))))
        conv, norm, _ = block.concat
        y = torch.relu(norm(conv(torch.cat(outputs, dim=1))))
        weight = block.ese.fc.weight[:, :, 0, 0] @ y.mean(dim=(0, 2, 3)) + block.ese.fc.bias
        want = y * ((weight + 3).clamp(0, 6) / 6).view(-1, 1, 1)
        torch.testing.assert_close(block(x), want + x if adds else want)


def test_frozen_parts_neither_learn_nor_count() -> None:
    backbone = VoVNet(depth=19, width=8, frozen_stages=1).train()
    before = copy.deepcopy(backbone.state_dict())
    sum(x.sum() for x in backbone(torch.randn(2, 3, 64, 64))).backward()
    for name, parameter in backbone.named_parameters():
        assert (parameter.grad is None) == name.startswith(("stem.", "stage2.")), name
    changed = {k for k, v in backbone.state_dict().items() if not torch.equal(v, before[k])}
    assert changed and not any(name.startswith(("stem.", "stage2.")) for name in changed)
    fixed = VoVNet(depth=19, width=8, norm_frozen=True).train()
    for name, parameter in fixed.named_parameters():
        assert parameter.requires_grad != ("/norm." in name), name
    fixed(torch.randn(2, 3, 64, 64))
    assert all(not b.any() for n, b in fixed.named_buffers() if n.endswith("running_mean"))
    kept = VoVNet(depth=19, width=8, norm_eval=True).train()
    assert all(p.requires_grad for p in kept.parameters()) and kept.training
    assert not any(m.training for m in kept.modules() if isinstance(m, nn.BatchNorm2d))


@pytest.mark.parametrize("norm_eval", [False, True])
def test_recomputation_changes_neither_values_nor_statistics(norm_eval: bool) -> None:
    torch.manual_seed(0)
    plain = VoVNet(depth=57, width=8, norm_eval=norm_eval).train()
    saving = VoVNet(depth=57, width=8, norm_eval=norm_eval, checkpointing=True).train()
    saving.load_state_dict(plain.state_dict())
    images = torch.randn(2, 3, 64, 64)
    outputs = [plain(images), saving(images)]
    for a, b in zip(*outputs):
        assert torch.equal(a, b)
    for maps in outputs:
        sum((x * torch.linspace(-1, 1, x.shape[-1])).sum() for x in maps).backward()
    for p, q in zip(plain.parameters(), saving.parameters()):
        assert torch.equal(p.grad, q.grad)
    for (name, a), b in zip(plain.state_dict().items(), saving.state_dict().values()):
        assert torch.equal(a, b), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": 27}, "VoVNet depths are 19, 39, 57, 99; found 27"),
        ({"out_stages": (2, 4)}, "0 to 3"),
        ({"width": 12}, "of 8"),
        ({"frozen_stages": -2}, "found -2"),
    ],
)
def test_impossible_vovnets_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VoVNet(**change)
