"""The fork in a model: identity, calibrated sums, and what it does when a gradient is missing."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from perception3d.balancing import (
    Aligned,
    CaGrad,
    Fork,
    GradNorm,
    ImtlG,
    LastLayer,
    Mgda,
    PcGrad,
    Uniform,
)
from perception3d.nn.fpn import UpsampleConcatNeck
from tests.balancing.toys import Joint, batch, gradients, losses

TASKS = ("boxes", "map")


def backward(model: Joint, scale: tuple[float, float] = (1.0, 1.0)) -> dict[str, Tensor]:
    model.zero_grad()
    each = losses(model(*batch()), scale)
    (each.sum() if model.fork is None else model.fork.rule.total(each)).backward()
    return gradients(model)


def shared_gradient(model: Joint, scale: tuple[float, float] = (1.0, 1.0)) -> Tensor:
    found = backward(model, scale)
    return torch.cat([found[n].flatten() for n in sorted(found) if not n.startswith("heads")])


def test_uniform_is_the_plain_model_bit_for_bit() -> None:
    plain, forked = backward(Joint()), backward(Joint(Fork(Uniform(TASKS))))
    assert plain.keys() == forked.keys()
    assert all(torch.equal(plain[name], forked[name]) for name in plain)


def test_heads_keep_their_gradients() -> None:
    plain, forked = backward(Joint()), backward(Joint(Fork(ImtlG(TASKS))))
    for name in plain:
        assert torch.equal(plain[name], forked[name]) == name.startswith("heads"), name


def test_evaluation_and_inference_pass_the_features_themselves() -> None:
    fork, x = Fork(ImtlG(TASKS)), torch.randn(2, 3, requires_grad=True)
    with torch.no_grad():
        assert all(part is x for part in fork(x))
    assert all(part is x for part in fork.eval()(x))


def test_both_tasks_contribute_one_norm() -> None:
    """2 n_1 n_2 / (n_1 + n_2), and equal projections on both unit gradients."""
    fork, x = Fork(ImtlG(TASKS)), torch.randn(5, 7, requires_grad=True)
    by_first, by_second = torch.randn(5, 7), 30 * torch.randn(5, 7)
    first, second = fork(x)
    torch.autograd.backward((first, second), (by_first, by_second))
    n1, n2 = by_first.norm(), by_second.norm()
    assert fork.record is not None
    weight = fork.record.weight.float()
    for w, n in zip(weight, (n1, n2)):
        torch.testing.assert_close(w * n, 2 * n1 * n2 / (n1 + n2), rtol=1e-5, atol=0)
    torch.testing.assert_close(x.grad, weight[0] * by_first + weight[1] * by_second)
    projected = [(x.grad * g).sum() / g.norm() for g in (by_first, by_second)]
    torch.testing.assert_close(*projected, rtol=1e-4, atol=0)
    torch.testing.assert_close(fork.record.norm.float(), torch.stack((n1, n2)))
    cosine = (by_first * by_second).sum() / (n1 * n2)
    torch.testing.assert_close(fork.record.cosine[0, 1].float(), cosine, rtol=1e-4, atol=1e-6)


def test_equal_norms_are_the_plain_sum() -> None:
    fork, x = Fork(ImtlG(TASKS)), torch.randn(4, requires_grad=True)
    g = torch.randn(4)
    torch.autograd.backward(tuple(fork(x)), (g, g.flip(0)))
    torch.testing.assert_close(x.grad, g + g.flip(0), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("k", [1e3, 1e-3])
@pytest.mark.parametrize("task", [0, 1])
def test_a_loss_times_a_number_turns_nothing(task: int, k: float) -> None:
    """The direction stays, the length saturates: k (n_1 + n_2) / (k n_1 + n_2)."""
    scale = (k, 1.0) if task == 0 else (1.0, k)
    model = Joint(Fork(ImtlG(TASKS)))
    before, after = shared_gradient(model), shared_gradient(model, scale)
    assert torch.cosine_similarity(before, after, dim=0) >= 1 - 1e-6
    backward(model)
    assert model.fork is not None and model.fork.record is not None
    n = model.fork.record.norm
    own, other = n[task], n[1 - task]
    ratio = (k * (own + other) / (k * own + other)).item()
    assert (after.norm() / before.norm()).item() == pytest.approx(ratio, rel=1e-4)
    plain = Joint()
    turned = torch.cosine_similarity(shared_gradient(plain), shared_gradient(plain, scale), dim=0)
    assert turned < 0.999


@pytest.mark.parametrize("scale", [(1.0, 1.0), (1000.0, 1.0), (1.0, 1000.0)])
def test_two_quadratics_end_where_they_must(scale: tuple[float, float]) -> None:
    """d_1 - d_2 is conserved, so the end on the segment is at (|c| + d_1 - d_2) / 2 from c_1."""
    centers = torch.tensor([[0.0, 0.0], [4.0, 0.0]], dtype=torch.float64)
    x = torch.tensor([3.0, 2.0], dtype=torch.float64)
    rule, everyone = ImtlG(TASKS), torch.ones(2, dtype=torch.bool)
    factor = torch.tensor(scale, dtype=torch.float64)[:, None]

    def slope(x: Tensor) -> Tensor:
        each = factor * (x - centers)
        weight = rule.weigh(each @ each.T, everyone)
        # Time runs as for unit gradients, whatever the scale.
        return weight @ each / (weight * each.norm(dim=1)).mean()

    for _ in range(1500):  # Heun's method
        first = slope(x)
        x = x - 0.01 * (first + slope(x - 0.02 * first))
    assert x[0].item() == pytest.approx(2.684742, abs=2e-4) and abs(x[1].item()) < 2e-4


def test_a_task_without_loss_leaves_the_trunk_to_the_other() -> None:
    """The formula for two would give the trunk a gradient of exactly zero."""
    model = Joint(Fork(ImtlG(TASKS)))
    outputs = model(*batch())
    losses(outputs)[0].backward()
    alone = gradients(model)["trunk.weight"]
    plain = Joint()
    losses(plain(*batch()))[0].backward()
    assert torch.equal(alone, gradients(plain)["trunk.weight"]) and alone.abs().max() > 0
    model.zero_grad()
    each = losses(model(*batch())) * torch.tensor([1.0, 0.0])
    each.sum().backward()  # switched off by a weight of zero
    assert torch.equal(gradients(model)["trunk.weight"], alone)


@pytest.mark.parametrize("kind", [ImtlG, Mgda, PcGrad, CaGrad, Aligned, GradNorm])
def test_what_is_not_finite_goes_through_untouched(kind: type) -> None:
    fork, x = Fork(kind(TASKS)), torch.randn(3, requires_grad=True)
    g = torch.tensor([1.0, math.inf, 0.0])
    torch.autograd.backward(tuple(fork(x)), (g, torch.ones(3)))
    assert x.grad.tolist() == [2.0, math.inf, 1.0]
    assert fork.record is not None and not fork.record.calibrated
    x.grad = None
    torch.autograd.backward(tuple(fork(x)), (torch.ones(3), torch.ones(3)))
    assert bool(x.grad.isfinite().all()) and fork.record.calibrated


def test_a_scaled_loss_gives_a_scaled_gradient() -> None:
    model = Joint(Fork(ImtlG(TASKS)))
    plain, scaled = shared_gradient(model), shared_gradient(model, (65536.0, 65536.0))
    assert torch.equal(scaled / 65536, plain)


def test_half_precision_neither_overflows_nor_is_left() -> None:
    fork = Fork(ImtlG(TASKS))
    x = torch.zeros(100, dtype=torch.float16, requires_grad=True)
    torch.autograd.backward(
        tuple(fork(x)), (torch.full((100,), 1e3).half(), torch.ones(100).half())
    )
    assert fork.record is not None
    torch.testing.assert_close(fork.record.norm, torch.tensor([1e4, 10.0]).double())
    assert x.grad.dtype == torch.float16
    torch.testing.assert_close(x.grad.float(), torch.full((100,), 4e3 / 1001), rtol=2e-3, atol=0)


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointed_parts_give_the_same(reentrant: bool) -> None:
    model = Joint(Fork(ImtlG(TASKS)))
    want = backward(model)
    trunk = model.trunk.forward
    model.trunk.forward = lambda x: checkpoint(trunk, x, use_reentrant=reentrant)  # type: ignore[method-assign]
    found = backward(model)
    assert all(torch.equal(want[name], found[name]) for name in want)


def test_compiled_parts_around_an_eager_fork() -> None:
    model = Joint(Fork(ImtlG(TASKS)))
    want = backward(model)
    model.trunk.compile(backend="aot_eager")
    for head in model.heads:
        head.compile(backend="aot_eager")
    found = backward(model)
    for name in want:
        torch.testing.assert_close(found[name], want[name])


def test_several_features_are_one_vector() -> None:
    rule, x, y = (
        ImtlG(TASKS),
        torch.randn(3, requires_grad=True),
        torch.randn(2, 2).requires_grad_(),
    )
    fork = Fork(rule)
    (x1, y1), (x2, y2) = fork(x, y)
    gx, gy = torch.randn(2, 3), torch.randn(2, 2, 2)
    torch.autograd.backward((x1, y1, x2), (gx[0], gy[0], gx[1]))  # the second task leaves y alone
    assert fork.record is not None
    n1 = torch.cat((gx[0], gy[0].flatten())).norm()
    torch.testing.assert_close(fork.record.norm.float(), torch.stack((n1, gx[1].norm())))
    torch.testing.assert_close(y.grad, fork.record.weight[0].float() * gy[0])
    del x2, y2


def test_memory_order_does_not_count() -> None:
    fork = Fork(ImtlG(TASKS))
    x = torch.randn(2, 8, 5, 5, requires_grad=True)
    a = torch.randn(2, 8, 5, 5).to(memory_format=torch.channels_last)
    b = torch.randn(2, 8, 5, 5)
    torch.autograd.backward(tuple(fork(x)), (a, b))
    assert fork.record is not None
    torch.testing.assert_close(
        fork.record.cosine[0, 1].float(),
        (a * b).sum() / (a.norm() * b.norm()),
        rtol=1e-4,
        atol=1e-6,
    )


@pytest.mark.parametrize("length", ["sum", "mean_norm"])
def test_lengths(length: str) -> None:
    fork, x = Fork(Mgda(TASKS), length=length), torch.randn(6, requires_grad=True)  # type: ignore[arg-type]
    a, b = torch.randn(2, 6)
    torch.autograd.backward(tuple(fork(x)), (a, 4 * b))
    want = (a + 4 * b).norm() if length == "sum" else (a.norm() + 4 * b.norm()) / 2
    torch.testing.assert_close(x.grad.norm(), want)


def test_warm_up_and_every_nth() -> None:
    fork, x = Fork(ImtlG(TASKS), warm_up=1, every=2), torch.zeros(1, requires_grad=True)
    weights = []
    for factor in (3.0, 3.0, 7.0, 7.0):
        torch.autograd.backward(tuple(fork(x)), (torch.tensor([factor]), torch.ones(1)))
        assert fork.record is not None
        weights.append(fork.record.weight[1].item())
    assert weights == pytest.approx([1.0, 1.5, 1.5, 1.75])


def test_moving_average_of_norms() -> None:
    fork, x = Fork(ImtlG(TASKS), ema=0.5), torch.zeros(1, requires_grad=True)
    for factor, square in ((3.0, 9.0), (1.0, 5.0)):
        torch.autograd.backward(tuple(fork(x)), (torch.tensor([factor]), torch.ones(1)))
        assert fork.record is not None
        norm = math.sqrt(square)
        assert fork.record.weight[1].item() == pytest.approx(2 * norm / (norm + 1))


def test_measured_at_the_last_layer() -> None:
    """Weights by the gradients of the layer's parameters, as two full passes find them."""
    torch.manual_seed(0)
    layer, heads = nn.Linear(6, 5), [nn.Linear(5, 1), nn.Linear(5, 2)]
    fork = Fork(ImtlG(TASKS), measure=LastLayer(layer))
    x = torch.randn(9, 6)

    def each() -> list[Tensor]:
        parts = fork(layer(x))
        return [(10 * heads[0](parts[0])).square().mean(), heads[1](parts[1]).square().mean()]

    norms = []
    for task in range(2):
        found = torch.autograd.grad(each()[task], list(layer.parameters()))
        norms.append(torch.cat([g.flatten() for g in found]).norm())
    sum(each()).backward()  # type: ignore[union-attr]
    assert fork.record is not None
    torch.testing.assert_close(fork.record.norm.float(), torch.stack(norms))


