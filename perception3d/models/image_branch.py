"""The image branch of camera models: pixels to features of one stride."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from perception3d.backbones.image_input import GridMask, ImageNormalize
from perception3d.backbones.image_resnet import ResNet
from perception3d.nn.fpn import CPFPN
from perception3d.structures import ImageFeatures


class ImageBranch(nn.Module):
    """Pixels -> normalised -> backbone -> neck; the neck's finest map is the output.

    Args:
        backbone: declares ``strides``, finest first.
        neck: maps to maps; declares ``channels``.
        normalize: pixels to network input.
        grid_mask: None for none (published: fusion has it, the camera-only model does not).

    Attributes:
        channels, stride: of the output.
    """

    def __init__(
        self,
        *,
        backbone: nn.Module,
        neck: nn.Module,
        normalize: ImageNormalize | None = None,
        grid_mask: GridMask | None = None,
    ) -> None:
        super().__init__()
        self.normalize = ImageNormalize() if normalize is None else normalize
        self.grid_mask = grid_mask
        self.backbone = backbone
        self.neck = neck
        self.channels = int(neck.channels)  # type: ignore[arg-type]
        self.stride = int(backbone.strides[0])  # type: ignore[index]

    def forward(self, images: Tensor) -> tuple[ImageFeatures, tuple[int, int]]:
        """(B, V, 3, H, W) uint8 -> features (B, V, channels, h, w), and the padded (H, W)."""
        batch, views = images.shape[:2]
        x = self.normalize(images.flatten(0, 1))
        if self.grid_mask is not None:
            x = self.grid_mask(x)
        # Channels-last is what convolution kernels like, on the CPU and on tensor cores.
        finest = self.neck(self.backbone(x.contiguous(memory_format=torch.channels_last)))[0]
        image_hw = (x.shape[-2], x.shape[-1])
        return ImageFeatures(finest.unflatten(0, (batch, views)), self.stride), image_hw


def resnet_branch(
    channels: int,
    *,
    depth: int = 50,
    width: int = 64,
    stages: Sequence[int] = (2, 3),
    grid_mask: bool = False,
    frozen: bool = False,
) -> ImageBranch:
    """ResNet and CPFPN; by default the sizes of CMT (junjie18/CMT, r50).

    Args:
        channels: of the output.
        depth, width: of the ResNet.
        stages: that the neck joins; the first gives the output's stride: 1 eight, 2 sixteen.
        grid_mask: blot out squares in training.
        frozen: batch norms keep their statistics (a pre-trained backbone).
    """
    backbone = ResNet(depth=depth, width=width, out_stages=stages, norm_eval=frozen)
    return ImageBranch(
        backbone=backbone,
        neck=CPFPN(backbone.channels, channels),
        # Published for strides of 16: maps whose coarser levels end unevenly are cut by the neck.
        normalize=ImageNormalize(multiple=16),
        grid_mask=GridMask() if grid_mask else None,
    )
