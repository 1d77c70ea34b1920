"""The configurations of PETR and PETRv2 build, say what was published, and take a step."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from perception3d.datasets.nuscenes import EarlierCameras, NuScenesFrames, earlier
from perception3d.engine.checkpoints import save_weights
from perception3d.engine.config_file import load_config
from perception3d.engine.experiment import Experiment
from perception3d.engine.optim import EpochCosineSchedule
from perception3d.engine.part_weights import PartWeights
from perception3d.evaluation.map_iou import MapIouEvaluator
from perception3d.evaluation.nuscenes import NuScenesEvaluator
from perception3d.models.image_branch import resnet_branch
from perception3d.models.petr import PETR
from perception3d.structures import Batch

ROOT = Path(__file__).parent.parent
KINDS = (
    "petr_vov_800x320",
    "petrv2_vov_800x320",
    "petrv2_vov_800x320_dn",
    "petrv2_r50_704x256",
    "petrv2_bevseg",
)
#: Millions of weights of the published models, each once; PETR's file holds 83.01, its shared
#: branches (0.269) six times.
MILLIONS = {
    "petr_vov_800x320": 81.665,
    "petrv2_vov_800x320": 85.117,
    "petrv2_vov_800x320_dn": 85.117,
    "petrv2_bevseg": 84.86,
}


def build(kind: str, data: Path, **knobs: Any) -> Experiment:
    config = load_config(ROOT / "configs" / f"{kind}.py")
    return config.build({"data": str(data), **knobs})


def model_of(experiment: Experiment) -> PETR:
    with torch.device("meta"):
        model = experiment.model()
    assert isinstance(model, PETR)
    return model


def millions(model: torch.nn.Module) -> float:
    return sum(p.numel() for p in model.parameters()) / 1e6


@pytest.mark.parametrize("kind", KINDS)
def test_published_size(kind: str, dataset: Path) -> None:
    experiment = build(kind, dataset, size="published", earlier="gap")
    assert experiment.name == kind
    model = model_of(experiment)
    if kind in MILLIONS:
        assert millions(model) == pytest.approx(MILLIONS[kind], abs=6e-3)
    assert model.frames == (1 if kind == "petr_vov_800x320" else 2)
    assert (model.build_denoising is not None) == (kind.endswith(("_dn", "_704x256")))
    assert model.image.grid_mask is not None and model.lift is None
    samples = experiment.train()
    assert len(samples.dataset) > 0 and samples.repeats is None  # no CBGS
    assert not samples.dataset.frames.load_points
    assert experiment.val is not None and experiment.val().tokens
    assert experiment.modalities.camera and not experiment.modalities.lidar


def test_size_of_r50(dataset: Path) -> None:
    model = model_of(build("petrv2_r50_704x256", dataset, size="published"))
    of_vov = model_of(build("petrv2_vov_800x320", dataset, size="published"))
    assert millions(model.image.backbone) == pytest.approx(23.508, abs=1e-3)
    assert model.tokens.views is None and of_vov.tokens.views is not None
    codes = millions(of_vov.tokens.views)
    head, other = (
        millions(torch.nn.ModuleList([m.tokens, m.queries, m.head])) for m in (model, of_vov)
    )
    assert head == pytest.approx(other - codes + 600 * 3 / 1e6, abs=1e-6)
    assert model.head is not None and model.head.query_loss.code_weights[:2] == (2.0, 2.0)


@pytest.mark.parametrize("kind", KINDS)
def test_published_recipe(kind: str, dataset: Path) -> None:
    experiment = build(kind, dataset, size="published")
    r50, maps = kind == "petrv2_r50_704x256", kind == "petrv2_bevseg"
    assert experiment.epochs == (60 if r50 else 50 if maps else 24)
    assert experiment.optimizer.lr == (4e-4 if r50 else 2e-4)
    assert experiment.batch_size == (2 if r50 else 1)
    assert experiment.optimizer.weight_decay == 0.01 and experiment.clip_norm == 35.0
    optimizer = experiment.optimizer.build(
        torch.nn.ModuleDict(
            {"image": torch.nn.ModuleDict({"backbone": torch.nn.Linear(1, 1)}),
             "head": torch.nn.Linear(1, 1)}
        )
    )  # fmt: skip
    rates = sorted(group["lr"] for group in optimizer.param_groups)
    assert rates == pytest.approx([0.1 * experiment.optimizer.lr, experiment.optimizer.lr])
    steps = [type(step).__name__ for step in experiment.train().dataset.transform.transforms]
    scene = [] if maps else ["GlobalAugment"]
    crop = [] if maps else ["ImageAugment"]
    pair = [] if kind == "petr_vov_800x320" else ["EarlierCameras"]
    layers = ["MapLayers"] if maps else []
    filters = ["RangeFilter", "ClassFilter"]
    assert steps == [*pair, *layers, "MinPointsFilter", *filters, *crop, *scene]


def test_published_augmentation(dataset: Path) -> None:
    steps = {
        type(step).__name__: step
        for step in build("petrv2_vov_800x320", dataset, size="published")
        .train()
        .dataset.transform.transforms
    }
    assert steps["EarlierCameras"].rule == "training"
    scene, image = steps["GlobalAugment"], steps["ImageAugment"]
    assert (scene.rotation_rad, scene.scale) == (0.3925, (0.95, 1.05))
    assert scene.translation_std_m == (0, 0, 0) and scene.flip_x_probability == 0
    assert (image.output_hw, image.resize, image.flip_probability) == (
        (320, 800), (0.47, 0.625), 0.5,
    )  # fmt: skip
    val = build("petrv2_vov_800x320", dataset, size="published").val
    assert val is not None and val().dataset.transform.transforms[0].rule == "test"


def test_the_cosine_falls_once_an_epoch() -> None:
    schedule, total = EpochCosineSchedule(epochs=24), 24 * 3517
    factor = [schedule.at(step, total).lr for step in range(total)]
    assert factor[0] == pytest.approx(1 / 3) and factor[250] == pytest.approx(2 / 3, abs=1e-3)
    assert factor[500:3517] == [1.0] * (3517 - 500)
    half = 0.001 + 0.999 / 2
    assert factor[12 * 3517] == pytest.approx(half) and factor[12 * 3517 - 1] > half
    assert factor[-1] == pytest.approx(0.001 + 0.999 * 0.5 * (1 + np.cos(np.pi * 23 / 24)))
    assert len(set(factor[500:])) == 24
    with pytest.raises(ValueError, match="epochs >= 1"):
        EpochCosineSchedule(epochs=0)


def test_scores_are_expected_where_they_were_published(dataset: Path) -> None:
    from configs._petr_sizes import PUBLISHED, choose_size

    expected = {e.metric: e.value for e in PUBLISHED["petrv2_vov_800x320"].expected}
    assert expected == {"mAP": 0.4104, "NDS": 0.5025, "mAVE": 0.3893}
    maps = {e.metric for e in PUBLISHED["petrv2_bevseg"].expected}
    assert maps == {"IoU_drivable_area", "IoU_divider", "IoU_vehicle"}
    assert choose_size("petrv2_bevseg", "town").expected == ()
    # The small data set here has a mini split, of which nothing was published.
    assert build("petrv2_vov_800x320", dataset, size="published").expected == ()


@pytest.mark.parametrize("kind", KINDS)
def test_variants_have_the_knobs_of_the_first(kind: str) -> None:
    first = load_config(ROOT / "configs" / "petrv2_vov_800x320.py").knobs
    knobs = load_config(ROOT / "configs" / f"{kind}.py").knobs
    assert knobs["kind"].default == kind and list(knobs) == list(first)


def test_image_backbones_by_name(dataset: Path) -> None:
    for size in ("town", "published"):
        model = model_of(build("petr_vov_800x320", dataset, size=size, image_backbone="resnet34"))
        assert type(model.image.backbone).__name__ == "ResNet" and model.image.stride == 16
    with pytest.raises(ValueError, match="known: resnet18"):
        build("petr_vov_800x320", dataset, image_backbone="resnet51")


def town_batch(experiment: Experiment, *numbers: int) -> Batch:
    samples = experiment.train()
    return samples.collate([samples.dataset[number] for number in numbers])


def step(model: PETR, batch: Batch) -> dict[str, torch.Tensor]:
    terms = model.loss(model(batch, model.denoising(batch)), batch)
    flat = {name: value for task in terms.values() for name, value in task.items()}
    torch.stack(list(flat.values())).sum().backward()
    return flat


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "frames"),
    [("petr_vov_800x320", 1), ("petrv2_vov_800x320", 1), ("petrv2_vov_800x320", 2),
     ("petrv2_bevseg", 2)],
)  # fmt: skip
def test_a_step_in_the_town_trains_every_weight(kind: str, frames: int, tiny_town: Path) -> None:
    experiment = build(kind, tiny_town, size="town", frames=frames)
    torch.manual_seed(0)
    model = experiment.model().train()
    batch = town_batch(experiment, 3)
    assert batch.images is not None and batch.images.shape == (1, 6 * frames, 3, 160, 400)
    assert batch.points is not None  # they teach depths
    # Twice: branches of the decoder answer 0 at first, so that nothing behind them learns.
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    step(model, batch)
    optimizer.step()
    optimizer.zero_grad()
    assert {"image_depth", "image_heat"} <= step(model, batch).keys()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    check_prediction(experiment, model, maps=kind == "petrv2_bevseg")


def check_prediction(experiment: Experiment, model: PETR, *, maps: bool) -> None:
    assert experiment.val is not None
    samples = experiment.val()
    batch = samples.collate([samples.dataset[2]])
    assert batch.points is None  # no LiDAR at test
    model.eval()
    with torch.no_grad():
        (found,) = model.predict(model(batch), batch)
    assert (found.map_prob is not None) == maps and found.token == samples.tokens[2]
    kind = MapIouEvaluator if maps else NuScenesEvaluator
    assert experiment.evaluators[0].func.__name__ == ("map_evaluator" if maps else kind.__name__)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["petr_vov_800x320", "petrv2_vov_800x320_dn", "petrv2_bevseg"])
def test_the_published_model_takes_a_step_at_a_reduced_size(
    kind: str, tiny_town: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from configs import _petr_sizes as sizes

    def small_branch(channels: int, **_: bool) -> torch.nn.Module:
        return resnet_branch(channels, depth=18, width=8)

    reduced = replace(
        sizes.PUBLISHED[kind], image=small_branch, image_hw=(64, 128), image_resize=(0.3, 0.4),
        queries=60,
    )  # fmt: skip
    monkeypatch.setitem(sizes.PUBLISHED, kind, reduced)
    experiment = build(kind, tiny_town, size="published")
    torch.manual_seed(0)
    model = experiment.model().train()
    losses = step(model, town_batch(experiment, 4))
    assert all(value.isfinite() for value in losses.values())
    assert any(name.endswith("dn_loss_cls") for name in losses) == kind.endswith("_dn")
    check_prediction(experiment, model, maps=kind == "petrv2_bevseg")


@pytest.mark.slow
def test_points_teach_and_are_never_read(tiny_town: Path) -> None:
    experiment = build("petrv2_vov_800x320", tiny_town, size="town")
    torch.manual_seed(0)
    model = experiment.model().eval()
    batch = town_batch(experiment, 3)
    blind = replace(batch, points=None, offsets=None)
    with torch.no_grad():
        seen, unseen = model(batch), model(blind)
        assert seen.detection is not None and unseen.detection is not None
        assert torch.equal(seen.detection.box, unseen.detection.box)
        assert torch.equal(seen.detection.logits, unseen.detection.logits)
        with_points, without = (model.loss(seen, b)["images"] for b in (batch, blind))
    assert torch.equal(with_points["image_heat"], without["image_heat"])
    assert with_points["image_depth"] != without["image_depth"]


@pytest.mark.slow
def test_weights_of_one_frame_start_a_model_of_two(tiny_town: Path) -> None:
    one = build("petrv2_vov_800x320", tiny_town, frames=1).model()
    first = build("petrv2_vov_800x320", tiny_town, frames=1, learn="images").model()
    two = build("petrv2_vov_800x320", tiny_town).model()
    two.load_state_dict(one.state_dict())
    two.load_state_dict(first.state_dict())
    batch = town_batch(build("petrv2_vov_800x320", tiny_town, frames=1), 3)
    terms = first.train().loss(first(batch), batch)
    assert list(terms) == ["images"]
    found = first.eval().predict(first(batch), batch)
    assert len(found) == 1 and len(found[0].boxes) == 0


def test_a_wrong_number_of_frames_is_refused(dataset: Path) -> None:
    with pytest.raises(ValueError, match="PETR takes 1 frame, PETRv2 1 or 2; found --frames 2"):
        build("petr_vov_800x320", dataset, frames=2)
    with pytest.raises(ValueError, match="--learn images is for the town's size"):
        model_of(build("petrv2_vov_800x320", dataset, size="published", learn="images"))


@pytest.mark.slow
def test_bad_cameras_are_refused(tiny_town: Path) -> None:
    experiment = build("petrv2_vov_800x320", tiny_town)
    model, batch = experiment.model().eval(), town_batch(experiment, 3)
    assert batch.rig is not None and batch.images is not None
    parts = ("K", "cam_SE3_ref", "image_hw", "image_aug", "time_ns")
    eleven = type(batch.rig)(
        batch.rig.names[:11], *(getattr(batch.rig, part)[:, :11] for part in parts)
    )
    with pytest.raises(ValueError, match="2 frames need as many views each; found 11"):
        model(replace(batch, images=batch.images[:, :11], rig=eleven))
    with pytest.raises(ValueError, match="PETR needs the cameras of every sample"):
        model(replace(batch, sensor_present=torch.tensor([[True, False]])))
    K = batch.rig.K.clone()
    K[0, 2, :2] = 0
    with pytest.raises(ValueError, match=r"CameraRig.K of CAM_\w+ has no inverse"):
        replace(batch.rig, K=K)
    # Images of 150 rows are padded to 160: ten rows of tokens, the last of them cut.
    cut = replace(batch, images=batch.images[..., :150, :])
    with torch.no_grad():
        assert len(model.predict(model(cut), cut)) == 1
    with pytest.raises(ValueError, match="tokens of 2 x 2 cells do not fit image features"):
        model.tokens.features(torch.zeros(1, 1, model.image.channels, 19, 50))


@pytest.mark.slow
def test_a_missing_earlier_frame_is_said_once(
    tiny_town: Path, caplog: pytest.LogCaptureFixture
) -> None:
    frames = NuScenesFrames(tiny_town, "town_val", load_points=False)
    earlier._say_repeated.cache_clear()
    pairs, rng = EarlierCameras(frames, "gap"), np.random.default_rng(0)
    with caplog.at_level(logging.INFO):
        first = [pairs(frames[0], rng) for _ in range(2)]
    assert [r.message for r in caplog.records if "stand in for it" in r.message] == [
        "EarlierCameras: a scene's first frame has no earlier one; its own images stand in for "
        "it, 1.245 s old (published)"
    ]
    rig = first[0].rig
    assert rig is not None and first[0].images is not None
    assert torch.equal(rig.cam_SE3_ref[:6], rig.cam_SE3_ref[6:])
    assert torch.equal(first[0].images[0], first[0].images[6])


@pytest.mark.slow
def test_maps_start_from_a_run_that_learned_boxes(tiny_town: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    boxes = build("petrv2_vov_800x320", tiny_town, frames=1).model()
    file = tmp_path / "boxes.safetensors"
    save_weights(boxes, file)
    experiment = build("petrv2_bevseg", tiny_town, start=file)
    torch.manual_seed(1)
    maps = experiment.model()
    assert experiment.backbone_weights is not None
    before = {name: value.clone() for name, value in maps.state_dict().items()}
    experiment.backbone_weights.fill(maps)
    for name, value in maps.state_dict().items():
        begun = name.startswith(("image.", "lift."))
        wanted = boxes.state_dict() if begun else before
        assert torch.equal(value, wanted[name]), name
    # What has learned already learns more slowly.
    rules = {rule.prefix: rule.lr for rule in experiment.optimizer.rules}
    assert rules["image."] == rules["lift.lift."] == 0.25
    with pytest.raises(ValueError, match="does not fit lift"):
        one = build("petr_vov_800x320", tiny_town, start=file)
        assert one.backbone_weights is not None
        one.backbone_weights.fill(one.model())
    with pytest.raises(ValueError, match="--start holds an image backbone already"):
        build("petrv2_bevseg", tiny_town, start=file, backbone_weights=file)
    with pytest.raises(ValueError, match="no part of the model is to start"):
        PartWeights(file=file, parts=()).fill(maps)
