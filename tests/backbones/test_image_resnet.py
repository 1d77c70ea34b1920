"""Variants of ResNet: style, frozen parts, deformable stages, recomputation."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from perception3d.backbones.image_resnet import ResNet
from perception3d.backbones.image_stages import checkpointed
from perception3d.nn.deform import ModulatedDeformConv


def strides(backbone: nn.Module) -> dict[str, int]:
    return {
        name: module.stride[0]
        for name, module in backbone.named_modules()
        if isinstance(module, nn.Conv2d) and module.stride != (1, 1)
    }


def test_style_moves_the_stride_of_bottlenecks_and_nothing_else() -> None:
    with torch.device("meta"):
        ours, caffe = (ResNet(depth=50, style=style) for style in ("pytorch", "caffe"))
        basic = [ResNet(depth=34, style=style) for style in ("pytorch", "caffe")]
    assert {k: v.shape for k, v in ours.state_dict().items()} == {
        k: v.shape for k, v in caffe.state_dict().items()
    }
    common = {"conv1": 2} | {f"layer{n}.0.downsample.0": 2 for n in (2, 3, 4)}
    assert strides(ours) == common | {f"layer{n}.0.conv2": 2 for n in (2, 3, 4)}
    assert strides(caffe) == common | {f"layer{n}.0.conv1": 2 for n in (2, 3, 4)}
    assert strides(basic[0]) == strides(basic[1])


def test_caffe_style_skips_cells_before_the_first_convolution() -> None:
    """A hand-made bottleneck: 1x1 of stride 2, then 3x3, so odd rows and columns are never seen."""
    torch.manual_seed(0)
    block = ResNet(depth=50, width=8, out_stages=(1,), style="caffe").eval().layer2[0]
    x = torch.randn(1, 32, 8, 8)
    changed = x.clone()
    changed[..., 1::2, :] += 1.0
    changed[..., :, 1::2] -= 1.0
    assert torch.equal(block(x), block(changed))


def test_deformable_stages_add_the_published_names_and_weights() -> None:
    with torch.device("meta"):
        plain, deformable = (
            ResNet(depth=50, style="caffe", deformable_stages=stages) for stages in ((), (2, 3))
        )
    added = deformable.state_dict().keys() - plain.state_dict().keys()
    assert added == {
        f"layer{stage}.{i}.conv2.conv_offset.{leaf}"
        for stage, count in ((3, 6), (4, 3))
        for i in range(count)
        for leaf in ("weight", "bias")
    }
    assert not plain.state_dict().keys() - deformable.state_dict().keys()
    # Nine taps, two displacements and a weight each, from 256 and 512 channels.
    offsets = 6 * (27 * 256 * 9 + 27) + 3 * (27 * 512 * 9 + 27)
    assert sum(p.numel() for p in deformable.parameters()) == 23_508_032 + offsets


@pytest.mark.parametrize("style", ["pytorch", "caffe"])
def test_undisplaced_taps_of_full_weight_are_the_plain_resnet(style: Any) -> None:
    torch.manual_seed(0)
    plain = ResNet(depth=50, width=8, style=style).eval()
    deformable = ResNet(depth=50, width=8, style=style, deformable_stages=(2, 3)).eval()
    deformable.load_state_dict(plain.state_dict(), strict=False)
    for module in deformable.modules():
        if isinstance(module, ModulatedDeformConv):
            assert not module.conv_offset.weight.any() and not module.conv_offset.bias.any()
            nn.init.constant_(module.conv_offset.bias[18:], 30.0)  # sigmoid: one
    images = torch.randn(1, 3, 64, 96)
    for a, b in zip(plain(images), deformable(images)):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_frozen_stages_neither_learn_nor_count() -> None:
    backbone = ResNet(depth=18, width=8, frozen_stages=2).train()
    before = copy.deepcopy(backbone.state_dict())
    sum(x.sum() for x in backbone(torch.randn(2, 3, 64, 64))).backward()
    frozen = ("conv1.", "bn1.", "layer1.", "layer2.")
    for name, parameter in backbone.named_parameters():
        assert (parameter.grad is None) == name.startswith(frozen), name
    changed = {k for k, v in backbone.state_dict().items() if not torch.equal(v, before[k])}
    assert changed and not any(name.startswith(frozen) for name in changed)
    stem = ResNet(depth=18, width=8, frozen_stages=0).train()
    assert not stem.bn1.training and stem.layer1.training
    assert not any(p.requires_grad for p in stem.conv1.parameters())
    assert all(p.requires_grad for p in stem.layer1.parameters())
    # Stages that are not built need no freezing.
    assert not any(p.requires_grad for p in ResNet(
        depth=18, width=8, out_stages=(1,), frozen_stages=4
    ).parameters())  # fmt: skip


def test_frozen_norms_neither_learn_nor_count_and_all_else_learns() -> None:
    backbone = ResNet(depth=18, width=8, norm_frozen=True).train()
    norms = {f"{k}." for k, m in backbone.named_modules() if isinstance(m, nn.BatchNorm2d)}
    for name, parameter in backbone.named_parameters():
        assert parameter.requires_grad != name.startswith(tuple(norms)), name
    backbone(torch.randn(2, 3, 64, 64))
    assert not backbone.bn1.training and not backbone.bn1.running_mean.any()
    assert backbone.bn1.num_batches_tracked == 0


def gradients(backbone: nn.Module, images: Tensor) -> list[Tensor | None]:
    outputs = backbone(images)
    sum((x * torch.linspace(-1, 1, x.shape[-1])).sum() for x in outputs).backward()
    return [p.grad for p in backbone.parameters()]


@pytest.mark.parametrize(
    "options",
    [
        {"depth": 18},
        {"depth": 50, "norm_eval": True},
        {"depth": 50, "style": "caffe", "deformable_stages": (2,), "out_stages": (2,)},
        {"depth": 18, "frozen_stages": 2},
    ],
)
def test_recomputation_changes_neither_gradients_nor_statistics(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    plain = ResNet(width=8, **options).train()
    saving = ResNet(width=8, checkpointing=True, **options).train()
    saving.load_state_dict(plain.state_dict())
    images = torch.randn(2, 3, 64, 64)
    for a, b in zip(gradients(plain, images), gradients(saving, images)):
        assert (a is None and b is None) or torch.equal(a, b)
    for (name, a), b in zip(plain.state_dict().items(), saving.state_dict().values()):
        assert torch.equal(a, b), name


def test_recomputation_forgets_what_lies_inside_blocks() -> None:
    """What the backward pass keeps, in numbers: the blocks' inputs alone."""
    kept = 0

    def count(x: Tensor) -> Tensor:
        nonlocal kept
        kept += x.numel()
        return x

    sizes = []
    for checkpointing in (False, True):
        kept = 0
        backbone = ResNet(depth=50, width=8, out_stages=(3,), checkpointing=checkpointing)
        with torch.autograd.graph.saved_tensors_hooks(count, lambda x: x):
            backbone(torch.randn(1, 3, 64, 64))
        sizes.append(kept)
    assert sizes[1] < sizes[0] / 2


def test_a_failing_recomputation_leaves_the_statistics_in_place() -> None:
    class Failing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.calls = nn.BatchNorm2d(2), 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            if self.calls == 2:
                raise RuntimeError("the second time")
            return self.norm(x).square()

    block = Failing()
    y = checkpointed(block, torch.randn(2, 2, 3, 3, requires_grad=True))
    with pytest.raises(RuntimeError, match="the second time"):
        y.sum().backward()
    assert block.norm.momentum == 0.1 and block.norm.num_batches_tracked == 1
