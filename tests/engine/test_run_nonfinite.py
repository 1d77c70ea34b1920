"""A NaN or infinity stops a run, with the name of where it came from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from test_training import run
from torch import Tensor, nn
from toy import ToyModel, collate, toy_experiment, train_samples

from perception3d.engine.nonfinite import (
    NonFiniteError,
    explain_gradient,
    first_bad_module,
    is_finite,
)
from perception3d.engine.run_state import RunState


class Poison(nn.Module):
    """Passes values on; from one call on it divides by zero."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after, self.calls = after, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x if self.calls <= self.after else x / 0


class Poisoned(ToyModel):
    def __init__(self, after: int = 9) -> None:
        super().__init__()
        self.neck = nn.Sequential(nn.Identity(), Poison(after))

    def forward(self, batch: Any, denoising: Any = None) -> Tensor:
        return self.head(self.neck(self.body(batch.x)))


class BadLoss(ToyModel):
    def loss(self, outputs: Tensor, batch: Any) -> Any:
        return {"boxes": {"log": (outputs * 0).sum().log(), "fine": outputs.mean()}}


class BadGradient(ToyModel):
    def loss(self, outputs: Tensor, batch: Any) -> Any:
        return {"boxes": {"root": (outputs * 0).square().sum().sqrt()}}


def test_stops_with_module_and_samples_and_keeps_the_weights(tmp_path: Path) -> None:
    experiment = toy_experiment(model=Poisoned, save_every_steps=1)
    with pytest.raises(NonFiniteError, match=r"step 4: boxes\.l2 = .*neck\.1 \(Poison\)") as caught:
        run(experiment, tmp_path)
    assert caught.value.module == "neck.1" and len(caught.value.tokens) == 2
    assert caught.value.tokens[0].startswith("sample")
    facts = json.loads((tmp_path / "toy" / "nonfinite.json").read_text())
    assert facts["module"] == "neck.1" and facts["tokens"] == list(caught.value.tokens)
    state = RunState.load(tmp_path / "toy" / "checkpoints" / "latest.ckpt")
    assert state.step == 4 and is_finite(state.model)
    assert not (tmp_path / "toy" / "lock").exists()


def test_a_loss_that_makes_it_itself(tmp_path: Path) -> None:
    with pytest.raises(
        NonFiniteError, match=r"boxes\.log = -inf; every module's output is finite"
    ) as e:
        run(toy_experiment(model=BadLoss), tmp_path)
    assert e.value.module is None


def test_a_gradient_without_a_bad_loss(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError, match=r"non-finite gradient at step 0.*head\.bias"):
        run(toy_experiment(model=BadGradient), tmp_path)


def test_bad_weights_are_named(tmp_path: Path) -> None:
    def model() -> nn.Module:
        broken = ToyModel()
        with torch.no_grad():
            broken.head.weight.fill_(float("nan"))
        return broken

    with pytest.raises(NonFiniteError, match=r"weights were non-finite before.*head\.weight"):
        run(toy_experiment(model=model), tmp_path)


def test_looking_leaves_no_trace() -> None:
    model = Poisoned(after=0)
    batch = collate([train_samples().dataset[i] for i in range(4)])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert first_bad_module(model, lambda: model(batch)) == "neck.1"
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
    assert first_bad_module(ToyModel(), lambda: None) is None


def test_finiteness_looks_into_nested_values() -> None:
    assert is_finite({"a": [torch.ones(2), (torch.tensor([1, 2]), None)]})
    assert not is_finite({"a": [torch.ones(2), (torch.tensor([float("inf")]),)]})
    assert not is_finite(collate([("x", (torch.ones(8) * float("nan")).numpy())]))


def test_an_overflowing_norm_names_the_steepest_weights() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    assert model[1].weight.grad is not None
    model[1].weight.grad.fill_(1e30)
    error = explain_gradient(model, None, 3)
    assert "norm overflows" in str(error) and "most of it at 1.weight (2.0e+30)" in str(error)
