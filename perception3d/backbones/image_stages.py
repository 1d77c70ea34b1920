"""What image backbones of four stages share: their loop, recomputation, freezing, checks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from perception3d.nn.norm import freeze_statistics


def run_stages(
    stages: Sequence[nn.Sequential],
    x: Tensor,
    out_stages: Sequence[int],
    *,
    recomputed: type[nn.Module] | tuple[()] = (),
) -> tuple[Tensor, ...]:
    """Maps behind the stages that are asked for.

    Args:
        stages: one after the other.
        x: what the first takes.
        out_stages: numbers of those whose maps are returned.
        recomputed: modules of this kind run again in the backward pass, see :func:`checkpointed`.
    """
    outputs = []
    for number, stage in enumerate(stages):
        for module in stage:
            x = checkpointed(module, x) if isinstance(module, recomputed) else module(x)
        if number in out_stages:
            outputs.append(x)
    return tuple(outputs)


def checkpointed(block: nn.Module, x: Tensor) -> Tensor:
    """``block(x)``, computed again in the backward pass instead of kept.

    The second computation leaves the running statistics of batch norms alone: a plain checkpoint
    would count every batch twice.
    """
    if not torch.is_grad_enabled():
        return block(x)
    return checkpoint(
        block,
        x,
        use_reentrant=False,
        context_fn=lambda: (nullcontext(), _statistics_kept(block)),
    )


@contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    norms = [m for m in block.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    try:
        for norm in norms:
            # Without a counter, momentum None would fail; 0 keeps what was counted, bit for bit.
            norm.momentum, norm.num_batches_tracked = 0.0, None
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before):
            norm.momentum, norm.num_batches_tracked = momentum, count


def freeze(*modules: nn.Module) -> None:
    """Put modules into eval mode for good, and let their weights not learn."""
    for module in modules:
        module.eval().requires_grad_(False)


def freeze_norms(module: nn.Module, *, evaluate: bool, fixed: bool = False) -> None:
    """Batch norms below ``module``: in eval mode if ``evaluate``; without gradient if ``fixed``."""
    if evaluate:
        freeze_statistics(module)
    for child in module.modules():
        if fixed and isinstance(child, nn.modules.batchnorm._BatchNorm):
            child.requires_grad_(False)


def check_backbone(
    kind: str,
    depth: int,
    depths: Iterable[int],
    out_stages: Sequence[int],
    width: int,
    frozen_stages: int,
) -> None:
    """Refuse, with ValueError, what no backbone of four stages can be."""
    if depth not in depths:
        raise ValueError(f"{kind} depths are {', '.join(map(str, depths))}; found {depth}")
    if not out_stages or not all(0 <= stage < 4 for stage in out_stages):
        raise ValueError(f"out_stages must lie in 0 to 3; found {tuple(out_stages)}")
    if list(out_stages) != sorted(set(out_stages)):
        raise ValueError(f"out_stages must ascend; found {tuple(out_stages)}")
    if width % 8 or width < 8:
        raise ValueError(f"width must be a multiple of 8; found {width}")
    if not -1 <= frozen_stages <= 4:
        raise ValueError(
            f"frozen_stages must be -1 (nothing), 0 (the stem) or up to 4; found {frozen_stages}"
        )
