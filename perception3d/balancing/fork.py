"""Where tasks part: identity on the way forward, calibrated sum of their gradients on the way back.

FULLER (arXiv 2307.16617) calls this inter-gradient calibration and places it at the last layer of
the backbone that all tasks share. Its equations could not be read for this code: rule, length and
place are our reading, and options here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, overload

import torch
import torch.distributed as dist
from torch import Tensor, nn

from perception3d.balancing.measure import (
    INACTIVE,
    Parts,
    gram_matrix,
    summed_over_processes,
)
from perception3d.balancing.rule import Rule

Length = Literal["rule", "sum", "mean_norm"]


@dataclass(frozen=True)
class ForkRecord:
    """What happened at a fork in the last backward pass; tensors on its device.

    Attributes:
        norm: (T,) lengths of the tasks' gradients.
        cosine: (T, T) of the angles between them, NaN for tasks without one.
        weight: (T,) that each was multiplied by.
        calibrated: () bool; False: a gradient was not finite, and all went on as they were.
    """

    norm: Tensor
    cosine: Tensor
    weight: Tensor
    calibrated: Tensor


class Measuring(Protocol):
    """Another place to measure at than the features, such as the last layer's weights."""

    def __call__(self, gradients: Sequence[Parts | None]) -> Tensor:
        """(T, T) float64 inner products, for gradients by the features."""
        ...


