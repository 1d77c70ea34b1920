"""PillarNeSt as a whole: sizes, published weights, errors, gradients, training."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import torch
from torch import Tensor, nn

from perception3d.backbones.bev_convnext import PILLARNEST_SIZES, BEVConvNeXt
from perception3d.backbones.pillars import PillarEncoder
from perception3d.engine.checkpoints import load_published, load_weights
from perception3d.engine.key_tables import PILLARNEST_KEYS
from perception3d.engine.published import import_published
from perception3d.heads.center import CenterHead
from perception3d.heads.center_code import decode_solids
from perception3d.models.lidar_branch import LidarBranch, pillar_branch
from perception3d.models.pillarnest import PillarNeSt
from perception3d.nn.fpn import UpsampleConcatNeck
from perception3d.structures import Batch, BEVGrid
from tests.golden_cases import golden, load_case
from tests.models.small_cmt import GRID, small_batch
from tests.models.test_pillarnest_golden import model_of


def small_pillarnest(*, tasks: tuple[int, ...] = (1, 2, 2, 1, 2, 2)) -> PillarNeSt:
    torch.manual_seed(0)
    backbone = BEVConvNeXt(depths=(1, 1, 1), widths=(8, 8, 16), out_stages=(1, 2), kernel=3)
    lidar = LidarBranch(
        encoder=PillarEncoder(grid=GRID, channels=8),
        backbone=backbone,
        neck=UpsampleConcatNeck(backbone.channels, (8, 8), (1, 2)),
    )
    head = CenterHead(in_channels=lidar.channels, grid=lidar.grid, tasks=tasks, channels=8)
    return PillarNeSt(lidar=lidar, head=head)


def lidar_batch(
    *, points: tuple[int, ...] = (300, 200), boxes: tuple[int, ...] | None = (4, 2)
) -> Batch:
    return small_batch(points=points, boxes=boxes, images=False)


def total_loss(model: PillarNeSt, batch: Batch) -> Tensor:
    outputs = model(batch, model.denoising(batch))  # as the engine calls every model
    terms = model.loss(outputs, batch)["detection"]
    assert all(torch.isfinite(value) for value in terms.values())
    return torch.stack(list(terms.values())).sum()


@pytest.mark.parametrize(
    ("size", "backbone", "neck", "head", "total"),
    [
        ("tiny", 0.57, 0.19, 1.76, 2.53),
        ("small", 2.69, 0.52, 1.82, 5.03),
        ("base", 8.91, 1.03, 1.82, 11.76),
        ("large", 12.28, 1.03, 1.82, 15.13),
    ],
)
def test_published_sizes(
    size: str, backbone: float, neck: float, head: float, total: float
) -> None:
    depths, widths, neck_channels = PILLARNEST_SIZES[size]
    grid = BEVGrid((-54.0, 54.0), (-54.0, 54.0), (-5.0, 3.0), 0.15)
    with torch.device("meta"):
        lidar = pillar_branch(grid, depths=depths, widths=widths, neck_channels=neck_channels)
        model = PillarNeSt(
            lidar=lidar, head=CenterHead(in_channels=lidar.channels, grid=lidar.grid)
        )
    assert (model.head.grid.nx, model.head.grid.ny) == (180, 180)
    found = [
        sum(p.numel() for p in part.parameters()) / 1e6
        for part in (lidar.backbone, lidar.neck, model.head, model)
    ]
    assert found[:3] == pytest.approx([backbone, neck, head], abs=0.005)
    # The published total counts the statistics of the norms too, up to 0.01 M.
    assert found[3] == pytest.approx(total, abs=0.01)


def published_state(model: nn.Module) -> dict[str, Tensor]:
    """Random weights of a model under their published names, with the published dead one."""
    generator = torch.Generator().manual_seed(5)
    state = {
        PILLARNEST_KEYS.to_published(name): torch.rand(value.shape, generator=generator) + 0.1
        if value.is_floating_point()
        else value.clone()
        for name, value in model.state_dict().items()
    }
    return state | {"pts_backbone.bias": torch.zeros(3)}


def test_folded_weights_give_the_boxes_of_the_unfolded_path() -> None:
    folded, unfolded = small_pillarnest().eval(), small_pillarnest().eval()
    state = published_state(folded)
    load_published(folded, state, table=PILLARNEST_KEYS)
    load_published(unfolded, state, table=replace(PILLARNEST_KEYS, folds=()))
    batch = lidar_batch()
    with torch.no_grad():
        ours, old = folded(batch), unfolded(batch)
    assert torch.equal(ours.heat, old.heat) and torch.equal(ours.iou, old.iou)
    grid = folded.head.grid
    cell = torch.arange(grid.ny * grid.nx)
    solid = decode_solids(ours.box.flatten(3).transpose(2, 3), cell, grid)
    # The old path by hand: width before length, yaw_old = -yaw - pi/2.
    z, d0, d1, d2, s, c = old.box.flatten(3)[:, :, 2:8].unbind(2)
    place = decode_solids(old.box.flatten(3).transpose(2, 3), cell, grid)[..., :2]
    by_hand = torch.stack(
        (*place.unbind(-1), z, d1.exp(), d0.exp(), d2.exp(), -torch.atan2(s, c) - math.pi / 2),
        dim=-1,
    )
    torch.testing.assert_close(solid[..., :6], by_hand[..., :6])
    turn = (solid[..., 6] - by_hand[..., 6]) / (2 * math.pi)
    torch.testing.assert_close(turn, turn.round(), rtol=0, atol=1e-5)
    assert not torch.equal(ours.box, old.box)


def test_folding_reorders_rows_and_biases() -> None:
    model = small_pillarnest()
    state = published_state(model)
    ours = PILLARNEST_KEYS.translate(state)
    prefix = "pts_bbox_head.task_heads.2."
    for leaf in ("weight", "bias"):
        dim, rot = state[f"{prefix}dim.1.{leaf}"], state[f"{prefix}rot.1.{leaf}"]
        assert torch.equal(ours[f"head.task_branches.2.dim.1.{leaf}"], dim[[1, 0, 2]])
        assert torch.equal(ours[f"head.task_branches.2.rot.1.{leaf}"], -rot[[1, 0]])
        assert torch.equal(
            ours[f"head.task_branches.2.reg.1.{leaf}"], state[f"{prefix}reg.1.{leaf}"]
        )
    # Hidden layers of the same branches keep their rows.
    name = "dim.0.bn.bias"
    assert torch.equal(ours["head.task_branches.2.dim.0.1.bias"], state[f"{prefix}{name}"])
    # What the published code holds without use is dropped, and nothing else.
    assert len(ours) == len(state) - 1


def test_a_published_file_is_converted_once(tmp_path: Path) -> None:
    model = small_pillarnest()
    source, target = tmp_path / "pillarnest.pth", tmp_path / "pillarnest.safetensors"
    torch.save({"meta": {}, "state_dict": published_state(model)}, source)
    found = import_published(source, target)
    assert found.model.class_name == "PillarNeSt" and found.ignored == ("pts_backbone.bias",)
    load_weights(model, target)
    direct = small_pillarnest()
    load_published(direct, published_state(direct), table=PILLARNEST_KEYS)
    for name, value in model.state_dict().items():
        assert torch.equal(value, direct.state_dict()[name]), name


def test_foreign_and_missing_names_are_listed() -> None:
    model = small_pillarnest()
    state = published_state(model)
    with pytest.raises(ValueError, match="1 published names are not in the key table: pts_x"):
        load_published(model, state | {"pts_x": torch.zeros(1)}, table=PILLARNEST_KEYS)
    wrong = {"pts_bbox_head.task_heads.5.dim.1.bias": torch.zeros(2)}
    with pytest.raises(
        ValueError, match=r"1 of another shape: head\.task_branches\.5\.dim\.1\.bias"
    ):
        load_published(model, state | wrong, table=PILLARNEST_KEYS)
    del state["pts_bbox_head.task_heads.5.iou.1.bias"]
    with pytest.raises(ValueError, match=r"1 missing: head\.task_branches\.5\.iou\.1\.bias"):
        load_published(model, state, table=PILLARNEST_KEYS)


def test_norms_have_the_published_eps() -> None:
    model = small_pillarnest()
    eps = {name: m.eps for name, m in model.named_modules() if hasattr(m, "eps")}
    assert eps["lidar.backbone.downsample.1.0"] == eps["lidar.backbone.downsample.2.0"] == 1e-5
    assert {e for n, e in eps.items() if ".stages." in n or "backbone.norms" in n} == {1e-6}
    assert {e for n, e in eps.items() if "encoder" in n or "neck" in n} == {1e-3}
    assert {e for n, e in eps.items() if n.startswith("head.")} == {1e-5}


@pytest.mark.parametrize("name", golden("pillarnest_tiny_e2e"))
@torch.no_grad()
def test_points_of_the_published_case_give_its_maps(name: str) -> None:
    """The golden test begins at pillars; here the same points come as a ragged cloud."""
    case = load_case(name)
    inputs, model = case.inputs(), model_of(case)
    coors, slots = inputs["coors"].long(), inputs["voxels"]
    samples = case.shape("canvas")[0]
    pillar, slot = (torch.arange(slots.shape[1]) < inputs["num_points"][:, None]).nonzero(
        as_tuple=True
    )
    order = coors[pillar, 0].argsort(stable=True)
    points, cells = slots[pillar, slot][order], coors[pillar][order]
    row_column, _ = model.lidar.encoder.grid.index(points[:, :2])
    if not torch.equal(row_column, cells[:, 2:]):
        pytest.skip("points of this case lie outside the pillars that they are said to be in")
    counts = torch.bincount(cells[:, 0], minlength=samples)
    offsets = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    outputs = model.head(model.lidar(points, offsets))
    first = 0
    for t, classes in enumerate(model.head.tasks):
        want = torch.from_numpy(case.arrays[f"out/task{t}_heatmap"]).view(
            case.shape(f"task{t}_heatmap")
        )
        found = outputs.heat[:, first : first + classes]
        torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-4)
        first += classes


def test_a_step_gives_every_weight_a_gradient() -> None:
    model = small_pillarnest().train()
    total_loss(model, lidar_batch()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("points", [(0, 200), (0, 0), (1, 0)])
def test_clouds_may_be_empty(points: tuple[int, ...], training: bool) -> None:
    model, batch = small_pillarnest().train(training), lidar_batch(points=points)
    outputs = model(batch)
    assert torch.isfinite(outputs.heat).all() and torch.isfinite(outputs.box).all()
    if training:
        total_loss(model, batch).backward()
    else:
        assert len(model.predict(outputs, batch)) == 2


@pytest.mark.parametrize("boxes", [(0, 0), (0, 3)])
def test_samples_without_boxes_train(boxes: tuple[int, int]) -> None:
    model = small_pillarnest().train()
    total_loss(model, lidar_batch(boxes=boxes)).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_batches_without_points_are_refused() -> None:
    model = small_pillarnest()
    with pytest.raises(ValueError, match="this batch has no LiDAR"):
        model(small_batch(points=None))
    batch = lidar_batch()
    present = batch.sensor_present.clone()
    present[1, 0] = False
    with pytest.raises(ValueError, match=f"samples {batch.tokens[1]} have no LiDAR points"):
        model(replace(batch, sensor_present=present))


def test_loss_without_ground_truth_says_so() -> None:
    model, batch = small_pillarnest(), lidar_batch(boxes=None)
    with pytest.raises(ValueError, match="no ground truth"):
        model.loss(model(batch), batch)


def test_parts_that_do_not_fit_are_refused() -> None:
    lidar = small_pillarnest().lidar
    with pytest.raises(ValueError, match=r"in_channels=lidar\.channels"):
        PillarNeSt(lidar=lidar, head=CenterHead(in_channels=99, grid=lidar.grid))
    with pytest.raises(ValueError, match=r"grid=lidar\.grid"):
        PillarNeSt(lidar=lidar, head=CenterHead(in_channels=lidar.channels, grid=GRID))


def test_predictions_carry_the_sample_and_fall_in_score() -> None:
    model, batch = small_pillarnest().eval(), lidar_batch()
    # Towards scores that pass the threshold.
    for branches in model.head.task_branches:
        nn.init.normal_(cast(nn.ModuleDict, branches)["heatmap"][1].weight, std=0.3)
    predictions = model.predict(model(batch), batch)
    assert [p.token for p in predictions] == list(batch.tokens)
    for prediction in predictions:
        assert 0 < len(prediction.boxes) <= 6 * 83
        assert (prediction.score.diff() <= 0).all() and (prediction.score >= 0.1).all()
        assert not prediction.score.requires_grad
        assert set(prediction.boxes.label.tolist()) <= set(range(10))


def test_the_same_seed_gives_the_same_step() -> None:
    grads = []
    for _ in range(2):
        model = small_pillarnest().train()
        torch.manual_seed(3)
        total_loss(model, lidar_batch()).backward()
        grads.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*grads) if a is not None and b is not None)


@pytest.mark.slow
def test_training_overfits_one_batch() -> None:
    model, batch = small_pillarnest().train(), lidar_batch()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = total_loss(model, batch)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