def test_a_last_layer_of_several_maps_and_norms() -> None:
    """Weights by those that count; the batch norms take each batch once."""
    torch.manual_seed(0)
    neck = UpsampleConcatNeck((3, 4), (2, 2), (1, 2))
    counted = [p for p in neck.parameters() if p.ndim == 4]
    fork = Fork(ImtlG(TASKS), measure=LastLayer(neck, weights=counted))
    maps = [torch.randn(2, 3, 4, 4), torch.randn(2, 4, 2, 2)]

    def each() -> list[Tensor]:
        first, second = fork(neck(maps))
        return [(7 * first).square().mean(), second.abs().mean()]

    norms = []
    for task in range(2):
        found = torch.autograd.grad(each()[task], counted)
        norms.append(torch.cat([g.flatten() for g in found]).norm())
    before = {name: value.clone() for name, value in neck.named_buffers()}
    sum(each()).backward()  # type: ignore[union-attr]
    assert fork.record is not None
    torch.testing.assert_close(fork.record.norm.float(), torch.stack(norms))
    twin = UpsampleConcatNeck((3, 4), (2, 2), (1, 2))
    twin.load_state_dict({**dict(neck.named_parameters()), **before})
    twin(maps)
    for (name, ours), theirs in zip(neck.named_buffers(), twin.buffers()):
        assert torch.equal(ours, theirs), name
    assert all(m.track_running_stats for m in neck.modules() if isinstance(m, nn.BatchNorm2d))


