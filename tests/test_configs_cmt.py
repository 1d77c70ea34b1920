"""The four published configurations of CMT: models, recipes, a step and a prediction."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from configs import cmt_fusion
from configs._cmt_sizes import published_size
from perception3d.backbones.image_resnet import ResNet
from perception3d.backbones.image_vovnet import VoVNet
from perception3d.datasets.augment import GlobalAugment, ImageAugment
from perception3d.datasets.locate import locate
from perception3d.datasets.transforms import (
    ClassFilter,
    MinPointsFilter,
    ModalMask,
    PointShuffle,
    RangeFilter,
)
from perception3d.engine.config_file import load_config
from perception3d.engine.experiment import Experiment
from perception3d.models.cmt import CMT

ROOT = Path(__file__).parent.parent
#: Weights that learn, as the sums of published parts: sparse encoder, SECOND, its neck; VoVNet-99
#: or ResNet-50; CPFPN; head.
LIDAR = 2_694_352 + 4_280_832 + 295_936
WEIGHTS = {
    "lidar_voxel0075": LIDAR + 9_498_372,
    "camera_vov_1600x640": 69_523_520 + 1_049_344 + 7_583_236,
    "voxel0075_vov_1600x640": LIDAR + 69_523_520 + 1_049_344 + 8_763_396,
    "voxel0100_r50_800x320": LIDAR + 23_508_032 + 1_377_024 + 8_763_396,
}
MILLIONS = {
    "lidar_voxel0075": 16.77,
    "camera_vov_1600x640": 78.16,
    "voxel0075_vov_1600x640": 86.61,
    "voxel0100_r50_800x320": 40.92,
}
SENSORS = {
    "lidar_voxel0075": "lidar",
    "camera_vov_1600x640": "camera",
    "voxel0075_vov_1600x640": "fusion",
    "voxel0100_r50_800x320": "fusion",
}
ALL = pytest.mark.parametrize("recipe", WEIGHTS)
R50 = "voxel0100_r50_800x320"


def build(recipe: str, data: Path, **knobs: Any) -> Experiment:
    return load_config(ROOT / "configs" / f"cmt_{recipe}.py").build({"data": str(data), **knobs})


def model_of(experiment: Experiment) -> CMT:
    with torch.device("meta"):
        model = experiment.model()
    assert isinstance(model, CMT)
    return model


def weights(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@ALL
def test_published_model(recipe: str, dataset: Path) -> None:
    experiment = build(recipe, dataset)  # auto: this data is no town
    assert experiment.name == f"cmt_{recipe}"
    model = model_of(experiment)
    assert weights(model) == WEIGHTS[recipe]
    assert round(WEIGHTS[recipe] / 1e6, 2) == MILLIONS[recipe]
    assert (model.lidar is not None, model.image is not None) == {
        "lidar": (True, False), "camera": (False, True), "fusion": (True, True)
    }[SENSORS[recipe]]  # fmt: skip
    assert type(model.queries).__name__ == "LearnedQueries"
    assert model.queries.reference.shape == (900, 3)
    assert model.build_denoising is not None and model.build_denoising.query_budget == 900
    decoder = model.head.decoder
    assert (len(decoder.layers), decoder.channels, decoder.layers[0].expand.out_features) == (
        6, 256, 1024
    )  # fmt: skip
    assert model.head.tasks.kernel == (3 if recipe == "lidar_voxel0075" else 1)
    assert model.tokens.range_m == (-54.0, -54.0, -5.0, 54.0, 54.0, 3.0)
    assert len(experiment.train().dataset) > 0
    assert experiment.val is not None and experiment.val().tokens


@pytest.mark.parametrize("recipe", [name for name in SENSORS if SENSORS[name] != "camera"])
def test_published_lidar_branch(recipe: str, dataset: Path) -> None:
    lidar = model_of(build(recipe, dataset)).lidar
    assert lidar is not None
    voxel_m, cells, cells_above = (0.1, 1080, 135) if recipe == R50 else (0.075, 1440, 180)
    assert (lidar.encoder.grid.cell_m, lidar.encoder.grid.nx) == (voxel_m, cells)
    assert (lidar.encoder.height_m, lidar.encoder.cells_z, lidar.encoder.max_points) == (
        0.2,
        41,
        10,
    )
    assert lidar.encoder.max_voxels == (120_000, 160_000) and lidar.encoder.units is None
    assert (lidar.channels, lidar.grid.nx) == (512, cells_above)


@pytest.mark.parametrize("recipe", [name for name in SENSORS if SENSORS[name] != "lidar"])
def test_published_image_branch(recipe: str, dataset: Path) -> None:
    experiment = build(recipe, dataset, backbone_weights=Path("w.pth"))
    image = model_of(experiment).image
    assert image is not None and experiment.val is not None
    assert isinstance(image.backbone, ResNet if recipe == R50 else VoVNet)
    assert image.backbone.checkpointing == (recipe == R50)
    assert image.backbone.channels == ((1024, 2048) if recipe == R50 else (768, 1024))
    assert (image.grid_mask is None) == (recipe == "camera_vov_1600x640")
    assert image.normalize.bgr and image.stride == 16
    height, width = (320, 800) if recipe == R50 else (640, 1600)
    assert height % 32 == width % 32 == 0  # so that padding to 32 or to 16 is the same
    augment = experiment.val().dataset.transform.transforms[-1]
    assert augment == ImageAugment.test((height, width))
    # Pre-trained: batch norms keep their statistics.
    norms = [m for m in image.train().backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms and not any(norm.training for norm in norms)


@ALL
def test_published_training(recipe: str, dataset: Path) -> None:
    experiment = build(recipe, dataset)
    camera, lr, ratio, batch = {
        "lidar_voxel0075": (False, 1e-4, 6, 2),
        "camera_vov_1600x640": (True, 1e-4, 8, 2),
        "voxel0075_vov_1600x640": (False, 1e-4, 8, 2),
        "voxel0100_r50_800x320": (False, 1.4e-4, 6, 4),
    }[recipe]
    assert (experiment.epochs, experiment.batch_size, experiment.clip_norm) == (20, batch, 35.0)
    assert experiment.optimizer.lr == lr and experiment.optimizer.weight_decay == 0.01
    schedule = experiment.schedule
    assert schedule.at(0, 1000).lr == 1.0 and schedule.at(0, 1000).beta1 == 0.9
    assert schedule.at(400, 1000).lr == pytest.approx(ratio)
    assert schedule.at(400, 1000).beta1 == pytest.approx(0.9 * 0.85 / 0.95)
    assert schedule.at(1000, 1000).lr == pytest.approx(1e-4)
    # The fade: the last five epochs have samples of their own, with masked sensors as before.
    faded = experiment.train_at(15, 20)
    assert (faded is experiment.train) == camera and experiment.train_at(14, 20) is experiment.train
    assert faded().dataset.transform == experiment.train().dataset.transform  # PASTE is empty yet
    samples = experiment.train()
    assert samples.repeats is not None  # CBGS
    frames = samples.dataset.frames
    assert (frames.num_sweeps, frames.drop_close) == (11, "none")
    used = (not camera, SENSORS[recipe] != "lidar")
    assert (experiment.modalities.lidar, experiment.modalities.camera) == used


@ALL
def test_published_augmentation(recipe: str, dataset: Path) -> None:
    steps = build(recipe, dataset).train().dataset.transform.transforms
    sensors = SENSORS[recipe]
    scene = GlobalAugment(0.785, (0.9, 1.1), (0.5, 0.5, 0.5), 0.5, 0.5)
    if sensors == "camera":
        scene = GlobalAugment(0.3925, (0.95, 1.05), (0.0, 0.0, 0.0), 0.0, 0.0)
    wanted: list[Any] = [MinPointsFilter(1)]
    if sensors == "fusion":
        wanted.append(ModalMask(0.25, 0.25, "zero"))
    reach = RangeFilter((-54.0, 54.0), (-54.0, 54.0), (-5.0, 3.0))
    wanted += [scene, reach, ClassFilter(), PointShuffle()]
    if sensors != "lidar":
        resize = ((320, 800), (0.47, 0.625)) if recipe == R50 else ((640, 1600), (0.94, 1.25))
        wanted.append(ImageAugment(*resize, flip_probability=0.5, random_crop=True))
    assert list(steps) == wanted


@ALL
@pytest.mark.parametrize("pretrained", [False, True])
def test_a_pretrained_image_branch_learns_slowly(
    recipe: str, pretrained: bool, dataset: Path
) -> None:
    file = Path("w.pth") if pretrained else None
    if recipe == "lidar_voxel0075" and pretrained:
        with pytest.raises(ValueError, match=r"w\.pth is for models with cameras; found lidar"):
            build(recipe, dataset, backbone_weights=file)
        return
    experiment = build(recipe, dataset, backbone_weights=file)
    model = model_of(experiment)
    rates = {}
    for group in experiment.optimizer.build(model).param_groups:
        for parameter in group["params"]:
            rates[parameter] = (group["lr"], group["weight_decay"])
    found = {name: rates[p] for name, p in model.named_parameters()}
    lr = experiment.optimizer.lr
    for name, (rate, decay) in found.items():
        factor = (1.0, 1.0)
        if pretrained and name.startswith("image."):
            factor = (0.01, 5.0) if name.startswith("image.backbone.") else (0.1, 1.0)
        assert (rate / lr, decay / 0.01) == pytest.approx(factor), name
    start = experiment.backbone_weights
    assert (start is not None) == pretrained and (start is None or start.file == file)


@ALL
def test_scores_are_expected_where_they_were_published(recipe: str, dataset: Path) -> None:
    scores = {
        "lidar_voxel0075": (0.6214, 0.686),
        "camera_vov_1600x640": (0.406, 0.46),
        "voxel0075_vov_1600x640": (0.703, 0.729),
        "voxel0100_r50_800x320": (0.679, 0.708),
    }[recipe]
    expected = published_size(recipe).expected
    assert {e.metric: e.value for e in expected} == dict(zip(("mAP", "NDS"), scores))
    assert all(e.source.startswith("junjie18/CMT") for e in expected)
    # The small data set here has a split of its own, of which nothing was published.
    assert build(recipe, dataset).expected == ()


@ALL
def test_town_size_is_that_of_the_first_config(recipe: str, dataset: Path) -> None:
    first = load_config(ROOT / "configs" / "cmt_fusion.py")
    knobs: dict[str, Any] = {"data": str(dataset), "size": "town", "sensors": SENSORS[recipe]}
    if SENSORS[recipe] != "camera":
        knobs["lidar_encoder"] = "voxels"
    there, here = first.build(knobs), build(recipe, dataset, size="town")
    assert here.name == f"cmt_{recipe}_town" and here.expected == () and here.phases == ()
    assert repr(model_of(here)) == repr(model_of(there)) and weights(model_of(here)) < 3e6
    assert (here.optimizer, here.schedule, here.batch_size, here.epochs) == (
        there.optimizer, there.schedule, there.batch_size, there.epochs
    )  # fmt: skip
    assert here.train().dataset.transform == there.train().dataset.transform


@ALL
def test_variants_have_the_knobs_of_the_first(recipe: str) -> None:
    first = load_config(ROOT / "configs" / "cmt_fusion.py").knobs
    knobs = load_config(ROOT / "configs" / f"cmt_{recipe}.py").knobs
    assert list(knobs) == list(first)
    changed = {name for name in first if str(knobs[name]) != str(first[name])}
    assert changed <= {"sensors", "lidar_encoder", "recipe"} and "recipe" in changed


def test_the_published_grid_is_a_knob(dataset: Path) -> None:
    lidar = model_of(build(R50, dataset, published_grid=True)).lidar
    assert lidar.encoder.points_grid.nx == 1080
    assert (lidar.encoder.grid.nx, lidar.grid.nx, lidar.grid.cell_m) == (1024, 128, 0.84375)
    assert weights(model_of(build(R50, dataset, published_grid=True))) == WEIGHTS[R50]


def test_parts_that_do_not_belong_together_are_refused(dataset: Path) -> None:
    with pytest.raises(ValueError, match=r"--sensors lidar --lidar-encoder voxels; found camera"):
        build("lidar_voxel0075", dataset, sensors="camera")
    with pytest.raises(ValueError, match=r"--sensors fusion .* voxels; found fusion, pillars"):
        build(R50, dataset, lidar_encoder="pillars")
    with pytest.raises(ValueError, match="no --size base here"):
        build(R50, dataset, size="base")
    first = load_config(ROOT / "configs" / "cmt_fusion.py")
    with pytest.raises(ValueError, match="no --size published here"):
        first.build({"data": str(dataset), "size": "published"})
    for recipe, knobs in (("voxel0075_vov_1600x640", {}), (R50, {"size": "town"})):
        with pytest.raises(ValueError, match=r"--published-grid is for configs/cmt_voxel0100_r50"):
            build(recipe, dataset, published_grid=True, **knobs)


@pytest.mark.slow
@ALL
def test_a_step_and_a_prediction(recipe: str, tiny_town: Path) -> None:
    """At the town's size, on a town: every weight learns, boxes come out."""
    experiment = build(recipe, tiny_town)  # auto
    assert experiment.name == f"cmt_{recipe}_town" and experiment.val is not None
    samples = experiment.train()
    batch = samples.collate([samples.dataset[0]])
    torch.manual_seed(0)
    network = experiment.model().train()
    optimizer = experiment.optimizer.build(network)
    before = [p.detach().clone() for p in network.parameters()]
    outputs = network(batch, network.denoising(batch))
    torch.stack(list(network.loss(outputs, batch)["detection"].values())).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    optimizer.step()
    assert any(not torch.equal(p, old) for p, old in zip(network.parameters(), before))
    held = experiment.val()
    batch = held.collate([held.dataset[0]])
    with torch.no_grad():
        prediction = network.eval().predict(network(batch), batch)[0]
    assert prediction.token == held.tokens[0] and len(prediction.boxes) > 0
    assert prediction.boxes.center_m.isfinite().all()


