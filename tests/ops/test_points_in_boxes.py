"""Points in boxes: faces by hand, kernel against twin, batches, bad input."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from perception3d_ops.points_in_boxes import (
    points_in_boxes,
    points_in_boxes_mask,
    points_in_boxes_mask_twin,
    points_in_boxes_twin,
)
from torch import Tensor

from tests.ops.box_inputs import solid_boxes
from tests.ops.op_inputs import assert_same_bits, seeded


def points(count: int, seed: int, *, reach_m: float = 12.0) -> Tensor:
    xyz = (torch.rand(count, 3, generator=seeded(seed)) - 0.5) * 2 * reach_m
    xyz[:, 2] /= 4
    if count:
        for value in (torch.nan, torch.inf, -torch.inf, 1e30):
            row = int(torch.randint(count, (1,), generator=seeded(seed + 1)))
            xyz[row, row % 3] = value
    return xyz


def both(xyz: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Mask and first box, found to agree with each other and with the twins."""
    mask, first = points_in_boxes_mask(xyz, boxes), points_in_boxes(xyz, boxes)
    ends = torch.tensor([0, len(xyz)]), torch.tensor([0, len(boxes)])
    assert torch.equal(mask, points_in_boxes_mask_twin(xyz, boxes, *ends))
    assert torch.equal(first, points_in_boxes_twin(xyz, boxes, *ends))
    assert torch.equal(first >= 0, mask.any(dim=1))
    return mask, first


def test_top_and_bottom_belong_to_a_box_and_sides_do_not() -> None:
    box = torch.tensor([[10.0, 5, 1, 4, 2, 3, 0]])
    on = torch.tensor(
        [[10.0, 5, 2.5], [10, 5, -0.5], [12, 5, 1], [8, 5, 1], [10, 6, 1], [10, 4, 1],
         [12, 6, 2.5], [12, 5, 2.5], [10, 5, 1]]
    )  # fmt: skip
    # Top, bottom, four sides, a corner, an edge, the centre.
    inside = [True, True, False, False, False, False, False, False, True]
    mask, first = both(on, box)
    assert mask[:, 0].tolist() == inside
    assert first.tolist() == [0 if i else -1 for i in inside]
    beyond = torch.nextafter(on, torch.tensor([10.0, 5, 1]).expand(9, 3))
    assert both(beyond, box)[0].all()
    above = on[:2] + torch.tensor([[0, 0, 1e-6], [0, 0, -1e-6]])
    assert not both(above, box)[0].any()


def test_heading_is_counter_clockwise_and_boxes_stand_in_order() -> None:
    boxes = torch.tensor([[0.0, 0, 0, 10, 1, 2, yaw] for yaw in (math.pi / 2, 0.0, math.pi / 4)])
    xyz = torch.tensor([[0.0, 4, 0], [4, 0, 0], [3, 3, 0], [3, -3, 0], [0, 0, 1], [0, 0, 1.1]])
    mask, first = both(xyz, boxes)
    assert first.tolist() == [0, 1, 2, -1, 0, -1]
    assert mask.sum(dim=1).tolist() == [1, 1, 1, 0, 3, 0]


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 40)), min_size=1, max_size=4),
    seed=st.integers(0, 10_000),
    double=st.booleans(),
)
def test_kernel_equals_twin_in_batches(
    sizes: list[tuple[int, int]], seed: int, double: bool
) -> None:
    xyz = points(sum(p for p, _ in sizes), seed)
    boxes = solid_boxes(sum(n for _, n in sizes), seed)
    boxes[::5, 3:6] *= 4
    if double:
        xyz, boxes = xyz.double(), boxes.double()
    ends = [torch.tensor([0, *counts]).cumsum(0) for counts in zip(*sizes)]
    keys = {"point_offsets": ends[0], "box_offsets": ends[1]}
    mask = points_in_boxes_mask(xyz, boxes, **keys)
    first = points_in_boxes(xyz, boxes, **keys)
    assert torch.equal(mask, points_in_boxes_mask_twin(xyz, boxes, *ends))
    assert torch.equal(first, points_in_boxes_twin(xyz, boxes, *ends))
    for sample in range(len(sizes)):
        own = slice(*ends[0][sample : sample + 2]), slice(*ends[1][sample : sample + 2])
        alone, _ = both(xyz[own[0]], boxes[own[1]])
        assert torch.equal(mask[own], alone)
        assert mask[own[0]].sum() == alone.sum()


