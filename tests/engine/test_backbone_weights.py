"""Pre-trained backbones: what is copied from whose names, cut or whole, and what is refused."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import cast

import pytest
import torch
from torch import Tensor, nn

from perception3d.backbones.bev_convnext import BEVConvNeXt
from perception3d.backbones.image_resnet import ResNet
from perception3d.backbones.image_vovnet import VoVNet
from perception3d.engine.backbone_names import convnext_of, prefix_of
from perception3d.engine.backbone_weights import BackboneWeights, Filled
from perception3d.models.image_branch import ImageBranch
from tests.engine.convnext_files import LAYERS, NORM, hollow, small

#: Tensors that are copied from ConvNeXt-Tiny by the published rule, of how many, weights in
#: millions and their share. The published count of all is one higher: ``pts_backbone.bias``.
PUBLISHED = {
    "tiny": (0, 85, 0.0, 0),
    "small": (30, 112, 0.92, 34),
    "base": (52, 139, 3.62, 41),
    "large": (100, 193, 6.33, 52),
}


class Model(nn.Module):
    """As much of a detector as matters here."""

    def __init__(self, *, above: nn.Module | None = None, image: nn.Module | None = None) -> None:
        super().__init__()
        if above is not None:
            self.lidar = nn.Module()
            self.lidar.backbone = above
        if image is not None:
            self.image = ImageBranch(backbone=image, neck=None)


def write(path: Path, state: dict[str, Tensor]) -> Path:
    """A checkpoint; a state dict by itself, or as the library wraps it."""
    wrap = {"model.pth": "model", "state.pth": "state_dict"}.get(path.name)
    if path.suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file({k: v.contiguous() for k, v in state.items()}, path)
    else:
        torch.save(state if wrap is None else {wrap: state}, path)
    return path


def fill(model: nn.Module, path: Path, **options: object) -> Filled:
    return BackboneWeights(file=path, **options).fill(model)  # type: ignore[arg-type]


def seen_from_above(seed: int = 1) -> Model:
    """Five stages; narrower than ``small``, but in stage 1, and with one more block in stage 2."""
    torch.manual_seed(seed)
    return Model(above=BEVConvNeXt(depths=(1, 2, 3, 1, 1), widths=(6, 12, 10, 10, 10)))


@pytest.mark.parametrize(
    ("library", "file"),
    [("timm", "t.pth"), ("mmpretrain", "state.pth"), ("the authors", "model.pth")],
)
@pytest.mark.parametrize("size", PUBLISHED)
def test_published_rule_copies_the_published_share(
    size: str, library: str, file: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = Model(above=BEVConvNeXt.pillarnest(size))
    path = write(tmp_path / file, hollow(library))
    with caplog.at_level(logging.WARNING):
        found = fill(model, path)
    copied, of, millions, percent = PUBLISHED[size]
    assert (len(found.sources), len(found.sources) + len(found.kept)) == (copied, of)
    assert found.filled / 1e6 == pytest.approx(millions, abs=0.005)
    assert f"{copied} of {of} tensors" in found.text() and f"({percent} %)" in found.text()
    assert ("starts at random; the rule 'sliced'" in caplog.text) == (size == "tiny")
    assert len(found.used) + len(found.unused) == len(hollow(library))


def test_published_rule_copies_the_published_tensors(tmp_path: Path) -> None:
    path = write(tmp_path / "model.pth", hollow("the authors"))
    start = "copied: "
    lines = {}
    for size in ("small", "base", "large"):
        text = fill(Model(above=BEVConvNeXt.pillarnest(size)), path).text()
        lines[size] = next(x for x in text.splitlines() if start in x).split(start)[1]
    assert lines["small"] == ("downsample.1.1.bias, downsample.2.0.* (2), stages.1.* (27)")
    assert lines["base"] == (
        "downsample.1.1.bias, downsample.2.* (4), downsample.3.0.* (2), "
        "stages.1.0.* (9), stages.1.1.* (9), stages.1.2.* (9), stages.2.* (18)"
    )
    assert lines["large"] == (
        "downsample.1.* (4), downsample.2.* (4), downsample.3.0.* (2), "
        "stages.0.0.* (9), stages.0.1.* (9), stages.0.2.* (9), "
        "stages.1.0.* (9), stages.1.1.* (9), stages.1.2.* (9), stages.2.* (36)"
    )


def test_the_three_namings_say_the_same() -> None:
    states = {library: convnext_of(small(library), "a file").state for library in LAYERS}
    # Random numbers are drawn in one order for all libraries.
    for library in ("mmpretrain", "the authors"):
        own = {k: v for k, v in states[library].items() if not k.startswith("head")}
        assert own.keys() == states["timm"].keys()
        assert all(torch.equal(own[k], states["timm"][k]) for k in own), library


@pytest.mark.parametrize("library", LAYERS)
def test_convolutions_in_place_of_linear_layers_are_read(library: str) -> None:
    plain = small(library)
    layers = tuple(f"{layer}.weight" for layer in LAYERS[library][2:])
    wide = {k: v[..., None, None] if k.endswith(layers) else v for k, v in plain.items()}
    one, other = convnext_of(plain, "a").state, convnext_of(wide, "b").state
    assert all(torch.equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize("library", LAYERS)
@pytest.mark.parametrize("scale_rows", [False, True])
def test_slices_by_value(library: str, scale_rows: bool, tmp_path: Path) -> None:
    state = small(library)
    model = seen_from_above()
    before = {k: v.clone() for k, v in model.lidar.backbone.state_dict().items()}
    path = write(tmp_path / "small.safetensors", state)
    found = fill(model, path, rule="sliced", scale_rows=scale_rows)
    own = model.lidar.backbone.state_dict()
    dw, _, fc1, fc2 = LAYERS[library]

    def theirs(stage: int, block: int, leaf: str) -> Tensor:
        outer = "backbone." if library == "mmpretrain" else ""
        inner = "blocks." if library == "timm" else ""
        return state[f"{outer}stages.{stage}.{inner}{block}.{leaf}"]

    # Stage 0: 6 of 8 channels. The factor makes up for the inputs that are gone.
    factor = 8 / 6 if scale_rows else 1.0
    assert torch.equal(own["stages.0.0.gamma"], theirs(0, 0, "gamma")[:6])
    assert torch.equal(own["stages.0.0.depthwise.weight"], theirs(0, 0, f"{dw}.weight")[:6])
    expand, reduce = theirs(0, 0, f"{fc1}.weight"), theirs(0, 0, f"{fc2}.weight")
    torch.testing.assert_close(own["stages.0.0.expand.weight"], expand[:24, :6] * factor)
    torch.testing.assert_close(own["stages.0.0.reduce.weight"], reduce[:6, :24] * factor)
    assert torch.equal(own["stages.0.0.expand.bias"], theirs(0, 0, f"{fc1}.bias")[:24])
    # Stage 1 is as wide there: whole, unscaled. Stage 2 has a third block: the second again.
    assert torch.equal(own["stages.1.1.expand.weight"], theirs(1, 1, f"{fc1}.weight"))
    assert torch.equal(own["stages.2.2.norm.bias"], theirs(2, 1, "norm.bias")[:10])
    # Stages 3 and 4 both come from stage 3, 10 of 24.
    for stage in ("3", "4"):
        assert torch.equal(own[f"stages.{stage}.0.gamma"], theirs(3, 0, "gamma")[:10])
        assert torch.equal(own[f"norms.{stage}.bias"], state[f"{NORM[library]}.bias"][:10])
    # Down-sampling: 10 of 16 outputs, 12 of 12 inputs.
    down = "stages.2.downsample" if library == "timm" else "downsample_layers.2"
    conv = next(v for k, v in state.items() if k.endswith(f"{down}.1.weight"))
    assert torch.equal(own["downsample.2.1.weight"], conv[:10, :12])
    # Nothing stands for the norm behind stage 2: it has none in such a file.
    assert found.kept == ("norms.2.weight", "norms.2.bias")
    assert torch.equal(own["norms.2.weight"], before["norms.2.weight"])
    text = found.text()
    assert "stages.1.* (18)" in text and "stages.2.2.* (9) from stages.2.1.*, first chan" in text
    assert "stages.4.* (9) from stages.3.0.*, first channels" in text
    assert "as built: norms.2.* (2)" in text


def test_what_is_wider_than_its_source_stays(tmp_path: Path) -> None:
    model = Model(above=BEVConvNeXt(depths=(1, 1), widths=(8, 20), out_stages=(1,), kernel=5))
    found = fill(model, write(tmp_path / "x.pth", small("timm")), rule="sliced")
    assert set(found.sources) == {
        *(f"stages.0.0.{layer}.{leaf}" for layer in ("norm", "expand", "reduce")
          for leaf in ("weight", "bias")),
        "stages.0.0.gamma", "stages.0.0.depthwise.bias", "downsample.1.0.weight",
        "downsample.1.0.bias",
    }  # fmt: skip  # 20 channels from 12, and kernels of 5 from 7: neither


def test_our_own_lidar_backbone_goes_into_another_model(tmp_path: Path) -> None:
    source, target = seen_from_above(seed=1), seen_from_above(seed=2)
    found = fill(target, write(tmp_path / "ours.safetensors", dict(source.state_dict())))
    assert not found.kept and not found.unused
    for name, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], value)


def test_files_without_a_convnext(tmp_path: Path) -> None:
    model = seen_from_above()
    path = write(tmp_path / "x.pth", {"conv1.weight": torch.zeros(1)})
    with pytest.raises(
        ValueError, match=r"holds no ConvNeXt as named by timm, mmpretrain, .*conv1"
    ):
        fill(model, path)
    second = {f"module.{k}": v for k, v in small("timm").items()} | small("the authors")
    with pytest.raises(ValueError, match=r"holds 2 ConvNeXts, below 'module\.', ''"):
        fill(model, write(path, second))
    newer = small("timm") | {"stages.0.blocks.0.mlp.grn.weight": torch.zeros(32)}
    with pytest.raises(ValueError, match=r"1 published names .*mlp\.grn\.weight"):
        fill(model, write(path, newer))
    with pytest.raises(FileNotFoundError, match="no weights at"):
        fill(model, tmp_path / "nothing.pth")
    path.write_bytes(b"junk, and nothing else")
    with pytest.raises(ValueError, match="not a readable PyTorch checkpoint"):
        fill(model, path)


# -- image backbones


def resnet(seed: int = 0, **options: object) -> ResNet:
    torch.manual_seed(seed)
    return ResNet(depth=18, width=8, **options)  # type: ignore[arg-type]


def published_resnet(prefix: str, **options: object) -> dict[str, Tensor]:
    """A whole ResNet as detectors and classifiers hold it."""
    whole = resnet(seed=5, out_stages=(0, 1, 2, 3), **options)
    state = {prefix + name: value for name, value in whole.state_dict().items()}
    if prefix:
        return state | {"neck.fpn.0.weight": torch.zeros(3), "rpn_head.bias": torch.zeros(2)}
    return state | {"fc.weight": torch.zeros(1000, 64), "fc.bias": torch.zeros(1000)}


@pytest.mark.parametrize("prefix", ["", "backbone.", "img_backbone.", "module.backbone."])
def test_a_resnet_of_any_library_goes_in_whole(prefix: str, tmp_path: Path) -> None:
    model = Model(image=resnet())
    state = published_resnet(prefix)
    found = fill(model, write(tmp_path / "nuim_r18.pth", state))
    for name, value in model.image.backbone.state_dict().items():
        assert torch.equal(value, state[prefix + name]), name
    assert found.part == "image.backbone" and not found.kept and found.filled == found.weights
    left = {"neck.fpn.0.weight", "rpn_head.bias"} if prefix else {"fc.weight", "fc.bias"}
    assert set(found.unused) == left
    assert ("fc.* (2)" if not prefix else "neck.fpn.0.weight, rpn_head.bias") in found.text()


def test_the_published_vovnet_goes_in_whole(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source, target = (VoVNet(depth=19, width=8) for _ in range(2))
    state = {f"img_backbone.{k}": v for k, v in source.state_dict().items()}
    found = fill(Model(image=target), write(tmp_path / "state.pth", state))
    assert len(found.sources) == len(state) and not found.kept and not found.unused
    for name, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], value)
    assert f"{len(state)} of {len(state)} tensors" in found.text() and "100 %" in found.text()


def test_a_model_without_the_last_stage_leaves_it_out(tmp_path: Path) -> None:
    model = Model(image=resnet(out_stages=(1, 2)))
    found = fill(model, write(tmp_path / "r18.pth", published_resnet("")))
    assert {name.partition(".")[0] for name in found.unused} == {"layer4", "fc"}
    assert "layer4.* (" in found.text()


def test_old_files_without_counters_and_displacements(tmp_path: Path) -> None:
    state = published_resnet("backbone.")
    old = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    found = fill(Model(image=resnet()), write(tmp_path / "old.pth", old))
    assert found.kept and all(name.endswith("num_batches_tracked") for name in found.kept)
    torch.manual_seed(0)
    deformable = ResNet(depth=50, width=8, deformable_stages=(2, 3))
    plain = ResNet(depth=50, width=8)
    path = write(tmp_path / "plain.pth", dict(plain.state_dict()))
    found = fill(Model(image=deformable), path)
    assert {n.split(".")[-2] for n in found.kept} == {"conv_offset"} and len(found.kept) == 18
    assert "layer4.0.conv2.conv_offset.* (2)" in found.text()
    # The other way displacements would be lost, and other features come out: refused.
    path = write(tmp_path / "deformable.pth", dict(deformable.state_dict()))
    with pytest.raises(ValueError, match=r"18 unexpected: layer3\.0\.conv2\.conv_offset\.\* \(2\)"):
        fill(Model(image=plain), path)


def test_another_backbone_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    model = Model(image=resnet())
    before = {k: v.clone() for k, v in model.state_dict().items()}
    torch.manual_seed(0)
    deep = {f"backbone.{k}": v for k, v in ResNet(depth=34, width=8).state_dict().items()}
    wide = {f"backbone.{k}": v for k, v in ResNet(depth=18, width=16).state_dict().items()}
    less = published_resnet("backbone.")
    del less["backbone.layer2.0.conv1.weight"]
    cases = {
        r"\d+ unexpected: layer1\.2\.\* \(12\), layer2\.2": deep,
        r"100 of another shape: conv1\.weight, bn1\.\* \(4\), layer1.*"
        r"such as conv1\.weight \(16, 3, 7, 7\), the model has \(8,": wide,
        r"1 missing: layer2\.0\.conv1\.weight\. Is it another depth": less,
        r"does not hold this backbone: it has 0 of": {"stem.a/conv.weight": torch.zeros(1)},
    }
    for message, state in cases.items():
        with pytest.raises(ValueError, match=message):
            fill(model, write(tmp_path / "x.pth", state))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_two_backbones_in_a_file_are_not_chosen_from() -> None:
    names = [f"{prefix}{leaf}.weight" for prefix in ("a.", "b.") for leaf in ("conv1", "bn1")]
    with pytest.raises(ValueError, match=r"holds this backbone 2 times, below 'a\.', 'b\.'"):
        prefix_of(["conv1.weight", "bn1.weight"], names, "x.pth")
    # The longer match wins: a block inside of the backbone has such names, too.
    inner = ["conv1.weight", "bn1.weight", "layer1.0.conv1.weight"]
    assert prefix_of(inner, [f"net.{name}" for name in inner], "x.pth") == "net."


def test_colours_change_places(tmp_path: Path) -> None:
    model, path = Model(image=resnet()), tmp_path / "r18.pth"
    state = published_resnet("")
    fill(model, write(path, state), flip_colors=True)
    stem = cast(ResNet, model.image.backbone).conv1.weight
    assert torch.equal(stem, state["conv1.weight"][:, [2, 1, 0]])


class Timmlike(nn.Module):
    """Named as timm names models for maps: stages are children of the whole."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_stem = nn.Conv2d(3, 4, 3)
        self.stages_0 = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))


