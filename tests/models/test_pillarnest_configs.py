"""The configurations of PillarNeSt build, say what was published, and take a step."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from perception3d.engine.command_line import parse_command
from perception3d.engine.config_file import load_config, variant_of
from perception3d.engine.experiment import Experiment
from perception3d.heads.center_decode import CircleSuppression, RotatedSuppression
from perception3d.models.pillarnest import PillarNeSt

ROOT = Path(__file__).parents[2]
SCALES = ("tiny", "small", "base", "large")


@dataclass(frozen=True, kw_only=True)
class Options:
    """A tool without options."""


def build(scale: str, dataset: Path, **knobs: object) -> Experiment:
    config = load_config(ROOT / "configs" / f"pillarnest_{scale}.py")
    return config.build({"data": str(dataset), **knobs})


def model_of(experiment: Experiment) -> PillarNeSt:
    with torch.device("meta"):
        model = experiment.model()
    assert isinstance(model, PillarNeSt)
    return model


@pytest.mark.parametrize("size", ["town", "published"])
@pytest.mark.parametrize("scale", SCALES)
def test_config_builds(scale: str, size: str, dataset: Path) -> None:
    experiment = build(scale, dataset, size=size)
    assert experiment.name == f"pillarnest_{scale}" + ("_town" if size == "town" else "")
    model = model_of(experiment)
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    if size == "published":
        published = {"tiny": 2.53, "small": 5.03, "base": 11.76, "large": 15.13}[scale]
        assert millions == pytest.approx(published, abs=0.01)
    else:
        assert 0.5 < millions < 3.0
    assert len(experiment.train().dataset) > 0
    assert experiment.val is not None and experiment.val().tokens
    assert experiment.modalities.lidar and not experiment.modalities.camera


@pytest.mark.parametrize("scale", SCALES)
def test_published_recipe(scale: str, dataset: Path) -> None:
    experiment = build(scale, dataset, size="published")
    model, large = model_of(experiment), scale == "large"
    encoder = model.lidar.encoder
    assert (encoder.grid.nx, encoder.grid.cell_m, model.head.grid.nx) == (720, 0.15, 180)
    assert encoder.max_pillars == (30_000, 40_000) and encoder.max_points == 20
    assert (experiment.epochs, experiment.batch_size) == (20, 2 if large else 4)
    assert experiment.clip_norm == 35.0 and experiment.precision == "fp32"
    top = max(experiment.schedule.at(step, 1000).lr for step in range(1000))
    assert experiment.optimizer.lr * top == pytest.approx(5e-4 if large else 1e-3)
    # The fade: the last epochs have samples of their own.
    fade = experiment.phases[0].train
    assert experiment.train_at(20 - (2 if large else 5), 20) is fade
    assert experiment.train_at(20 - (3 if large else 6), 20) is experiment.train
    source = experiment.train()
    assert source.repeats is not None
    assert source.dataset.frames.num_sweeps == 10
    assert source.dataset.frames.drop_close == "past"


def test_scores_are_expected_where_they_were_published(dataset: Path) -> None:
    from configs.pillarnest_tiny import published, town

    expected = {e.metric: e.value for e in published("base").expected}
    assert expected == {"mAP": 0.632, "NDS": 0.692}
    assert town("base").expected == ()
    # The small data set here has a mini split, of which nothing was published.
    assert build("base", dataset, size="published").expected == ()


@pytest.mark.parametrize("size", ["town", "published"])
def test_suppression_is_a_knob(size: str, dataset: Path) -> None:
    for name, kind in (("rotated", RotatedSuppression), ("circle", CircleSuppression)):
        head = model_of(build("tiny", dataset, size=size, suppression=name)).head
        assert isinstance(head.decoder.suppression, kind)
        if isinstance(head.decoder.suppression, CircleSuppression):
            assert len(head.decoder.suppression.distance_sq_m2) == len(head.tasks)


@pytest.mark.parametrize(
    ("size", "tasks", "candidates", "boxes", "iou_power"),
    [("published", (1, 2, 2, 1, 2, 2), 500, 83, 0.5), ("town", (10,), 3000, 498, 0.2)],
)
def test_limits_are_for_a_sample(
    size: str, tasks: tuple[int, ...], candidates: int, boxes: int, iou_power: float, dataset: Path
) -> None:
    """With one task instead of six as many boxes of a sample may stay."""
    head = model_of(build("tiny", dataset, size=size)).head
    decoder = head.decoder
    assert head.tasks == decoder.tasks == tasks and decoder.iou_power == iou_power
    assert decoder.max_candidates == candidates
    assert decoder.suppression.post_limit == boxes


def test_the_town_is_seen_as_far_as_cars_count(dataset: Path) -> None:
    """The evaluator looks for cars up to 50 m from the vehicle, 1 m before or behind the sensor."""
    model = model_of(build("tiny", dataset, size="town"))
    grid = model.lidar.encoder.grid
    assert (grid.nx, model.head.grid.nx, model.head.grid.cell_m) == (256, 128, 0.8)
    assert min(-grid.x_m[0], grid.x_m[1], -grid.y_m[0], grid.y_m[1]) >= 51.0


@pytest.mark.parametrize("scale", SCALES)
def test_variants_have_the_knobs_of_the_first(scale: str) -> None:
    first = load_config(ROOT / "configs" / "pillarnest_tiny.py").knobs
    knobs = load_config(ROOT / "configs" / f"pillarnest_{scale}.py").knobs
    assert knobs["scale"].default == scale and list(knobs) == list(first)
    assert all(str(knobs[name]) == str(first[name]) for name in first if name != "scale")


def test_a_variant_is_a_command_line_of_its_own(dataset: Path) -> None:
    """Help, defaults and flags of the first, but for what it changes."""
    path = str(ROOT / "configs" / "pillarnest_base.py")
    command = parse_command(path, ["--data", str(dataset), "--epochs", "3"], Options, prog="x")
    assert command.knobs["scale"] == "base" and command.knobs["epochs"] == 3
    assert command.experiment().name.startswith("pillarnest_base")
    with pytest.raises(ValueError, match="has no knobs colour"):
        variant_of(command.config.function, colour="red")


def test_a_step_trains_every_weight(dataset: Path) -> None:
    experiment = build("tiny", dataset, size="town")
    samples = experiment.train()
    batch = samples.collate([samples.dataset[3]])
    torch.manual_seed(0)
    model = experiment.model().train()
    outputs = model(batch, model.denoising(batch))
    torch.stack(list(model.loss(outputs, batch)["detection"].values())).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_a_pretrained_backbone_is_a_knob(dataset: Path, tmp_path: Path) -> None:
    file = tmp_path / "convnext.pth"
    knobs = {"backbone_weights": file, "backbone_rule": "sliced", "backbone_scale_rows": True}
    start = build("small", dataset, **knobs).backbone_weights
    assert start is not None
    assert (start.file, start.rule, start.scale_rows) == (file, "sliced", True)
    assert build("small", dataset).backbone_weights is None
