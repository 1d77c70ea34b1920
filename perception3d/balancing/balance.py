"""Where modalities meet: identity on the way forward, gradients of one magnitude on the way back.

FULLER's second step (arXiv 2307.16617), an "intra-gradient layer" at the outputs of the modality
branches, before they are fused. Everything upstream of a branch's output is scaled by one number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from perception3d.balancing.fuller_intra import FullerIntra
from perception3d.balancing.measure import INACTIVE, squared_norms, summed_over_processes
from perception3d.balancing.modality import ModalityRule

Norm = Literal["l2", "rms"]


@dataclass(frozen=True)
class BalanceRecord:
    """What happened in the last backward pass; tensors on its device.

    Attributes:
        norm: (M,) lengths of the modalities' gradients, before.
        scale: (M,) that each was multiplied by.
        calibrated: () bool; False: some gradient was next to nothing or not finite, and all went
            on untouched.
    """

    norm: Tensor
    scale: Tensor
    calibrated: Tensor


class Balance(nn.Module):
    """Passes each modality's features on; their gradients come back balanced::

        balance = Balance(("camera", "lidar"))
        camera, lidar = balance(camera_branch(images), lidar_branch(points))

    Additive fusion gives all modalities one gradient: nothing is changed then.

    Args:
        modalities: names.
        rule: None for FULLER's.
        norm: "l2" over the whole tensor with its batch, or "rms", which divides by the square root
            of its size.
        group: as of :class:`perception3d.balancing.fork.Fork`.

    Attributes:
        record: of the last backward pass, None before the first.
    """

    def __init__(
        self,
        modalities: Sequence[str],
        rule: ModalityRule | None = None,
        *,
        norm: Norm = "l2",
        group: dist.ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        if norm not in ("l2", "rms"):
            raise ValueError(f"norm must be l2 or rms; found {norm!r}")
        self.modalities = tuple(modalities)
        self.rule: ModalityRule = FullerIntra() if rule is None else rule
        self.norm, self.group = norm, group
        self.record: BalanceRecord | None = None

    def forward(self, *features: Tensor) -> tuple[Tensor, ...]:
        """The same features.

        A modality that is missing, frozen, or alone is given as it is: leave its tensor out and
        there is nothing to balance.

        Raises:
            ValueError: more tensors than modalities.
        """
        if len(features) > len(self.modalities):
            raise ValueError(f"modalities are {self.modalities}; found {len(features)} tensors")
        learns = all(tensor.requires_grad for tensor in features) and torch.is_grad_enabled()
        if not self.training or not learns or len(features) < len(self.modalities):
            return features
        if len(features) < 2:
            return features
        return _Balance.apply(self, *features)  # type: ignore[no-any-return]

    @torch.no_grad()
    def calibrate(self, gradients: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Gradients times their factors; what the backward pass calls."""
        size = torch.tensor([float(g.numel()) for g in gradients], dtype=torch.float64)
        square = squared_norms(gradients)
        if self.norm == "rms":
            square = square / size.to(square.device)
        norm = summed_over_processes(square, self.group).sqrt()
        heard = (norm > 0) & (norm >= INACTIVE * norm.max())
        ok = (norm.isfinite() & heard).all()
        factor = self.rule.scales(torch.where(ok, norm, 1.0))
        scale = torch.where(ok, factor, 1.0)
        self.record = BalanceRecord(norm, scale, ok)
        results = []
        for gradient, factor in zip(gradients, scale):
            # Factors may be beyond half precision where their product is not.
            wide = torch.promote_types(gradient.dtype, torch.float32)
            results.append((gradient.to(wide) * factor.to(wide)).to(gradient.dtype))
        return tuple(results)


class _Balance(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, balance: Balance, *features: Tensor) -> tuple[Tensor, ...]:
        ctx.balance = balance
        return tuple(tensor.view_as(tensor) for tensor in features)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return None, *ctx.balance.calibrate(gradients)