def test_names_of_timms_models_for_maps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from perception3d.backbones.image_timm import TimmBackbone

    backbone = TimmBackbone.__new__(TimmBackbone)
    nn.Module.__init__(backbone)
    backbone.model, backbone.norm_eval = Timmlike(), False
    backbone.channels, backbone.strides = (4,), (16,)
    state = {
        name.replace("stages_", "stages."): torch.full_like(value, 7)
        for name, value in backbone.model.state_dict().items()
    } | {"head.fc.weight": torch.zeros(2, 4)}
    found = fill(Model(image=backbone), write(tmp_path / "timm.pth", state))
    assert found.unused == ("head.fc.weight",) and not found.kept
    assert all((value == 7).all() for value in backbone.model.state_dict().values())


# -- which part, and wrong wishes


def test_the_part_is_told_by_the_file(tmp_path: Path) -> None:
    both = Model(above=seen_from_above().lidar.backbone, image=resnet())
    convnext = write(tmp_path / "convnext.pth", small("timm"))
    assert fill(both, convnext, rule="sliced").part == "lidar.backbone"
    path = write(tmp_path / "r18.pth", published_resnet(""))
    assert fill(both, path).part == "image.backbone"
    with pytest.raises(ValueError, match=r"no part 'camera'; backbones: image\.backbone, lidar"):
        fill(both, path, part="camera")
    with pytest.raises(ValueError, match="holds no ConvNeXt"):
        fill(both, path, part="lidar.backbone")
    with pytest.raises(ValueError, match=r"Linear has no backbone that .*r18\.pth could fill"):
        fill(nn.Linear(1, 1), path)


def test_wishes_that_do_not_go_together(tmp_path: Path) -> None:
    path = write(tmp_path / "r18.pth", published_resnet(""))
    with pytest.raises(ValueError, match="scale_rows is for the rule 'sliced'; found 'published'"):
        BackboneWeights(file=path, scale_rows=True)
    with pytest.raises(
        ValueError, match=r"'sliced' is for a ConvNeXt seen from above; image\.backb"
    ):
        fill(Model(image=resnet()), path, rule="sliced")
    convnext = write(tmp_path / "convnext.pth", small("timm"))
    with pytest.raises(ValueError, match=r"lidar\.backbone sees no colours"):
        fill(seen_from_above(), convnext, flip_colors=True)
