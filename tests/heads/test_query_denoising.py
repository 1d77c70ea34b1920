"""Query denoising by hand: numbers of groups, masks, borders of the noise, no boxes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from perception3d.heads.query_denoising import Denoising, DenoisingBuilder
from perception3d.structures import Boxes3D

RANGE_M = (-54.0, -54.0, -5.0, 54.0, 54.0, 3.0)


def boxes(count: int, *, label: int = 3, size: float = 2.0) -> Boxes3D:
    step = torch.arange(count, dtype=torch.float32)
    center = torch.stack((step, -step, torch.zeros(count)), dim=1)
    sizes = torch.full((count, 3), size)
    return Boxes3D.build(center, sizes, torch.zeros(count), torch.full((count,), label))


def build(
    sets: list[Boxes3D], noise: Tensor | None = None, *, budget: int = 900, num_classes: int = 10
) -> Denoising:
    builder = DenoisingBuilder(range_m=RANGE_M, num_classes=num_classes, query_budget=budget)
    denoising = builder(sets, noise)
    assert denoising is not None
    return denoising


@pytest.mark.parametrize(
    ("counts", "groups", "slots"), [((30, 50), 10, 500), ((120, 3), 7, 840), ((0, 1), 10, 10)]
)
def test_groups_fill_the_budget_up_to_ten(counts: tuple[int, ...], groups: int, slots: int) -> None:
    denoising = build([boxes(n) for n in counts])
    assert (denoising.num_groups, denoising.num_slots) == (groups, slots)
    assert len(denoising.label) == groups * sum(counts)
    assert denoising.blocked(900).shape == (slots + 900, slots + 900)


def test_who_sees_whom() -> None:
    blocked = build([boxes(2), boxes(3)], budget=9).blocked(4)  # 3 groups of 3 slots, 4 queries
    group = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2, -1, -1, -1, -1])
    for row in range(13):
        for column in range(13):
            same = group[row] == group[column]
            ordinary_column = group[column] < 0
            assert bool(blocked[row, column]) == (not same and not bool(ordinary_column))


def test_unused_slots_sit_at_the_origin_of_the_range() -> None:
    denoising = build([boxes(1), boxes(3)], torch.full((40, 3), 0.5))
    first = denoising.reference[0].view(10, 3, 3)
    assert torch.equal(first[:, 1:], torch.zeros(10, 2, 3))
    assert torch.equal(first[:, 0], torch.tensor([0.5, 0.5, 0.625]).expand(10, 3))


def test_noise_moves_along_the_axes_by_half_the_size_at_most_and_is_clamped() -> None:
    one = Boxes3D.build(
        torch.tensor([[53.0, 0.0, 0.0]]),
        torch.tensor([[8.0, 4.0, 2.0]]),
        torch.tensor([1.0]),  # the yaw is ignored
        torch.tensor([0]),
    )
    noise = torch.full((10, 3), 0.5)
    noise[0] = torch.tensor([1.0, 0.75, 0.25])
    got = build([one], noise).reference[0]
    want = torch.tensor([1.0, (54.0 + 1.0) / 108.0, (5.0 - 0.5) / 8.0])
    torch.testing.assert_close(got[0], want)
    torch.testing.assert_close(got[1], torch.tensor([107.0 / 108.0, 0.5, 0.625]))


@pytest.mark.parametrize(("u", "background"), [(0.75, False), (0.7500001, True), (0.74, False)])
def test_background_begins_above_three_quarters(u: float, background: bool) -> None:
    noise = torch.full((10, 3), 0.5)
    noise[0, 1] = (u + 1) / 2
    denoising = build([boxes(1)], noise)
    assert int(denoising.label[0]) == (10 if background else 3)
    assert torch.equal(denoising.label[1:], torch.full((9,), 3))
    assert torch.equal(denoising.true_label, torch.full((10,), 3))


def test_share_of_positives() -> None:
    torch.manual_seed(0)
    denoising = build([boxes(90)] * 20)
    share = float((denoising.label == 3).float().mean())
    assert share == pytest.approx(denoising.positive_share, abs=0.01)
    assert denoising.positive_share == pytest.approx(3.14159 / 6 * 0.75**3, rel=1e-12)


def test_no_boxes_no_denoising() -> None:
    builder = DenoisingBuilder(range_m=RANGE_M, num_classes=10, query_budget=20)
    assert builder([boxes(0), boxes(0)]) is None
    assert builder([]) is None
    assert builder([boxes(21)]) is None  # not even one group fits
    assert builder([boxes(5, label=-1)]) is None


def test_ignored_classes_take_no_slot() -> None:
    mixed = Boxes3D.cat([boxes(2, label=-1), boxes(1), boxes(1, label=12)])
    denoising = build([mixed])
    assert denoising.num_slots == 10
    assert torch.equal(denoising.true_label.unique(), torch.tensor([3]))
