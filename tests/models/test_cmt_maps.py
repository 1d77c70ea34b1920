"""CMT with maps: tasks, where gradients are calibrated, missing sensors, errors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from perception3d.balancing import Balance, Fork, ImtlG, Rule, Uniform
from perception3d.engine.gradient_figures import balancing_parts, gradient_figures
from perception3d.engine.objective import task_losses, total_loss
from perception3d.heads.heatmap import HeatmapQueries
from perception3d.heads.query import QueryOutputs
from perception3d.heads.query_decoder import QueryDecoder
from perception3d.heads.segmentation import SegmentationHead
from perception3d.heads.token_maps import TokenMaps
from perception3d.models.cmt import CMT, DETECTION, SEGMENTATION, CMTOutputs
from perception3d.structures import Batch, BEVGrid
from tests.models.small_cmt import CHANNELS, GRID, small_batch, small_cmt

TASKS = (DETECTION, SEGMENTATION)
MAP_GRID = BEVGrid((-12.0, 12.0), (-12.0, 12.0), (-5.0, 3.0), 2.0)
#: Upstream of the fork, position codes aside.
SHARED = ("lidar.", "image.", "tokens.shared_conv.")


def small_maps(bev_channels: int | None, *, cameras: bool, grid: BEVGrid = MAP_GRID) -> TokenMaps:
    decoder = QueryDecoder(channels=CHANNELS, layers=2, heads=2, hidden=32, dropout=0.0)
    weights = {"road": 2.0, "walk": 2.0}
    return TokenMaps(
        head=SegmentationHead(
            decoder=decoder, tasks=weights, side=3, widths=(8, 4), bev_channels=8
        ),
        grid=grid,
        channels=8,
        bev_channels=bev_channels,
        image_channels=CHANNELS if cameras else None,
        lifted=4,
    )


def joint_cmt(
    rule: Rule | None = None,
    *,
    balance: bool = False,
    tasks: tuple[str, ...] = TASKS,
    lidar: bool = True,
    camera: bool = True,
    maps: TokenMaps | None = None,
) -> CMT:
    """The small model with heat-map queries, which read both features beside the memory."""
    plain = small_cmt(lidar=lidar, image=camera)
    channels = None if plain.lidar is None else plain.lidar.channels
    queries = HeatmapQueries(
        channels=CHANNELS,
        bev_channels=channels,
        grid=GRID,
        hidden=8,
        bev_queries=6 if lidar else 0,
        image_queries=4 if camera else 0,
        lifted_channels=4 if lidar and camera else 0,
    )
    boxes = DETECTION in tasks
    if maps is None and SEGMENTATION in tasks:
        maps = small_maps(channels, cameras=camera)
    return CMT(
        lidar=plain.lidar,
        image=plain.image,
        tokens=plain.tokens,
        queries=queries if boxes else None,
        head=plain.head if boxes else None,
        denoising=plain.build_denoising if boxes else None,
        maps=maps,
        fork=None if rule is None else Fork(rule),
        balance=Balance(("camera", "lidar")) if balance else None,
    )


def batch_with_map(**changes: Any) -> Batch:
    batch = small_batch(**changes)
    raster = torch.rand(batch.batch_size, 2, 12, 12, generator=torch.Generator().manual_seed(3))
    return replace(batch, map=raster > 0.6)


def gradients(model: CMT, batch: Batch, task: str | None = None) -> dict[str, Tensor]:
    """By parameters, of the whole loss or of one task's; dropout and masks are drawn alike."""
    model.train().zero_grad()
    torch.manual_seed(7)
    terms = model.loss(model(batch, model.denoising(batch)), batch)
    loss = total_loss(terms, model.rule) if task is None else task_losses(terms)[task]
    loss.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def rounding(found: dict[str, Tensor]) -> float:
    """Of gradients that are zero but for it: biases before batch norms."""
    return 1e-6 * float(max(g.abs().max() for n, g in found.items() if n.startswith(SHARED)))