class Fork(nn.Module):
    """Gives each task the shared features; their gradients come back weighted by a rule.

    Heads keep their own gradients. There is one ordinary backward pass, of the sum of the losses::

        fork = Fork(ImtlG(("boxes", "map")))
        for_boxes, for_map = fork(trunk(x))
        fork.rule.total(torch.stack((box_loss, map_loss))).backward()

    Args:
        rule: between the tasks.
        length: of the result: "rule" (the rule's own), "sum" (as long as the plain sum of the
            gradients), or "mean_norm" (the mean of their lengths).
        measure: None measures gradients by the features, whole batch and all positions as one
            vector.
        group: sums the inner products over processes (:func:`perception3d.balancing.own_group`), so
            that all weigh alike, as one process with the whole batch would; None: each by itself.
        every: weights are made anew in every n-th backward pass.
        warm_up: backward passes that go by uncalibrated first.
        ema: share of the past in a moving average of the inner products; 0: none.

    Attributes:
        record: of the last backward pass, None before the first.
    """

    steps: Tensor
    mean_gram: Tensor
    weight: Tensor

    def __init__(
        self,
        rule: Rule,
        *,
        length: Length = "rule",
        measure: Measuring | None = None,
        group: dist.ProcessGroup | None = None,
        every: int = 1,
        warm_up: int = 0,
        ema: float = 0.0,
    ) -> None:
        super().__init__()
        if length not in ("rule", "sum", "mean_norm"):
            raise ValueError(f"length must be rule, sum or mean_norm; found {length!r}")
        if every < 1 or warm_up < 0 or not 0 <= ema < 1:
            raise ValueError(
                f"every >= 1, warm_up >= 0, 0 <= ema < 1 needed; found {every}, {warm_up}, {ema}"
            )
        self.rule, self.length, self.measure, self.group = rule, length, measure, group
        self.every, self.warm_up, self.ema = every, warm_up, ema
        self.record: ForkRecord | None = None
        tasks = len(rule.tasks)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean_gram", torch.zeros(tasks, tasks, dtype=torch.float64))
        self.register_buffer("weight", torch.ones(tasks, dtype=torch.float64))

    @overload
    def forward(self, features: Tensor, /) -> list[Tensor]: ...
    @overload
    def forward(self, *features: Tensor) -> list[Any]: ...
    def forward(self, *features: Tensor) -> list[Any]:
        """The features once a task: a tensor each, or a tuple where several are given.

        Raises:
            ValueError: nothing that the tasks share can learn, although gradients are on: there is
                nothing to balance.
        """
        tasks = len(self.rule.tasks)
        if not torch.is_grad_enabled() or not self.training:
            copies = features * tasks
        elif not any(tensor.requires_grad for tensor in features):
            raise ValueError(
                f"tasks {', '.join(self.rule.tasks)} share nothing that learns: the features at "
                "the fork require no gradient. Put it behind the layers that they share"
            )
        else:
            copies = _Fork.apply(self, *features)
        size = len(features)
        parts = [copies[size * task : size * (task + 1)] for task in range(tasks)]
        return [part[0] if size == 1 else part for part in parts]

    @torch.no_grad()
    def calibrate(self, gradients: Sequence[Parts | None]) -> tuple[Tensor | None, ...]:
        """The gradient by each feature tensor; what the backward pass calls.

        Args:
            gradients: a task, by each feature tensor; None: that task has none.
        """
        here = [parts for parts in gradients if parts is not None]
        gram = (self.measure or self._at_features)(gradients)
        gram = summed_over_processes(gram, self.group)
        weight = self._weights(gram)
        results = []
        for part in range(len(here[0])):
            wide = torch.promote_types(here[0][part].dtype, torch.float32)
            total: Tensor | None = None
            for task, parts in enumerate(gradients):
                if parts is not None:
                    gradient, factor = parts[part].to(wide), weight[task].to(wide)
                    # In place: each task's gradient may be as large as all features.
                    total = gradient * factor if total is None else total.addcmul_(gradient, factor)
            assert total is not None
            results.append(total.to(here[0][part].dtype))
        return tuple(results)

    def _at_features(self, gradients: Sequence[Parts | None]) -> Tensor:
        like = next(parts for parts in gradients if parts is not None)
        return gram_matrix(gradients, like[0])

    def _weights(self, gram: Tensor) -> Tensor:
        """(T,) weights, and the record of how they came about."""
        finite = gram.isfinite().all()
        norm = gram.diagonal().sqrt()
        cosine = gram / (norm[:, None] * norm)
        safe = torch.where(finite, gram, 0.0)
        if self.ema:
            begun = self.mean_gram.diagonal().sum() > 0
            mixed = torch.where(begun, torch.lerp(safe, self.mean_gram, self.ema), safe)
            self.mean_gram.copy_(torch.where(finite, mixed, self.mean_gram))
            safe = self.mean_gram
        length = safe.diagonal().sqrt()
        tiny = torch.finfo(gram.dtype).tiny
        # Where something is not finite nobody is active: rules with a state leave it alone then.
        active = (length >= INACTIVE * length.max().clamp_min(tiny)) & finite
        if self._is_due():
            among = safe * active[:, None] * active
            made = self._lengthened(self.rule.weigh(among, active), among, active)
            made = torch.where(active, made, 1.0)
            usable = active.any() & made.isfinite().all()
            self.weight.copy_(torch.where(usable, made, self.weight))
        else:
            usable = active.any()
        self.steps += 1
        # What is not finite goes on untouched, for the scaler of mixed precision to see.
        alone = active.sum() == 1
        weight = torch.where(usable & active & ~alone, self.weight, 1.0)
        self.record = ForkRecord(norm, cosine, weight, usable)
        return weight

    def _is_due(self) -> bool:
        if self.every == 1 and self.warm_up == 0:
            return True  # the number of steps may live on a GPU, which need not be waited for
        calibrated = int(self.steps) - self.warm_up
        return calibrated >= 0 and calibrated % self.every == 0

    def _lengthened(self, weight: Tensor, gram: Tensor, active: Tensor) -> Tensor:
        if self.length == "rule":
            return weight
        weight = weight * active
        found = (weight @ gram @ weight).clamp_min(0).sqrt()
        if self.length == "sum":
            wanted = gram.sum().clamp_min(0).sqrt()
        else:
            wanted = gram.diagonal().sqrt().sum() / active.sum()
        return weight * torch.where(found > 0, wanted / found, 1.0)


class _Fork(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, fork: Fork, *features: Tensor) -> tuple[Tensor, ...]:
        ctx.fork, ctx.count = fork, len(features)
        ctx.set_materialize_grads(False)
        ctx.like = [(tensor.shape, tensor.dtype, tensor.device) for tensor in features]
        return tuple(tensor.view_as(tensor) for tensor in features * len(fork.rule.tasks))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        parts: list[Parts | None] = []
        for start in range(0, len(gradients), ctx.count):
            part = gradients[start : start + ctx.count]
            if all(gradient is None for gradient in part):
                parts.append(None)
                continue
            parts.append(
                tuple(
                    torch.zeros(shape, dtype=dtype, device=device) if gradient is None else gradient
                    for gradient, (shape, dtype, device) in zip(part, ctx.like)
                )
            )
        return None, *ctx.fork.calibrate(parts)
