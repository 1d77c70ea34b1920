"""The centre head by hand: what no published figure decides, and properties."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from perception3d.heads.center import CenterHead, CenterOutputs
from perception3d.heads.center_code import decode_solids
from perception3d.heads.center_decode import (
    Candidates,
    CenterDecoder,
    CircleSuppression,
    RotatedSuppression,
)
from perception3d.heads.center_loss import CenterLoss
from perception3d.heads.center_targets import CenterAssigner
from perception3d.structures import BEVFeatures, BEVGrid, Boxes3D
from tests.models.small_cmt import random_boxes

#: 8 columns and 6 rows, so that a swap of x and y cannot hide.
GRID = BEVGrid((-8.0, 8.0), (-6.0, 6.0), (-5.0, 3.0), 2.0)
TASKS = (1, 2)


def boxes_at(xy: list[tuple[float, float]], label: list[int], *, velocity: float = 1.0) -> Boxes3D:
    n = len(xy)
    center = torch.cat((torch.tensor(xy).view(n, 2), torch.full((n, 1), 0.5)), dim=1)
    size = torch.tensor([4.0, 2.0, 1.5]).expand(n, 3)
    speed = torch.full((n, 2), velocity)
    return Boxes3D.build(
        center, size, torch.full((n,), 0.3), torch.tensor(label), velocity_mps=speed
    )


def empty_outputs(batch: int = 1, *, logit: float = -6.0) -> CenterOutputs:
    ny, nx = GRID.ny, GRID.nx
    return CenterOutputs(
        torch.full((batch, sum(TASKS), ny, nx), logit),
        torch.zeros(batch, len(TASKS), 10, ny, nx),
        torch.zeros(batch, len(TASKS), ny, nx),
    )


def small_head(**knobs: object) -> CenterHead:
    torch.manual_seed(0)
    return CenterHead(in_channels=4, grid=GRID, tasks=TASKS, channels=8, **knobs)  # type: ignore[arg-type]


def test_a_box_outside_leaves_its_slot_empty() -> None:
    boxes = boxes_at([(1.0, 1.0), (30.0, 0.0), (-7.0, 5.5), (0.0, 0.0)], [2, 2, 2, 1])
    targets = CenterAssigner(TASKS, GRID)([boxes, boxes_at([(1.0, 1.0)], [2])])
    # Class 1 comes first in its task; then class 2 in the order of the boxes.
    assert targets.slot.tolist() == [0, 1, 3, 0]
    assert targets.sample.tolist() == [0, 0, 0, 1] and targets.task.tolist() == [1] * 4
    assert targets.cell.tolist() == [3 * 8 + 4, 3 * 8 + 4, 5 * 8 + 0, 3 * 8 + 4]
    torch.testing.assert_close(targets.vector[1, :3], torch.tensor([0.5, 0.5, 0.5]))
    assert targets.heat[0, 2, 5, 0] == 1 and targets.heat[1, 2, 5, 0] < 1


def test_cells_are_truncated_towards_zero() -> None:
    targets = CenterAssigner(TASKS, GRID)(
        [boxes_at([(-9.9, -6.5), (-10.1, 0.0), (8.0, 0.0)], [0] * 3)]
    )
    assert targets.slot.tolist() == [0] and targets.cell.tolist() == [0]
    torch.testing.assert_close(targets.vector[0, :2], torch.tensor([-0.95, -0.25]))


def test_unknown_velocity_becomes_zero_and_unknown_classes_nothing() -> None:
    boxes = boxes_at([(1.0, 1.0), (1.0, 1.0), (3.0, 1.0)], [0, -1, 3], velocity=math.nan)
    targets = CenterAssigner(TASKS, GRID)([boxes])
    assert len(targets.cell) == 1 and targets.vector[0, 8:].tolist() == [0, 0]
    assert (targets.heat == 1).sum() == 1


def test_objects_beyond_the_limit_have_no_target() -> None:
    assigner = CenterAssigner(TASKS, GRID, max_objects=2)
    places = [(-7.0, 1.0), (1.0, 1.0), (3.0, 1.0), (7.0, 1.0)]
    targets = assigner([boxes_at(places, [1, 0, 1, 2])])
    assert targets.slot.tolist() == [0, 0, 1] and targets.task.tolist() == [0, 1, 1]
    assert (targets.heat == 1).sum() == 3


def test_decoding_perfect_maps_returns_the_boxes() -> None:
    generator = torch.Generator().manual_seed(1)
    grid = BEVGrid((-16.0, 16.0), (-16.0, 16.0), (-5.0, 3.0), 1.0)
    boxes = [random_boxes(n, generator) for n in (9, 5)]
    head = CenterHead(in_channels=4, grid=grid, tasks=(1, 2, 2, 1, 2, 2), channels=8)
    targets = head.assign(boxes)
    heat = torch.full((2, 10, 32, 32), -9.0)
    box, iou = torch.zeros(2, 6, 10, 32, 32), torch.full((2, 6, 32, 32), 9.0)
    row, column = targets.cell // 32, targets.cell % 32
    box[targets.sample, targets.task, :, row, column] = targets.vector
    heat[targets.heat == 1] = 9.0
    results = replace_suppression(head, 1.0).decode(CenterOutputs(heat, box, iou))
    for (found, score), true in zip(results, boxes):
        assert len(found) == len(true) and (score > 0.99).all()
        order, expected = sort_key(found), sort_key(true)
        for name in ("center_m", "size_lwh_m", "yaw_rad", "velocity_mps", "label"):
            torch.testing.assert_close(
                getattr(found, name)[order], getattr(true, name)[expected], rtol=1e-4, atol=1e-4
            )
    terms = head.loss(CenterOutputs(heat, box, iou), boxes)
    for t in range(6):
        assert terms[f"task{t}.loss_bbox"] < 1e-5
        # The IoU is 1 where the box is perfect; the branch says sigmoid(9).
        assert terms[f"task{t}.loss_iou_score"] < 1e-3


def replace_suppression(head: CenterHead, max_iou: float) -> CenterHead:
    head.decoder = replace(head.decoder, suppression=RotatedSuppression(max_iou=max_iou))
    return head


def sort_key(boxes: Boxes3D) -> Tensor:
    return boxes.center_m[:, 0].argsort()


def test_a_task_without_objects_has_no_box_terms_but_gradients() -> None:
    head = small_head().train()
    outputs = head(BEVFeatures(torch.randn(2, 4, 6, 8), GRID))
    terms = head.loss(outputs, [Boxes3D.empty(), boxes_at([(1.0, 1.0)], [0])])
    assert terms["task1.loss_bbox"] == 0 and terms["task1.loss_iou_score"] == 0
    assert terms["task1.loss_heatmap"] > 0 and terms["task0.loss_bbox"] > 0
    torch.stack(list(terms.values())).sum().backward()
    assert [name for name, p in head.named_parameters() if p.grad is None] == []
    head.zero_grad()
    none = head.loss(head(BEVFeatures(torch.randn(1, 4, 6, 8), GRID)), [Boxes3D.empty()])
    torch.stack(list(none.values())).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in head.parameters() if p.grad is not None)


def test_heat_is_divided_by_peaks_and_boxes_by_objects() -> None:
    # Two objects in one cell are one peak, but two boxes.
    boxes = boxes_at([(1.0, 1.0), (1.2, 1.0)], [0, 0])
    head, outputs = small_head(), empty_outputs()
    terms = head.loss(outputs, [boxes])
    once = head.loss(outputs, [boxes.select(torch.tensor([0]))])
    torch.testing.assert_close(terms["task0.loss_heatmap"], once["task0.loss_heatmap"])
    targets = head.assign([boxes])
    weight = torch.tensor(head.center_loss.code_weights)
    by_hand = 0.25 * (targets.vector.abs() * weight).sum() / (2 + 1e-4)
    torch.testing.assert_close(terms["task0.loss_bbox"], by_hand)


def test_scores_are_limited_and_beyond_has_no_gradient() -> None:
    head, boxes = small_head(), [boxes_at([(1.0, 1.0)], [0])]
    limit = math.log((1 - 1e-4) / 1e-4)
    values = []
    for logit in (limit, 50.0):
        outputs = empty_outputs()
        heat = torch.full_like(outputs.heat, logit).requires_grad_()
        iou = torch.full_like(outputs.iou, logit).requires_grad_()
        terms = head.loss(CenterOutputs(heat, outputs.box, iou), boxes)
        values.append(torch.stack(list(terms.values())))
        values[-1].sum().backward()
    torch.testing.assert_close(values[0], values[1])
    assert heat.grad is not None and iou.grad is not None
    assert heat.grad.abs().sum() == 0 and iou.grad.abs().sum() == 0


def test_sizes_are_limited_before_boxes_are_compared() -> None:
    vector = torch.zeros(1, 10)
    vector[0, 3:6] = torch.tensor([80.0, -80.0, 3.0])
    solid = decode_solids(vector, torch.tensor([0]), GRID, log_limit=5.0)
    torch.testing.assert_close(solid[0, 3:6], torch.tensor([5.0, -5.0, 3.0]).exp())
    outputs = empty_outputs()
    outputs.box[:, :, 3:6] = 200.0
    terms = small_head().loss(outputs, [boxes_at([(1.0, 1.0)], [0])])
    assert torch.isfinite(torch.stack(list(terms.values()))).all()


@pytest.mark.parametrize("z_as_bottom", [True, False])
def test_iou_target_by_hand(z_as_bottom: bool) -> None:
    head, boxes = small_head(), boxes_at([(1.0, 1.0)], [0])
    targets = head.assign([boxes])
    predicted = targets.vector.clone()
    loss = CenterLoss(z_as_bottom=z_as_bottom)
    assert loss.overlap(predicted, targets, GRID).item() == pytest.approx(1.0, abs=1e-5)
    predicted[:, 5] += math.log(2)  # as high again, about the same centre or from the same z
    assert loss.overlap(predicted, targets, GRID).item() == pytest.approx(0.5, abs=1e-5)
    # Up by half its height: the true box keeps [z, z + h], or [z - h/2, z + h/2].
    predicted[:, 2] += 0.75
    expected = 0.75 / (3 + 1.5 - 0.75) if z_as_bottom else 1.5 / 3
    assert loss.overlap(predicted, targets, GRID).item() == pytest.approx(expected, abs=1e-5)


def rows(
    xy: list[tuple[float, float]], score: list[float], *, size: tuple[float, float] = (3.0, 1.0),
    group: list[int] | None = None, label: list[int] | None = None, groups: int = 2,
) -> Candidates:  # fmt: skip
    n = len(xy)
    solid = torch.zeros(n, 7, dtype=torch.float64)
    solid[:, :2] = torch.tensor(xy, dtype=torch.float64)
    solid[:, 3], solid[:, 4], solid[:, 5] = *size, 1.0
    of_group = torch.zeros(n, dtype=torch.int64) if group is None else torch.tensor(group)
    value = torch.tensor(score)
    return Candidates(
        solid, torch.zeros(n, 2), value, value, value,
        torch.zeros(n, dtype=torch.int64) if label is None else torch.tensor(label),
        of_group, torch.bincount(of_group, minlength=groups),
    )  # fmt: skip


def test_rotated_suppression_by_hand() -> None:
    keep = RotatedSuppression()
    # Lengths 3, 2 m apart: overlap 1 / 5, exactly the threshold, which does not suppress.
    assert len(keep(rows([(0, 0), (2, 0)], [0.9, 0.8]), 2).score) == 2
    assert len(keep(rows([(0, 0), (1.99, 0)], [0.9, 0.8]), 2).score) == 1
    # Classes of one task suppress each other, tasks and samples do not.
    assert len(keep(rows([(0, 0), (0, 0)], [0.9, 0.8], label=[1, 2]), 2).score) == 1
    apart = keep(rows([(0, 0), (0, 0)], [0.5, 0.8], group=[0, 1]), 2)
    assert apart.group.tolist() == [0, 1] and apart.sizes.tolist() == [1, 1]
    # The threshold itself stays.
    assert keep(rows([(0, 0), (9, 0)], [0.1, 0.0999]), 2).score.tolist() == [pytest.approx(0.1)]


def test_limits_hold_for_each_task_by_itself() -> None:
    places = [(10.0 * i, 0.0) for i in range(4)] * 2
    score = [0.2, 0.3, 0.4, 0.5] * 2
    found = rows(places, score, group=[0] * 4 + [1] * 4)
    kept = RotatedSuppression(post_limit=3)(found, 2)
    assert kept.score.tolist() == pytest.approx([0.5, 0.4, 0.3] * 2)
    # A candidate beyond the first limit neither stays nor suppresses.
    assert len(RotatedSuppression(pre_limit=2)(found, 2).score) == 4
    circle = CircleSuppression((4.0, 4.0), post_limit=1)(found, 2)
    assert circle.score.tolist() == pytest.approx([0.5, 0.5])


def test_circle_suppression_by_hand() -> None:
    keep = CircleSuppression((4.0, 1.0))
    # The threshold is a squared distance, and equality suppresses; no score is too low.
    assert keep(rows([(0, 0), (2, 0), (2.01, 0)], [0.01, 0.005, 0.001]), 2).score.tolist() == (
        pytest.approx([0.01, 0.001])
    )
    # Every task has its own; the order is by sample, then task, then score.
    found = rows(
        [(0, 0), (1.5, 0), (0, 0), (1.5, 0), (5, 0)], [0.3, 0.4, 0.5, 0.6, 0.2],
        group=[0, 0, 1, 1, 2], groups=4,
    )  # fmt: skip
    kept = keep(found, 2)
    assert kept.group.tolist() == [0, 1, 1, 2]
    assert kept.score.tolist() == pytest.approx([0.4, 0.6, 0.5, 0.2])
    with pytest.raises(ValueError, match="one distance for each of the 3 tasks"):
        keep(found, 3)


def test_candidates_are_the_best_of_a_task_over_its_classes() -> None:
    torch.manual_seed(0)
    outputs = empty_outputs(2)
    outputs.heat.normal_()
    found = CenterDecoder(TASKS, GRID, max_candidates=7).candidates(
        outputs.heat, outputs.box, outputs.iou
    )
    assert found.sizes.tolist() == [7] * 4
    for sample, heat in enumerate(outputs.heat.sigmoid()):
        both = found.select(found.group == sample * 2 + 1)
        torch.testing.assert_close(both.heat, heat[1:].flatten().topk(7).values)
        assert set(both.label.tolist()) == {1, 2}
    # The score's parts: sqrt(heat * iou), or heat alone.
    torch.testing.assert_close(found.score, (found.heat * 0.5).sqrt())
    plain = CenterDecoder(TASKS, GRID, iou_power=0.0)
    flat = plain.candidates(outputs.heat, outputs.box, outputs.iou)
    torch.testing.assert_close(flat.score, flat.heat)
    assert flat.heat.min() > 0.1


def test_the_share_of_overlap_in_the_score_is_the_heads_choice() -> None:
    outputs = empty_outputs()
    outputs.heat[0, 0, 1, 1] = 0.0  # heat 0.5
    outputs.iou[:] = math.log(4.0)  # expected overlap 0.8
    outputs.box[:, :, 7] = 1.0
    for power, expected in ((0.5, 0.4**0.5), (0.2, 0.5**0.8 * 0.8**0.2), (0.0, 0.5)):
        ((boxes, score),) = small_head(iou_power=power).decode(outputs)
        assert len(boxes) == 1 and score.item() == pytest.approx(expected, rel=1e-5)


def test_centres_outside_the_range_and_broken_boxes_are_dropped() -> None:
    decoder = CenterDecoder(TASKS, GRID, range_m=(-8.0, -6.0, -10.0, 8.0, 6.0, 10.0))
    outputs = empty_outputs()
    outputs.heat[0, 0, 0, :7] = 3.0
    box = outputs.box[0, 0, :, 0]
    box[0, 0] = -0.01  # x just below the range
    box[0, 1] = -1.0  # x on its border: stays
    box[2, 2], box[2, 3] = 10.1, 10.0  # above; on the border: stays
    box[3, 4], box[4, 5], box[8, 6] = 200.0, -200.0, math.nan
    found = decoder.candidates(outputs.heat, outputs.box, outputs.iou)
    assert sorted(found.solid[:, 0].tolist()) == [-8.0, -2.0]


def test_samples_of_a_batch_do_not_mix() -> None:
    head = small_head().eval()
    features = torch.randn(2, 4, 6, 8) * 3
    with torch.no_grad():
        both = head.decode(head(BEVFeatures(features, GRID)))
        alone = [head.decode(head(BEVFeatures(f[None], GRID)))[0] for f in features]
    for (boxes, score), (one, its) in zip(both, alone):
        assert len(score) > 3 and (score.diff() <= 0).all()
        torch.testing.assert_close(score, its)
        torch.testing.assert_close(boxes.center_m, one.center_m)


def test_autocast_leaves_scores_in_float32() -> None:
    head = small_head().eval()
    with torch.autocast("cpu", torch.bfloat16):
        outputs = head(BEVFeatures(torch.randn(1, 4, 6, 8), GRID))
        terms = head.loss(outputs, [boxes_at([(1.0, 1.0)], [0])])
    assert {outputs.heat.dtype, outputs.box.dtype, outputs.iou.dtype} == {torch.float32}
    assert {value.dtype for value in terms.values()} == {torch.float32}


def test_autocast_leaves_scores_apart() -> None:
    """Rounded to bfloat16 they would be ties, and which boxes stay would be chance."""
    grid = BEVGrid((-32.0, 32.0), (-32.0, 32.0), (-5.0, 3.0), 1.0)
    head = CenterHead(in_channels=8, grid=grid, channels=16).eval()
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        heat = head(BEVFeatures(torch.randn(1, 8, 64, 64), grid)).heat
    best = heat[0, 0].flatten().topk(500).values
    assert len(best.unique()) > 450


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one class each"):
        CenterHead(in_channels=4, grid=GRID, tasks=(1, 0))
    with pytest.raises(ValueError, match="the head was built for"):
        small_head()(BEVFeatures(torch.zeros(1, 4, 3, 4), GRID.stride(2)))


def test_heat_maps_begin_low() -> None:
    head = small_head().eval()
    outputs = head(BEVFeatures(torch.zeros(1, 4, 6, 8), GRID))
    assert float(outputs.heat.sigmoid().median().detach()) == pytest.approx(0.1, abs=0.05)