def test_detection_alone_is_the_model_that_it_was() -> None:
    plain, joint = small_cmt(), joint_cmt()
    assert plain.maps is plain.fork is plain.balance is plain.rule is None
    assert not any(name.startswith(("maps", "fork")) for name in plain.state_dict())
    torch.manual_seed(7)
    assert isinstance(plain(small_batch()), QueryOutputs)
    assert isinstance(joint(small_batch()), CMTOutputs)


def test_without_calibration_it_is_the_plain_model_bit_for_bit() -> None:
    batch = batch_with_map()
    one, other = (gradients(joint_cmt(rule), batch) for rule in (None, Uniform(TASKS)))
    assert one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)
    assert one.keys() == dict(joint_cmt().named_parameters()).keys()


def test_all_of_both_tasks_gradients_pass_the_fork_once() -> None:
    """In what is shared: the weighted sum of the gradients that each task has by itself."""
    batch = batch_with_map()
    plain = joint_cmt()
    each = [gradients(plain, batch, task) for task in TASKS]
    model = joint_cmt(ImtlG(TASKS))
    found = gradients(model, batch)
    assert model.fork is not None and model.fork.record is not None
    record = model.fork.record
    made = record.weight * record.norm
    torch.testing.assert_close(made[0], made[1])
    assert record.norm[0] / record.norm[1] > 2 and record.weight[0] < 0.7  # there was work to do
    shared = [name for name in found if name.startswith(SHARED)]
    assert len(shared) > 60
    noise = rounding(found)
    for name in shared:
        boxes, maps = (of_task[name] for of_task in each)
        want = float(record.weight[0]) * boxes + float(record.weight[1]) * maps
        torch.testing.assert_close(found[name], want, rtol=1e-3, atol=noise)
    for name in set(found) - set(shared):  # heads, and position codes, which are detection's alone
        owner = SEGMENTATION if name.startswith("maps.") else DETECTION
        assert torch.equal(found[name], each[TASKS.index(owner)][name]), name
        assert name not in each[1 - TASKS.index(owner)], name


def test_both_sensors_get_gradients_of_one_length() -> None:
    batch = batch_with_map()
    before = gradients(joint_cmt(ImtlG(TASKS)), batch)
    model = joint_cmt(ImtlG(TASKS), balance=True)
    found = gradients(model, batch)
    assert model.balance is not None and model.balance.record is not None
    record = model.balance.record
    made = record.norm * record.scale
    torch.testing.assert_close(made, record.norm.mean().expand(2))
    assert not torch.allclose(record.norm[0], record.norm[1], rtol=0.05)
    factors = {"image": float(record.scale[0]), "lidar": float(record.scale[1])}
    for name, gradient in found.items():
        want = factors.get(name.split(".")[0], 1.0) * before[name]
        torch.testing.assert_close(gradient, want, rtol=1e-3, atol=rounding(found))


def test_figures_of_both_appear() -> None:
    model = joint_cmt(ImtlG(TASKS), balance=True)
    gradients(model, batch_with_map())
    figures = gradient_figures(balancing_parts(model), torch.tensor(40.0), 35.0)
    assert set(figures) == {
        "norm", "weight", "cosine", "modality_norm", "modality_scale", "clip",
    }  # fmt: skip
    pulls = [figures["norm"][task] * figures["weight"][task] for task in TASKS]
    torch.testing.assert_close(*pulls)
    lengths = [
        figures["modality_norm"][name] * figures["modality_scale"][name]
        for name in ("camera", "lidar")
    ]
    torch.testing.assert_close(*lengths)


def test_maps_alone_teach_position_codes_too() -> None:
    batch = batch_with_map(boxes=None)
    model = joint_cmt(tasks=(SEGMENTATION,), balance=True)
    found = gradients(model, batch)
    assert found.keys() == dict(model.named_parameters()).keys()
    outputs = model(batch)
    assert outputs.boxes is None and set(model.loss(outputs, batch)) == {SEGMENTATION}
    assert [len(one.boxes) for one in model.eval().predict(model(batch), batch)] == [0, 0]


