"""The ragged pillar encoder is the dense 20-slot one, for any number of points in any pillar."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.backbones.test_pillar_encoder import GRID, dense, encoder

#: Points of up to eight pillars of a sample; 20 fill one, the rest is left out.
COUNTS = st.lists(
    st.one_of(st.integers(0, 4), st.integers(18, 22), st.integers(23, 60)), min_size=8, max_size=8
)


def cloud(counts: list[list[int]], seed: int) -> tuple[Tensor, Tensor]:
    """Points (P, 5) of samples, mixed up, some of them outside of the grid, and offsets."""
    generator = torch.Generator().manual_seed(seed)
    samples = []
    for cells in counts:
        points = [torch.zeros(0, 5)]
        for cell, count in enumerate(cells):
            row, column = divmod(cell, 4)
            p = torch.rand(count, 5, generator=generator)
            p[:, :3] = p[:, :3] * torch.tensor([0.98, 0.98, 7.9]) + torch.tensor(
                [column - 2 + 0.01, row - 1 + 0.01, -4.95]
            )
            p[:, 3] *= 255
            points.append(p)
        outside = torch.rand(2, 5, generator=generator) + torch.tensor([9.0, 0, 0, 0, 0])
        mixed = torch.cat((*points, outside))
        samples.append(mixed[torch.randperm(len(mixed), generator=generator)])
    return torch.cat(samples), torch.tensor([0, *(len(s) for s in samples)]).cumsum(0)


def inside(points: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """What the dense reference takes: no points outside."""
    kept = points[:, 0] < GRID.x_m[1]
    counts = [int(kept[a:b].sum()) for a, b in zip(offsets[:-1], offsets[1:])]
    return points[kept], torch.tensor([0, *counts]).cumsum(0)


@pytest.mark.slow
@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    counts=st.lists(COUNTS, min_size=1, max_size=3),
    training=st.booleans(),
    pooling=st.sampled_from(["maxavg", "max", "avg"]),
    max_points=st.sampled_from([1, 5, 20]),
    seed=st.integers(0, 1000),
)
def test_values_gradients_and_statistics(
    counts: list[list[int]], training: bool, pooling: str, max_points: int, seed: int
) -> None:
    points, offsets = cloud(counts, seed)
    results = []
    for way in ("ragged", "dense"):
        made = encoder(pooling=pooling, max_points=max_points).train(training)
        if way == "ragged":
            pillars = made(points, offsets)
            index, features = pillars.index, pillars.features
        elif any(map(any, counts)):
            index, features = dense(made, *inside(points, offsets))
        else:
            # No pillar at all: nothing comes out, and nothing is learnt about the norm.
            assert features.shape == (0, 7) and len(index) == 0
            before = encoder().norm
            assert torch.equal(made.norm.running_mean, before.running_mean)
            return
        probe = torch.randn(features.shape, generator=torch.Generator().manual_seed(seed))
        (features * probe).sum().backward()
        gradients = [p.grad for p in made.parameters()]
        assert all(g is not None for g in gradients)
        results.append([index, features, *gradients, *made.norm.buffers()])
    assert torch.equal(results[0][0], results[1][0])
    for ours, theirs in zip(*results):
        scale = float(theirs.detach().abs().max())
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5 + 2e-5 * scale)


@pytest.mark.parametrize("training", [False, True])
def test_empty_slots_take_part(training: bool) -> None:
    """One point, by hand: norm without scale, shift 2, so an empty slot holds about 2."""
    made = encoder(max_points=4).train(training)
    with torch.no_grad():
        made.linear.weight.zero_()
        made.linear.weight[:, 2] = 1.0  # z
        made.norm.weight.fill_(1.0)
        made.norm.bias.fill_(2.0)
        made.norm.running_mean.zero_()
        made.norm.running_var.fill_(1 - made.norm.eps)
    point = torch.tensor([[0.5, 0.5, -1.0, 0.0, 0.0]])
    found = made(point, torch.tensor([0, 1])).features[0, 0]
    if not training:
        # Slots hold 2 - 1 and three times 2: maximum 2, sum 7 divided by one point.
        assert float(found.detach()) == pytest.approx((2 + 7) / 2, abs=1e-5)
        return
    # Mean of -1, 0, 0, 0 is -1/4, their variance 3/16: the point is the lowest of four slots.
    mean, deviation = -0.25, (3 / 16 + made.norm.eps) ** 0.5
    point_is, empty_is = 2 + (-1 - mean) / deviation, 2 + (0 - mean) / deviation
    wanted = (empty_is + max(point_is, 0.0) + 3 * empty_is) / 2
    assert float(found.detach()) == pytest.approx(wanted, rel=1e-4)
