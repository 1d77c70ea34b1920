"""Optimisers and schedules: AdamW in groups chosen by parameter name, and the published one-cycle.

A schedule is a function of the step alone, so resuming a run needs no schedule state.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import nn
from torch.optim import AdamW, Optimizer


class Factors(NamedTuple):
    """What a schedule asks for at one step: the base lr's factor, and beta1 (None = leave it)."""

    lr: float
    beta1: float | None = None


class Schedule(Protocol):
    """Maps the optimiser step to a learning rate."""

    def at(self, step: int, total_steps: int) -> Factors:
        """Factors for the update number ``step`` (from 0) of ``total_steps``."""


class OptimizerSettings(Protocol):
    """Builds the optimiser of a run."""

    def build(self, model: nn.Module) -> Optimizer:
        """The optimiser over the model's trainable parameters."""


@dataclass(frozen=True)
class GroupRule:
    """Parameters whose dotted name starts with ``prefix`` get these multipliers.

    The image backbone of CMT, for one, trains with ``GroupRule("img_backbone", lr=0.01,
    weight_decay=5)`` (repository junjie18/CMT, fusion configs). The longest matching prefix wins.
    """

    prefix: str
    lr: float = 1.0
    weight_decay: float = 1.0

    def matches(self, name: str) -> bool:
        """Whether the rule covers a parameter; a prefix ends at a dot or at the full name."""
        return name == self.prefix or name.startswith(self.prefix.rstrip(".") + ".")


@dataclass(frozen=True, kw_only=True)
class AdamWSettings:
    """AdamW; weight decay on every parameter, as the published configs have it.

    Attributes:
        lr: base learning rate (the schedule multiplies it).
        weight_decay: decoupled weight decay.
        betas: Adam's moments; a schedule may move the first.
        rules: multipliers by prefix of the parameter name.
    """

    lr: float
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    rules: tuple[GroupRule, ...] = ()

    def build(self, model: nn.Module) -> Optimizer:
        """AdamW over the trainable parameters, one group a pair of multipliers.

        Raises:
            ValueError: the model has nothing to train, or a rule matches no parameter.
        """
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        if not named:
            raise ValueError(
                "the model has no trainable parameter: check what it freezes (requires_grad)"
            )
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        used: set[GroupRule] = set()
        for name, parameter in named:
            rule = max(
                (r for r in self.rules if r.matches(name)),
                key=lambda r: len(r.prefix),
                default=None,
            )
            if rule is not None:
                used.add(rule)
            key = (1.0, 1.0) if rule is None else (rule.lr, rule.weight_decay)
            groups.setdefault(key, []).append(parameter)
        unused = [rule.prefix for rule in self.rules if rule not in used]
        if unused:
            tops = sorted({name.split(".")[0] for name, _ in named})
            raise ValueError(
                f"optimiser rules {unused} match no trainable parameter; names start with {tops}"
            )
        # On a CPU the fused kernel replaces a Python loop over the parameters. On a GPU the
        # default (foreach) stays: a fused one refuses to be clipped under fp16's loss scaling.
        fused = all(p.device.type == "cpu" and torch.is_floating_point(p) for _, p in named)
        return AdamW(
            [
                {
                    "params": parameters,
                    "lr": self.lr * lr,
                    "base_lr": self.lr * lr,
                    "weight_decay": self.weight_decay * decay,
                }
                for (lr, decay), parameters in groups.items()
            ],
            lr=self.lr,
            betas=self.betas,
            fused=fused or None,
        )


@dataclass(frozen=True, kw_only=True)
class CyclicSchedule:
    """The published one-cycle of CMT, CenterPoint and PillarNeSt (mmdet3d's ``cyclic-20e``).

    Cosine from 1 to ``peak_ratio`` over the first ``up`` share of the steps, then cosine down to
    ``final_ratio``; beta1 goes the other way, from ``beta1`` to ``beta1_ratio * beta1`` and back.
    """

    peak_ratio: float
    final_ratio: float = 1e-4
    up: float = 0.4
    beta1: float | None = 0.9
    beta1_ratio: float = 0.85 / 0.95

    def __post_init__(self) -> None:
        if not 0 <= self.up < 1 or self.peak_ratio <= 0 or self.final_ratio < 0:
            raise ValueError(
                f"a cycle needs 0 <= up < 1, peak_ratio > 0 and final_ratio >= 0; found {self}"
            )

    def at(self, step: int, total_steps: int) -> Factors:
        """Factors for update ``step``; the switch is at ``int(up * total_steps)``."""
        top = int(self.up * total_steps)
        if step < top:
            lr = _cosine(1.0, self.peak_ratio, step / top)
            low = _cosine(1.0, self.beta1_ratio, step / top)
        else:
            share = min(1.0, (step - top) / max(1, total_steps - top))
            lr = _cosine(self.peak_ratio, self.final_ratio, share)
            low = _cosine(self.beta1_ratio, 1.0, share)
        return Factors(lr, None if self.beta1 is None else self.beta1 * low)


@dataclass(frozen=True, kw_only=True)
class CosineSchedule:
    """Linear warm-up over ``warmup_steps``, then cosine from 1 to ``final_ratio``."""

    warmup_steps: int = 0
    final_ratio: float = 0.0

    def at(self, step: int, total_steps: int) -> Factors:
        """Factors for update ``step``."""
        if step < self.warmup_steps:
            return Factors((step + 1) / (self.warmup_steps + 1))
        share = (step - self.warmup_steps) / max(1, total_steps - self.warmup_steps)
        return Factors(_cosine(1.0, self.final_ratio, min(1.0, share)))


@dataclass(frozen=True, kw_only=True)
class EpochCosineSchedule:
    """The published cosine of PETR: it falls once an epoch, to ``final_ratio`` after the last.

    Warm-up runs over the first ``warmup_steps`` steps, linearly from ``warmup_ratio`` of what the
    cosine gives (megvii-research/PETR: 500 steps from a third; mmcv steps by epoch).

    Attributes:
        epochs: of the run; the steps of an epoch are the run's by this many.
    """

    epochs: int
    warmup_steps: int = 500
    warmup_ratio: float = 1 / 3
    final_ratio: float = 1e-3

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.warmup_steps < 0 or self.final_ratio < 0:
            raise ValueError(
                "a cosine by epochs needs epochs >= 1, warmup_steps >= 0 and final_ratio >= 0; "
                f"found {self}"
            )

    def at(self, step: int, total_steps: int) -> Factors:
        """Factors for update ``step``."""
        epoch = min(step * self.epochs // max(1, total_steps), self.epochs - 1)
        lr = _cosine(1.0, self.final_ratio, epoch / self.epochs)
        if step < self.warmup_steps:
            lr *= 1 - (1 - step / self.warmup_steps) * (1 - self.warmup_ratio)
        return Factors(lr)


@dataclass(frozen=True, kw_only=True)
class ConstantSchedule:
    """The base learning rate throughout."""

    def at(self, step: int, total_steps: int) -> Factors:
        """Always 1."""
        return Factors(1.0)


def apply_factors(optimizer: Optimizer, factors: Factors) -> None:
    """Set every group's learning rate (times its own ``base_lr``) and beta1."""
    for group in optimizer.param_groups:
        group["lr"] = group.setdefault("base_lr", group["lr"]) * factors.lr
        if factors.beta1 is not None and "betas" in group:
            group["betas"] = (factors.beta1, group["betas"][1])


def _cosine(start: float, end: float, share: float) -> float:
    return end + 0.5 * (start - end) * (1.0 + math.cos(math.pi * share))