@pytest.mark.parametrize(("lidar", "camera"), [(True, False), (False, True)])
def test_one_sensor_draws_maps_too(lidar: bool, camera: bool) -> None:
    batch = batch_with_map(points=(300, 200) if lidar else None, images=camera)
    model = joint_cmt(ImtlG(TASKS), lidar=lidar, camera=camera, balance=True)
    found = gradients(model, batch)
    assert found.keys() == dict(model.named_parameters()).keys()
    assert model.balance is not None and model.balance.record is None


@pytest.mark.parametrize("missing", ["points", "images"])
def test_a_batch_without_a_sensor_is_answered(missing: str) -> None:
    model = joint_cmt(ImtlG(TASKS), balance=True)
    points = None if missing == "points" else (300, 200)
    batch = batch_with_map(points=points, images=missing != "images")
    found = gradients(model, batch)
    assert all(bool(g.isfinite().all()) for g in found.values())
    branch = "lidar." if missing == "points" else "image."
    assert not any(name.startswith(branch) for name in found)
    assert model.fork is not None and model.fork.record is not None
    made = model.fork.record.weight * model.fork.record.norm
    torch.testing.assert_close(made[0], made[1])
    with torch.no_grad():
        found_maps = model.eval().predict(model(batch), batch)
    assert all(one.map_prob is not None and one.map_prob.isfinite().all() for one in found_maps)


def test_a_blinded_sensor_still_comes_to_fork_and_balance() -> None:
    """Masked-modal training gives zeros: all processes of a run then measure in every step."""
    batch = batch_with_map()
    assert batch.images is not None
    model = joint_cmt(ImtlG(TASKS), balance=True)
    found = gradients(model, replace(batch, images=torch.zeros_like(batch.images)))
    assert all(bool(g.isfinite().all()) for g in found.values())
    assert model.balance is not None and model.balance.record is not None


def test_predictions_hold_boxes_and_maps() -> None:
    model, batch = joint_cmt().eval(), batch_with_map()
    with torch.no_grad():
        found = model.predict(model(batch), batch)
    assert [one.token for one in found] == list(batch.tokens)
    for one in found:
        assert one.map_prob is not None and one.map_prob.shape == (2, 12, 12)
        assert one.map_classes == ("road", "walk")
        assert one.grid == MAP_GRID and len(one.boxes) == len(one.score) > 0


@pytest.mark.slow
def test_training_overfits_one_batch() -> None:
    model, batch = joint_cmt(ImtlG(TASKS), balance=True).train(), batch_with_map()
    x, y = MAP_GRID.centers_m().unbind(-1)
    batch = replace(batch, map=torch.stack((x > 0, x + y > 5)).expand(2, -1, -1, -1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        terms = model.loss(model(batch, model.denoising(batch)), batch)
        total_loss(terms, model.rule).backward()
        optimizer.step()
        losses.append({task: float(loss.detach()) for task, loss in task_losses(terms).items()})
    for task in TASKS:
        assert losses[-1][task] < 0.7 * losses[0][task]


def test_parts_that_do_not_fit_are_refused() -> None:
    batch, model = small_batch(), joint_cmt()
    with pytest.raises(ValueError, match=r"the loss needs Batch\.map"):
        model.loss(model(batch), batch)
    with pytest.raises(ValueError, match=r"the fork parts .*, the model has heads"):
        joint_cmt(ImtlG(TASKS), tasks=(DETECTION,))
    with pytest.raises(ValueError, match="one for maps, or both; found neither"):
        joint_cmt(tasks=())
    with pytest.raises(ValueError, match="maps must be built for the same sensors"):
        joint_cmt(camera=False, maps=small_maps(16, cameras=True))
    wide = BEVGrid((-18.0, 18.0), (-18.0, 18.0), (-5.0, 3.0), 3.0)
    with pytest.raises(ValueError, match=r"the map's x_m \(-18.0, 18.0\) reaches beyond"):
        joint_cmt(maps=small_maps(16, cameras=True, grid=wide))
    with pytest.raises(ValueError, match=r"head draws 12 x 12 cells, the map's grid has 6 x 6"):
        small_maps(16, cameras=True, grid=replace(MAP_GRID, cell_m=4.0))
    with pytest.raises(ValueError, match="maps need LiDAR features, image features or both"):
        small_maps(None, cameras=False)
