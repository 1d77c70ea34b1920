"""Finding where a NaN or an infinity comes from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from perception3d.engine.objective import Losses


class NonFiniteError(RuntimeError):
    """A loss or gradient is NaN or infinite.

    Attributes:
        module: dotted name of the first module with a non-finite output, or None.
        tokens: the samples of the batch.
    """

    def __init__(self, message: str, *, module: str | None, tokens: Sequence[str]) -> None:
        super().__init__(message)
        self.module = module
        self.tokens = tuple(tokens)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Every tensor inside nested tuples, lists, dicts and dataclasses."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors_in(item)
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from tensors_in(getattr(value, field.name))


def is_finite(value: Any) -> bool:
    """Whether no floating tensor inside ``value`` holds a NaN or an infinity."""
    return all(bool(torch.isfinite(t).all()) for t in tensors_in(value) if t.is_floating_point())


@torch.no_grad()
def first_bad_module(model: nn.Module, forward: Callable[[], Any]) -> str | None:
    """Name of the first module that returns something non-finite while ``forward`` runs.

    Modules are seen in the order in which they finish, so the innermost comes first. Buffers that
    the repetition changes (running statistics) are put back.
    """
    bad: list[str] = []
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def look(module: nn.Module, inputs: Any, output: Any) -> None:
            if not bad and not is_finite(output):
                bad.append(name or type(module).__name__)

        return look

    hooks = [m.register_forward_hook(watch(name)) for name, m in model.named_modules()]
    try:
        forward()
    finally:
        for hook in hooks:
            hook.remove()
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
    return bad[0] if bad else None


def explain_loss(
    model: nn.Module, forward: Callable[[], Any], losses: Losses, batch: Any, step: int
) -> NonFiniteError:
    """The error for a non-finite loss; ``forward`` must repeat the same forward pass."""
    terms = [
        f"{task}.{name} = {term.item()}"
        for task, named in losses.items()
        for name, term in named.items()
        if not bool(torch.isfinite(term))
    ]
    tokens = tuple(getattr(batch, "tokens", ()))
    weights = [name for name, p in model.named_parameters() if not is_finite(p)]
    module = first_bad_module(model, forward)
    if weights:
        where = f"weights were non-finite before the step, first {weights[0]}"
    elif not is_finite(_inputs(batch)):
        where = f"the batch itself holds non-finite inputs; first module hit: {module}"
    elif module is not None:
        where = f"first module with a non-finite output: {module} ({_kind(model, module)})"
    else:
        where = "every module's output is finite, so the loss itself makes it"
    return NonFiniteError(
        f"non-finite loss at step {step}: {', '.join(terms) or 'the sum over terms'}; {where};"
        f" samples {list(tokens)}. Nothing was updated or saved with it",
        module=module,
        tokens=tokens,
    )


def explain_gradient(model: nn.Module, batch: Any, step: int) -> NonFiniteError:
    """The error for a finite loss with a non-finite gradient."""
    names = [n for n, p in model.named_parameters() if p.grad is not None and not is_finite(p.grad)]
    tokens = tuple(getattr(batch, "tokens", ()))
    # Backward runs from the last module to the first: the last one named was hit first.
    module = names[-1].rpartition(".")[0] if names else None
    what = (
        f"{len(names)} parameters have a non-finite gradient, nearest to the loss {names[-1]}"
        if names
        else "every gradient is finite, but their norm overflows (the run diverges: lower lr), "
        f"most of it at {_steepest(model)}"
    )
    return NonFiniteError(
        f"non-finite gradient at step {step} although the loss is finite: {what}; samples"
        f" {list(tokens)}. Nothing was updated or saved with it",
        module=module,
        tokens=tokens,
    )


def _steepest(model: nn.Module) -> str:
    norms = {
        n: float(p.grad.double().norm()) for n, p in model.named_parameters() if p.grad is not None
    }
    name = max(norms, key=lambda n: norms[n])
    return f"{name} ({norms[name]:.1e})"


def _inputs(batch: Any) -> list[Tensor]:
    # Targets may hold NaN by convention (unknown velocities); sensor data may not.
    return [t for name in ("points", "images") for t in tensors_in(getattr(batch, name, None))]


def _kind(model: nn.Module, name: str) -> str:
    found = dict(model.named_modules()).get(name, model)
    return type(found).__name__
