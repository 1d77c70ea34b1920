"""The image branch of camera models: pixels to features of one stride."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from perception3d.backbones.image_input import GridMask, ImageNormalize
from perception3d.backbones.image_resnet import ResNet, ResNetStyle
from perception3d.backbones.image_timm import TimmBackbone
from perception3d.backbones.image_vovnet import VoVNet
from perception3d.nn.fpn import CPFPN
from perception3d.structures import ImageFeatures

#: Images are padded to whole cells of this many pixels (junjie18/CMT, megvii-research/PETR).
PUBLISHED_MULTIPLE = 32

#: Depths that :func:`named_branch` knows.
RESNETS = (18, 34, 50, 101)
VOVNETS = (39, 57, 99)


class ImageBranch(nn.Module):
    """Pixels -> normalised, padded -> backbone -> neck; the neck's finest map is the output.

    Args:
        backbone: declares ``channels`` and ``strides``, finest first.
        neck: maps to maps; declares ``channels``. None: the backbone's finest map is the output
            (published for PETR-R50 "c5").
        normalize: pixels to network input; pads images to a multiple of the output's stride, or of
            more. Levels behind it that end unevenly are the neck's to join.
        grid_mask: None for none (published: fusion has it, the camera-only model does not).

    Attributes:
        channels, stride: of the output.

    Raises:
        ValueError: padding that leaves cells of the output cut.
    """

    def __init__(
        self,
        *,
        backbone: nn.Module,
        neck: nn.Module | None,
        normalize: ImageNormalize | None = None,
        grid_mask: GridMask | None = None,
    ) -> None:
        super().__init__()
        self.normalize = ImageNormalize() if normalize is None else normalize
        self.grid_mask = grid_mask
        self.backbone = backbone
        self.neck = neck
        self.channels = int(
            backbone.channels[0] if neck is None else neck.channels  # type: ignore[index, arg-type]
        )
        self.stride = int(backbone.strides[0])  # type: ignore[index]
        if self.normalize.multiple % self.stride:
            raise ValueError(
                f"images are padded to a multiple of {self.normalize.multiple} pixels, which cuts "
                f"cells of {self.stride} pixels; give ImageNormalize a multiple of {self.stride}"
            )

    def forward(self, images: Tensor) -> tuple[ImageFeatures, tuple[int, int]]:
        """(B, V, 3, H, W) uint8 -> features (B, V, channels, h, w), and the padded (H, W)."""
        if images.ndim != 5 or images.shape[2] != 3:
            raise ValueError(f"images must be (B, V, 3, H, W); found {tuple(images.shape)}")
        batch, views = images.shape[:2]
        x = self.normalize(images.flatten(0, 1))
        if self.grid_mask is not None:
            x = self.grid_mask(x)
        # Channels-last is what convolution kernels like, on the CPU and on tensor cores.
        maps = self.backbone(x.contiguous(memory_format=torch.channels_last))
        finest = (maps if self.neck is None else self.neck(maps))[0]
        image_hw = (x.shape[-2], x.shape[-1])
        return ImageFeatures(finest.unflatten(0, (batch, views)), self.stride), image_hw


def resnet_branch(
    channels: int | None,
    *,
    depth: int = 50,
    width: int = 64,
    stages: Sequence[int] = (2, 3),
    style: ResNetStyle = "pytorch",
    deformable_stages: Sequence[int] = (),
    normalize: ImageNormalize | None = None,
    grid_mask: bool = False,
    frozen: bool = False,
    norm_frozen: bool = False,
    frozen_stages: int = -1,
    checkpointing: bool = False,
) -> ImageBranch:
    """ResNet and CPFPN; by default the sizes of CMT (junjie18/CMT, r50).

    Args:
        channels: of the output; None for no neck: those of the first of ``stages``.
        depth, width, style, deformable_stages: of the ResNet; PETR-R50 takes "caffe" and (2, 3).
        stages: that the neck joins; the first gives the output's stride: 1 eight, 2 sixteen.
        normalize: None for blue first, padded to whole cells of the output; PETR-R50 takes
            ``ImageNormalize(std=CAFFE_STD)``.
        grid_mask: blot out squares in training.
        frozen: batch norms keep their statistics (a pre-trained backbone).
        norm_frozen: batch norms keep their statistics and weights.
        frozen_stages: -1 nothing is frozen; n the stem and the first n stages.
        checkpointing: recompute the backbone in the backward pass.
    """
    backbone = ResNet(
        depth=depth,
        width=width,
        out_stages=stages,
        style=style,
        norm_eval=frozen,
        norm_frozen=norm_frozen,
        frozen_stages=frozen_stages,
        deformable_stages=deformable_stages,
        checkpointing=checkpointing,
    )
    if normalize is None:
        # Published for strides of 16: maps whose coarser levels end unevenly are cut by the neck.
        normalize = ImageNormalize(multiple=max(16, backbone.strides[0]))
    return _joined(backbone, backbone.channels, channels, normalize, grid_mask)


def vovnet_branch(
    channels: int | None,
    *,
    depth: int = 99,
    width: int = 64,
    slim: bool = False,
    stages: Sequence[int] = (2, 3),
    normalize: ImageNormalize | None = None,
    grid_mask: bool = False,
    frozen: bool = False,
    norm_frozen: bool = False,
    frozen_stages: int = -1,
    checkpointing: bool = False,
) -> ImageBranch:
    """VoVNet V2 and CPFPN; by default the sizes of CMT and PETR (V-99-eSE, strides 16 and 32).

    Args:
        channels: of the output; None for no neck.
        depth, width, slim: of the VoVNet.
        stages: that the neck joins; the first gives the output's stride: 1 eight, 2 sixteen.
        normalize: None for the published one: blue first, padded to multiples of 32.
        grid_mask, frozen, norm_frozen, frozen_stages, checkpointing: see :func:`resnet_branch`.
    """
    backbone = VoVNet(
        depth=depth,
        width=width,
        slim=slim,
        out_stages=stages,
        norm_eval=frozen,
        norm_frozen=norm_frozen,
        frozen_stages=frozen_stages,
        checkpointing=checkpointing,
    )
    if normalize is None:
        normalize = ImageNormalize(multiple=PUBLISHED_MULTIPLE)
    return _joined(backbone, backbone.channels, channels, normalize, grid_mask)


def timm_branch(
    channels: int | None,
    *,
    name: str,
    strides: Sequence[int] = (16, 32),
    image_hw: tuple[int, int] | None = None,
    pretrained: bool = False,
    grid_mask: bool = False,
    frozen: bool = False,
    checkpointing: bool = False,
) -> ImageBranch:
    """A timm model and CPFPN, its pixels normalised as its weights were trained.

    Images are padded to a multiple of the largest stride.

    Args:
        channels: of the output; None for no neck.
        name, strides, pretrained: see :class:`perception3d.backbones.image_timm.TimmBackbone`.
        image_hw: (H, W) of the images before padding, for models that are built for one size.
        grid_mask: blot out squares in training.
        frozen: batch norms keep their statistics (a pre-trained backbone).
        checkpointing: recompute the backbone in the backward pass.
    """
    multiple = max(strides, default=1)
    if image_hw is not None:
        image_hw = (image_hw[0] + -image_hw[0] % multiple, image_hw[1] + -image_hw[1] % multiple)
    backbone = TimmBackbone(
        name=name,
        strides=strides,
        pretrained=pretrained,
        image_hw=image_hw,
        norm_eval=frozen,
        checkpointing=checkpointing,
    )
    normalize = ImageNormalize(mean=backbone.mean, std=backbone.std, bgr=False, multiple=multiple)
    return _joined(backbone, backbone.channels, channels, normalize, grid_mask)


def named_branch(name: str, image_hw: tuple[int, int]) -> Callable[..., ImageBranch]:
    """What builds the branch of a backbone, with strides of 16 and 32.

    Args:
        name: resnet18, 34, 50 or 101; vovnet39, 57 or 99; or timm: and a name in timm, such as
            timm:swin_tiny_patch4_window7_224.
        image_hw: (H, W) of the images before padding, which some models of timm are built for.

    Returns:
        A function of ``channels`` and the keywords ``grid_mask``, ``frozen``, ``checkpointing``.

    Raises:
        ValueError: an unknown name.
    """
    family, _, timm_name = name.partition(":")
    if family == "timm" and timm_name:
        return partial(timm_branch, name=timm_name, image_hw=image_hw)
    branches = {"resnet": (resnet_branch, RESNETS), "vovnet": (vovnet_branch, VOVNETS)}
    for kind, (build, depths) in branches.items():
        if name in [f"{kind}{depth}" for depth in depths]:
            return partial(build, depth=int(name.removeprefix(kind)))
    known = [f"{kind}{depth}" for kind, (_, depths) in branches.items() for depth in depths]
    raise ValueError(f"no image backbone is called {name!r}; known: {', '.join(known)}, timm:NAME")


def _joined(
    backbone: nn.Module,
    in_channels: Sequence[int],
    channels: int | None,
    normalize: ImageNormalize,
    grid_mask: bool,
) -> ImageBranch:
    return ImageBranch(
        backbone=backbone,
        neck=None if channels is None else CPFPN(in_channels, channels),
        normalize=normalize,
        grid_mask=GridMask() if grid_mask else None,
    )
