"""Batch norm, residual and ReLU in one op: equal to its twin and to PyTorch's layer."""

from __future__ import annotations

import pytest
import torch
from perception3d_ops.norm_rows import norm_rows, norm_rows_gradient_twin, norm_rows_twin
from torch import Tensor, nn

from tests.ops.op_inputs import seeded

OPS = torch.ops.perception3d
SIZES = ((0, 3), (1, 5), (2, 4), (700, 16), (5000, 130), (3001, 64))


def tensors(rows: int, channels: int, dtype: torch.dtype, residual: bool) -> tuple[Tensor, ...]:
    """Rows, weight, bias, running mean, running variance, residual, gradient."""
    generator = seeded(rows + channels)
    wide = torch.promote_types(dtype, torch.float32)
    x = torch.randn(rows, channels, generator=generator) * 3 + 5
    four = torch.rand(4, channels, generator=generator).to(wide)
    added = torch.randn(rows, channels, generator=generator).to(dtype) if residual else None
    gradient = torch.randn(rows, channels, generator=generator).to(dtype)
    return x.to(dtype), *four, added, gradient


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize(
    ("dtype", "limit"),
    [(torch.float32, 2e-5), (torch.float64, 1e-11), (torch.bfloat16, 4e-2), (torch.float16, 4e-3)],
)
@pytest.mark.parametrize("size", SIZES)
def test_equal_to_the_twin(
    size: tuple[int, int], dtype: torch.dtype, limit: float, residual: bool
) -> None:
    x, weight, bias, mean, variance, added, gradient = tensors(*size, dtype, residual)
    for rectify in (True, False):
        given = x, weight, bias, mean, variance, added, 1e-3, rectify
        want = norm_rows_twin(*given)
        for one, other in zip(OPS.norm_rows(*given), want, strict=True):
            torch.testing.assert_close(one, other, rtol=limit, atol=limit)
        back = gradient, x, want[0], weight, *want[1:], 1e-3, rectify, residual
        results = OPS.norm_rows_gradient(*back), norm_rows_gradient_twin(*back)
        for one, other in zip(*results, strict=True):
            scale = 1 + float(other.abs().max()) if other.numel() else 1.0
            torch.testing.assert_close(one, other, rtol=limit, atol=limit * scale)


@pytest.mark.parametrize("rows", [2, 300])
def test_equal_to_the_layer_of_pytorch(rows: int) -> None:
    layer = nn.BatchNorm1d(24, eps=1e-3).train()
    nn.init.uniform_(layer.weight)
    results = []
    for ours in (False, True):
        x, *_, added, gradient = tensors(rows, 24, torch.float32, True)
        inputs = x.requires_grad_(), layer.weight, layer.bias, added.requires_grad_()
        if ours:
            still = torch.zeros(24), torch.ones(24)
            out = norm_rows(*inputs[:3], still, eps=1e-3, residual=added)[0]
        else:
            out = torch.relu(layer(x) + added)
        results.append((out, *torch.autograd.grad(out, inputs, gradient)))
    for want, got in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_gradients_by_finite_differences() -> None:
    x, weight, bias, mean, variance, added, _ = tensors(9, 4, torch.float64, True)
    inputs = [t.requires_grad_() for t in (x, weight, bias, added)]

    def run(x: Tensor, weight: Tensor, bias: Tensor, added: Tensor) -> Tensor:
        return norm_rows(x, weight, bias, (mean, variance), eps=1e-3, residual=added)[0]

    assert torch.autograd.gradcheck(run, inputs)


def test_one_row_takes_the_running_statistics() -> None:
    x = torch.tensor([[3.0, -1.0]], requires_grad=True)
    running = torch.tensor([1.0, 1.0]), torch.tensor([4.0, 0.25])
    out, mean, variance = norm_rows(x, torch.ones(2), torch.zeros(2), running, eps=0.0)
    assert out.tolist() == [[1.0, 0.0]]
    assert torch.equal(mean, running[0]) and torch.equal(variance, running[1])
    assert torch.autograd.grad(out.sum(), x)[0].tolist() == [[0.5, 0.0]]


def test_far_from_zero_the_variance_keeps_its_digits() -> None:
    x = torch.tensor([10_000.0, 10_001.0, 10_002.0, 10_001.0]).repeat(4000)[:, None]
    running = torch.zeros(1), torch.ones(1)
    _, mean, variance = norm_rows(x, torch.ones(1), torch.zeros(1), running, eps=1e-3)
    assert mean.item() == 10_001.0 and variance.item() == 0.5


def test_the_same_bits_on_one_thread_and_two() -> None:
    before = torch.get_num_threads()
    x, weight, bias, mean, variance, added, gradient = tensors(20_000, 48, torch.float32, True)
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        out = OPS.norm_rows(x, weight, bias, mean, variance, added, 1e-3, True)
        back = OPS.norm_rows_gradient(gradient, x, out[0], weight, *out[1:], 1e-3, True, True)
        found.append((*out, *back))
    torch.set_num_threads(before)
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))


def test_what_is_not_a_number_stays() -> None:
    x = torch.tensor([[float("nan"), 1.0], [0.0, 2.0], [0.0, 3.0]])
    running = torch.zeros(2), torch.ones(2)
    out, _, _ = norm_rows(x, torch.ones(2), torch.zeros(2), running, eps=1e-3)
    assert out[:, 0].isnan().all() and not out[:, 1].isnan().any()


def test_errors_say_what_was_found() -> None:
    x, one = torch.randn(4, 3), torch.ones(3)
    with pytest.raises(ValueError, match=r"weight must have shape \(3\); found \(2,\)"):
        norm_rows(x, one[:2], one, (one, one), eps=1e-3)
    with pytest.raises(ValueError, match=r"residual must have shape \(4, 3\); found \(3, 3\)"):
        norm_rows(x, one, one, (one, one), eps=1e-3, residual=x[:3])
    with pytest.raises(ValueError, match="rows must hold floating-point numbers; found"):
        norm_rows(x.long(), one, one, (one, one), eps=1e-3)


def test_a_second_derivative_is_refused() -> None:
    x = torch.randn(4, 3, requires_grad=True)
    running = torch.zeros(3), torch.ones(3)
    out, _, _ = norm_rows(x, torch.ones(3), torch.zeros(3), running, eps=1e-3)
    slope = torch.autograd.grad(out.square().sum(), x, create_graph=True)[0]
    with pytest.raises(NotImplementedError, match="the gradient of a norm over rows has no deriv"):
        slope.sum().backward()