def test_state_goes_with_the_model() -> None:
    model = Joint(Fork(GradNorm(TASKS)))
    backward(model)
    backward(model)
    other = Joint(Fork(GradNorm(TASKS)), seed=1)
    other.load_state_dict(model.state_dict())
    assert all(
        torch.equal(one, two)
        for one, two in zip(backward(model).values(), backward(other).values())
    )


def test_errors_name_what_was_found() -> None:
    with pytest.raises(ValueError, match="tasks boxes, map share nothing that learns"):
        Fork(ImtlG(TASKS))(torch.zeros(3))
    with pytest.raises(ValueError, match="length must be rule, sum or mean_norm; found 'long'"):
        Fork(ImtlG(TASKS), length="long")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"found 0, 0, 0\.0"):
        Fork(ImtlG(TASKS), every=0)
    with pytest.raises(ValueError, match="no weights that learn"):
        LastLayer(nn.ReLU())
    layer = nn.Linear(2, 2)
    fork, x = Fork(ImtlG(TASKS), measure=LastLayer(layer)), torch.ones(1, 2)
    first, second = fork(layer(x), layer(2 * x))
    with pytest.raises(ValueError, match="gives one tensor; the fork parts 2"):
        sum(part.square().sum() for part in (*first, *second)).backward()


