"""configs/cmt_fusion.py --tasks: knobs, sizes, a step and a prediction with maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from configs._balancing import RULES, RuleName
from configs._cmt_tasks import joint
from perception3d.balancing import Fixed
from perception3d.datasets.map_raster import MAP_CLASSES
from perception3d.datasets.nuscenes.map_layers import SceneWithMap
from perception3d.engine.config_file import load_config
from perception3d.engine.experiment import Experiment
from perception3d.engine.gradient_figures import balancing_parts, gradient_figures
from perception3d.engine.objective import total_loss
from perception3d.models.cmt import CMT, DETECTION, SEGMENTATION

ROOT = Path(__file__).parent.parent
#: Weights of the map heads, beside those of the models of boxes (tests/test_configs.py).
TOWN_MAPS = 494_694 + 32 * 6 + 6


def build(data: Path, config: str = "cmt_fusion", **knobs: Any) -> Experiment:
    return load_config(ROOT / "configs" / f"{config}.py").build({"data": str(data), **knobs})


def model_of(experiment: Experiment) -> CMT:
    with torch.device("meta"):
        model = experiment.model()
    assert isinstance(model, CMT)
    return model


def test_boxes_alone_are_the_default(dataset: Path) -> None:
    plain = build(dataset, size="town")
    assert plain.name == "cmt_fusion_town" and plain.best_by == "NDS"
    assert len(plain.evaluators) == 1
    model = model_of(plain)
    assert model.maps is model.fork is model.balance is None
    assert not any(isinstance(t, SceneWithMap) for t in plain.train().dataset.transform.transforms)
    # A rule is between tasks: with one there is nothing for it to do.
    other = build(dataset, size="town", rule="gradnorm")
    assert other.name == plain.name and model_of(other).fork is None


def test_boxes_and_maps(dataset: Path) -> None:
    joint = build(dataset, size="town", tasks="det,map")
    assert joint.name == "cmt_fusion_town_det_map_imtl_g_intra" and joint.best_by == "NDS"
    assert len(joint.evaluators) == 2
    model = model_of(joint)
    assert model.maps is not None and model.fork is not None and model.balance is not None
    assert list(model.fork.rule.tasks) == [DETECTION, SEGMENTATION]
    assert model.balance.modalities == ("camera", "lidar")
    steps, plain = (
        e.train().dataset.transform.transforms for e in (joint, build(dataset, size="town"))
    )
    changed = [(one, other) for one, other in zip(steps, plain) if one != other]
    assert len(steps) == len(plain) and len(changed) == 1
    [(with_map, scene)] = changed  # the map turns with the rest, which is drawn as before
    assert isinstance(with_map, SceneWithMap) and with_map.scene == scene and with_map.apply_scale
    assert with_map.layers.classes == MAP_CLASSES and with_map.layers.grid == model.maps.grid
    rules = {rule.prefix: rule.lr for rule in joint.optimizer.rules}
    assert rules.pop("image.") == 0.25  # 8e-4 at the peak
    assert rules == dict.fromkeys(("head.", "tokens.", "maps.head.decoder."), 0.2)
    joint.optimizer.build(joint.model())  # every rule finds its weights


def test_maps_alone(dataset: Path) -> None:
    drawn = build(dataset, size="town", tasks="map", rule="gradnorm")
    assert drawn.name == "cmt_fusion_town_map_intra" and drawn.best_by == "mIoU"
    model = model_of(drawn)
    assert len(drawn.evaluators) == 1 and model.head is model.queries is model.fork is None
    assert model.balance is not None
    drawn.optimizer.build(drawn.model())


@pytest.mark.parametrize("sensors", ["lidar", "camera"])
def test_one_sensor_has_nothing_to_balance(sensors: str, dataset: Path) -> None:
    experiment = build(dataset, size="town", tasks="det,map", sensors=sensors)
    assert experiment.name == f"cmt_{sensors}_town_det_map_imtl_g"
    model = model_of(experiment)
    assert model.balance is None and model.fork is not None and model.maps is not None
    assert (model.maps.lift is None) == (sensors == "lidar")
    assert (model.maps.bev_channels is None) == (sensors == "camera")


def test_rules_and_sensors_are_chosen_apart(dataset: Path) -> None:
    for rule in get_args(RuleName):
        asked = joint("det,map", "fusion", rule, False, 1.0, 1.0)
        assert asked.suffix == f"_det_map_{rule}" and asked.balance() is None
        fork = asked.fork()
        assert fork is not None and type(fork.rule) is RULES.get(rule, Fixed)
    weighted = build(
        dataset, size="town", tasks="det,map", rule="fixed", map_weight=5.0, map_scale=0.1
    ).model()
    assert weighted.rule.weight.tolist() == [1.0, 5.0] and weighted.map_scale == 0.1
    plain = build(dataset, size="town", tasks="det,map", rule="uniform", intra=False)
    assert plain.name == "cmt_fusion_town_det_map_uniform" and model_of(plain).balance is None


def test_knobs_without_meaning_are_refused(dataset: Path) -> None:
    with pytest.raises(ValueError, match="--map-weight is for --tasks det,map; found det"):
        build(dataset, rule="fixed", map_weight=2.0)
    with pytest.raises(ValueError, match="--map-weight is for --rule fixed; found imtl_g"):
        build(dataset, tasks="det,map", map_weight=2.0)
    with pytest.raises(ValueError, match="--map-scale is for tasks with map; found det"):
        build(dataset, map_scale=2.0)
    with pytest.raises(ValueError, match=r"the map's x_m .* reaches beyond"):
        model_of(build(dataset, size="town", tasks="det,map", half_range_m=32.0))


def test_weights_of_maps_come_on_top(dataset: Path) -> None:
    knobs = {"size": "town", "tasks": "det,map"}
    count = sum(p.numel() for p in model_of(build(dataset, **knobs)).parameters())
    plain = sum(p.numel() for p in model_of(build(dataset, size="town")).parameters())
    assert count - plain == TOWN_MAPS


@pytest.mark.parametrize(
    "config", ["cmt_fusion", "cmt_voxel0075_vov_1600x640", "cmt_camera_vov_1600x640",
               "cmt_voxel0100_r50_800x320", "cmt_lidar_voxel0075"],
)  # fmt: skip
def test_large_sizes_draw_bevfusions_map(config: str, dataset: Path) -> None:
    """100 m by 100 m in cells of half a metre; scores were published for boxes alone."""
    experiment = build(dataset, config, tasks="det,map")
    assert experiment.expected == () and "_det_map_imtl_g" in experiment.name
    maps = model_of(experiment).maps
    assert maps is not None and list(maps.head.tasks) == list(MAP_CLASSES)
    grid = maps.grid
    assert (grid.x_m, grid.y_m, grid.cell_m) == ((-50.0, 50.0), (-50.0, 50.0), 0.5)
    assert (grid.ny, grid.nx, maps.head.side) == (200, 200, 25)
    assert len(maps.head.decoder.layers) == 6 and maps.head.decoder.channels == 256


def test_knobs_are_those_of_the_joint_bev_model() -> None:
    here, there = (
        load_config(ROOT / "configs" / f"{name}.py").knobs
        for name in ("cmt_fusion", "fuller_joint")
    )
    shared = {"tasks", "rule", "intra", "map_weight", "map_scale", "map_threshold"}
    assert shared <= set(here) and shared <= set(there)


@pytest.mark.slow
@pytest.mark.parametrize("masked", [False, True])
def test_a_step_and_a_prediction(masked: bool, tiny_town: Path, tmp_path: Path) -> None:
    experiment = build(tiny_town, tasks="det,map", mask_sensors=masked)
    assert experiment.val is not None
    samples = experiment.train()
    torch.manual_seed(0)
    model = experiment.model().train()
    assert isinstance(model, CMT)
    optimizer = experiment.optimizer.build(model)
    batch = samples.collate([samples.dataset[0]])
    assert batch.map is not None and batch.map.any()
    terms = model.loss(model(batch, model.denoising(batch)), batch)
    total_loss(terms, model.rule).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    figures = gradient_figures(balancing_parts(model), None, None)
    pulls = [figures["norm"][t] * figures["weight"][t] for t in (DETECTION, SEGMENTATION)]
    torch.testing.assert_close(*pulls)
    assert {"modality_norm", "modality_scale"} <= set(figures)
    optimizer.step()
    held = experiment.val()
    batch = held.collate([held.dataset[0]])
    with torch.no_grad():
        prediction = model.eval().predict(model(batch), batch)[0]
    assert len(prediction.boxes) > 0 and prediction.map_prob is not None
    assert prediction.map_prob.shape == (len(MAP_CLASSES), 100, 100)
    evaluator = experiment.evaluators[1](tmp_path)
    evaluator.process([prediction])  # the truth lies on the same grid
