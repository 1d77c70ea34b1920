"""The ragged pillar encoder against the dense 20-slot definition, values and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from perception3d.backbones.pillar_pool import pooled_linear, pooled_linear_plain
from perception3d.backbones.pillars import (
    PillarEncoder,
    dense_pillar_features,
    pillar_centers,
)
from perception3d.structures import BEVGrid

GRID = BEVGrid((-2.0, 2.0), (-1.0, 1.0), (-5.0, 3.0), 1.0)
#: Points of the pillars of two samples: one, almost full, full, more than full.
COUNTS = ((1, 19, 20, 33), (5, 1))


def cloud() -> tuple[Tensor, Tensor]:
    """Points (P, 5) in pillars of COUNTS, mixed up inside each sample, and offsets."""
    generator = torch.Generator().manual_seed(0)
    samples = []
    for counts in COUNTS:
        points = []
        for pillar, count in enumerate(counts):
            row, column = divmod(pillar, 4)
            p = torch.rand(count, 5, generator=generator)
            p[:, 0] += column - 2
            p[:, 1] += row - 1
            p[:, 2] = p[:, 2] * 6 - 4
            p[:, 3] *= 255
            points.append(p)
        mixed = torch.cat(points)
        samples.append(mixed[torch.randperm(len(mixed), generator=generator)])
    return torch.cat(samples), torch.tensor([0, *(len(s) for s in samples)]).cumsum(0)


def encoder(**changes: object) -> PillarEncoder:
    torch.manual_seed(1)
    made = PillarEncoder(grid=GRID, channels=7, **changes)  # type: ignore[arg-type]
    with torch.no_grad():
        made.norm.weight.normal_(1.0, 0.3)
        made.norm.bias.normal_(0.0, 0.5)
        made.norm.running_mean.normal_()
        made.norm.running_var.uniform_(0.5, 2.0)
    return made


def dense(made: PillarEncoder, points: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Pillars in order of (sample, first point) as loops find them, and their dense features."""
    index: list[list[int]] = []
    rows: list[list[Tensor]] = []
    for sample in range(len(offsets) - 1):
        cells: dict[tuple[int, int], int] = {}
        for p in points[offsets[sample] : offsets[sample + 1]]:
            cell = (int(torch.floor(p[1] + 1)), int(torch.floor(p[0] + 2)))
            if cell not in cells:
                cells[cell] = len(index)
                index.append([sample, 0, *cell])
                rows.append([])
            if len(rows[cells[cell]]) < made.max_points:
                rows[cells[cell]].append(p)
    slots = torch.zeros(len(rows), made.max_points, 5)
    for i, kept in enumerate(rows):
        slots[i, : len(kept)] = torch.stack(kept)
    count = torch.tensor([len(kept) for kept in rows])
    where = torch.tensor(index)
    return where[:, [0, 2, 3]], dense_pillar_features(
        made, slots, count, pillar_centers(where, GRID)
    )


@pytest.mark.parametrize("pooling", ["maxavg", "max", "avg"])
@pytest.mark.parametrize("training", [False, True])
def test_ragged_is_dense(training: bool, pooling: str) -> None:
    points, offsets = cloud()
    probe = torch.randn(6, 7, generator=torch.Generator().manual_seed(2))
    results = []
    for way in ("ragged", "dense"):
        made = encoder(pooling=pooling).train(training)
        if way == "ragged":
            pillars = made(points, offsets)
            index, features = pillars.index, pillars.features
        else:
            index, features = dense(made, points, offsets)
        (features * probe).sum().backward()
        results.append(
            [index, features, *(p.grad for p in made.parameters()), *made.norm.buffers()]
        )
    assert torch.equal(results[0][0], results[1][0])
    for a, b in zip(*results):
        scale = b.detach().abs().max().item()
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 + 1e-5 * scale)


def test_samples_keep_apart_and_land_in_their_cells() -> None:
    points, offsets = cloud()
    made = encoder().eval()
    with torch.no_grad():
        pillars = made(points, offsets)
        second = made(points[offsets[1] :], offsets[1:] - offsets[1])
        canvas = pillars.dense()
    assert pillars.index[:, 0].tolist() == [0] * 4 + [1] * 2
    torch.testing.assert_close(pillars.features[4:], second.features)
    assert canvas.shape == (2, 7, 2, 4)
    sample, row, column = pillars.index[-1].tolist()
    assert torch.equal(canvas[sample, :, row, column], pillars.features[-1])
    assert int((canvas.abs().sum(dim=1) > 0).sum()) <= 6


def test_identical_points_share_the_gradient() -> None:
    # Masked-modal training makes every point of a sample zero: one pillar of 20 equal rows.
    points, offsets = torch.zeros(30, 5), torch.tensor([0, 30])
    gradients = []
    for way in ("ragged", "dense"):
        made = encoder().train()
        features = (
            made(points, offsets).features if way == "ragged" else dense(made, points, offsets)[1]
        )
        features.square().sum().backward()
        gradients.append([p.grad for p in made.parameters()])
    for a, b in zip(*gradients):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_caps_differ_between_training_and_evaluation() -> None:
    points, offsets = cloud()
    made = encoder(max_pillars=(2, 3))
    assert len(made.train()(points, offsets).index) == 2 + 2
    assert len(made.eval()(points, offsets).index) == 3 + 2


@pytest.mark.parametrize("training", [False, True])
def test_no_points(training: bool) -> None:
    made = encoder().train(training)
    before = made.norm.running_mean.clone()
    pillars = made(torch.zeros(0, 5), torch.tensor([0, 0, 0]))
    assert pillars.features.shape == (0, 7) and pillars.dense().shape == (2, 7, 2, 4)
    pillars.dense().sum().backward()
    assert torch.equal(made.norm.running_mean, before)
    assert all(p.grad is not None for p in made.parameters())


def test_unknown_pooling_is_refused() -> None:
    with pytest.raises(ValueError, match="maxavg, max, avg"):
        encoder(pooling="sum")


@pytest.mark.parametrize("chunk", [1, 3, 1000])
def test_chunks_change_nothing(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perception3d.backbones.pillar_pool.CHUNK", chunk)
    torch.manual_seed(0)
    count = torch.tensor([3, 1, 4, 1, 5, 9, 2])
    segment = torch.arange(7).repeat_interleave(count)
    rows = torch.randn(int(count.sum()), 4, dtype=torch.float64)
    rows[4:8] = rows[4]  # equal rows: their maximum is a tie
    weight = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(6, dtype=torch.float64, requires_grad=True)
    got = pooled_linear(rows, weight, bias, segment, count)
    want = pooled_linear_plain(rows, weight, bias, segment, count)
    for a, b in zip(got, want):
        torch.testing.assert_close(a, b)
    probes = [torch.randn_like(a) for a in got]
    ours = torch.autograd.grad(got, (weight, bias), probes)
    theirs = torch.autograd.grad(want, (weight, bias), probes)
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a, b)
