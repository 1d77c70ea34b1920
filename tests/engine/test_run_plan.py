"""Plans, objectives, experiments: the arithmetic of a run."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toy import ToyModel, collate, toy_experiment, train_samples

from perception3d.engine.experiment import Expected, Phase, Samples
from perception3d.engine.loading import TrainLoader, eval_loader, samples_per_epoch
from perception3d.engine.loss_meter import LossMeter
from perception3d.engine.objective import task_losses, total_loss
from perception3d.engine.plan import make_plan, step_seed


@given(
    samples=st.integers(12, 300),
    batch_size=st.integers(1, 3),
    accumulate=st.integers(1, 2),
    world_size=st.integers(1, 2),
    epochs=st.integers(1, 4),
    max_steps=st.none() | st.integers(1, 60),
    data=st.data(),
)
def test_a_plan_covers_a_run_once_from_any_step(data: st.DataObject, **sizes: Any) -> None:
    samples = sizes.pop("samples")
    plan = make_plan(samples, **sizes)
    assert plan.batches % plan.accumulate == 0
    assert plan.batches * sizes["batch_size"] * sizes["world_size"] <= samples
    start = data.draw(st.integers(0, plan.total_steps - 1))
    step, first_epoch = start, plan.epoch_of(start)
    for epoch in range(first_epoch, plan.epochs):
        first, end = plan.window(epoch, step)
        assert 0 <= first < end <= plan.batches
        assert epoch * plan.batches + first == step * plan.accumulate
        step += (end - first) // plan.accumulate
    assert step == plan.total_steps


@given(samples=st.integers(4, 60), max_steps=st.integers(1, 200))
def test_steps_alone_decide_the_length(samples: int, max_steps: int) -> None:
    plan = make_plan(
        samples, batch_size=2, accumulate=2, world_size=1, epochs=None, max_steps=max_steps
    )
    assert plan.total_steps == max_steps
    assert (plan.epochs - 1) * plan.steps_per_epoch < max_steps
    assert max_steps <= plan.epochs * plan.steps_per_epoch


def test_a_batch_larger_than_the_data_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"one update takes 16 samples.*has 10: lower"):
        make_plan(10, batch_size=4, accumulate=2, world_size=2, epochs=1, max_steps=None)


def test_seeds_differ_by_everything() -> None:
    seeds = {step_seed(s, b, r) for s in range(5) for b in range(20) for r in range(3)}
    assert len(seeds) == 300 and all(0 <= seed < 2**63 for seed in seeds)


def test_losses_sum_by_task_then_over_tasks() -> None:
    w = torch.tensor(2.0, requires_grad=True)
    losses = {"boxes": {"a": w * 1, "b": w * 2}, "map": {"c": w * 4}}
    sums = task_losses(losses)
    assert {k: v.item() for k, v in sums.items()} == {"boxes": 6.0, "map": 8.0}
    total = total_loss(losses)
    total.backward()
    assert total.item() == 14.0 and w.grad is not None and float(w.grad) == 7.0


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ({}, "returned no task"),
        ({"boxes": {}}, "no term for task 'boxes'"),
        ({"boxes": {"a": torch.ones(2)}}, r"boxes\.a must be a scalar; found shape \(2,\)"),
    ],
)
def test_malformed_losses(losses: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        total_loss(losses)


def test_meter_takes_means_of_what_was_there() -> None:
    meter = LossMeter()
    meter.add({"boxes": {"a": torch.tensor(1.0)}})
    meter.add({"boxes": {"a": torch.tensor(3.0)}, "map": {"b": torch.tensor(5.0)}})
    assert meter.take() == {"boxes": {"a": 2.0}, "map": {"b": 5.0}}
    assert meter.take() == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "a/b"}, "plain folder name"),
        ({"epochs": None}, "needs epochs or max_steps"),
        ({"batch_size": 0}, "batch_size must be at least 1; found 0"),
        ({"precision": "fp8"}, "fp32, bf16 or fp16"),
        ({"clip_norm": 0}, "clip_norm must be > 0"),
    ],
)
def test_bad_experiments(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        toy_experiment(**change)


def test_phases_by_epoch() -> None:
    def fade() -> Samples:
        return train_samples()

    def late() -> Samples:
        return train_samples()

    experiment = toy_experiment(
        phases=(Phase(first_epoch=-5, train=fade), Phase(first_epoch=19, train=late))
    )
    chosen = [experiment.train_at(epoch, 20) for epoch in range(20)]
    assert chosen == [train_samples] * 15 + [fade] * 4 + [late]
    # A fade longer than the run covers it all.
    assert toy_experiment(phases=(Phase(first_epoch=-5, train=fade),)).train_at(0, 2) is fade


def test_expected_scores() -> None:
    expected = Expected(metric="NDS", value=0.729, tolerance=0.002, source="paper")
    assert "NDS 0.7300: as expected" in expected.verdict({"NDS": 0.73})
    assert "NOT as expected" in expected.verdict({"NDS": 0.7}) and "NOT" in expected.verdict({})


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_can_start_anywhere(workers: int) -> None:
    experiment = toy_experiment(workers=workers)
    plan = make_plan(24, batch_size=2, accumulate=2, world_size=1, epochs=4, max_steps=None)
    loader = TrainLoader(experiment, plan, train_samples())
    whole = list(loader.epoch(1, 6))
    rest = list(loader.epoch(1, 9))
    assert len(whole) == len(loader.epoch(1, 6)) == 12 and len(rest) == 6
    for a, b in zip(whole[6:], rest, strict=True):
        assert a.tokens == b.tokens and torch.equal(a.x, b.x)
    other = list(loader.epoch(2, 12))
    assert [b.tokens for b in other] != [b.tokens for b in whole]
    tokens = [token for batch in whole for token in batch.tokens]
    assert sorted(tokens) == sorted(f"sample{i}" for i in range(24))


def test_processes_share_a_big_batch() -> None:
    plan = make_plan(24, batch_size=2, accumulate=1, world_size=2, epochs=1, max_steps=None)
    big = make_plan(24, batch_size=4, accumulate=1, world_size=1, epochs=1, max_steps=None)
    parts = [
        list(TrainLoader(toy_experiment(), plan, train_samples(), rank=r, world_size=2).epoch(0, 0))
        for r in range(2)
    ]
    whole = list(TrainLoader(toy_experiment(batch_size=4), big, train_samples()).epoch(0, 0))
    for a, b, c in zip(*parts, whole, strict=True):
        assert set(a.tokens) | set(b.tokens) == set(c.tokens)
        assert float(a.x.sum() + b.x.sum()) == pytest.approx(float(c.x.sum()), abs=1e-5)


def test_evaluation_takes_every_sample_once_in_order() -> None:
    samples = Samples(dataset=train_samples().dataset, collate=collate)
    for world_size in (1, 3):
        tokens = [
            [
                t
                for b in eval_loader(
                    samples, batch_size=5, workers=0, rank=r, world_size=world_size
                )
                for t in b.tokens
            ]
            for r in range(world_size)
        ]
        assert [part[:2] for part in tokens] == [
            [f"sample{r}", f"sample{r + world_size}"] for r in range(world_size)
        ]
        assert len({t for part in tokens for t in part}) == sum(map(len, tokens)) == 24
    assert samples_per_epoch(samples) == 24


def test_the_toy_follows_the_contract() -> None:
    model = ToyModel()
    batch = collate([train_samples().dataset[0], train_samples().dataset[1]])
    outputs = model(batch, model.denoising(batch))
    assert total_loss(model.loss(outputs, batch)).item() > 0
    assert [p.token for p in model.predict(outputs, batch)] == ["sample0", "sample1"]
