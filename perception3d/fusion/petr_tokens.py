"""Image tokens of PETR and PETRv2: projected features, position codes, padding.

Reference: arXiv 2203.05625 and 2206.01256; megvii-research/PETR, ``PETRHead``, ``PETRv2Head``,
``PETRHead_seg``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from perception3d.fusion.kept_code import KeptCode
from perception3d.fusion.petr_position import FeatureGate, RayPointCode, pointwise_mlp
from perception3d.fusion.petr_sine import padded_cells, view_sine_code


@dataclass(frozen=True)
class RigCode:
    """What depends on cameras and image sizes but on no pixel: kept while the rig stays the same.

    Attributes:
        rays: (B, V, C, h, w) float32 codes of the viewing rays, before the gate.
        views: (B, V, C, h, w) float32 codes of view, row and column; None without them.
        padded: (B, V, h, w) bool, True = padding; None where no cell is.
    """

    rays: Tensor
    views: Tensor | None
    padded: Tensor | None


@dataclass(frozen=True)
class ImageMemory:
    """What queries attend to: cells by view, row, column.

    Attributes:
        data: (B, N, C) projected features: keys without their code, and values.
        position: (B, N, C) float32 codes added to the keys.
        padded: (B, N) bool, True where no query may look; None where all may.
    """

    data: Tensor
    position: Tensor
    padded: Tensor | None


class PETRTokens(nn.Module):
    """Makes the memory of the decoder.

    Args:
        in_channels: of the image features.
        channels: C of tokens; published 256.
        rays: code of the viewing rays, C channels.
        gated: PETRv2's feature-guided gate on the ray code.
        view_feats: channels of the sine code of view, row and column, each; published 128. None
            leaves that code out (megvii-research/PETR, branch flash); frames then look alike.
        view_hidden: width of the MLP behind it; published 1024.
        stride: tokens are the mean of this many cells by as many; published 1.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        channels: int,
        rays: RayPointCode,
        gated: bool,
        view_feats: int | None = 128,
        view_hidden: int = 1024,
        stride: int = 1,
    ) -> None:
        super().__init__()
        self.project = nn.Conv2d(in_channels, channels, 1)
        self.rays = rays
        self.gate = FeatureGate(channels) if gated else None
        self.views = (
            None if view_feats is None else pointwise_mlp(3 * view_feats, view_hidden, channels)
        )
        self.view_feats = view_feats
        self.channels = channels
        self.stride = stride
        # In evaluation: made once for a fixed rig, and for images without padding.
        self._ray_code, self._view_code = KeptCode(), KeptCode()

    def features(self, data: Tensor) -> Tensor:
        """(B, V, in_channels, h, w) image features -> (B, V, C, h, w) projected ones.

        Raises:
            ValueError: cells that are not whole tokens.
        """
        maps = data.flatten(0, 1)
        if self.stride > 1:
            if maps.shape[-2] % self.stride or maps.shape[-1] % self.stride:
                raise ValueError(
                    f"tokens of {self.stride} x {self.stride} cells do not fit image features of "
                    f"{tuple(maps.shape[-2:])} cells; choose another size of the images"
                )
            maps = avg_pool2d(maps, self.stride)
        return self.project(maps).unflatten(0, data.shape[:2])

    def rig_code(
        self,
        ref_to_image: Tensor,
        valid_hw: Tensor | None,
        image_hw: tuple[int, int],
        feature_hw: tuple[int, int],
    ) -> RigCode:
        """Codes that depend on no pixel.

        Args:
            ref_to_image: (B, V, 4, 4) float64, metres in the current ``ref`` to (u d, v d, d, 1),
                also for views of an earlier frame.
            valid_hw: (B, V, 2) height and width of the images before padding; None = no padding.
            image_hw: (H, W) of the network's input, padding included.
            feature_hw: (h, w) of the features.
        """
        batch, views = ref_to_image.shape[:2]
        inputs = (ref_to_image, *feature_hw, *image_hw)
        rays = self._ray_code(
            self.rays, inputs, lambda: self.rays(ref_to_image, feature_hw, image_hw)
        )
        padded = None if valid_hw is None else padded_cells(valid_hw, image_hw, feature_hw)
        return RigCode(
            rays=rays,
            views=self.view_code((batch, views, *feature_hw), padded),
            padded=padded,
        )

    def view_code(self, shape: tuple[int, int, int, int], padded: Tensor | None) -> Tensor | None:
        """(B, V, C, h, w) code of view, row and column; without padding it is constant.

        Args:
            shape: (B, V, h, w).
            padded: (B, V, h, w) bool, or None.
        """
        mlp, feats = self.views, self.view_feats
        if mlp is None or feats is None:
            return None
        device = self.project.weight.device
        with torch.autocast(device.type, enabled=False):
            blocked = padded
            if blocked is None:
                blocked = torch.zeros((1, *shape[1:]), dtype=torch.bool, device=device)

            def make() -> Tensor:
                return mlp(view_sine_code(blocked, feats).flatten(0, 1))

            code = self._view_code(mlp, (blocked,), make)
            return code.unflatten(0, blocked.shape[:2]).expand(shape[0], -1, -1, -1, -1)

    def position(self, features: Tensor, code: RigCode) -> Tensor:
        """(B, V, C, h, w) float32 codes of the keys: gated ray code plus view code.

        Args:
            features: (B, V, C, h, w) projected.
            code: of the same views.
        """
        with torch.autocast(features.device.type, enabled=False):
            rays = code.rays
            if self.gate is not None:
                rays = rays * self.gate(features.float())
            return rays if code.views is None else rays + code.views

    def memory(self, features: Tensor, code: RigCode) -> ImageMemory:
        """Memory of projected features (B, V, C, h, w)."""
        if features.shape != code.rays.shape:
            raise ValueError(
                f"features {tuple(features.shape)} and codes {tuple(code.rays.shape)} must be of "
                "the same views and cells"
            )
        return ImageMemory(
            data=_tokens(features),
            position=_tokens(self.position(features, code)),
            padded=None if code.padded is None else code.padded.flatten(1),
        )


def _tokens(maps: Tensor) -> Tensor:
    """(B, V, C, h, w) -> (B, V h w, C)."""
    return maps.permute(0, 1, 3, 4, 2).flatten(1, 3)
