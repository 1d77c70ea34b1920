"""Costs and assignments of one-to-one matching, and the box loss."""

from __future__ import annotations

from itertools import permutations

import torch

from perception3d.losses.box import weighted_l1
from perception3d.losses.matching import focal_class_cost, hungarian, l1_cost


def test_class_cost_of_every_query_and_box() -> None:
    torch.manual_seed(0)
    logits, label = torch.randn(2, 3, 4, 5), torch.tensor([[1, 4], [0, 0], [3, 2]])
    got = focal_class_cost(logits, label)
    assert got.shape == (2, 3, 4, 2)
    p = logits[1, 2, 3].sigmoid()[label[2, 0]]
    want = -(p + 1e-12).log() * 0.25 * (1 - p) ** 2 + (1 - p + 1e-12).log() * 0.75 * p**2
    torch.testing.assert_close(got[1, 2, 3, 0], want)


def test_class_cost_of_certain_scores_is_finite() -> None:
    cost = focal_class_cost(torch.tensor([[-200.0, 200.0]]), torch.tensor([0, 1]))
    assert torch.isfinite(cost).all()


def test_l1_cost_of_every_query_and_box() -> None:
    a, b = torch.randn(2, 4, 3), torch.randn(2, 5, 3)
    got = l1_cost(a, b)
    assert got.shape == (2, 4, 5)
    torch.testing.assert_close(got[1, 2, 3], (a[1, 2] - b[1, 3]).abs().sum())


def test_hungarian_finds_the_cheapest_pairs() -> None:
    torch.manual_seed(0)
    for queries, boxes in ((4, 3), (3, 3), (2, 4)):
        cost = torch.randn(queries, boxes)
        rows, columns = hungarian(cost)
        assert len(rows) == min(queries, boxes) and (rows.diff() > 0).all()
        tall = cost if queries >= boxes else cost.T
        best = min(
            float(tall[list(p), range(tall.shape[1])].sum())
            for p in permutations(range(tall.shape[0]), tall.shape[1])
        )
        assert abs(float(cost[rows, columns].sum()) - best) < 1e-5


def test_hungarian_takes_nothing_and_avoids_nan() -> None:
    rows, columns = hungarian(torch.zeros(4, 0))
    assert len(rows) == len(columns) == 0
    rows, _ = hungarian(torch.tensor([[torch.nan], [5.0], [torch.inf]]))
    assert rows.tolist() == [1]


def test_weighted_l1_skips_rows_without_a_finite_target() -> None:
    prediction = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    target = torch.tensor([[0.0, torch.nan], [1.0, 0.0]])
    loss = weighted_l1(prediction, target, torch.tensor([2.0, 0.5]))
    assert loss.tolist() == [0.0, 2 * 2.0 + 0.5 * 4.0]
    loss.sum().backward()
    assert prediction.grad is not None
    assert prediction.grad.tolist() == [[0.0, 0.0], [2.0, 0.5]]
