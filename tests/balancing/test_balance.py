"""Modalities: one magnitude behind the balance, nothing where there is nothing to balance."""

from __future__ import annotations

import math

import pytest
import torch

from perception3d.balancing import Balance, Fork, FullerIntra, ImtlG, ModalityDropout, Ogm, Uniform
from tests.balancing.toys import Joint, batch, gradients, losses

BOTH = ("camera", "lidar")


def run(balance: Balance, by_camera: torch.Tensor, by_lidar: torch.Tensor) -> list[torch.Tensor]:
    inputs = [torch.zeros_like(g, requires_grad=True) for g in (by_camera, by_lidar)]
    torch.autograd.backward(balance(*inputs), (by_camera, by_lidar))
    return [x.grad for x in inputs]  # type: ignore[misc]


@pytest.mark.parametrize(
    ("tau", "level"), [("mean", 6.5), ("min", 5.0), ("max", 8.0), ("geo", math.sqrt(40))]
)
def test_both_leave_with_one_length(tau: str, level: float) -> None:
    balance = Balance(BOTH, FullerIntra(tau=tau))  # type: ignore[arg-type]
    found = run(balance, torch.tensor([3.0, 4.0]), torch.full((2, 8), 2.0))
    for gradient in found:
        assert gradient.norm().item() == pytest.approx(level, rel=1e-5)
    assert balance.record is not None and balance.record.norm.tolist() == pytest.approx([5.0, 8.0])


def test_root_mean_square_takes_sizes_out() -> None:
    balance = Balance(BOTH, FullerIntra(tau="min"), norm="rms")
    found = run(balance, torch.full((4,), 2.0), torch.full((3, 300), 3.0))
    assert [g.flatten()[0].item() for g in found] == pytest.approx([2.0, 2.0])


def test_clamped_factors() -> None:
    balance = Balance(BOTH, FullerIntra(clamp=(0.5, 2.0)))
    found = run(balance, torch.tensor([1.0]), torch.tensor([99.0]))
    assert [g.item() for g in found] == pytest.approx([2.0, 50.0])


def test_ogm_damps_only_what_dominates() -> None:
    found = run(Balance(BOTH, Ogm(alpha=0.1)), torch.tensor([1.0]), torch.tensor([4.0]))
    assert found[0].item() == 1.0
    assert found[1].item() == pytest.approx(4 * (1 - math.tanh(0.4)))


def test_in_a_model_branches_differ_by_one_number_and_the_rest_not_at_all() -> None:
    results = []
    for balance in (None, Balance(BOTH)):
        model = Joint(Fork(Uniform("ab")), balance)
        losses(model(*batch())).sum().backward()
        results.append(gradients(model))
    plain, balanced = results
    assert model.balance is not None and model.balance.record is not None
    scale = model.balance.record.scale.float()
    for name in plain:
        factor = {"camera": scale[0], "lidar": scale[1]}.get(name.partition(".")[0])
        if factor is None:
            assert torch.equal(plain[name], balanced[name]), name
        else:
            torch.testing.assert_close(balanced[name], plain[name] * factor)


def test_addition_gives_both_the_same_gradient_and_nothing_changes() -> None:
    balance = Balance(BOTH)
    a, b = torch.randn(2, 5, 5, requires_grad=True).unbind()
    one, two = balance(a, b)
    (one + two).square().sum().backward()
    assert balance.record is not None and balance.record.scale.tolist() == [1.0, 1.0]


def test_a_stressed_fusion_is_evened_out() -> None:
    """relu(1e-3 camera + lidar): the camera's gradient is a thousandth of LiDAR's."""
    torch.manual_seed(0)
    balance = Balance(BOTH)
    inputs = [torch.randn(4, 20, requires_grad=True) for _ in range(2)]
    camera, lidar = balance(*inputs)
    torch.relu(1e-3 * camera + lidar).sum().backward()
    norms = torch.stack([x.grad.norm() for x in inputs])  # type: ignore[union-attr]
    assert balance.record is not None
    assert (balance.record.norm[1] / balance.record.norm[0]).item() == pytest.approx(1e3, rel=1e-4)
    torch.testing.assert_close(norms[0], norms[1], rtol=1e-5, atol=0)
    torch.testing.assert_close(norms[0].double(), balance.record.norm.mean(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, 0.0])
