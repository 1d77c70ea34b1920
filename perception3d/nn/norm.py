"""Normalisation over channels of maps, and batch norms that a training run leaves alone."""

from __future__ import annotations

from torch import Tensor, nn


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of a (B, C, H, W) map, at every position by itself.

    Args:
        channels: C.
        eps: added to the variance; ConvNeXt and its published descendants use 1e-6 in blocks and
            at outputs.
    """

    def __init__(self, channels: int, *, eps: float = 1e-6) -> None:
        super().__init__(channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape; a channels-last input is not copied."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def freeze_statistics(module: nn.Module) -> None:
    """Put every batch norm below ``module`` into eval mode: running statistics are used and kept.

    Their weights and biases still learn. Call it in the ``train`` method of a backbone after
    ``super().train``.
    """
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            child.eval()
