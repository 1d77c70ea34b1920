"""The adapter of timm, on a small stand-in with timm's interface and, where it is, on timm."""

from __future__ import annotations

import enum
import sys
import types
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from perception3d.backbones.image_timm import TimmBackbone


class Format(str, enum.Enum):
    """Layouts; written "Format.NHWC", as timm's."""

    NCHW = "NCHW"
    NHWC = "NHWC"
    NLC = "NLC"


class FeatureInfo:
    def __init__(self, info: list[dict[str, Any]], out_indices: Sequence[int]) -> None:
        self.info, self.out_indices = info, tuple(out_indices)

    def channels(self) -> list[int]:
        return [self.info[i]["num_chs"] for i in self.out_indices]

    def reduction(self) -> list[int]:
        return [self.info[i]["reduction"] for i in self.out_indices]


class FeatureListNet(nn.ModuleDict):
    """Stages of one convolution each, cut behind the last that is asked for."""

    def __init__(
        self,
        reductions: Sequence[int],
        out_indices: Sequence[int],
        output_fmt: str | None = "NCHW",
        img_size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        info = [
            {"num_chs": 4 + i, "reduction": r, "module": f"stage{i}"}
            for i, r in enumerate(reductions)
        ]
        self.feature_info = FeatureInfo(info, out_indices)
        if output_fmt is not None:
            self.output_fmt = Format(output_fmt)
        self.img_size, self.grad_checkpointing = img_size, False
        before, c_in = 1, 3
        for i in range(max(out_indices) + 1):
            step, c_out = reductions[i] // before, 4 + i
            conv = nn.Conv2d(c_in, c_out, step, stride=step)
            self[f"stage{i}"] = nn.Sequential(conv, nn.BatchNorm2d(c_out), nn.GELU())
            before, c_in = reductions[i], c_out

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.grad_checkpointing = enable

    def forward(self, x: Tensor) -> list[Tensor]:
        assert self.img_size in (None, tuple(x.shape[-2:])), "Input height doesn't match model"
        out = []
        for i, stage in enumerate(self.values()):
            x = checkpoint(stage, x, use_reentrant=False) if self.grad_checkpointing else stage(x)
            if i in self.feature_info.out_indices:
                last = getattr(self, "output_fmt", None) == Format.NHWC
                out.append(x.permute(0, 2, 3, 1) if last else x)
        return out


class FeatureGetterNet(nn.ModuleDict):
    """A wrapper without a switch of its own; the switch is inside."""

    def __init__(self, model: FeatureListNet) -> None:
        super().__init__()
        self.model, self.feature_info = model, model.feature_info
        self.output_fmt = model.output_fmt

    def forward(self, x: Tensor) -> list[Tensor]:
        return self.model(x)


class Unswitchable(FeatureListNet):
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        assert not enable, "gradient checkpointing not supported"


IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
#: Every keyword but out_indices goes to the model, and unknown ones fail there, as in timm.
MODELS: dict[str, tuple[Sequence[int], dict[str, Any]]] = {
    "convsmall_050": ((2, 4, 8, 16, 32), IMAGENET | {"fixed_input_size": False}),
    "convsmall_100": ((2, 4, 8, 16, 32), IMAGENET),
    "swinlike_tiny": ((4, 8, 16, 32), HALF | {"fixed_input_size": True}),
    "vitlike_tiny": ((16, 16, 16), HALF | {"fixed_input_size": True}),
    "plainlike": ((4, 8, 16, 32), IMAGENET),
    "nlclike": ((16, 32), IMAGENET),
    "hrlike": ((16, 32), IMAGENET),
    "classifier": ((32,), IMAGENET),
}


def create_model(
    model_name: str, pretrained: bool = False, features_only: bool = False, **kwargs: Any
) -> nn.Module:
    name, _, tag = model_name.partition(".")
    if name not in MODELS:
        raise RuntimeError(f"Unknown model ({name})")
    if tag not in ("", "a1_in1k"):
        raise RuntimeError(f"Invalid pretrained tag ({tag}) for {name}.")
    if name == "classifier" and features_only:
        raise RuntimeError("features_only not implemented for classifiers.")
    assert features_only
    reductions, cfg = MODELS[name]
    out_indices = kwargs.pop("out_indices", range(len(reductions)))
    if not cfg.get("fixed_input_size", False) and "img_size" in kwargs:
        raise TypeError("__init__() got an unexpected keyword argument 'img_size'")
    size = kwargs.pop("img_size", (224, 224)) if cfg.get("fixed_input_size", False) else None
    layout = {"swinlike_tiny": "NHWC", "nlclike": "NLC", "plainlike": None}.get(name, "NCHW")
    kind = Unswitchable if name == "hrlike" else FeatureListNet
    model: nn.Module = kind(reductions, out_indices, layout, size, **kwargs)
    if name == "vitlike_tiny":
        assert isinstance(model, FeatureListNet)
        model = FeatureGetterNet(model)
    if pretrained:
        for parameter in model.parameters():
            nn.init.constant_(parameter, 0.5)
    model.pretrained_cfg = cfg | {"input_size": (3, 224, 224)}
    return model


@pytest.fixture
def timm(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    module = types.ModuleType("timm")
    module.create_model = create_model
    module.is_model = lambda name: name.partition(".")[0] in MODELS
    module.list_models = lambda: sorted(MODELS)
    monkeypatch.setitem(sys.modules, "timm", module)
    return module


IMAGES = (2, 3, 64, 96)


@pytest.mark.parametrize("name", ["convsmall_100", "convsmall_050.a1_in1k", "swinlike_tiny",
                                  "plainlike"])  # fmt: skip
def test_maps_have_the_asked_strides(timm: types.ModuleType, name: str) -> None:
    for strides in ((16, 32), (8,), (4, 16)):
        backbone = TimmBackbone(name=name, strides=strides, image_hw=(64, 96))
        maps = backbone(torch.randn(IMAGES))
        assert backbone.strides == strides and len(backbone.channels) == len(strides)
        for x, channels, stride in zip(maps, backbone.channels, strides):
            assert tuple(x.shape) == (2, channels, 64 // stride, 96 // stride)


def test_nothing_is_built_behind_the_last_map(timm: types.ModuleType) -> None:
    assert list(TimmBackbone(name="convsmall_100", strides=(8,)).model) == [
        "stage0", "stage1", "stage2",
    ]  # fmt: skip


def test_the_deepest_map_of_a_stride_is_taken(timm: types.ModuleType) -> None:
    backbone = TimmBackbone(name="vitlike_tiny", strides=(16,), image_hw=(64, 96))
    assert backbone.channels == (6,)
    assert tuple(backbone(torch.randn(IMAGES))[0].shape) == (2, 6, 4, 6)


def test_pixels_are_normalised_as_the_weights_were_trained(timm: types.ModuleType) -> None:
    backbone = TimmBackbone(name="convsmall_100")
    assert backbone.mean == pytest.approx((123.675, 116.28, 103.53))
    assert backbone.std == pytest.approx((58.395, 57.12, 57.375))
    assert TimmBackbone(name="swinlike_tiny", image_hw=(64, 96)).mean == (127.5, 127.5, 127.5)


def test_weights_are_fetched_on_demand(timm: types.ModuleType) -> None:
    for pretrained in (False, True):
        backbone = TimmBackbone(name="convsmall_100", pretrained=pretrained)
        assert all(bool((p == 0.5).all()) for p in backbone.parameters()) == pretrained


@pytest.mark.parametrize("name", ["convsmall_100", "swinlike_tiny", "vitlike_tiny"])
def test_recomputation_changes_neither_values_nor_gradients(
    timm: types.ModuleType, name: str
) -> None:
    strides = (16,) if name == "vitlike_tiny" else (16, 32)
    images = torch.randn(IMAGES)
    results = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        backbone = TimmBackbone(
            name=name, strides=strides, image_hw=(64, 96), norm_eval=True,
            checkpointing=checkpointing,
        ).train()  # fmt: skip
        switched = [m for m in backbone.modules() if getattr(m, "grad_checkpointing", False)]
        assert len(switched) == checkpointing
        maps = backbone(images)
        sum(x.square().sum() for x in maps).backward()
        results.append([*maps, *(p.grad for p in backbone.parameters())])
    for a, b in zip(*results):
        assert torch.equal(a, b)


def test_norm_eval_keeps_statistics(timm: types.ModuleType) -> None:
    for norm_eval in (False, True):
        backbone = TimmBackbone(name="convsmall_100", norm_eval=norm_eval).train()
        before = {k: v.clone() for k, v in backbone.state_dict().items()}
        backbone(torch.randn(IMAGES))
        same = all(torch.equal(v, before[k]) for k, v in backbone.state_dict().items())
        assert same == norm_eval
        assert all(p.requires_grad for p in backbone.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "convsmal_101"}, "no model 'convsmal_101'; near it: convsmall_10"),
        ({"name": "?"}, r"no model '\?'; timm.list_models"),
        ({"name": "convsmall_050.a2"}, r"Invalid pretrained tag \(a2\)"),
        ({"name": "classifier"}, "cannot build 'classifier' for its maps: features_only not"),
        ({"name": "convsmall_050", "strides": (8, 64)}, "of stride 64; its strides are 2, 4, 8"),
        ({"name": "vitlike_tiny", "image_hw": (64, 64)}, "of stride 32; its strides are 16$"),
        ({"name": "swinlike_tiny"}, r"by default \(224, 224\); image_hw"),
        ({"name": "nlclike"}, "as NLC; NCHW or NHWC"),
        ({"name": "hrlike", "checkpointing": True}, "cannot recompute .*not supported"),
        ({"name": "convsmall_050", "strides": (32, 16)}, "ascend"),
        ({"name": "convsmall_050", "strides": ()}, "at least one"),
    ],
)
def test_what_timm_cannot_do_is_said(
    timm: types.ModuleType, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        TimmBackbone(**options)


def test_a_missing_timm_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r'pip install "perception3d\[timm\]" torchvision'):
        TimmBackbone(name="resnet18")


@pytest.mark.parametrize("name", ["resnet18", "swin_tiny_patch4_window7_224"])
def test_timm_itself(name: str) -> None:
    pytest.importorskip("timm", exc_type=ImportError)
    backbone = TimmBackbone(name=name, image_hw=(64, 96), checkpointing=True).train()
    maps = backbone(torch.randn(1, 3, 64, 96))
    sum(x.sum() for x in maps).backward()
    assert [tuple(x.shape[2:]) for x in maps] == [(4, 6), (2, 3)]
    assert all(p.grad is not None for n, p in backbone.named_parameters() if "norm" not in n)
    with pytest.raises(ValueError, match="near it: resnet18"):
        TimmBackbone(name="resnet181")
