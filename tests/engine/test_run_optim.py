"""Optimiser groups, schedules and the weight average."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from toy import ToyModel

from perception3d.engine.ema import WeightAverage
from perception3d.engine.optim import (
    AdamWSettings,
    ConstantSchedule,
    CosineSchedule,
    CyclicSchedule,
    GroupRule,
    apply_factors,
)


class TwoBranches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.img_backbone = nn.Linear(2, 2)
        self.img_backbone_extra = nn.Linear(2, 2)
        self.head = nn.Linear(2, 2)


def test_groups_by_prefix() -> None:
    model = TwoBranches()
    rules = (
        GroupRule("img_backbone", lr=0.01, weight_decay=5),
        GroupRule("img_backbone.bias", lr=0.1),
    )
    optimizer = AdamWSettings(lr=1e-4, weight_decay=0.01, rules=rules).build(model)
    found = {
        id(p): (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for p in group["params"]
    }
    assert len(found) == 6
    # The published groups of CMT: backbone lr x 0.01 with decay x 5.
    assert found[id(model.img_backbone.weight)] == pytest.approx((1e-6, 0.05))
    assert found[id(model.img_backbone.bias)] == pytest.approx((1e-5, 0.01))
    # A prefix ends at a dot.
    assert found[id(model.img_backbone_extra.weight)] == pytest.approx((1e-4, 0.01))
    assert found[id(model.head.bias)] == pytest.approx((1e-4, 0.01))


def test_frozen_parameters_are_left_out() -> None:
    model = TwoBranches()
    model.head.requires_grad_(False)
    optimizer = AdamWSettings(lr=1e-4).build(model)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 4
    with pytest.raises(ValueError, match="no trainable parameter"):
        AdamWSettings(lr=1e-4).build(model.requires_grad_(False))


def test_a_rule_for_nothing_is_an_error() -> None:
    settings = AdamWSettings(lr=1e-4, rules=(GroupRule("image_backbone"),))
    with pytest.raises(ValueError, match=r"\['image_backbone'\] match no.*'head', 'img_backbone'"):
        settings.build(TwoBranches())


def test_published_cycle() -> None:
    cycle = CyclicSchedule(peak_ratio=8)
    assert cycle.at(0, 1000) == pytest.approx((1.0, 0.9))
    # Half way up: cosine, so the middle between 1 and 8.
    assert cycle.at(200, 1000).lr == pytest.approx(4.5)
    assert cycle.at(400, 1000) == pytest.approx((8.0, 0.9 * 0.85 / 0.95))
    assert cycle.at(700, 1000).lr == pytest.approx((8 + 1e-4) / 2)
    # cmt.md 9.17: at the switch to the last 5 of 20 epochs lr 1e-4 gives some 1.2e-4.
    assert cycle.at(750, 1000).lr == pytest.approx(
        1e-4 + 0.5 * (8 - 1e-4) * (1 + math.cos(math.pi * 350 / 600))
    )
    last = cycle.at(1000, 1000)
    assert last == pytest.approx((1e-4, 0.9))


@given(total=st.integers(1, 500), peak=st.floats(1, 20), up=st.floats(0, 0.99))
def test_a_cycle_stays_within_its_bounds(total: int, peak: float, up: float) -> None:
    cycle = CyclicSchedule(peak_ratio=peak, up=up)
    for step in range(total):
        lr, beta1 = cycle.at(step, total)
        assert 1e-4 - 1e-12 <= lr <= peak + 1e-9
        assert beta1 is not None and 0.805 <= beta1 <= 0.9 + 1e-9


def test_bad_cycles_are_refused() -> None:
    with pytest.raises(ValueError, match="peak_ratio > 0"):
        CyclicSchedule(peak_ratio=0)


def test_cosine_and_constant() -> None:
    cosine = CosineSchedule(warmup_steps=9, final_ratio=0.1)
    assert cosine.at(0, 109).lr == pytest.approx(0.1)
    assert cosine.at(9, 109).lr == pytest.approx(1)
    assert cosine.at(109, 109).lr == pytest.approx(0.1)
    assert ConstantSchedule().at(5, 10) == (1.0, None)


def test_factors_multiply_the_base_of_each_group() -> None:
    settings = AdamWSettings(lr=1e-2, rules=(GroupRule("head", lr=0.1),))
    optimizer = settings.build(TwoBranches())
    for _ in range(2):  # not compounding
        apply_factors(optimizer, CyclicSchedule(peak_ratio=8).at(40, 100))
    rates = sorted(group["lr"] for group in optimizer.param_groups)
    assert rates == pytest.approx([8e-3, 8e-2])
    assert all(
        group["betas"] == pytest.approx((0.8052632, 0.999)) for group in optimizer.param_groups
    )


def test_average_follows_and_gives_back() -> None:
    model = ToyModel()
    average = WeightAverage(model, decay=0.9)
    start = model.head.weight.detach().clone()
    with torch.no_grad():
        model.head.weight.add_(1.0)
    model.body[1].num_batches_tracked += 3
    own = {name: value.clone() for name, value in model.state_dict().items()}
    average.update(model)
    with average.applied_to(model):
        # The first update keeps 1/10 of the average.
        torch.testing.assert_close(model.head.weight.detach(), start + 0.9)
        assert int(model.body[1].num_batches_tracked) == 3
    assert all(torch.equal(own[name], value) for name, value in model.state_dict().items())


def test_average_of_a_constant_is_the_constant() -> None:
    model = ToyModel()
    average = WeightAverage(model, decay=0.99)
    for _ in range(50):
        average.update(model)
    for name, value in model.named_parameters():
        torch.testing.assert_close(average.average[name], value.detach())


def test_average_state_round_trip() -> None:
    model = ToyModel()
    first, second = WeightAverage(model, 0.9), WeightAverage(ToyModel(), 0.9)
    first.update(model)
    second.load_state_dict(first.state_dict())
    assert second.updates == 1
    assert all(torch.equal(first.average[n], second.average[n]) for n in first.average)
    with pytest.raises(ValueError, match=r"lies in \(0, 1\)"):
        WeightAverage(model, 1.0)
