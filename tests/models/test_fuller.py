"""FULLER as a whole: tasks, sensors, calibration in the model, errors, the town's size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from perception3d.backbones.bev_convnext import BEVConvNeXt
from perception3d.backbones.pillars import PillarEncoder
from perception3d.backbones.second import SECOND
from perception3d.balancing import Balance, Famo, Fork, ImtlG, Rule, Uncertainty, Uniform
from perception3d.datasets.map_raster import MAP_CLASSES
from perception3d.engine.config_file import load_config
from perception3d.engine.gradient_figures import balancing_parts, gradient_figures
from perception3d.engine.objective import refuse_needs, total_loss
from perception3d.fusion.concat import ConcatFuser
from perception3d.heads.bev_map import BevMapHead
from perception3d.heads.center import CenterHead
from perception3d.heads.petr_depth import DepthBranch, depth_edges
from perception3d.heads.petr_lift import DepthLift
from perception3d.models.fuller import DETECTION, FULLER, SEGMENTATION
from perception3d.models.image_branch import resnet_branch
from perception3d.models.lidar_branch import LidarBranch
from perception3d.nn.fpn import UpsampleConcatNeck
from perception3d.structures import Batch, BEVGrid
from tests.models.small_cmt import GRID, small_batch

ROOT = Path(__file__).parents[2]
TASKS = (DETECTION, SEGMENTATION)
MAP_GRID = BEVGrid((-12.0, 12.0), (-12.0, 12.0), (-5.0, 3.0), 1.5)


def small_fuller(
    rule: Rule | None = None,
    *,
    balance: bool = False,
    tasks: tuple[str, ...] = TASKS,
    lidar: bool = True,
    camera: bool = True,
) -> FULLER:
    torch.manual_seed(0)
    backbone = BEVConvNeXt(
        depths=(1, 1, 1), widths=(8, 8, 16), out_stages=(1, 2), kernel=3, drop_path=0.0
    )
    points = LidarBranch(
        encoder=PillarEncoder(grid=GRID, channels=8),
        backbone=backbone,
        neck=UpsampleConcatNeck(backbone.channels, (8, 8), (1, 2)),
    )
    image = resnet_branch(8, depth=18, width=8, stages=(1, 2))
    depth = DepthBranch(
        channels=8, hidden=8, lifted=4, num_classes=10, edges_m=depth_edges(1.0, 24.0, 12)
    )
    lift = DepthLift(depth=depth, grid=points.grid)
    widths = [depth.lifted] * camera + [points.channels] * lidar
    shared = SECOND(in_channels=8, widths=(8, 8), layers=(1, 1))
    neck = UpsampleConcatNeck((8, 8), (8, 8), (1, 2))
    head = CenterHead(in_channels=16, grid=points.grid, tasks=(10,), channels=8)
    drawer = BevMapHead(
        in_channels=16, grid=points.grid, map_grid=MAP_GRID, classes=("road", "walk")
    )
    return FULLER(
        lidar=points if lidar else None,
        image=image if camera else None,
        lift=lift if camera else None,
        fuser=ConcatFuser(widths, 8),
        backbone=shared,
        neck=neck,
        detection=head if DETECTION in tasks else None,
        segmentation=drawer if SEGMENTATION in tasks else None,
        fork=None if rule is None else Fork(rule),
        balance=Balance(("camera", "lidar")) if balance else None,
    )


def batch_with_map(**changes: Any) -> Batch:
    batch = small_batch(**changes)
    raster = torch.rand(batch.batch_size, 2, 16, 16, generator=torch.Generator().manual_seed(3))
    return replace(batch, map=raster > 0.6)


def gradients(model: FULLER, batch: Batch) -> dict[str, Tensor]:
    model.zero_grad()
    total_loss(model.loss(model(batch), batch), model.rule).backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def test_without_calibration_it_is_the_plain_model_bit_for_bit() -> None:
    batch = batch_with_map()
    plain, forked = small_fuller(), small_fuller(Uniform(TASKS))
    one, other = gradients(plain, batch), gradients(forked, batch)
    assert one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def test_heads_and_what_images_are_taught_are_not_calibrated() -> None:
    batch = batch_with_map()
    plain = gradients(small_fuller(), batch)
    model = small_fuller(ImtlG(TASKS), balance=True)
    found = gradients(model, batch)
    for name in plain:
        same = torch.equal(plain[name], found[name])
        # The lift's heat and depth are taught in the images, beside what comes back from the map.
        assert same == name.startswith(("detection.", "segmentation.")), name
    assert model.fork is not None and model.fork.record is not None
    made = model.fork.record.weight * model.fork.record.norm
    torch.testing.assert_close(made[0], made[1])
    assert model.balance is not None and model.balance.record is not None
    record = model.balance.record
    torch.testing.assert_close(record.norm * record.scale, record.norm.mean().expand(2))
    figures = gradient_figures(balancing_parts(model), torch.tensor(40.0), 35.0)
    assert set(figures) == {
        "norm", "weight", "cosine", "modality_norm", "modality_scale", "clip",
    }  # fmt: skip
    assert figures["clip"]["rate"] == 1 and set(figures["norm"]) == set(TASKS)
    assert gradient_figures(balancing_parts(small_fuller()), None, None) == {}


def test_one_task_and_one_sensor_are_models_too() -> None:
    batch = batch_with_map()
    for tasks in ((DETECTION,), (SEGMENTATION,)):
        model = small_fuller(ImtlG(tasks), tasks=tasks, balance=True)
        terms = model.loss(model(batch), batch)
        assert set(terms) == {*tasks, "images"}
    for lidar, camera in ((True, False), (False, True)):
        model = small_fuller(ImtlG(TASKS), lidar=lidar, camera=camera, balance=True)
        assert gradients(model, batch)["fuser.conv.weight"].abs().max() > 0
        assert model.balance is not None and model.balance.record is None


@pytest.mark.parametrize("missing", ["points", "images"])
def test_a_batch_without_a_sensor_is_answered(missing: str) -> None:
    model = small_fuller(ImtlG(TASKS), balance=True)
    batch = batch_with_map()
    present = batch.sensor_present.clone()
    present[:, ("points", "images").index(missing)] = False
    changes: dict[str, Any] = {missing: None, "sensor_present": present}
    if missing == "points":
        changes["offsets"] = None
    else:
        changes["rig"] = None
    without = replace(batch, **changes)
    found = gradients(model, without)
    assert all(bool(g.isfinite().all()) for g in found.values())
    branch = "lidar." if missing == "points" else "image."
    assert not any(name.startswith(branch) for name in found)


def test_predictions_hold_boxes_and_maps() -> None:
    model, batch = small_fuller().eval(), batch_with_map()
    with torch.no_grad():
        found = model.predict(model(batch), batch)
    assert [one.token for one in found] == list(batch.tokens)
    for one in found:
        assert one.map_prob is not None and one.map_prob.shape == (2, 16, 16)
        assert one.grid == MAP_GRID and len(one.boxes) == len(one.score)


def test_map_head_reads_the_features_where_the_map_lies() -> None:
    """A convolution that passes one channel on shows which feature cell each map cell saw."""
    grid = BEVGrid((-4.0, 4.0), (-2.0, 2.0), (-5.0, 3.0), 1.0)
    fine = BEVGrid((-4.0, 4.0), (-2.0, 2.0), (-5.0, 3.0), 0.5)
    for map_grid in (grid, fine, BEVGrid((-1.0, 3.0), (-2.0, 0.0), (-5.0, 3.0), 1.0)):
        head = BevMapHead(in_channels=2, grid=grid, map_grid=map_grid, classes=("x",))
        head.layers = torch.nn.Identity()  # type: ignore[assignment]
        centers = grid.centers_m().permute(2, 0, 1)[None]
        seen = head(type("F", (), {"grid": grid, "data": centers})())  # type: ignore[arg-type]
        want = map_grid.centers_m().permute(2, 0, 1)
        inner = (want[0].abs() <= 3.5) & (want[1].abs() <= 1.5)
        torch.testing.assert_close(seen[0][:, inner], want[:, inner], atol=1e-5, rtol=0)


def test_map_loss_by_hand() -> None:
    """p = 0.5 everywhere: (1 - p)^2 log 2 = 0.25 x 0.6931, whatever the target."""
    grid = BEVGrid((-1.0, 1.0), (-1.0, 1.0), (-5.0, 3.0), 1.0)
    head = BevMapHead(in_channels=2, grid=grid, map_grid=grid, classes=("road", "walk"))
    target = torch.tensor([True, False]).view(1, 2, 1, 1).expand(1, 2, 2, 2)
    terms = head.loss(torch.zeros(1, 2, 2, 2), target)
    assert {n: t.item() for n, t in terms.items()} == pytest.approx(
        {"road": 0.25 * 0.693147, "walk": 0.25 * 0.693147}, rel=1e-5
    )
    sure = torch.full((1, 2, 2, 2), 4.0)
    terms = head.loss(sure, target)
    p = torch.sigmoid(torch.tensor(4.0))
    assert terms["road"].item() == pytest.approx(float((1 - p) ** 2 * -p.log()), rel=1e-4)
    assert terms["walk"].item() == pytest.approx(float(p**2 * -(1 - p).log()), rel=1e-4)


def test_a_light_head_saves_two_fifths() -> None:
    grid = BEVGrid((-4.0, 4.0), (-4.0, 4.0), (-5.0, 3.0), 1.0)
    sizes = [
        sum(
            p.numel()
            for p in BevMapHead(
                in_channels=512, grid=grid, map_grid=grid, classes=MAP_CLASSES, light=light
            ).parameters()
        )
        for light in (False, True)
    ]
    assert sizes[1] / sizes[0] == pytest.approx(0.6, abs=0.01)


def test_losses_of_no_task_are_added_and_missing_ones_left_out() -> None:
    terms = {DETECTION: {"a": torch.tensor(2.0)}, "images": {"b": torch.tensor(5.0)}}
    assert total_loss(terms, Uniform(TASKS)).item() == 7.0
    rule = Uncertainty(TASKS, start=0.0)
    assert total_loss(terms, rule).item() == 6.0  # 2 / 2 + 5
    bad = terms | {SEGMENTATION: {"c": torch.tensor(float("nan"))}}
    assert total_loss(bad, Uniform(TASKS)).isnan()  # no missing task: what is NaN must be seen
    with pytest.raises(ValueError, match=r"the rule weighs detection, segmentation; model\.loss"):
        total_loss({"images": terms["images"]}, rule)
    with pytest.raises(ValueError, match="Famo needs losses after the step, which training"):
        refuse_needs(Famo(TASKS))


def test_errors_name_what_was_found() -> None:
    model = small_fuller()
    batch = small_batch()
    with pytest.raises(ValueError, match=r"the loss needs Batch\.map"):
        model.loss(model(batch), batch)
    with pytest.raises(ValueError, match=r"the fork parts .*, the model has heads"):
        small_fuller(ImtlG(TASKS), tasks=(DETECTION,))
    present = batch.sensor_present.clone()
    present[0, 0] = False
    with pytest.raises(ValueError, match=f"samples {batch.tokens[0]} have no LiDAR points"):
        model(replace(batch, sensor_present=present))
    with pytest.raises(ValueError, match="reaches beyond the features'"):
        BevMapHead(in_channels=2, grid=MAP_GRID, map_grid=GRID, classes=("x",))
    with pytest.raises(ValueError, match="found a target of"):
        model.segmentation.loss(torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 5, 5))  # type: ignore[union-attr]


@pytest.mark.parametrize("size", ["town", "published"])
@pytest.mark.parametrize("tasks", ["det,map", "det", "map"])
def test_config_builds(size: str, tasks: str, dataset: Path) -> None:
    config = load_config(ROOT / "configs" / "fuller_joint.py")
    experiment = config.build({"data": str(dataset), "size": size, "tasks": tasks})
    with torch.device("meta"):
        model = experiment.model()
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    low, high = (0.2, 1.5) if size == "town" else (30.0, 60.0)
    assert low < millions < high, millions
    assert len(experiment.evaluators) == len(tasks.split(","))
    assert (model.detection is None) == ("det" not in tasks)


def test_a_weight_is_for_the_fixed_rule(dataset: Path) -> None:
    config = load_config(ROOT / "configs" / "fuller_joint.py")
    knobs = {"data": str(dataset), "size": "town", "map_weight": 5.0}
    with pytest.raises(ValueError, match="--map-weight is for --rule fixed; found imtl_g"):
        config.build(knobs).model()
    model = config.build(knobs | {"rule": "fixed"}).model()
    assert model.rule.weight.tolist() == [1.0, 5.0]
