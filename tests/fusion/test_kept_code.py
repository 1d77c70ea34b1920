"""Kept position codes: the same bits, made once, made again when weights or rig change."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from perception3d.engine.ema import WeightAverage
from perception3d.fusion.kept_code import KeptCode
from perception3d.fusion.tokens import Memory
from perception3d.models.cmt import CMT
from perception3d.structures import Batch
from tests.models.small_cmt import small_batch, small_cmt


class Counted:
    """A code of a linear layer that counts how often it is made."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 4).eval()
        self.kept = KeptCode()
        self.made = 0

    def make(self, x: torch.Tensor) -> torch.Tensor:
        self.made += 1
        return self.layer(x)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.kept(self.layer, (x, 7), lambda: self.make(x))


def test_it_is_made_once_for_equal_inputs() -> None:
    code, x = Counted(), torch.randn(2, 3)
    with torch.no_grad():
        first, second = code(x), code(x.clone())
        assert first is second and code.made == 1
        assert torch.equal(first, code.layer(x))
        x[0, 0] += 1  # the kept input must not follow
        assert torch.equal(code(x), code.layer(x)) and code.made == 2
        code(x[:1])
        code(x[:1].double().float())
    assert code.made == 3


def sgd(layer: nn.Module) -> None:
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    with torch.enable_grad():
        layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()


def load(layer: nn.Module) -> None:
    layer.load_state_dict({k: v + 1 for k, v in layer.state_dict().items()})


def swap(layer: nn.Module) -> None:
    layer.weight = nn.Parameter(torch.ones(4, 3))  # type: ignore[assignment]


def assign(layer: nn.Module) -> None:
    layer.load_state_dict({k: v + 1 for k, v in layer.state_dict().items()}, assign=True)


def rounded(layer: nn.Module) -> None:
    layer.half()
    layer.float()  # may well lie where the first weights lay


@pytest.mark.parametrize("change", [sgd, load, swap, assign, rounded])
def test_changed_weights_are_noticed(change: Callable[[nn.Module], None]) -> None:
    code, x = Counted(), torch.randn(2, 3)
    with torch.no_grad():
        before = code(x)
    change(code.layer)
    with torch.no_grad():
        after = code(x)
        assert code.made == 2 and torch.equal(after, code.layer(x))
        assert not torch.equal(before, after)
        assert code(x) is after


def test_averaged_weights_are_noticed() -> None:
    code, x = Counted(), torch.randn(2, 3)
    average = WeightAverage(code.layer, 0.9)
    load(code.layer)
    with torch.no_grad():
        own = code(x)
        with average.applied_to(code.layer):
            assert torch.equal(code(x), code.layer(x)) and not torch.equal(code(x), own)
        assert torch.equal(code(x), own) and torch.equal(own, code.layer(x))


def test_nothing_is_kept_where_gradients_flow() -> None:
    code, x = Counted(), torch.randn(2, 3)
    with torch.no_grad():
        code(x)
    assert code(x).requires_grad and code(x) is not code(x)  # gradients on
    with torch.no_grad():
        code.layer.train()
        code(x)
        code(x)
    assert code.made == 6
    code(x).sum().backward()
    assert code.layer.weight.grad is not None


def test_weights_without_version_counters_are_not_trusted() -> None:
    with torch.inference_mode():
        code, x = Counted(), torch.randn(2, 3)
        code(x)
        assert code(x) is not code(x) and code.made == 3


def test_what_was_kept_in_inference_mode_serves_afterwards() -> None:
    code, x = Counted(), torch.randn(2, 3)
    with torch.inference_mode():
        kept = code(x)
    with torch.no_grad():
        assert code(x) is kept
    assert code(x).requires_grad


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_begin_without(duplicate: Callable[[KeptCode], KeptCode]) -> None:
    code, x = Counted(), torch.randn(2, 3)
    with torch.no_grad():
        code(x)
        code.kept = duplicate(code.kept)
        code(x)
    assert code.made == 2


# -- in CMT


def memory_of(model: CMT, batch: Batch) -> Memory:
    """What the decoder of a model is given."""
    found: list[Memory] = []
    original = model.tokens.memory

    def spy(*arguments: object) -> Memory:
        found.append(original(*arguments))  # type: ignore[arg-type]
        return found[-1]

    model.tokens.memory = spy  # type: ignore[method-assign, assignment]
    try:
        with torch.no_grad():
            model(batch)
    finally:
        model.tokens.memory = original  # type: ignore[method-assign]
    return found[0]


def fresh(model: CMT, batch: Batch) -> Memory:
    return memory_of(copy.deepcopy(model), batch)  # a copy has nothing kept


def test_a_second_frame_has_the_same_bits() -> None:
    model, batch = small_cmt().eval(), small_batch()
    made: list[str] = []
    assert model.tokens.ray is not None
    for name, part, method in (
        ("plane", model.tokens.plane, "grid"),
        ("ray", model.tokens.ray, "tokens"),
    ):
        original = getattr(part, method)
        spy = lambda *a, name=name, original=original: made.append(name) or original(*a)  # noqa: E731
        setattr(part, method, spy)
    first, second = memory_of(model, batch), memory_of(model, batch)
    assert made == ["plane", "ray"]
    assert torch.equal(first.position, second.position) and torch.equal(first.data, second.data)
    del model.tokens.plane.grid, model.tokens.ray.tokens
    assert torch.equal(fresh(model, batch).position, second.position)


def test_another_rig_changes_the_rays_alone() -> None:
    model, batch = small_cmt().eval(), small_batch()
    before = memory_of(model, batch)
    assert batch.rig is not None
    moved = batch.rig.cam_SE3_ref.clone()
    moved[..., 0, 3] += 0.25
    other = replace(batch, rig=replace(batch.rig, cam_SE3_ref=moved))
    after = memory_of(model, other)
    assert torch.equal(after.position, fresh(model, other).position)
    assert not torch.equal(after.position, before.position)
    assert torch.equal(memory_of(model, batch).position, before.position)


def test_trained_weights_change_both() -> None:
    model, batch = small_cmt(), small_batch()
    memory_of(model.eval(), batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    outputs = model.train()(batch, model.denoising(batch))
    torch.stack(list(model.loss(outputs, batch)["detection"].values())).sum().backward()
    optimizer.step()
    found = memory_of(model.eval(), batch)
    assert torch.equal(found.position, fresh(model, batch).position)
    grads = [model.tokens.plane.embedding[0].weight.grad]
    assert model.tokens.ray is not None
    grads.append(model.tokens.ray.embedding[0].weight.grad)
    assert all(g is not None and bool(g.abs().sum() > 0) for g in grads)
