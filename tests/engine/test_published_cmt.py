"""Published checkpoints of CMT, made from names and shapes of golden cases, in their configs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from perception3d.engine.checkpoints import FITS, load_weights, read_weights
from perception3d.engine.config_file import load_config
from perception3d.engine.experiment import Experiment
from perception3d.engine.key_tables import CMT_KEYS
from perception3d.engine.published import CMT_CONFIGS, MODELS, fitting_config, import_published
from tests.golden_cases import DEFAULT_FOLDER

ROOT = Path(__file__).parents[2]
LIDAR = ("sparse_encoder", "second_fpn")
VOVNET = ("vovnet99", "cpfpn_vov")
#: Config -> golden cases that together hold all published names of its model.
CASES = {
    "cmt_lidar_voxel0075": (*LIDAR, "cmt_lidar_head"),
    "cmt_camera_vov_1600x640": (*VOVNET, "cmt_image_head"),
    "cmt_voxel0075_vov_1600x640": (*LIDAR, *VOVNET, "cmt_head_full"),
    "cmt_voxel0100_r50_800x320": (*LIDAR, "resnet50", "cpfpn_r50", "cmt_head_full"),
}
CMT = next(model for model in MODELS if model.name == "cmt")


def shapes_of(name: str) -> dict[str, list[int]]:
    shapes: dict[str, list[int]] = {}
    for case in CASES[name]:
        shapes |= json.loads((DEFAULT_FOLDER / f"{case}.json").read_text())["weights"]
    return shapes | {"pts_bbox_head.reference_points.weight": [900, 3]}


def state_of(name: str) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {
        key: torch.zeros(shape, dtype=torch.long)
        if key.endswith("num_batches_tracked")
        else torch.rand(shape, generator=generator)
        for key, shape in shapes_of(name).items()
    }


def build(name: str, data: Path, **knobs: object) -> Experiment:
    path = ROOT / "configs" / f"{name}.py"
    return load_config(path).build({"data": str(data), "size": "published", **knobs})


@pytest.mark.parametrize("name", CASES)
def test_names_and_shapes_are_those_of_the_config(name: str, dataset: Path) -> None:
    published = shapes_of(name)
    ours = CMT_KEYS.translate({key: torch.empty(s, device="meta") for key, s in published.items()})
    with torch.device("meta"):
        own = build(name, dataset).model().state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in own.items()}
    command, *flags = (fitting_config(CMT, ours) or "").split()
    assert command == f"configs/{name}.py" and (ROOT / command).is_file()
    assert flags == (["--published-grid"] if "r50" in name else [])


def test_every_config_is_named_once() -> None:
    assert sorted(text.split()[0] for text in CMT_CONFIGS.values()) == sorted(
        f"configs/{name}.py" for name in CASES
    )
    assert fitting_config(CMT, {"image.x": torch.zeros(7)}) is None


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_checkpoint_loads_strictly(name: str, dataset: Path, tmp_path: Path) -> None:
    """By file: as the authors wrote it, imported, into the model that the config builds."""
    state = state_of(name)
    torch.save({"meta": {"epoch": 20}, "state_dict": state}, tmp_path / "p.pth")
    found = import_published(tmp_path / "p.pth", tmp_path / "ours.safetensors")
    assert found.model.name == "cmt" and found.config is not None and found.ignored == ()
    knobs = {"published_grid": True} if "--published-grid" in found.config else {}
    model = build(name, dataset, **knobs).model()
    header = load_weights(model, tmp_path / "ours.safetensors")
    assert header[FITS] == found.config and header["model"] == "CMT"
    own = model.state_dict()
    assert all(torch.equal(own[CMT_KEYS.to_ours(key)], value) for key, value in state.items())


def test_weights_of_another_model_say_what_they_fit(dataset: Path, tmp_path: Path) -> None:
    """Sensors, and the class list, of a checkpoint must be those of the config."""
    torch.save(state_of("cmt_lidar_voxel0075"), tmp_path / "p.pth")
    import_published(tmp_path / "p.pth", tmp_path / "ours.safetensors")
    assert read_weights(tmp_path / "ours.safetensors")[1][FITS] == "configs/cmt_lidar_voxel0075.py"
    with torch.device("meta"):
        fusion = build("cmt_voxel0100_r50_800x320", dataset).model()
    with pytest.raises(
        ValueError,
        match=r"\(weights for configs/cmt_lidar_voxel0075\.py\) does not fit CMT .*missing: image",
    ):
        load_weights(fusion, tmp_path / "ours.safetensors")
    # Trained for seven classes: 6 layers x 7 rows instead of 6 x 10.
    state = state_of("cmt_lidar_voxel0075")
    for leaf in ("weight", "bias"):
        key = f"pts_bbox_head.task_heads.0.cls_logits.3.{leaf}"
        state[key] = state[key][:42]
    torch.save(state, tmp_path / "p.pth")
    assert import_published(tmp_path / "p.pth", tmp_path / "seven.safetensors").config is None
    with torch.device("meta"):
        lidar = build("cmt_lidar_voxel0075", dataset).model()
    with pytest.raises(
        ValueError, match=r"cls_logits\.output_weight \(42, 64, 3\), the model has "
    ):
        load_weights(lidar, tmp_path / "seven.safetensors")
