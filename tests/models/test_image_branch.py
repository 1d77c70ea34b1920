"""Image branches: padding, published sizes, what is frozen, refusals."""

from __future__ import annotations

import sys
import types

import pytest
import torch
from torch import nn

from perception3d.backbones.image_input import (
    BGR_MEAN,
    CAFFE_STD,
    RGB_MEAN,
    RGB_STD,
    ImageNormalize,
)
from perception3d.backbones.image_resnet import ResNet
from perception3d.engine.key_tables import CMT_KEYS
from perception3d.models.image_branch import (
    ImageBranch,
    resnet_branch,
    timm_branch,
    vovnet_branch,
)
from perception3d.nn.fpn import CPFPN


def pixels(height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (2, 3, 3, height, width)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def small(kind: str, **options: object) -> ImageBranch:
    if kind == "vovnet":
        return vovnet_branch(8, depth=19, width=8, **options)  # type: ignore[arg-type]
    return resnet_branch(8, depth=18, width=8, **options)  # type: ignore[arg-type]


def test_published_sizes() -> None:
    """Backbone and neck of CMT and PETR with VoVNet: 69,523,520 and 1,049,344 weights."""
    with torch.device("meta"):
        branch = vovnet_branch(256, frozen=True)
    assert branch.neck is not None
    assert sum(p.numel() for p in branch.backbone.parameters()) == 69_523_520
    assert sum(p.numel() for p in branch.neck.parameters()) == 1_049_344
    assert (branch.channels, branch.stride, branch.normalize.multiple) == (256, 16, 32)


@pytest.mark.parametrize("kind", ["resnet", "vovnet"])
@pytest.mark.parametrize(("stages", "stride"), [((2, 3), 16), ((1, 2, 3), 8), ((3,), 32)])
def test_images_of_any_size_are_padded_to_whole_cells(
    kind: str, stages: tuple[int, ...], stride: int
) -> None:
    branch = small(kind, stages=stages).eval()
    features, image_hw = branch(pixels(37, 70))
    multiple = branch.normalize.multiple
    assert image_hw == (37 + -37 % multiple, 70 + -70 % multiple) and multiple % stride == 0
    assert features.stride == branch.stride == stride
    assert tuple(features.data.shape) == (2, 3, 8, image_hw[0] // stride, image_hw[1] // stride)


@pytest.mark.parametrize("kind", ["resnet", "vovnet"])
def test_padding_is_zero_after_normalising(kind: str) -> None:
    """The branch of a small image is that of the same image with the mean below and beside it."""
    branch = small(kind, normalize=ImageNormalize(mean=(7, 8, 9), multiple=32)).eval()
    image = pixels(32, 40)
    mean = torch.tensor([9, 8, 7], dtype=torch.uint8).view(3, 1, 1).expand(2, 3, 3, 32, 24)
    wide = torch.cat((image, mean), dim=-1)
    torch.testing.assert_close(branch(image)[0].data, branch(wide)[0].data)


def test_without_a_neck_the_finest_map_is_the_output() -> None:
    branch = resnet_branch(
        None, depth=50, width=8, stages=(3,), style="caffe", deformable_stages=(2, 3),
        norm_frozen=True, normalize=ImageNormalize(std=CAFFE_STD),
    ).train()  # fmt: skip
    features, _ = branch(pixels(64, 96))
    assert branch.channels == 256 and tuple(features.data.shape) == (2, 3, 256, 2, 3)
    assert branch.neck is None and not any("neck" in name for name in branch.state_dict())


def test_published_normalisations() -> None:
    image = torch.tensor([10, 20, 30], dtype=torch.uint8).view(3, 1, 1)
    caffe = ImageNormalize(std=CAFFE_STD, multiple=1)(image).flatten()
    torch.testing.assert_close(caffe, torch.tensor([30.0, 20.0, 10.0]) - torch.tensor(BGR_MEAN))
    red_first = ImageNormalize(mean=RGB_MEAN, std=RGB_STD, bgr=False, multiple=1)(image).flatten()
    torch.testing.assert_close(red_first, ImageNormalize(multiple=1)(image).flatten().flip(0))


@pytest.mark.parametrize("kind", ["resnet", "vovnet"])
def test_frozen_parts_are_handed_on(kind: str) -> None:
    branch = small(kind, frozen=True, frozen_stages=1, checkpointing=True).train()
    norms = [m for m in branch.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms and not any(norm.training for norm in norms)
    still = {name for name, p in branch.named_parameters() if not p.requires_grad}
    assert still and all(
        name.startswith(("backbone.conv1.", "backbone.bn1.", "backbone.layer1.",
                         "backbone.stem.", "backbone.stage2."))
        for name in still
    )  # fmt: skip
    features, _ = branch(pixels(64, 64))
    features.data.sum().backward()
    assert all(p.grad is None for n, p in branch.named_parameters() if n in still)
    norms = [m for m in small(kind, norm_frozen=True).backbone.modules() if hasattr(m, "eps")]
    assert norms and not any(p.requires_grad for norm in norms for p in norm.parameters())


@pytest.mark.parametrize("kind", ["resnet", "vovnet"])
def test_recomputation_changes_neither_values_nor_gradients(kind: str) -> None:
    results = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        branch = small(kind, checkpointing=checkpointing).train()
        features, _ = branch(pixels(64, 64))
        features.data.square().sum().backward()
        results.append([features.data, *(p.grad for p in branch.parameters())])
    for a, b in zip(*results):
        assert (a is None and b is None) or torch.equal(a, b)


def test_published_names_are_in_the_key_table() -> None:
    with torch.device("meta"):
        branches = [
            vovnet_branch(256),
            resnet_branch(256, style="caffe", deformable_stages=(2, 3)),
        ]
    for branch in branches:
        for ours in branch.state_dict():
            published = CMT_KEYS.to_published(f"image.{ours}")
            assert published.startswith(("img_backbone.", "img_neck."))
            assert CMT_KEYS.to_ours(published) == f"image.{ours}"


def test_cut_cells_and_wrong_images_are_refused() -> None:
    backbone = ResNet(depth=18, width=8)
    with pytest.raises(ValueError, match="multiple of 8 pixels, which cuts cells of 16"):
        ImageBranch(
            backbone=backbone,
            neck=CPFPN(backbone.channels, 8),
            normalize=ImageNormalize(multiple=8),
        )
    with pytest.raises(ValueError, match=r"\(B, V, 3, H, W\); found \(2, 3, 64, 64\)"):
        small("resnet")(torch.zeros(2, 3, 64, 64, dtype=torch.uint8))


class _Model(nn.Module):
    """A timm model of one size, channels last."""

    def __init__(self, img_size: tuple[int, int] = (224, 224), **_: object) -> None:
        super().__init__()
        self.img_size, self.output_fmt = tuple(img_size), "NHWC"
        self.conv, self.norm = nn.Conv2d(3, 4, 16, stride=16), nn.BatchNorm2d(4)
        self.deeper = nn.Conv2d(4, 6, 2, stride=2)
        info = [{"num_chs": 4, "reduction": 16}, {"num_chs": 6, "reduction": 32}]
        self.feature_info = types.SimpleNamespace(info=info, channels=lambda: [4, 6])
        self.pretrained_cfg = {
            "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.2, 0.2), "fixed_input_size": True,
            "input_size": (3, 224, 224),
        }  # fmt: skip

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        assert tuple(x.shape[-2:]) == self.img_size
        fine = self.norm(self.conv(x))
        return [y.permute(0, 2, 3, 1) for y in (fine, self.deeper(fine))]


def test_timm_models_get_their_pixels_and_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("timm")
    module.create_model = lambda name, **options: _Model(**options)  # type: ignore[attr-defined]
    module.is_model = lambda name: True  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "timm", module)
    branch = timm_branch(8, name="any", image_hw=(50, 70), frozen=True, grid_mask=True).train()
    features, image_hw = branch(pixels(50, 70))
    assert image_hw == (64, 96)
    assert tuple(features.data.shape) == (2, 3, 8, 4, 6) and features.stride == 16
    assert branch.grid_mask is not None and not branch.backbone.model.norm.training
    x = branch.normalize(torch.full((3, 1, 1), 255, dtype=torch.uint8))[:, 0, 0]
    torch.testing.assert_close(x, torch.tensor([2.5, 3.0, 3.5]))