def test_what_cannot_be_balanced_goes_through(bad: float) -> None:
    balance = Balance(BOTH)
    found = run(balance, torch.tensor([bad]), torch.tensor([4.0]))
    assert found[1].item() == 4.0
    assert balance.record is not None and not balance.record.calibrated


def test_missing_or_frozen_modalities_are_left_alone() -> None:
    balance, x = Balance(BOTH), torch.randn(3, requires_grad=True)
    assert balance(x)[0] is x
    frozen = torch.randn(3)
    one, two = balance(x, frozen)
    assert one is x and two is frozen
    assert balance.eval()(x, x)[1] is x
    with pytest.raises(ValueError, match="found 3 tensors"):
        Balance(BOTH)(x, x, x)


def test_order_is_inter_then_intra() -> None:
    """What the balance sees is the calibrated sum of the tasks."""
    model = Joint(Fork(ImtlG("ab")), Balance(BOTH))
    losses(model(*batch())).sum().backward()
    assert model.balance is not None and model.balance.record is not None
    seen = model.balance.record.norm
    without = Joint(Fork(Uniform("ab")), Balance(BOTH))
    losses(without(*batch())).sum().backward()
    assert without.balance is not None and without.balance.record is not None
    assert not torch.allclose(seen, without.balance.record.norm, rtol=1e-3)


def test_modality_dropout_takes_one_at_most() -> None:
    torch.manual_seed(0)
    drop = ModalityDropout((0.25, 0.25))
    camera, lidar = drop(torch.ones(4000, 2), torch.ones(4000, 3, 1))
    no_camera, no_lidar = camera[:, 0] == 0, lidar[:, 0, 0] == 0
    assert not bool((no_camera & no_lidar).any())
    assert no_camera.float().mean().item() == pytest.approx(0.25, abs=0.03)
    assert no_lidar.float().mean().item() == pytest.approx(0.25, abs=0.03)
    x = torch.ones(3)
    assert drop.eval()(x, x)[0] is x
    with pytest.raises(ValueError, match="sum to at most 1"):
        ModalityDropout((0.9, 0.2))
    with pytest.raises(ValueError, match="2 modalities were announced; found 1"):
        drop(x)


def test_a_constant_factor_is_nothing_to_adamw_but_something_to_sgd() -> None:
    """One number a branch acts under AdamW only by how it changes with time."""

    def trained(kind: type[torch.optim.Optimizer], factor: object) -> torch.Tensor:
        torch.manual_seed(0)
        weight = torch.randn(5, requires_grad=True)
        optimizer = kind([weight], lr=1e-2)  # type: ignore[call-arg]
        target = torch.linspace(-1, 1, 5)
        for step in range(50):
            optimizer.zero_grad()
            (weight - target).square().sum().backward()
            assert weight.grad is not None
            weight.grad *= factor(step) if callable(factor) else factor
            optimizer.step()
        return weight.detach()

    adamw, sgd = torch.optim.AdamW, torch.optim.SGD
    torch.testing.assert_close(trained(adamw, 7.0), trained(adamw, 1.0), rtol=0, atol=1e-6)
    assert (trained(sgd, 7.0) - trained(sgd, 1.0)).abs().max() > 0.1
    waved = trained(adamw, lambda step: 1 + 0.9 * math.sin(step))
    assert (waved - trained(adamw, 1.0)).abs().max() > 1e-3


def test_half_precision_bears_factors_beyond_its_range() -> None:
    big = torch.full((4,), 400.0).half()
    found = run(Balance(BOTH), torch.tensor([4e-3, 0, 0, 0]).half(), big)
    assert all(bool(g.isfinite().all()) for g in found)
    assert found[0].norm().item() == pytest.approx(400.0, rel=2e-2)


def test_a_sensor_that_says_next_to_nothing_is_not_turned_up() -> None:
    balance = Balance(BOTH)
    found = run(balance, torch.tensor([1e-12]), torch.tensor([1.0]))
    assert found[0].item() == pytest.approx(1e-12) and found[1].item() == 1.0
    assert balance.record is not None and not balance.record.calibrated
