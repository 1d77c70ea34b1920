"""Rotated overlap against exact clipping, its twin, and itself when moved."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from perception3d_ops.box_overlap import (
    MEASURES,
    box_overlap,
    box_overlap_3d,
    box_overlap_twin,
    height_overlap,
)
from torch import Tensor

from tests.ops.box_inputs import (
    KINDS,
    Box,
    any_pairs,
    boxes,
    flat_boxes,
    polygon_area,
    related,
    solid_boxes,
)
from tests.ops.op_inputs import assert_same_bits, seeded

WAYS = {
    "kernel": box_overlap,
    "twin": lambda one, other, measure="iou", aligned=False: box_overlap_twin(
        one, other, aligned, measure == "iof"
    ),
}


def rows(*boxes: Box, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(boxes, dtype=dtype)


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=150, deadline=None)
@given(pair=any_pairs)
def test_overlap_is_that_of_polygons(way: str, pair: tuple[Box, Box]) -> None:
    one, other = pair
    shared = polygon_area(one, other)
    area1, area2 = one[2] * one[3], other[2] * other[3]
    iou = WAYS[way](rows(one), rows(other)).item()
    iof = WAYS[way](rows(one), rows(other), "iof").item()
    assert iou == pytest.approx(shared / (area1 + area2 - shared), abs=1e-12)
    assert iof == pytest.approx(min(1.0, shared / area1), abs=1e-12)
    assert 0 <= iou <= 1 and 0 <= iof <= 1


@settings(max_examples=100, deadline=None)
@given(pair=any_pairs, away=st.sampled_from([0.0, 1e3]))
def test_float32_boxes_are_compared_exactly(pair: tuple[Box, Box], away: float) -> None:
    """What is compared are the rounded boxes; nothing more is lost, a kilometre away either."""
    shifted = [(x + away, y - away, *rest) for x, y, *rest in pair]
    one, other = (rows(box, dtype=torch.float32) for box in shifted)
    a, b = one[0].tolist(), other[0].tolist()
    # Shifted by hand: polygons a kilometre away would lose digits of their own.
    near = (b[0] - a[0], b[1] - a[1], *b[2:])
    shared = polygon_area((0.0, 0.0, *a[2:]), near)
    want = shared / (a[2] * a[3] + b[2] * b[3] - shared)
    got = box_overlap(one, other)
    assert got.dtype == torch.float32
    assert got.item() == pytest.approx(want, abs=1e-7)


sixteenths = st.integers(-64, 64).map(lambda n: n / 16)
positive_sixteenths = st.integers(1, 64).map(lambda n: n / 16)
upright = st.tuples(sixteenths, sixteenths, positive_sixteenths, positive_sixteenths)


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=100, deadline=None)
@given(one=upright, other=upright, quarters=st.integers(0, 3))
def test_boxes_along_the_axes_are_fractions(
    way: str, one: tuple[float, ...], other: tuple[float, ...], quarters: int
) -> None:
    def shared(axis: int) -> Fraction:
        (a, la), (b, lb) = ((Fraction(box[axis]), Fraction(box[axis + 2])) for box in (one, other))
        return max(Fraction(0), min(a + la / 2, b + lb / 2) - max(a - la / 2, b - lb / 2))

    area = shared(0) * shared(1)
    whole = Fraction(one[2]) * Fraction(one[3]) + Fraction(other[2]) * Fraction(other[3]) - area
    turn = quarters * math.pi / 2
    swapped = (*other[:2], other[3], other[2]) if quarters % 2 else other
    got = WAYS[way](rows((*one, 0.0)), rows((*swapped, turn))).item()
    if quarters == 0:
        assert got == float(area / whole)
    assert got == pytest.approx(float(area / whole), abs=1e-14)


@pytest.mark.parametrize("kind", KINDS)
def test_hard_pairs_by_hand(kind: str) -> None:
    box, share = (3.0, -2.0, 4.0, 2.0, 0.7), 0.25
    want = {
        "identical": 1.0,
        "turned by pi": 1.0,
        "swapped": 1.0,
        "shifted along": 0.75 / 1.25,
        "shifted across": 0.75 / 1.25,
        "touching": 0.0,
        "touching at a corner": 0.0,
        "contained": share**2,
        "flush at three sides": share,
        "cross": 2 * 1.0 / (8 + 5 - 2),
        # Half of each side swings out: a triangle of (side / 2)^2 / 2 times the angle.
        "turned by a millionth": 1 - 2 * 1e-6 * (4**2 + 2**2) / 4 / 8,
        "sliver": polygon_area(box, related(box, "sliver", share)) / 16,
    }[kind]
    other = related(box, kind, share)
    tolerance = {"turned by a millionth": 1e-11, "sliver": 1e-6}.get(kind, 1e-12)
    for a, b in ((box, other), (other, box)):
        assert box_overlap(rows(a), rows(b)).item() == pytest.approx(want, abs=tolerance)


@settings(max_examples=60, deadline=None)
@given(one=boxes, other=boxes, turn=st.floats(-4, 4), shift=st.floats(-1e3, 1e3))
def test_overlap_is_symmetric_and_moves_along(
    one: Box, other: Box, turn: float, shift: float
) -> None:
    want = box_overlap(rows(one), rows(other)).item()
    assert box_overlap(rows(other), rows(one)).item() == pytest.approx(want, abs=1e-12)
    c, s = math.cos(turn), math.sin(turn)
    changed = [
        (c * x - s * y + shift, s * x + c * y - 1e3, length, width, yaw + turn)
        for x, y, length, width, yaw in (one, other)
    ]
    assert box_overlap(*map(rows, changed)).item() == pytest.approx(want, abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(0, 12), m=st.integers(0, 12), seed=st.integers(0, 1000))
def test_kernel_equals_twin(n: int, m: int, seed: int) -> None:
    for make, op in ((flat_boxes, box_overlap), (solid_boxes, box_overlap_3d)):
        one, other = make(n, seed, reach_m=3.0), make(m, seed + 9, reach_m=3.0)
        for measure in MEASURES:
            got = op(one, other, measure)
            want = box_overlap_twin(one, other, False, measure == "iof")
            assert got.shape == (n, m)
            torch.testing.assert_close(got, want, rtol=0, atol=1e-7)
            k = min(n, m)
            paired = op(one[:k], other[:k], measure, aligned=True)
            assert torch.equal(paired, got[:k, :k].diagonal())
            twin = box_overlap_twin(one[:k], other[:k], True, measure == "iof")
            torch.testing.assert_close(paired, twin, rtol=0, atol=1e-7)


def test_volumes_by_hand() -> None:
    one = torch.tensor([[0.0, 0, 1, 4, 2, 2, 0]])
    other = torch.tensor(
        [[0.0, 0, 2, 4, 2, 2, 0], [0, 0, 3, 4, 2, 2, 0], [1, 0, 1, 2, 2, 1, math.pi],
         [0, 0, 1, 2, 4, 2, math.pi / 2], [0, 0, -5, 4, 2, 2, 0]]
    )  # fmt: skip
    # Half as high; touching; inside; the same with length and width exchanged; far below.
    torch.testing.assert_close(box_overlap_3d(one, other), torch.tensor([[1 / 3, 0, 0.25, 1, 0]]))
    iof = box_overlap_3d(one, other, "iof")
    torch.testing.assert_close(iof, torch.tensor([[0.5, 0, 0.25, 1, 0]]))
    z, height = other[:, 2], other[:, 5]
    assert height_overlap(one[:, 2], one[:, 5], z, height).tolist() == [1, 0, 1, 2, 0]


@pytest.mark.parametrize("way", WAYS)
def test_degenerate_boxes(way: str) -> None:
    plain = (1.0, 1.0, 2.0, 2.0, 0.3)
    others = rows(
        (1, 1, 0, 2, 0.3), (1, 1, 1e-8, 1e-7, 0.3), (1, 1, 2, -2, 0.3), (1, 1, -2, -2, 0.3),
        (1, 1, 1e-4, 1e-4, 0.3), (math.nan, 1, 2, 2, 0), (1, 1, math.inf, 2, 0),
        (1, 1, 2, 2, -math.inf), (1e30, 1, 2, 2, 0),
    )  # fmt: skip
    got = WAYS[way](others, rows(plain), "iof")[:, 0]
    assert got[:4].tolist() == [0, 0, 0, 0]
    assert got[4] == pytest.approx(1.0, abs=1e-9)
    assert got[5:8].isnan().all() and got[8] == 0
    flat = torch.zeros(1, 7)
    flat[0, 3:5] = 1.0
    assert box_overlap_3d(flat, flat).item() == 0


def test_types_views_and_gradients() -> None:
    one, other = flat_boxes(5, 1, reach_m=2.0), flat_boxes(4, 2, reach_m=2.0)
    assert box_overlap(one.double(), other).dtype == torch.float64
    half = box_overlap(one.half(), other.bfloat16())
    assert half.dtype == torch.float32
    assert torch.equal(half, box_overlap(one.half().float(), other.bfloat16().float()))
    strided = torch.randn(5, 12, generator=seeded(0))
    strided[:, 2:7] = one
    got = box_overlap(strided[:, 2:7], other.T.contiguous().T)
    assert torch.equal(got, box_overlap(one, other))
    assert not box_overlap(one.requires_grad_(), other).requires_grad


def test_overlap_has_the_same_bits_on_any_threads() -> None:
    one, other = flat_boxes(150, 1), flat_boxes(170, 2)
    assert_same_bits(lambda: box_overlap(one, other))


def test_bad_input_is_named() -> None:
    one = flat_boxes(3, 0)
    with pytest.raises(ValueError, match=r"boxes1 must have shape \(N, 5\); found \(3, 4\)"):
        box_overlap(one[:, :4], one)
    with pytest.raises(ValueError, match=r"boxes2 must have shape \(M, 7\); found \(3, 5\)"):
        box_overlap_3d(torch.zeros(2, 7), one)
    with pytest.raises(ValueError, match=r"boxes2 must have shape \(3, 5\); found \(2, 5\)"):
        box_overlap(one, one[:2], aligned=True)
    with pytest.raises(ValueError, match=r"floating-point numbers; found torch.int64"):
        box_overlap(one.long(), one)
    with pytest.raises(ValueError, match="boxes2 must be on cpu; found meta"):
        box_overlap(one, one.to("meta"))
    with pytest.raises(ValueError, match="measure must be one of iou, iof; found 'giou'"):
        box_overlap(one, one, "giou")


def test_overlap_in_torch() -> None:
    solid = solid_boxes(4, 1), solid_boxes(3, 2).double()
    op = torch.ops.perception3d.box_overlap.default
    torch.library.opcheck(op, (*solid, False, True))
    torch.library.opcheck(op, (flat_boxes(4, 1).half(), flat_boxes(4, 2), True, False))
    compiled = torch.compile(box_overlap_3d, fullgraph=True, backend="aot_eager", dynamic=True)
    assert torch.equal(compiled(*solid), box_overlap_3d(*solid))


@pytest.mark.gpu
def test_overlap_on_cuda_equals_the_cpu() -> None:
    for make, op in ((flat_boxes, box_overlap), (solid_boxes, box_overlap_3d)):
        for n, m in ((0, 3), (1, 1), (200, 300)):
            one, other = make(n, 1).double(), make(m, 2).double()
            for measure in MEASURES:
                got = op(one.cuda(), other.cuda(), measure).cpu()
                torch.testing.assert_close(got, op(one, other, measure), rtol=0, atol=1e-12)
                k = min(n, m)
                paired = op(one[:k].cuda(), other[:k].cuda(), measure, aligned=True).cpu()
                torch.testing.assert_close(paired, got[:k, :k].diagonal(), rtol=0, atol=0)