def test_boxes_that_are_not_finite_or_have_no_size_hold_nothing() -> None:
    boxes = torch.tensor([[0.0, 0, 0, 2, 2, 2, 0]]).repeat(7, 1)
    boxes[0, 0], boxes[1, 3], boxes[2, 6], boxes[3, 5] = torch.nan, torch.inf, torch.nan, torch.inf
    boxes[4, 3], boxes[5, 4], boxes[6, 5] = 0.0, -2.0, -1.0
    mask, _ = both(torch.tensor([[0.1, 0.2, 0.0], [50, 0.2, 0], [0.1, 0.2, 50]]), boxes)
    assert not mask.any()
    assert both(torch.zeros(2, 3), boxes[:, [0, 1, 2, 3, 4, 5, 6]][:0])[1].tolist() == [-1, -1]
    assert both(torch.zeros(0, 3), boxes)[0].shape == (0, 7)
    flat = torch.tensor([[0.0, 0, 0, 2, 2, 0, 0]])
    assert both(torch.zeros(1, 3), flat)[0].all()  # its top is its bottom


@pytest.mark.parametrize("far", [1e4, 1e30])
def test_one_box_far_away_changes_nothing(far: float) -> None:
    xyz, boxes = points(400, 1), solid_boxes(30, 1)
    boxes[7, 0] = far
    mask, _ = both(xyz, boxes)
    kept = [n for n in range(30) if n != 7]
    assert torch.equal(mask[:, kept], points_in_boxes_mask(xyz, boxes[kept]))
    assert mask.any()


def test_types_views_and_threads() -> None:
    xyz, boxes = points(20_000, 2), solid_boxes(50, 2)
    wide = torch.cat((xyz, xyz, boxes.new_zeros(len(xyz), 1)), dim=1)
    assert torch.equal(points_in_boxes(wide[:, 3:6], boxes), points_in_boxes(xyz, boxes))
    mixed = points_in_boxes(xyz, boxes.T.contiguous().T.double())
    assert torch.equal(mixed, points_in_boxes(xyz.double(), boxes.double()))
    half = points_in_boxes(xyz.half(), boxes.half())
    assert torch.equal(half, points_in_boxes(xyz.half().float(), boxes.half().float()))
    assert_same_bits(lambda: (points_in_boxes(xyz, boxes), points_in_boxes_mask(xyz, boxes)))


def test_bad_input_is_named() -> None:
    xyz, boxes = points(5, 0), solid_boxes(3, 0)
    one = torch.tensor([0, 5])
    with pytest.raises(ValueError, match=r"points must have shape \(P, 3\); found \(5, 2\)"):
        points_in_boxes(xyz[:, :2], boxes)
    with pytest.raises(ValueError, match=r"boxes must have shape \(N, 7\); found \(3, 6\)"):
        points_in_boxes_mask(xyz, boxes[:, :6])
    with pytest.raises(ValueError, match="boxes must hold floating-point numbers"):
        points_in_boxes(xyz, boxes.long())
    with pytest.raises(ValueError, match="boxes must be on cpu; found meta"):
        points_in_boxes(xyz, boxes.to("meta"))
    with pytest.raises(ValueError, match="or of neither; box_offsets is None"):
        points_in_boxes(xyz, boxes, point_offsets=one)
    with pytest.raises(ValueError, match=r"number of rows, 3; found \[0, 5\]"):
        points_in_boxes(xyz, boxes, point_offsets=one, box_offsets=one)
    with pytest.raises(ValueError, match="as many samples; found 1 and 2"):
        points_in_boxes(xyz, boxes, point_offsets=one, box_offsets=torch.tensor([0, 1, 3]))


def test_points_in_boxes_in_torch() -> None:
    args = points(50, 4), solid_boxes(9, 4), torch.tensor([0, 20, 50]), torch.tensor([0, 5, 9])
    torch.library.opcheck(torch.ops.perception3d.points_in_boxes.default, args)
    torch.library.opcheck(torch.ops.perception3d.points_in_boxes_mask.default, args)
    compiled = torch.compile(points_in_boxes, fullgraph=True, backend="aot_eager", dynamic=True)
    assert torch.equal(compiled(*args[:2]), points_in_boxes(*args[:2]))


@pytest.mark.gpu
def test_points_in_boxes_on_cuda_equal_the_cpu() -> None:
    ends = torch.tensor([0, 3000, 3000, 5000]), torch.tensor([0, 20, 45, 45])
    for dtype in (torch.float32, torch.float64):
        xyz, boxes = points(5000, 3).to(dtype), solid_boxes(45, 3).to(dtype)
        for op in (points_in_boxes, points_in_boxes_mask):
            want = op(xyz, boxes, point_offsets=ends[0], box_offsets=ends[1])
            got = op(
                xyz.cuda(), boxes.cuda(), point_offsets=ends[0].cuda(), box_offsets=ends[1].cuda()
            )
            assert torch.equal(got.cpu(), want)
            assert torch.equal(op(xyz[:0].cuda(), boxes.cuda()).cpu(), op(xyz[:0], boxes))
            assert torch.equal(op(xyz.cuda(), boxes[:0].cuda()).cpu(), op(xyz, boxes[:0]))