def test_gradients_that_cancel_weigh_alike() -> None:
    turns = torch.tensor([0.0, 2 * math.pi / 3, 4 * math.pi / 3])
    star = torch.stack((turns.cos(), turns.sin()), dim=1)
    opposite = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
    for g in (star, opposite, star.double().float() * 3):
        fork, x = Fork(ImtlG("abc")), torch.zeros(2, requires_grad=True)
        torch.autograd.backward(tuple(fork(x)), tuple(g))
        assert x.grad is not None and bool(x.grad.isfinite().all())
        assert x.grad.norm() <= 10 * g.norm()


def test_a_step_that_is_not_finite_leaves_averages_and_rules_alone() -> None:
    fork, x = Fork(GradNorm(TASKS), ema=0.9), torch.zeros(2, requires_grad=True)
    bad = torch.tensor([math.inf, 0.0]), torch.ones(2)
    good = torch.tensor([1e-4, 0.0]), torch.tensor([0.0, 1e-3])
    for each in (bad, good, good, bad, good):
        torch.autograd.backward(tuple(fork(x)), each)
        if each is good:
            assert fork.record is not None
            mean = fork.mean_gram.diagonal()
            torch.testing.assert_close(mean, torch.tensor([1e-8, 1e-6]).double(), rtol=1e-5, atol=0)
    before = fork.rule.weight.clone()
    torch.autograd.backward(tuple(fork(x)), bad)
    assert torch.equal(fork.rule.weight, before)


def test_a_task_left_alone_between_due_steps_weighs_one() -> None:
    fork, x = Fork(ImtlG(TASKS), every=4), torch.zeros(1, requires_grad=True)
    weights = []
    for second in (3.0, 0.0, 3.0):
        torch.autograd.backward(tuple(fork(x)), (torch.ones(1), torch.tensor([second])))
        assert fork.record is not None
        weights.append(fork.record.weight[0].item())
    assert weights == pytest.approx([1.5, 1.0, 1.5])


def test_the_last_layer_is_measured_under_autocast() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 4, 1)
    fork, x = Fork(ImtlG(TASKS), measure=LastLayer(layer)), torch.randn(2, 3, 5, 5)
    with torch.autocast("cpu", torch.bfloat16):
        first, second = fork(layer(x))
        total = first.float().square().mean() + second.float().abs().mean()
    total.backward()
    assert fork.record is not None and bool(fork.record.calibrated)


def test_order_of_pcgrad_goes_on_where_it_stopped() -> None:
    g = torch.randn(3, 4, generator=torch.Generator().manual_seed(1)).double()
    g[1] = -g[0] + 0.1 * g[1]
    gram, everyone = g @ g.T, torch.ones(3, dtype=torch.bool)
    first = PcGrad("abc")
    for _ in range(3):
        first.weigh(gram, everyone)
    other = PcGrad("abc")
    other.load_state_dict(first.state_dict())
    for _ in range(4):
        assert torch.equal(first.weigh(gram, everyone), other.weigh(gram, everyone))
