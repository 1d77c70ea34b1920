"""Matching, losses and decoding by hand, for what no golden case decides."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from perception3d.heads.box_code import decode_boxes, decode_centers, encode_boxes
from perception3d.heads.queries import LearnedQueries, QuerySet
from perception3d.heads.query import QueryHead, QueryOutputs
from perception3d.heads.query_decoder import QueryDecoder
from perception3d.heads.query_denoising import DenoisingBuilder
from perception3d.heads.query_loss import QueryLoss, Targets
from perception3d.structures import Boxes3D

RANGE_M = (-54.0, -54.0, -5.0, 54.0, 54.0, 3.0)


def some_boxes(*labels: int) -> Boxes3D:
    count = len(labels)
    generator = torch.Generator().manual_seed(count)
    return Boxes3D.build(
        torch.rand(count, 3, generator=generator) * 20 - 10,
        torch.rand(count, 3, generator=generator) * 4 + 0.5,
        torch.rand(count, generator=generator) * 6 - 3,
        torch.tensor(labels, dtype=torch.int64),
        velocity_mps=torch.randn(count, 2, generator=generator),
    )


def predictions(layers: int = 2, batch: int = 1, queries: int = 6) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(layers, batch, queries, 10) * 3, torch.randn(layers, batch, queries, 4)


def test_slots_of_the_vector() -> None:
    box = Boxes3D.build(
        torch.tensor([[10.0, -20.0, 0.5]]),
        torch.tensor([[4.0, 2.0, 1.5]]),
        torch.tensor([math.pi / 6]),
        torch.tensor([0]),
        velocity_mps=torch.tensor([[3.0, -1.0]]),
    )
    logs = [math.log(4.0), math.log(2.0), math.log(1.5)]
    want = [10.0, -20.0, logs[0], logs[1], 0.5, logs[2], 0.5, math.sqrt(0.75), 3.0, -1.0]
    torch.testing.assert_close(encode_boxes(box)[0], torch.tensor(want))


def test_decoding_undoes_encoding() -> None:
    boxes = some_boxes(1, 2, 3)
    back = decode_boxes(encode_boxes(boxes), boxes.label)
    for name in ("center_m", "size_lwh_m", "yaw_rad", "velocity_mps", "label"):
        torch.testing.assert_close(getattr(back, name), getattr(boxes, name))


@torch.no_grad()
def test_the_height_branch_is_the_length() -> None:
    torch.manual_seed(0)
    head = QueryHead(
        decoder=QueryDecoder(channels=8, layers=1, heads=1, hidden=8),
        num_classes=4,
        range_m=RANGE_M,
    )
    reference = torch.tensor([[[0.5, 0.25, 0.75]]])
    for branch in head.tasks.branches.values():
        torch.nn.init.zeros_(branch.output_weight)
        torch.nn.init.zeros_(branch.output_bias)
    vector, _ = head.boxes(torch.randn(1, 1, 1, 8), reference)
    box = decode_boxes(vector[0, 0], torch.tensor([0]))
    # Raw zeros: the reference point itself; z = 0.75 of the range is 1 m, read as a log length.
    torch.testing.assert_close(vector[0, 0, 0, :3], torch.tensor([0.0, -27.0, 1.0]))
    assert float(box.size_lwh_m[0, 0]) == pytest.approx(math.e, rel=1e-5)
    assert float(decode_centers(vector)[0, 0, 0, 2]) == 0.0


def test_unknown_velocity_is_trained_as_zero() -> None:
    boxes = some_boxes(1)
    unknown = Boxes3D.build(boxes.center_m, boxes.size_lwh_m, boxes.yaw_rad, boxes.label)
    assert torch.equal(encode_boxes(unknown)[:, 8:], torch.zeros(1, 2))


def test_a_box_with_a_non_finite_target_gives_its_class_but_no_box_loss() -> None:
    boxes = some_boxes(0, 1)
    broken = Boxes3D.build(
        boxes.center_m,
        boxes.size_lwh_m,
        boxes.yaw_rad,
        boxes.label,
        velocity_mps=torch.tensor([[torch.inf, 0.0], [1.0, 2.0]]),
    )
    box, logits = predictions()
    box.requires_grad_()
    targets, loss = Targets.of([broken], 4), QueryLoss()
    terms = loss(box, logits, targets)
    matches = loss.match(box, logits, targets)
    query = int(matches.query[(matches.layer == 1) & (matches.box == 1)])
    weights = torch.tensor(loss.code_weights)
    want = 0.25 * ((box[1, 0, query] - encode_boxes(broken)[1]).abs() * weights).sum() / 2
    torch.testing.assert_close(terms["loss_bbox"], want)
    torch.stack(list(terms.values())).sum().backward()
    assert box.grad is not None and torch.isfinite(box.grad).all()
    skipped = int(matches.query[(matches.layer == 1) & (matches.box == 0)])
    assert torch.equal(box.grad[1, 0, skipped], torch.zeros(10))


def test_denoising_rows_with_non_finite_targets_get_no_box_loss() -> None:
    boxes = some_boxes(0)
    broken = Boxes3D.build(
        boxes.center_m,
        boxes.size_lwh_m,
        boxes.yaw_rad,
        boxes.label,
        velocity_mps=torch.tensor([[torch.inf, 0.0]]),
    )
    build = DenoisingBuilder(range_m=RANGE_M, num_classes=4, query_budget=6)
    denoising = build([broken])
    assert denoising is not None
    box = torch.randn(2, 1, denoising.num_slots, 10, requires_grad=True)
    logits = torch.randn(2, 1, denoising.num_slots, 4)
    terms = QueryLoss().denoising_terms(box, logits, denoising)
    assert torch.equal(terms["dn_loss_bbox"], torch.zeros(2))
    assert (terms["dn_loss_cls"] > 0).all()


def test_normaliser_of_denoising_classes_uses_the_published_pi() -> None:
    build = DenoisingBuilder(range_m=RANGE_M, num_classes=4, query_budget=1000, max_groups=100)
    denoising = build([some_boxes(0, 1, 2)])
    assert denoising is not None
    logits = torch.zeros(1, 1, denoising.num_slots, 4)
    terms = QueryLoss().denoising_terms(
        torch.zeros(1, 1, denoising.num_slots, 10), logits, denoising
    )
    rows = len(denoising.label)
    positives = int((denoising.label < 4).sum())
    per_element = math.log(2.0) * 0.25  # at p = 1/2, times alpha or 1 - alpha
    total = per_element * (0.25 * positives + 0.75 * (4 * rows - positives))
    want = 2.0 * total / (rows * 3.14159 / 6 * 0.75**3)
    assert float(terms["dn_loss_cls"]) == pytest.approx(want, rel=1e-6)


def test_a_batch_without_boxes_has_class_loss_only() -> None:
    box, logits = predictions(batch=2)
    box.requires_grad_()
    terms = QueryLoss()(box, logits, Targets.of([some_boxes(), some_boxes()], 4))
    assert set(terms) == {"d0.loss_cls", "d0.loss_bbox", "loss_cls", "loss_bbox"}
    assert terms["loss_bbox"].item() == terms["d0.loss_bbox"].item() == 0.0
    p = logits[1].sigmoid()
    focal = (-(1 - p).log() * 0.75 * p.square()).sum()
    torch.testing.assert_close(terms["loss_cls"], 2.0 * focal / max(0.1 * 12, 1.0))
    torch.stack(list(terms.values())).sum().backward()
    assert torch.equal(box.grad, torch.zeros_like(box))


def test_boxes_are_matched_in_the_order_of_their_labels() -> None:
    targets = Targets.of([some_boxes(2, 0, 2, 1), some_boxes()], 4)
    boxes = some_boxes(2, 0, 2, 1)
    assert targets.counts == (4, 0)
    assert torch.equal(targets.label[0], torch.tensor([0, 1, 2, 2]))
    assert torch.equal(targets.vector[0], encode_boxes(boxes)[[1, 3, 0, 2]])


def test_velocity_does_not_take_part_in_matching() -> None:
    box, logits = predictions()
    targets, loss = Targets.of([some_boxes(0, 1)], 4), QueryLoss()
    before = loss.costs(box, logits, targets)
    box[..., 8:] += 100.0
    assert torch.equal(loss.costs(box, logits, targets), before)


def test_non_finite_predictions_do_not_break_the_solver() -> None:
    box, logits = predictions()
    box[0, 0, 0] = torch.nan
    matches = QueryLoss().match(box, logits, Targets.of([some_boxes(0, 1)], 4))
    assert len(matches.query) == 4
    assert 0 not in matches.query[matches.layer == 0]


def head(**changes: Any) -> QueryHead:
    decoder = QueryDecoder(channels=8, layers=1, heads=1, hidden=8)
    return QueryHead(decoder=decoder, num_classes=4, range_m=RANGE_M, **changes)


def outputs_at(centers: list[tuple[float, float, float]], score: float = 0.0) -> QueryOutputs:
    vector = torch.zeros(1, 1, len(centers), 10)
    vector[..., 7] = 1.0
    vector[0, 0][:, [0, 1, 4]] = torch.tensor(centers)
    logits = torch.full((1, 1, len(centers), 4), -9.0)
    logits[..., 2] = score - torch.arange(len(centers))
    return QueryOutputs(vector, logits, QuerySet(torch.zeros(1, 1, 3)))


def test_decoding_keeps_centres_up_to_the_border_and_drops_those_beyond() -> None:
    at = [
        (61.2, -61.2, 10.0),
        (61.3, 0.0, 0.0),
        (0.0, 61.3, 0.0),
        (0.0, 0.0, 10.1),
        (0.0, 0.0, -10.1),
    ]
    ((boxes, _),) = head(max_boxes=5).decode(outputs_at(at))
    torch.testing.assert_close(boxes.center_m, torch.tensor([[61.2, -61.2, 10.0]]))
    assert torch.equal(boxes.label, torch.tensor([2]))


def test_decoding_counts_pairs_of_query_and_class_before_the_filter() -> None:
    ((boxes, score),) = head(max_boxes=2).decode(outputs_at([(99.0, 0.0, 0.0), (1.0, 2.0, 3.0)]))
    assert len(boxes) == 1 and float(score) == pytest.approx(torch.tensor(-1.0).sigmoid().item())
    ((boxes, _),) = head(max_boxes=300).decode(outputs_at([(1.0, 2.0, 3.0)]))
    assert int(boxes.label[0]) == 2 and sorted(boxes.label.tolist()) == [0, 1, 2, 3]


def test_decoding_drops_what_is_no_box() -> None:
    outputs = outputs_at([(0.0, 0.0, 0.0)] * 4)
    outputs.box[0, 0, 0, 2] = torch.nan
    outputs.box[0, 0, 1, 5] = 200.0  # exp overflows
    outputs.box[0, 0, 2, 3] = -200.0  # exp is 0
    ((boxes, _),) = head(max_boxes=4).decode(outputs)
    assert len(boxes) == 1


@torch.no_grad()
def test_published_initialisation_has_scores_near_a_half_unless_a_prior_is_given() -> None:
    features = torch.randn(1, 1, 50, 8)
    for prior, low, high in ((None, 0.3, 0.7), (0.01, 0.0, 0.05)):
        torch.manual_seed(0)
        _, logits = head(class_prior=prior).boxes(features, torch.full((1, 50, 3), 0.5))
        assert low < float(logits.sigmoid().mean()) < high


def test_learned_queries_are_the_same_for_every_sample() -> None:
    from tests.models.small_cmt import small_batch

    torch.manual_seed(0)
    source, batch = LearnedQueries(5), small_batch()
    queries = source(None, None, batch)
    assert queries.reference.shape == (2, 5, 3) and queries.content is None
    assert torch.equal(queries.reference[0], queries.reference[1])
    assert source.loss(queries, batch) == {}
    points = source.reference.detach()
    assert float(points.min()) >= 0 and float(points.max()) < 1
    with pytest.raises(ValueError, match="at least 1"):
        LearnedQueries(0)
    with pytest.raises(ValueError, match=r"\(B, Q, 3\)"):
        QuerySet(torch.zeros(2, 5, 2))