@pytest.mark.slow
@ALL
def test_a_step_and_a_prediction_of_the_published_model(recipe: str, tiny_town: Path) -> None:
    """The whole model and its samples, but for a grid and images of a tenth."""
    sensors = SENSORS[recipe]
    size = replace(
        published_size(recipe), half_range_m=9.6, sweeps=2,
        image_hw=(64, 160), image_resize=(0.38, 0.5),
    )  # fmt: skip
    root = locate(tiny_town)
    samples = cmt_fusion.training_samples(root, size, sensors, 0, True, masked=sensors == "fusion")
    batch = samples.collate([samples.dataset[0]])
    torch.manual_seed(0)
    network = cmt_fusion.model(size, sensors, "learned", pretrained=True).train()
    assert isinstance(network, CMT) and weights(network) == WEIGHTS[recipe]
    outputs = network(batch, network.denoising(batch))
    assert outputs.box.shape[:3] == (6, 1, 900) and outputs.denoising is not None
    torch.stack(list(network.loss(outputs, batch)["detection"].values())).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    held = cmt_fusion.validation_samples(root, size, sensors)
    with torch.no_grad():
        batch = held.collate([held.dataset[0]])
        prediction = network.eval().predict(network(batch), batch)[0]
    assert len(prediction.boxes) == 300 and prediction.boxes.center_m.isfinite().all()
