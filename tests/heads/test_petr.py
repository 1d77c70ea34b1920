"""The query head of PETR and PETRv2: hand numbers and what no golden case decides."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from perception3d.heads.petr import (
    PETR_LOSS,
    PETRV2_LOSS,
    POINT_RANGE_M,
    PETRHead,
    petr_denoising,
    petr_targets,
)
from perception3d.heads.petr_branches import LayerBranches, SplitBoxBranch, class_branch
from perception3d.heads.petr_query_code import QueryCode, reference_sine_code
from perception3d.heads.queries import QuerySet
from perception3d.heads.query import QueryOutputs
from perception3d.heads.query_decoder import DecoderLayer, QueryDecoder
from perception3d.heads.query_loss import QueryLoss, Targets
from perception3d.structures import Boxes3D
from tests.heads.test_petr_box_code import car

CHANNELS = 16


def small_head(*, split: bool = True, layers: int = 2, classes: int = 10) -> PETRHead:
    torch.manual_seed(0)
    decoder = QueryDecoder(
        channels=CHANNELS, layers=layers, heads=2, hidden=32, dropout_everywhere=True
    )
    return PETRHead(decoder=decoder, num_classes=classes, split=split)


def memory(batch: int = 2, count: int = 9) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return (
        torch.randn(batch, count, CHANNELS, generator=generator),
        torch.randn(batch, count, CHANNELS, generator=generator),
    )


def queries(batch: int = 2, count: int = 5) -> QuerySet:
    generator = torch.Generator().manual_seed(4)
    return QuerySet(torch.rand(batch, count, 3, generator=generator))


def test_query_sines_by_hand() -> None:
    code = reference_sine_code(torch.tensor([0.25, 0.5, 0.125]), 4)
    want = []
    for share in (0.5, 0.25, 0.125):  # y, x, z
        for divisor in (1, 100):
            angle = 2 * math.pi * share / divisor
            want += [math.sin(angle), math.cos(angle)]
    torch.testing.assert_close(code, torch.tensor(want), atol=1e-6, rtol=0)
    flat = reference_sine_code(torch.tensor([0.25, 0.5]), 4)
    torch.testing.assert_close(flat, torch.tensor(want[:8]), atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="even"):
        reference_sine_code(torch.zeros(1, 3), 3)
    assert QueryCode(CHANNELS, axes=3)(torch.zeros(2, 7, 3)).shape == (2, 7, CHANNELS)


@pytest.mark.parametrize("split", [False, True])
def test_untrained_scores_and_centres(split: bool) -> None:
    head = small_head(split=split).eval()
    with torch.no_grad():
        for branch in head.classes.copies:
            branch[-1].weight.zero_()
        for copy in head.boxes.copies:
            for parameter in copy.parameters():
                parameter.zero_()
        outputs = head(*memory(), queries())
    torch.testing.assert_close(outputs.logits.sigmoid(), torch.full_like(outputs.logits, 0.01))
    low, high = torch.tensor(POINT_RANGE_M).split(3)
    want = queries().reference * (high - low) + low
    for layer in outputs.box:  # the reference point itself, at every layer
        torch.testing.assert_close(layer[..., [0, 1, 4]], want, atol=1e-4, rtol=1e-4)


def test_branches_are_shared_or_part_from_equal_copies() -> None:
    torch.manual_seed(0)
    shared = LayerBranches(class_branch(8, 3), layers=None)
    own = LayerBranches(SplitBoxBranch(8), layers=3)
    assert len(shared.copies) == 1 and len(own.copies) == 3
    features = torch.randn(3, 2, 4, 8)
    for branches in (shared, own):
        same = branches(features[:1].expand(3, -1, -1, -1))
        assert torch.equal(same[0], same[1]) and torch.equal(same[0], same[2])
    weights = [copy.trunk[0].weight for copy in own.copies]
    assert weights[0] is not weights[1] and torch.equal(weights[0], weights[1])
    with pytest.raises(ValueError, match="3 decoder layers"):
        own(features[:2])


def test_velocity_is_divided_by_each_sample_s_gap() -> None:
    head = small_head().eval()
    with torch.no_grad():
        plain = head(*memory(), queries()).box
        divided = head(*memory(), queries(), gap_s=torch.tensor([0.5, 2.0])).box
    torch.testing.assert_close(divided[..., :8], plain[..., :8])
    torch.testing.assert_close(divided[:, 0, :, 8:], plain[:, 0, :, 8:] * 2)
    torch.testing.assert_close(divided[:, 1, :, 8:], plain[:, 1, :, 8:] / 2)


def test_one_query_looks_at_what_is_not_padding() -> None:
    head = small_head().eval()
    data, position = memory()
    blocked = torch.zeros(2, 9, dtype=torch.bool)
    blocked[0, 4:] = True
    with torch.no_grad():
        got = head(data, position, queries(), memory_blocked=blocked).box
        short = head(data[:, :4], position[:, :4], queries()).box
        whole = head(data, position, queries()).box
    torch.testing.assert_close(got[:, 0], short[:, 0])
    torch.testing.assert_close(got[:, 1], whole[:, 1])


def test_denoising_queries_do_not_look_at_padding_either() -> None:
    head = small_head().eval()
    denoising = petr_denoising(10, groups=2)([car(), car(yaw=1.0)])
    assert denoising is not None
    data, position = memory()
    blocked = torch.zeros(2, 9, dtype=torch.bool)
    blocked[:, 5:] = True
    other = data.clone()
    other[:, 5:] += 10
    with torch.no_grad():
        a, b = (
            head(x, position, queries(), memory_blocked=blocked, denoising=denoising)
            for x in (data, other)
        )
    assert a.denoising_box is not None and b.denoising_box is not None
    torch.testing.assert_close(a.denoising_box, b.denoising_box)
    torch.testing.assert_close(a.box, b.box)


def test_denoising_leaves_ordinary_queries_alone() -> None:
    head = small_head().eval()
    denoising = petr_denoising(10)([Boxes3D.cat([car(), car()]), car()])
    assert denoising is not None and denoising.num_slots == 20
    gap = torch.tensor([0.5, 2.0])
    with torch.no_grad():
        alone = head(*memory(), queries(), gap_s=gap)
        accompanied = head(*memory(), queries(), gap_s=gap, denoising=denoising)
    torch.testing.assert_close(alone.box, accompanied.box, atol=1e-4, rtol=1e-4)
    assert accompanied.denoising_box is not None
    assert accompanied.denoising_box.shape == (2, 2, 20, 10)


def test_noise_moves_by_half_the_width_along_x() -> None:
    noise = torch.tensor([[1.0, 0.5, 0.5], [0.5, 1.0, 0.5], [0.5, 0.5, 0.0]])
    denoising = petr_denoising(10, groups=3)([car()], noise)
    assert denoising is not None
    low, high = torch.tensor(POINT_RANGE_M).split(3)
    moved = denoising.reference[0] * (high - low) + low - car().center_m
    want = torch.diag(torch.tensor([1.0, 2.0, -0.75]))  # (w, l, h) / 2 = 1, 2, 0.75
    torch.testing.assert_close(moved, want, atol=1e-4, rtol=0)
    assert denoising.label.tolist() == [10, 10, 10]  # |u| = 1 > 0.75
    wide = petr_denoising(10, groups=3, split=1.1)([car()], noise)
    assert wide is not None and wide.label.tolist() == [0, 0, 0]


def test_denoising_always_has_all_groups() -> None:
    many = Boxes3D.cat([car()] * 200)
    denoising = petr_denoising(10)([many])
    assert denoising is not None and denoising.num_groups == 10 and denoising.num_slots == 2000
    assert petr_denoising(10)([Boxes3D.empty(), Boxes3D.empty()]) is None


def test_a_sample_without_boxes_has_empty_slots() -> None:
    denoising = petr_denoising(10, groups=2)([Boxes3D.empty(), car()])
    assert denoising is not None and denoising.num_slots == 2
    assert denoising.sample.tolist() == [1, 1] and denoising.slot.tolist() == [0, 1]
    assert float(denoising.reference[0].abs().max()) == 0.0
    head = small_head()
    outputs = head(*memory(), queries(), denoising=denoising)
    terms = head.loss(outputs, [Boxes3D.empty(), car()])
    assert all(bool(torch.isfinite(value)) for value in terms.values())


def given(vectors: Tensor, logits: Tensor) -> QueryOutputs:
    return QueryOutputs(vectors[None], logits[None], QuerySet(torch.zeros(1, 1, 3)))


def test_denoising_losses_by_hand() -> None:
    denoising = petr_denoising(2, groups=2)([car()], torch.full((2, 3), 0.5))
    assert denoising is not None
    # Every slot is off by 1; logits 0.
    box = denoising.target.view(1, 1, 2, 10) + 1
    terms = PETRV2_LOSS.denoising_terms(box, torch.zeros(1, 1, 2, 2), denoising)
    positive, negative = 0.25 * 0.25 * math.log(2), 0.75 * 0.25 * math.log(2)
    divisor = 2 * 3.14159 / 6 * 0.75**3
    want = 2.0 * 2 * (positive + negative) / max(divisor, 1)
    assert float(terms["dn_loss_cls"]) == pytest.approx(want, rel=1e-5)
    assert float(terms["dn_loss_bbox"]) == pytest.approx(0.25 * 8, rel=1e-5)  # without sine, cosine


def test_denoising_rows_of_unknown_velocity_have_no_box_loss() -> None:
    unknown = car(velocity=(math.nan, math.nan))
    denoising = petr_denoising(2, groups=1)(
        [Boxes3D.cat([car(), unknown])], torch.full((2, 3), 0.5)
    )
    assert denoising is not None
    box = torch.zeros(1, 1, 2, 10, requires_grad=True)
    logits = torch.zeros(1, 1, 2, 2, requires_grad=True)
    terms = PETRV2_LOSS.denoising_terms(box, logits, denoising)
    (terms["dn_loss_bbox"] + terms["dn_loss_cls"]).sum().backward()
    assert box.grad is not None and logits.grad is not None
    assert float(box.grad[0, 0, 1].abs().max()) == 0.0 and float(box.grad[0, 0, 0].abs().max()) > 0
    assert float(logits.grad[0, 0, 1].abs().min()) > 0  # the class term counts it
    kept = encode_sum(denoising.target[0])
    # Divided by both rows.
    assert float(terms["dn_loss_bbox"].detach()) == pytest.approx(0.25 * kept / 2, rel=1e-5)


def encode_sum(target: Tensor) -> float:
    weight = torch.tensor([1.0] * 6 + [0.0, 0.0, 1.0, 1.0])
    return float((target.abs() * weight).sum())


def test_velocity_plays_no_part_in_matching() -> None:
    boxes = [car(velocity=(3.0, 4.0))]
    targets = petr_targets(boxes, 2)
    vectors = targets.vector[:, [0, 0]].clone()[None]
    vectors[..., 0, 8:] += 100  # right but for its velocity
    vectors[..., 1, 0] += 0.1
    match = PETRV2_LOSS.match(vectors, torch.zeros(1, 1, 2, 2), targets)
    assert match.query.tolist() == [0]


def test_velocity_counts_a_fifth_in_petr_and_whole_in_petrv2() -> None:
    targets = petr_targets([car()], 2)
    vectors = targets.vector[None].clone()
    vectors[..., 8] += 10
    for loss, want in ((PETR_LOSS, 0.25 * 2.0), (PETRV2_LOSS, 0.25 * 10.0)):
        terms = loss(vectors, torch.zeros(1, 1, 1, 2), targets)
        assert float(terms["loss_bbox"]) == pytest.approx(want, rel=1e-5)


def test_negatives_do_not_dilute_the_class_loss() -> None:
    targets = petr_targets([Boxes3D.cat([car(), car()])], 2)
    few = PETRV2_LOSS(torch.zeros(1, 1, 3, 10), torch.full((1, 1, 3, 2), -30.0), targets)
    many = PETRV2_LOSS(torch.zeros(1, 1, 60, 10), torch.full((1, 1, 60, 2), -30.0), targets)
    assert float(few["loss_cls"]) == pytest.approx(float(many["loss_cls"]), rel=1e-5)
    none = PETRV2_LOSS(
        torch.zeros(1, 1, 3, 10), torch.zeros(1, 1, 3, 2), petr_targets([Boxes3D.empty()], 2)
    )
    assert float(none["loss_cls"]) == pytest.approx(2 * 6 * 0.75 * 0.25 * math.log(2), rel=1e-5)
    assert float(none["loss_bbox"]) == 0.0


def test_boxes_keep_their_order() -> None:
    targets = petr_targets([Boxes3D.cat([car(label=7), car(label=2), car(label=11)])], 10)
    assert targets.label.tolist() == [[7, 2]]


def test_decoded_boxes_by_hand() -> None:
    head = small_head(classes=2)
    head.max_boxes = 3
    good = petr_targets([car(yaw=0.3)], 2).vector[0]
    outside, broken = good.clone(), good.clone()
    outside[:, 4], broken[:, 3] = 10.5, 100.0
    vectors = torch.cat((good, outside, broken))[None]
    logits = torch.tensor([[[1.0, 0.5], [2.0, -9.0], [-9.0, -9.0]]])
    ((boxes, score),) = head.decode(given(vectors, logits))
    assert boxes.label.tolist() == [0, 1]
    torch.testing.assert_close(score, torch.tensor([1.0, 0.5]).sigmoid())
    torch.testing.assert_close(boxes.yaw_rad, torch.tensor([0.3, 0.3]))
    torch.testing.assert_close(boxes.size_lwh_m, car().size_lwh_m.expand(2, -1))


def test_box_loss_is_divided_by_the_mean_over_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    targets = petr_targets([car()], 2)
    vectors, logits = targets.vector[None] + 1, torch.zeros(1, 1, 1, 2)
    alone = PETRV2_LOSS(vectors, logits, targets)
    monkeypatch.setattr("perception3d.heads.query_loss.mean_over_processes", lambda n, _: 4.0 * n)
    among_four = PETRV2_LOSS(vectors, logits, targets)
    assert float(among_four["loss_bbox"]) == pytest.approx(float(alone["loss_bbox"]) / 4)
    assert float(among_four["loss_cls"]) == float(alone["loss_cls"])  # published: of this process
    cmt = QueryLoss()
    assert not cmt.mean_positives
    cmt(vectors, logits, Targets.of([car()], 2))  # asks nobody


def test_dropout_is_everywhere_only_where_asked() -> None:
    def layer(everywhere: bool) -> DecoderLayer:
        torch.manual_seed(0)
        return DecoderLayer(8, heads=2, hidden=16, dropout=0.5, dropout_everywhere=everywhere)

    cmt, petr = layer(False), layer(True)
    assert cmt.state_dict().keys() == petr.state_dict().keys()
    assert (cmt.cross_attention.dropout, petr.cross_attention.dropout) == (0.0, 0.5)
    for part in (cmt, petr):
        part.dropout.p, part.self_attention.dropout, part.cross_attention.dropout = 0.0, 0.0, 0.0
    x = torch.randn(1, 5, 8)
    with torch.no_grad():
        want = cmt(x, x, x, x, None)
        torch.testing.assert_close(petr.eval()(x, x, x, x, None), want)
        assert not torch.allclose(petr.train()(x, x, x, x, None), want)
