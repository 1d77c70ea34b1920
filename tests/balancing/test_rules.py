"""Each rule against its own defining property, or a numeric solution of its problem."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from perception3d.balancing import (
    Aligned,
    CaGrad,
    Famo,
    Fixed,
    GradNorm,
    Hierarchical,
    ImtlG,
    Mgda,
    PcGrad,
    Rule,
    Uncertainty,
    Uniform,
)
from perception3d.balancing.simplex import minimum_on_simplex
from tests.balancing.toys import everyone, gram_of, seeded

BY_GRADIENT = (ImtlG, Mgda, PcGrad, CaGrad, Aligned, GradNorm, Uniform)


def random_gradients(tasks: int, seed: int, size: int = 200) -> Tensor:
    made = torch.randn(tasks, size, generator=seeded(seed), dtype=torch.float64)
    return made * torch.logspace(0, 1.5, tasks, dtype=torch.float64)[:, None]


def simplex(steps: int) -> Tensor:
    """Points (N, 3) of a fine grid on the simplex of three tasks."""
    a, b = torch.meshgrid(*[torch.linspace(0, 1, steps, dtype=torch.float64)] * 2, indexing="ij")
    points = torch.stack((a, b, 1 - a - b), dim=-1).flatten(0, 1)
    return points[points[:, 2] >= 0]


def test_imtl_g_of_two_is_the_harmonic_mean() -> None:
    g = torch.tensor([[3.0, 4.0], [0.0, 1.0]])
    weight = ImtlG(("a", "b")).weigh(gram_of(g), everyone(2))
    torch.testing.assert_close(weight, torch.tensor([2 / 6, 10 / 6], dtype=torch.float64))
    made = weight[:, None] * g
    torch.testing.assert_close(made.norm(dim=1), torch.full((2,), 2 * 5 * 1 / 6).double())
    one = ImtlG(("a", "b"), sum_to="one").weigh(gram_of(g), everyone(2))
    torch.testing.assert_close(one, weight / 2)


@pytest.mark.parametrize("tasks", [2, 3, 5])
@pytest.mark.parametrize("seed", range(3))
def test_imtl_g_projects_equally(tasks: int, seed: int) -> None:
    g = random_gradients(tasks, seed)
    weight = ImtlG("abcde"[:tasks]).weigh(gram_of(g), everyone(tasks))
    projected = (g / g.norm(dim=1, keepdim=True)) @ (weight @ g)
    torch.testing.assert_close(projected, projected[:1].expand(tasks), rtol=1e-12, atol=0)
    assert weight.sum().item() == pytest.approx(tasks, rel=1e-12)


def test_norms_gram_and_differences_agree_for_two() -> None:
    """The paper's form alpha_2 = g_1 U' (D U')^-1, G^-1 n, and the norms alone."""
    g = random_gradients(2, 5)
    n = g.norm(dim=1)
    u = g / n[:, None]
    d, differ = (g[0] - g[1])[None], (u[0] - u[1])[None]
    alpha = (g[0] @ differ.T) @ torch.linalg.inv(d @ differ.T)
    by_gram = torch.linalg.solve(gram_of(g), n)
    want = ImtlG("ab", sum_to="one").weigh(gram_of(g), everyone(2))
    torch.testing.assert_close(want[1:], alpha, rtol=1e-12, atol=0)
    torch.testing.assert_close(want, by_gram / by_gram.sum(), rtol=1e-12, atol=0)


def test_a_pseudo_inverse_turns_the_weights_of_near_parallel_gradients_around() -> None:
    direction, other = torch.randn(2, 1000, generator=seeded(0))
    g = torch.stack((direction, 5 * (direction + 1e-3 * other)))
    want = ImtlG("ab", sum_to="one").weigh(gram_of(g), everyone(2))
    torch.testing.assert_close(want, torch.tensor([5 / 6, 1 / 6]).double(), rtol=2e-3, atol=0)
    gram = g @ g.T
    trapped = torch.linalg.pinv(gram) @ gram.diagonal().sqrt()
    trapped = trapped / trapped.sum()
    torch.testing.assert_close(trapped, torch.tensor([1 / 6, 5 / 6]), rtol=2e-2, atol=0)


@pytest.mark.parametrize("seed", range(4))
def test_mgda_is_the_shortest_of_a_fine_grid(seed: int) -> None:
    g = random_gradients(3, seed, size=4)
    found = Mgda("abc").weigh(gram_of(g), everyone(3))
    grid = simplex(401)
    shortest = (grid @ g).norm(dim=1).min()
    length = (found @ g).norm()
    assert length <= shortest + 1e-9 and length >= 0.98 * shortest - 1e-3
    # No task gets worse: <g_t, d> >= |d|^2 on the hull's nearest point.
    assert bool((g @ (found @ g) >= length**2 - 1e-9 * length).all())


def test_mgda_of_two_by_its_formula() -> None:
    for a, b in (([1.0, 0.0], [0.0, 2.0]), ([1.0, 0.0], [3.0, 0.1]), ([1.0, 1.0], [-2.0, 0.5])):
        g = torch.tensor([a, b], dtype=torch.float64)
        d = g[1] - g[0]
        share = (d @ g[1] / d.square().sum()).clamp(0, 1)
        found = Mgda("ab").weigh(gram_of(g), everyone(2))
        torch.testing.assert_close(found, torch.stack((share, 1 - share)))


def test_quadratic_program_against_a_grid() -> None:
    root = torch.randn(5, 3, 3, generator=seeded(1), dtype=torch.float64)
    quadratic = root @ root.transpose(1, 2)
    linear = torch.randn(5, 3, generator=seeded(2), dtype=torch.float64)
    found = minimum_on_simplex(quadratic, linear, everyone(3))
    grid = simplex(301)

    def value(w: Tensor, one: int) -> Tensor:
        return (w @ quadratic[one] * w).sum(-1) / 2 + w @ linear[one]

    for one in range(5):
        assert found[one].sum().item() == pytest.approx(1) and bool((found[one] >= 0).all())
        assert value(found[one], one) <= value(grid, one).min() + 1e-9
        assert value(found[one], one) >= value(grid, one).min() - 1e-3
    only = minimum_on_simplex(quadratic, linear, torch.tensor([False, True, False]))
    torch.testing.assert_close(only, torch.tensor([0.0, 1.0, 0.0]).double().expand(5, 3))


@pytest.mark.parametrize("tasks", [2, 3])
def test_pcgrad_by_surgery_on_vectors(tasks: int) -> None:
    g = random_gradients(tasks, 3, size=3)
    g[1] = -g[0] + 0.3 * g[1]
    found = PcGrad("abc"[:tasks], seed=7).weigh(gram_of(g), everyone(tasks))
    order = torch.Generator().manual_seed(7 * 1_000_003)
    total = torch.zeros_like(g[0])
    for i in range(tasks):
        made = g[i].clone()
        for j in torch.randperm(tasks, generator=order).tolist():
            if j != i and made @ g[j] < 0:
                made = made - (made @ g[j]) / g[j].square().sum() * g[j]
        total += made
    torch.testing.assert_close(found @ g, total)


def test_pcgrad_leaves_friends_alone() -> None:
    g = torch.tensor([[1.0, 0.2], [0.5, 3.0]])
    assert PcGrad("ab").weigh(gram_of(g), everyone(2)).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("c", [0.0, 0.4, 0.9])
@pytest.mark.parametrize("seed", range(3))
def test_cagrad_is_the_best_worst_case_in_its_ball(seed: int, c: float) -> None:
    g = random_gradients(3, seed, size=3)
    weight = CaGrad("abc", c=c, rescale=False).weigh(gram_of(g), everyone(3))
    mean = g.mean(dim=0)
    made = weight @ g / 3  # of a mean's length
    assert (made - mean).norm() <= c * mean.norm() * (1 + 1e-6)
    worst = (g @ made).min()
    ball = torch.randn(20_000, 3, generator=seeded(9), dtype=torch.float64)
    ball = mean + c * mean.norm() * ball / ball.norm(dim=1, keepdim=True)
    assert worst >= (ball @ g.T).min(dim=1).values.max() - 1e-6 * mean.norm()


@pytest.mark.parametrize("tasks", [2, 3])
def test_aligned_is_the_nearest_orthogonal_system(tasks: int) -> None:
    """By the polar factor: G = U S V' becomes U V' times the least singular value."""
    g = random_gradients(tasks, 4)
    u, s, v = torch.linalg.svd(g, full_matrices=False)
    want = s.min() * (u @ v).sum(dim=0)
    found = Aligned("abc"[:tasks]).weigh(gram_of(g), everyone(tasks))
    torch.testing.assert_close(found @ g, want, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", BY_GRADIENT)
@pytest.mark.parametrize("scale", [1e-3, 1e3, 2.0**16])
def test_all_losses_times_a_number_change_no_weight(kind: type[Rule], scale: float) -> None:
    g = random_gradients(3, 6)
    weights = [kind("abc").weigh(gram_of(g * k), everyone(3)) for k in (1.0, scale)]
    torch.testing.assert_close(*weights, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", BY_GRADIENT)
def test_a_task_that_is_away_changes_nothing_for_the_others(kind: type[Rule]) -> None:
    g = random_gradients(2, 8)
    g[1] -= 0.5 * g[0] * (g[1].norm() / g[0].norm())
    absent = torch.stack((g[0], torch.zeros_like(g[0]), g[1]))
    active = torch.tensor([True, False, True])
    pair = kind("ac").weigh(gram_of(g), everyone(2))
    three = kind("abc").weigh(gram_of(absent), active)
    torch.testing.assert_close(pair @ g, (three * active) @ absent, rtol=1e-6, atol=1e-9)
    alone = kind("ab").weigh(gram_of(torch.stack((g[0], g[0] * 0))), torch.tensor([True, False]))
    # CAGrad goes on past a mean that is all there is; the fork takes no rule's word for one task.
    assert alone[0].item() == pytest.approx(1.4 / 1.16 if kind is CaGrad else 1.0)


def test_gradnorm_moves_weighted_norms_to_their_targets() -> None:
    rule = GradNorm("ab", alpha=0.0, lr=0.01)
    g = torch.tensor([[4.0, 0.0], [0.0, 1.0]])
    rule.total(torch.tensor([1.0, 1.0]))
    for _ in range(400):
        weight = rule.weigh(gram_of(g), everyone(2))
    assert weight.sum().item() == pytest.approx(2)
    assert (weight[0] * 4).item() == pytest.approx(weight[1].item(), rel=0.05)
    # Who learned less since the start counts more: this task's relative loss is twice the other's.
    slow = GradNorm("ab", alpha=1.0, lr=0.01, first=1)
    slow.total(torch.tensor([1.0, 1.0]))
    slow.total(torch.tensor([0.8, 0.4]))
    for _ in range(400):
        weight = slow.weigh(gram_of(torch.eye(2)), everyone(2))
    assert (weight[0] / weight[1]).item() == pytest.approx(2.0, rel=0.1)


def test_uncertainty_by_hand() -> None:
    rule = Uncertainty("ab", start=0.0)
    total = rule.total(torch.tensor([3.0, 5.0]))
    assert total.item() == pytest.approx(4.0)
    total.backward()
    assert rule.log_variance.grad.tolist() == pytest.approx([0.5 - 1.5, 0.5 - 2.5])
    one = rule.total(torch.tensor([3.0, math.nan]))
    assert one.item() == pytest.approx(1.5)


def test_fixed_weights_count_whole_losses() -> None:
    rule = Fixed({"a": 1.0, "b": 20.0})
    losses = torch.tensor([2.0, 3.0], requires_grad=True)
    rule.total(losses).backward()
    assert losses.grad.tolist() == [1.0, 20.0]


def test_famo_follows_the_task_whose_log_loss_falls_less() -> None:
    rule = Famo("ab")
    losses = torch.tensor([2.0, 8.0], requires_grad=True)
    rule.total(losses).backward()
    torch.testing.assert_close(losses.grad, torch.tensor([0.8, 0.2]))  # equal shares of log losses
    assert rule.weight.sum().item() == pytest.approx(1.0)
    rule.after_step(torch.tensor([1.0, 7.9]))
    share = rule.xi.softmax(0)
    assert share[1] > share[0]


def test_hierarchical_waits_for_its_prerequisite() -> None:
    rule = Hierarchical("ab", epochs=15, prerequisites={"b": ["a"]})
    assert rule.weight.tolist() == [1.0, 0.0]
    for epoch in range(10):
        rule.after_epoch(torch.tensor([10.0 - epoch, 5.0]))  # a keeps falling as in the beginning
    assert rule.weight.tolist() == [1.0, 0.5]  # kappa 0: only time lets b in
    for _ in range(5):
        rule.after_epoch(torch.tensor([1.0, 5.0]))
    assert rule.weight.tolist() == [1.0, 1.0]
    done = Hierarchical("ab", epochs=15, prerequisites={"b": ["a"]})
    for loss in (10.0, 9.0, 8.0, 7.0, 6.0, 5.0, *[5.0] * 5):
        done.after_epoch(torch.tensor([loss, 5.0]))
    assert done.weight[1].item() == 1.0  # a stands still: kappa is 1


def test_errors_name_what_was_found() -> None:
    with pytest.raises(ValueError, match=r"different names; found \['a', 'a'\]"):
        Uniform(["a", "a"])
    with pytest.raises(ValueError, match=r"finite and not negative; found \{'b': -1\.0\}"):
        Fixed({"a": 1.0, "b": -1.0})
    with pytest.raises(ValueError, match="name c; tasks are"):
        Hierarchical("ab", epochs=9, prerequisites={"b": ["c"]})
    with pytest.raises(ValueError, match="at most 8 tasks"):
        Mgda([str(n) for n in range(9)]).weigh(torch.eye(9).double(), everyone(9))
