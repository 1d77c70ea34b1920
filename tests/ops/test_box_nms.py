"""Rotated and circle suppression: against the rule in a plain loop, ties, limits, batches."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from perception3d_ops.box_nms import rotated_bits_twin, rotated_nms, rotated_nms_by_bits
from perception3d_ops.box_overlap import box_overlap_twin
from perception3d_ops.circle_nms import circle_bits_twin, circle_nms, circle_nms_by_bits
from perception3d_ops.suppression import rank_rows, sweep_bits_twin
from torch import Tensor

from tests.ops.box_inputs import flat_boxes
from tests.ops.op_inputs import assert_same_bits, seeded

ROTATED_AT, CIRCLE_AT = 0.15, 2.5


def by_the_rule(
    hit: Tensor,
    scores: Tensor,
    labels: Tensor,
    counts: list[int],
    pre: int | None,
    post: int | None,
) -> list[int]:
    """Suppression as its sentence says: hit[i, j] where row i may suppress row j."""
    kept_rows = []
    for sample, count in enumerate(counts):
        begin = sum(counts[:sample])
        rows = [r for r in range(begin, begin + count) if not math.isnan(scores[r])]
        rows.sort(key=lambda row: -float(scores[row]))
        kept: list[int] = []
        for row in rows[:pre]:
            if not any(hit[k, row] and labels[k] == labels[row] for k in kept):
                kept.append(row)
        kept_rows += kept[:post]
    return kept_rows


class Rows:
    """Boxes with tied, infinite and missing scores, in samples, of three labels."""

    def __init__(self, counts: list[int], seed: int, reach_m: float = 8.0) -> None:
        total, generator = sum(counts), seeded(seed)
        self.counts = counts
        self.boxes = flat_boxes(total, seed, reach_m=reach_m)
        self.scores = (torch.rand(total, generator=generator) * 20).round() / 20
        for value in (torch.nan, torch.inf, -torch.inf):
            self.scores[torch.rand(total, generator=generator) < 0.05] = value
        self.labels = torch.randint(0, 3, (total,), generator=generator)
        self.offsets = torch.tensor([0, *counts]).cumsum(0)
        self.overlaps = box_overlap_twin(self.boxes, self.boxes.double(), False, False) > ROTATED_AT
        xy = self.boxes[:, :2].double()
        self.near = (xy[:, None] - xy).square().sum(dim=2) <= CIRCLE_AT


limits = st.none() | st.integers(0, 12)


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(0, 70), min_size=1, max_size=3),
    seed=st.integers(0, 10_000),
    labelled=st.booleans(),
    pre=limits,
    post=limits,
)
def test_suppression_is_its_rule(
    counts: list[int], seed: int, labelled: bool, pre: int | None, post: int | None
) -> None:
    rows = Rows(counts, seed)
    labels = rows.labels if labelled else None
    plain = rows.labels if labelled else torch.zeros_like(rows.labels)
    for op, by_bits, given_rows, at, hit in (
        (rotated_nms, rotated_nms_by_bits, rows.boxes, ROTATED_AT, rows.overlaps),
        (circle_nms, circle_nms_by_bits, rows.boxes[:, :2], CIRCLE_AT, rows.near),
    ):
        want = by_the_rule(hit, rows.scores, plain, counts, pre, post)
        got = op(
            given_rows, rows.scores, at, labels=labels, offsets=rows.offsets, pre_limit=pre,
            post_limit=post,
        )  # fmt: skip
        assert got.dtype == torch.int64 and got.tolist() == want
        numbers = [-1 if limit is None else limit for limit in (pre, post)]
        bits = by_bits(given_rows, rows.scores, plain, rows.offsets, at, *numbers)
        assert bits.tolist() == want


@settings(max_examples=15, deadline=None)
@given(counts=st.lists(st.integers(0, 150), min_size=1, max_size=3), seed=st.integers(0, 1000))
def test_bits_and_sweep_equal_their_twins(counts: list[int], seed: int) -> None:
    rows = Rows(counts, seed, reach_m=5.0)
    ops = torch.ops.perception3d
    for limit in (-1, 0, 70):
        order, first, alive, words = ranking = rank_rows(rows.scores, rows.offsets, limit)
        assert (ranking.order.sort().values == torch.arange(sum(counts))).all()
        boxes, labels = rows.boxes[order], rows.labels[order]
        made = ops.rotated_bits(boxes, labels, first, alive, ROTATED_AT, words)
        twin = rotated_bits_twin(boxes, labels, first, alive, ROTATED_AT, words)
        assert torch.equal(made, twin)
        kept = ops.sweep_bits(made, alive, rows.offsets)
        assert torch.equal(kept, sweep_bits_twin(made, alive, rows.offsets))
        made = ops.circle_bits(boxes[:, :2], labels, first, alive, CIRCLE_AT, words)
        twin = circle_bits_twin(boxes[:, :2], labels, first, alive, CIRCLE_AT, words)
        assert torch.equal(made, twin)


WAYS: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "kernel": (rotated_nms, circle_nms),
    "bits": tuple(  # type: ignore[dict-item]
        lambda rows, scores, at, op=op, post_limit=None: op(
            rows, scores, torch.zeros(len(rows), dtype=torch.int64),
            torch.tensor([0, len(rows)]), at, -1, -1 if post_limit is None else post_limit,
        )
        for op in (rotated_nms_by_bits, circle_nms_by_bits)
    ),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_borders_of_the_rules(way: str) -> None:
    rotated, circle = WAYS[way]
    # The second box is half of the first: their overlap is the threshold, which is not above it.
    boxes = torch.tensor([[0.0, 0, 4, 2, 0], [1, 0, 2, 2, 0]])
    scores = torch.tensor([0.5, 0.9])
    assert rotated(boxes, scores, 0.5).tolist() == [1, 0]
    assert rotated(boxes, scores, 0.4999).tolist() == [1]
    assert rotated(boxes + torch.tensor([9.0, 0, 0, 0, 0]), scores, 1.0).tolist() == [1, 0]
    # Exactly 2 m apart: dropped at 4, a squared distance; kept just below.
    centers = torch.tensor([[1.0, 0], [1, 2]])
    assert circle(centers, scores, 4.0).tolist() == [1]
    assert circle(centers, scores, math.nextafter(4.0, 0.0)).tolist() == [1, 0]
    assert circle(centers[[0, 0]], scores, 0.0).tolist() == [1]
    # Touching boxes do not overlap, at no threshold.
    touching = torch.tensor([[0.0, 0, 2, 2, 0], [2, 0, 2, 2, 0]])
    assert rotated(touching, scores, 0.0).tolist() == [1, 0]


@pytest.mark.parametrize("way", WAYS)
def test_ties_missing_scores_and_rows_that_are_not_finite(way: str) -> None:
    rotated, circle = WAYS[way]
    boxes = torch.tensor([[0.0, 0, 4, 2, 0.1]]).repeat(6, 1)
    scores = torch.tensor([torch.nan, 0.2, 0.7, 0.7, torch.nan, -torch.inf])
    assert rotated(boxes, scores, 0.3).tolist() == [2]
    assert circle(boxes[:, :2], scores, 1.0).tolist() == [2]
    assert rotated(boxes, torch.full((6,), torch.nan), 0.3).tolist() == []
    # A box that is not finite is kept, and hides nothing.
    boxes[2, 0], boxes[5, 4] = torch.nan, torch.inf
    assert rotated(boxes, scores, 0.3).tolist() == [2, 3, 5]
    assert circle(boxes[:, :2], scores, 1.0).tolist() == [2, 3]
    assert rotated(boxes, scores, 0.3, post_limit=1).tolist() == [2]


def test_the_published_limit_of_circles() -> None:
    centers = torch.arange(100.0)[:, None].expand(100, 2)
    scores = torch.linspace(0, 1, 100)
    assert circle_nms(centers, scores, 1.0).tolist() == list(range(99, 16, -1))
    assert len(circle_nms(centers, scores, 1.0, post_limit=None)) == 100


@pytest.mark.parametrize("far", [0.0, 1e7])
def test_many_rows_of_very_different_sizes(far: float) -> None:
    """Enough rows for cells to matter; with an outlier all the others share one."""
    boxes = flat_boxes(600, 5, reach_m=25.0).double()
    boxes[::7, 2:4] *= 6
    boxes[::50, 2:4] *= 1e-3
    boxes[3, 0] += far
    scores = torch.rand(600, generator=seeded(6))
    hit = box_overlap_twin(boxes, boxes, False, False) > 0.05
    zeros = torch.zeros(600)
    want = by_the_rule(hit, scores, zeros, [600], None, None)
    assert rotated_nms(boxes, scores, 0.05).tolist() == want
    assert 50 < len(want) < 590


def test_no_rows() -> None:
    none = torch.zeros(0)
    for offsets in (None, torch.tensor([0, 0, 0])):
        assert rotated_nms(none.view(0, 5), none, 0.5, offsets=offsets).shape == (0,)
        assert circle_nms(none.view(0, 2), none, 0.5, offsets=offsets).shape == (0,)


def test_types_and_views() -> None:
    rows = Rows([40], 3, reach_m=4.0)
    want = rotated_nms(rows.boxes, rows.scores, 0.2)
    wide = torch.cat((rows.boxes, rows.scores[:, None], rows.boxes), dim=1)
    assert torch.equal(rotated_nms(wide[:, :5], wide[:, 5], 0.2), want)
    assert torch.equal(rotated_nms(wide[:, 6:].double(), wide[:, 5].double(), 0.2), want)
    half = rotated_nms(rows.boxes.half(), rows.scores.bfloat16(), 0.2)
    same = rotated_nms(rows.boxes.half().float(), rows.scores.bfloat16().float(), 0.2)
    assert torch.equal(half, same)


def test_suppression_has_the_same_bits_on_any_threads() -> None:
    rows = Rows([300, 0, 200, 100], 4)
    assert_same_bits(lambda: rotated_nms(rows.boxes, rows.scores, 0.1, offsets=rows.offsets))
    assert_same_bits(lambda: circle_nms(rows.boxes[:, :2], rows.scores, 1.0, offsets=rows.offsets))


def test_bad_input_is_named() -> None:
    boxes, scores = flat_boxes(3, 0), torch.rand(3)
    with pytest.raises(ValueError, match=r"boxes must have shape \(N, 5\); found \(3, 4\)"):
        rotated_nms(boxes[:, :4], scores, 0.5)
    with pytest.raises(ValueError, match=r"centers must have shape \(N, 2\); found \(3, 5\)"):
        circle_nms(boxes, scores, 0.5)
    with pytest.raises(ValueError, match=r"scores must have shape \(3\); found \(2,\)"):
        rotated_nms(boxes, scores[:2], 0.5)
    with pytest.raises(ValueError, match="scores must be on cpu; found meta"):
        rotated_nms(boxes, scores.to("meta"), 0.5)
    with pytest.raises(ValueError, match=r"labels must be torch.int64; found torch.int32"):
        rotated_nms(boxes, scores, 0.5, labels=torch.zeros(3, dtype=torch.int32))
    with pytest.raises(ValueError, match=r"number of rows, 3; found \[0, 2\]"):
        rotated_nms(boxes, scores, 0.5, offsets=torch.tensor([0, 2]))
    with pytest.raises(ValueError, match=r"threshold must be in \[0, 1\]; found 1.5"):
        rotated_nms(boxes, scores, 1.5)
    with pytest.raises(ValueError, match=r"threshold must be finite and >= 0; found nan"):
        circle_nms(boxes[:, :2], scores, math.nan)
    with pytest.raises(ValueError, match="post_limit must be None or >= 0; found -1"):
        rotated_nms(boxes, scores, 0.5, post_limit=-1)


@pytest.mark.parametrize("name", ["rotated_nms", "circle_nms", "bits", "sweep_bits"])
def test_opcheck(name: str) -> None:
    rows, ops = Rows([40, 0, 30], 1), torch.ops.perception3d
    order, first, alive, words = rank_rows(rows.scores, rows.offsets, 33)
    shared = rows.scores, rows.labels, rows.offsets, 0.2, 33, 5
    flat = rows.boxes[order], rows.labels[order], first, alive, 0.2, words
    opcheck = torch.library.opcheck
    match name:
        case "rotated_nms":
            opcheck(ops.rotated_nms.default, (rows.boxes, *shared))
        case "circle_nms":
            opcheck(ops.circle_nms.default, (rows.boxes[:, :2], *shared))
        case "bits":
            opcheck(ops.rotated_bits.default, flat)
            opcheck(ops.circle_bits.default, (flat[0][:, :2], *flat[1:]))
        case _:
            opcheck(ops.sweep_bits.default, (ops.rotated_bits(*flat), alive, rows.offsets))


def test_suppression_compiles_without_breaks() -> None:
    rows = Rows([60, 50], 2)

    def both(boxes: Tensor, scores: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
        return (
            rotated_nms(boxes, scores, 0.2, offsets=offsets, post_limit=9),
            circle_nms(boxes[:, :2], scores, 4.0),
        )

    compiled = torch.compile(both, fullgraph=True, backend="aot_eager", dynamic=True)
    args = rows.boxes, rows.scores, rows.offsets
    for got, want in zip(compiled(*args), both(*args)):
        assert torch.equal(got, want)


@pytest.mark.gpu
@pytest.mark.parametrize("counts", [[0], [1], [64, 65], [500, 0, 300]])
def test_suppression_on_cuda_equals_the_cpu(counts: list[int]) -> None:
    rows = Rows(counts, 8)
    for op, given_rows in ((rotated_nms, rows.boxes), (circle_nms, rows.boxes[:, :2])):
        for pre, post in ((None, None), (90, 20), (0, None)):
            for labels in (None, rows.labels):
                args = (given_rows, rows.scores)
                want = op(
                    *args, 0.3, labels=labels, offsets=rows.offsets, pre_limit=pre, post_limit=post
                )
                got = op(
                    *(arg.cuda() for arg in args), 0.3, offsets=rows.offsets.cuda(),
                    labels=None if labels is None else labels.cuda(), pre_limit=pre,
                    post_limit=post,
                )  # fmt: skip
                assert torch.equal(got.cpu(), want)
