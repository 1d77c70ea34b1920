"""Every config builds, and its model has about the parameters it should have."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from perception3d.engine.config_file import load_config

ROOT = Path(__file__).parent.parent
#: Modules that begin with an underscore are what several of them share.
CONFIGS = sorted((ROOT / "configs").glob("[!_]*.py"))
#: Its variants for published models have tests of their own, and so have other models.
CMT = [ROOT / "configs" / "cmt_fusion.py"]
SIZES = ("town", "base")
VARIANTS = (
    {"sensors": "fusion"},
    {"sensors": "lidar"},
    {"sensors": "camera"},
    {"sensors": "fusion", "lidar_encoder": "voxels"},
    {"sensors": "lidar", "lidar_encoder": "voxels"},
)
#: Of the models of all variants; one that changes makes files of weights, and figures in LOG.md,
#: those of another model.
WEIGHTS = {
    "cmt_fusion_town": 2_225_680,
    "cmt_lidar_town": 1_206_082,
    "cmt_camera_town": 1_548_467,
    "cmt_fusion_town_voxels": 2_180_808,
    "cmt_lidar_town_voxels": 1_161_210,
    "cmt_fusion_base": 33_896_660,
    "cmt_lidar_base": 8_551_572,
    "cmt_camera_base": 32_468_292,
    "cmt_fusion_base_voxels": 40_919_572,
    "cmt_lidar_base_voxels": 15_574_484,
}


@pytest.mark.parametrize("knobs", VARIANTS, ids=lambda knobs: " ".join(knobs.values()))
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("path", CMT, ids=lambda p: p.stem)
def test_config_builds(path: Path, size: str, knobs: dict[str, str], dataset: Path) -> None:
    experiment = load_config(path).build({"data": str(dataset), "size": size} | knobs)
    with torch.device("meta"):
        model = experiment.model()
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    low, high = (0.5, 4.0) if size == "town" else (8.0, 60.0)
    assert low < millions < high, f"{millions:.2f} M parameters"
    assert experiment.name.endswith("_voxels") == ("lidar_encoder" in knobs)
    assert experiment.val is not None
    assert len(experiment.train().dataset) > 0
    assert experiment.val().tokens


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_config_says_how_to_run_it(path: Path) -> None:
    source = path.read_text()
    assert f"tools/train.py {path.relative_to(ROOT)}" in source
    config = load_config(path)
    assert {"data", "epochs", "lr", "seed"} <= set(config.knobs)
    for name in config.knobs:
        explained = f"        {name}: " in (config.function.__doc__ or "")
        assert explained, f"{path.name} does not explain --{name}"


def test_town_and_base_sizes_stay_what_they_were(dataset: Path) -> None:
    config = load_config(ROOT / "configs" / "cmt_fusion.py")
    counted = {}
    for size in SIZES:
        for knobs in VARIANTS:
            experiment = config.build({"data": str(dataset), "size": size} | knobs)
            with torch.device("meta"):
                model = experiment.model()
            counted[experiment.name] = sum(p.numel() for p in model.parameters())
            town = size == "town"
            masked = experiment.name.startswith("cmt_fusion_base")
            assert [phase.first_epoch for phase in experiment.phases] == ([-1] if masked else [])
            assert experiment.optimizer.lr == (4e-4 if town else 1.4e-4)
            assert experiment.schedule.peak_ratio == (8.0 if town else 6.0)
            assert experiment.expected == ()
    assert counted == WEIGHTS


def test_learned_queries_are_the_default_of_the_published_size(dataset: Path) -> None:
    config = load_config(ROOT / "configs" / "cmt_fusion.py")
    for size, source in (("base", "LearnedQueries"), ("town", "HeatmapQueries")):
        with torch.device("meta"):
            model = config.build({"data": str(dataset), "size": size}).model()
        assert type(model.queries).__name__ == source


def test_voxels_of_the_published_size_are_the_published_ones(dataset: Path) -> None:
    config = load_config(ROOT / "configs" / "cmt_fusion.py")
    knobs = {"data": str(dataset), "size": "base", "lidar_encoder": "voxels"}
    with torch.device("meta"):
        lidar = config.build(knobs).model().lidar
    assert lidar.encoder.grid.cell_m == 0.075 and lidar.encoder.grid.nx == 1440
    assert lidar.encoder.cells_z == 41 and lidar.encoder.max_voxels == (120_000, 160_000)
    # Sparse encoder, SECOND and neck as published (buffers excluded).
    assert sum(p.numel() for p in lidar.parameters()) == 2_694_352 + 4_280_832 + 295_936
    assert (lidar.channels, lidar.grid.nx) == (512, 180)


@pytest.mark.parametrize("name", ["resnet34", "vovnet39"])
def test_image_backbones_by_name(name: str, dataset: Path) -> None:
    config = load_config(ROOT / "configs" / "cmt_fusion.py")
    for size in SIZES:
        knobs = {"data": str(dataset), "size": size, "image_backbone": name}
        with torch.device("meta"):
            image = config.build(knobs).model().image
        assert type(image.backbone).__name__.lower() == name.rstrip("0123456789")
        assert image.stride == 16
    for wrong in ("resnet51", "timm:", "swin"):
        with pytest.raises(ValueError, match=r"known: resnet18, .*, vovnet99, timm:NAME"):
            config.build({"data": str(dataset), "image_backbone": wrong})


def test_a_sparse_backend_without_sparse_convolutions_is_refused(dataset: Path) -> None:
    config = load_config(ROOT / "configs" / "cmt_fusion.py")
    with pytest.raises(ValueError, match="--sparse-backend is for --lidar-encoder voxels"):
        config.build({"data": str(dataset), "sparse_backend": "spconv"})


def test_a_step_with_voxels_trains_every_weight(dataset: Path) -> None:
    config = load_config(ROOT / "configs" / "cmt_fusion.py")
    experiment = config.build(
        {
            "data": str(dataset), "size": "town", "sensors": "lidar", "lidar_encoder": "voxels",
            "voxel_m": 1.0,
        }
    )  # fmt: skip
    samples = experiment.train()
    batch = samples.collate([samples.dataset[3]])
    torch.manual_seed(0)
    model = experiment.model().train()
    outputs = model(batch, model.denoising(batch))
    torch.stack(list(model.loss(outputs, batch)["detection"].values())).sum().backward()
    lidar = dict(model.lidar.named_parameters())
    assert len([name for name in lidar if name.startswith("middle.")]) > 20
    for name, parameter in lidar.items():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_recomputation_of_the_image_backbone_is_a_knob(dataset: Path) -> None:
    config = load_config(ROOT / "configs" / "cmt_fusion.py")
    for asked in (None, True, False):
        knobs = {"data": str(dataset), "size": "town", "recompute_images": asked}
        with torch.device("meta"):
            model = config.build(knobs).model()
        assert model.image.backbone.checkpointing is bool(asked)
