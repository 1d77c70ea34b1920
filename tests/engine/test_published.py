"""Published checkpoints, made from names and shapes that golden cases list: in and out again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from perception3d.engine.checkpoints import load_weights, read_weights, save_weights
from perception3d.engine.published import (
    MODELS,
    export_published,
    import_published,
    main,
    model_of,
)
from perception3d.heads.center import CenterHead
from perception3d.models.image_branch import vovnet_branch
from perception3d.models.lidar_branch import pillar_branch
from perception3d.models.petr_published import petr, petrv2, petrv2_segmentation
from perception3d.models.pillarnest import PillarNeSt
from perception3d.structures import BEVGrid
from perception3d.structures.taxonomy import NUSCENES_CLASSES
from tests.golden_cases import DEFAULT_FOLDER

IMAGE = ("vovnet99", "cpfpn_vov")
CASES = {
    "pillarnest": ("pillarnest_tiny_e2e",),
    "cmt": ("cmt_head_full", "sparse_encoder", "second_fpn", *IMAGE),
    "petr": ("petr_head", *IMAGE),
    "petrv2": ("petrv2_head_full", *IMAGE),
    "petr_seg": ("petrv2_seg", *IMAGE),
}
#: Modules that checkpoints hold once a layer, and cases once.
SHARED = {
    "petr": ("cls_branches", "reg_branches"),
    "petr_seg": ("lane_branches_dri", "lane_branches_lan", "lane_branches_vie"),
}


def state_of(name: str) -> dict[str, Tensor]:
    """Random weights under all published names of a model."""
    generator = torch.Generator().manual_seed(3)
    shapes: dict[str, list[int]] = {}
    for case in CASES[name]:
        shapes |= json.loads((DEFAULT_FOLDER / f"{case}.json").read_text())["weights"]
    shapes.pop("pts_backbone.bias", None)  # held and never used
    if name in ("cmt", "petr", "petrv2"):
        shapes["pts_bbox_head.reference_points.weight"] = [900, 3]
    state = {
        key: torch.zeros(shape, dtype=torch.long)
        if key.endswith("num_batches_tracked")
        else torch.rand(shape, generator=generator) + 0.1
        for key, shape in shapes.items()
    }
    for branch in SHARED.get(name, ()):
        first = f"pts_bbox_head.{branch}.0."
        for key in [key for key in state if key.startswith(first)]:
            for copy in range(1, 6):
                state[key.replace(first, f"pts_bbox_head.{branch}.{copy}.")] = state[key].clone()
    return state


def write_checkpoint(path: Path, state: dict[str, Any], prefix: str = "") -> None:
    """As mmcv's runner writes it."""
    content = {
        "meta": {"epoch": 20, "mmcv_version": "1.4.0", "CLASSES": list(NUSCENES_CLASSES)},
        "state_dict": {prefix + key: value for key, value in state.items()},
        "optimizer": {"state": {0: {"step": 7, "exp_avg": torch.zeros(3)}}, "param_groups": [{}]},
    }
    torch.save(content, path)


def pillarnest_tiny() -> nn.Module:
    grid = BEVGrid((-54.0, 54.0), (-54.0, 54.0), (-5.0, 3.0), 0.15)
    lidar = pillar_branch(grid)
    return PillarNeSt(lidar=lidar, head=CenterHead(in_channels=lidar.channels, grid=lidar.grid))


BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "pillarnest": pillarnest_tiny,
    "petr": lambda: petr(vovnet_branch(256)),
    "petrv2": lambda: petrv2(vovnet_branch(256)),
    "petr_seg": lambda: petrv2_segmentation(vovnet_branch(256)),
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n == "pillarnest" else pytest.mark.slow) for n in CASES]
)
def test_in_and_out_again(name: str, tmp_path: Path) -> None:
    """Every weight comes back under its published name, in the published order of boxes."""
    state = state_of(name)
    source, ours, back = (tmp_path / n for n in ("p.pth", "ours.safetensors", "back.pth"))
    extra = {"pts_backbone.bias": torch.zeros(3)} if name == "pillarnest" else {}
    write_checkpoint(source, state | extra, prefix="module." if name == "cmt" else "")
    found = import_published(source, ours)
    assert found.model.name == name and len(found.ignored) == len(extra) + sum(
        key.split(".")[1] in SHARED.get(name, ()) and key.split(".")[2] != "0" for key in state
    )
    header = read_weights(ours)[1]
    assert header["source_sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    assert header["published"] == name and "non-commercial" in header["licence"]
    assert export_published(ours, back) == len(state)
    again = torch.load(back, weights_only=True)["state_dict"]
    assert again.keys() == state.keys()
    assert all(torch.equal(again[key], value) for key, value in state.items())
    if name == "cmt":  # what mmdetection3d looks for before it turns kernels around
        assert again._metadata["pts_middle_encoder.conv_input.0"] == {"version": 2}


@pytest.mark.slow
@pytest.mark.parametrize("name", BUILDERS)
def test_the_whole_model_takes_them_strictly(name: str, tmp_path: Path) -> None:
    """No name is missing or left over in the published sizes."""
    write_checkpoint(tmp_path / "p.pth", state_of(name))
    import_published(tmp_path / "p.pth", tmp_path / "ours.safetensors")
    header = load_weights(BUILDERS[name](), tmp_path / "ours.safetensors")
    assert header["published"] == name


@pytest.mark.parametrize("old", [False, True])
def test_sparse_kernels_go_out_in_one_layout(old: bool, tmp_path: Path) -> None:
    """Files of mmcv and spconv 1 hold (z, y, x, in, out); what goes out says it is the other."""
    shapes = json.loads((DEFAULT_FOLDER / "sparse_encoder.json").read_text())["weights"]
    generator = torch.Generator().manual_seed(4)
    state = {key: torch.rand(shape, generator=generator) for key, shape in shapes.items()}
    held = {
        key: value.permute(1, 2, 3, 4, 0).contiguous() if old and value.ndim == 5 else value
        for key, value in state.items()
    }
    source, ours, back = (tmp_path / n for n in ("p.pth", "ours.safetensors", "back.pth"))
    write_checkpoint(source, held)
    import_published(source, ours, "cmt")
    export_published(ours, back)
    again = torch.load(back, weights_only=True)["state_dict"]
    assert again.keys() == state.keys()
    assert all(torch.equal(again[key], value) for key, value in state.items())
    assert again._metadata["pts_middle_encoder.conv_out.0"] == {"version": 2}


def test_weights_of_another_size_say_what_they_fit(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "p.pth", state_of("pillarnest"))
    found = import_published(tmp_path / "p.pth", tmp_path / "ours.safetensors")
    assert found.config == "configs/pillarnest_tiny.py"
    with torch.device("meta"):
        grid = BEVGrid((-54.0, 54.0), (-54.0, 54.0), (-5.0, 3.0), 0.15)
        lidar = pillar_branch(grid, depths=(3, 3, 2, 1, 1), widths=(48, 192, 192, 192, 192))
        other = PillarNeSt(
            lidar=lidar, head=CenterHead(in_channels=lidar.channels, grid=lidar.grid)
        )
    with pytest.raises(ValueError, match=r"weights for configs/pillarnest_tiny\.py\) does not fit"):
        load_weights(other, tmp_path / "ours.safetensors")


@pytest.mark.slow
def test_a_model_is_told_by_its_names() -> None:
    for name in CASES:
        assert model_of({f"module.{key}": 0 for key in state_of(name)}).name == name
    with pytest.raises(ValueError, match=r"none of petr_seg, petrv2.*found 2, such as fc\.bias"):
        model_of({"fc.weight": 0, "fc.bias": 0})


def test_an_export_needs_to_know_the_model(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    save_weights(model, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"weights of 'Linear', which may be any of .* --model"):
        export_published(tmp_path / "w.safetensors", tmp_path / "o.pth")
    with pytest.raises(ValueError, match="without a name in published cmt checkpoints"):
        export_published(tmp_path / "w.safetensors", tmp_path / "o.pth", "cmt")
    with pytest.raises(ValueError, match=r"is called 'yolo'; known: .*'pillarnest'"):
        import_published(tmp_path / "w.pth", tmp_path / "o", "yolo")
    assert not (tmp_path / "o.pth").exists()


@pytest.mark.parametrize("name", ["pts_bbox_head.foo.3.weight", "foo.bar", "pts_neck.new.0.bias"])
def test_unknown_names_are_listed(name: str, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "p.pth", state_of("pillarnest") | {name: torch.zeros(1)})
    with pytest.raises(ValueError, match=f"1 published names are not in the key table: {name}"):
        import_published(tmp_path / "p.pth", tmp_path / "ours.safetensors")


def test_a_file_is_not_written_over_itself(tmp_path: Path) -> None:
    path = tmp_path / "p.pth"
    write_checkpoint(path, state_of("pillarnest"))
    before = path.read_bytes()
    for convert in (import_published, export_published):
        with pytest.raises(ValueError, match="would be written over"):
            convert(path, tmp_path / "." / "p.pth")
    assert path.read_bytes() == before


@pytest.mark.slow
def test_copies_that_differ_are_refused(tmp_path: Path) -> None:
    """PETR's layers share their branches; another model's do not."""
    state = state_of("petr")
    state["pts_bbox_head.cls_branches.3.0.weight"] += 1
    write_checkpoint(tmp_path / "p.pth", state)
    with pytest.raises(ValueError, match=r"1 weights differ from copy 0"):
        import_published(tmp_path / "p.pth", tmp_path / "ours.safetensors")
    assert not (tmp_path / "ours.safetensors").exists()


def test_a_hostile_pickle_runs_nothing(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    torch.save({"state_dict": {"a": Hostile()}}, tmp_path / "p.pth")
    with pytest.raises(ValueError, match="more than tensors and plain values"):
        import_published(tmp_path / "p.pth", tmp_path / "ours.safetensors")
    assert not (tmp_path / "ran").exists() and not (tmp_path / "ours.safetensors").exists()


def test_the_command_says_what_it_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, ours = tmp_path / "p.pth", tmp_path / "ours.safetensors"
    write_checkpoint(source, state_of("pillarnest") | {"pts_backbone.bias": torch.zeros(3)})
    main([str(source), str(ours)])
    said = capsys.readouterr().out
    assert "pillarnest of WayneMao/PillarNeSt (Apache-2.0" in said
    assert "stands for nothing: pts_backbone.bias" in said and "451 tensors" in said
    main(["--export", str(ours), str(tmp_path / "back.pth")])
    assert "451 tensors written" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([str(source), str(ours), "--model", "yolo"])
    assert {model.name for model in MODELS} == CASES.keys()
