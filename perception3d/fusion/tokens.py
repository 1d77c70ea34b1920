"""Tokens of CMT: LiDAR and image features side by side, each with a code of its place in the world.

Reference: Cross Modal Transformer, arXiv 2301.01283, section 3; junjie18/CMT for everything it
leaves open.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from perception3d.fusion.kept_code import KeptCode
from perception3d.fusion.plane_code import PlanePositionCode
from perception3d.fusion.ray_code import RayPositionCode
from perception3d.nn.position import inverse_sigmoid
from perception3d.structures import BEVFeatures, ImageFeatures


@dataclass(frozen=True)
class Cameras:
    """What position codes need of the cameras.

    Attributes:
        ref_to_image: (B, V, 4, 4) float64, metres in ``ref`` to (u d, v d, d, 1).
        image_hw: height and width of the network's input in pixels, padding included; the
            published code takes it from the first view for the whole batch, and here all views
            share it.
    """

    ref_to_image: Tensor
    image_hw: tuple[int, int]


@dataclass(frozen=True)
class Memory:
    """What queries attend to.

    Attributes:
        data: (B, N, C) BEV tokens row by row, then image tokens by camera, row, column.
        position: (B, N, C) float32 their position codes.
    """

    data: Tensor
    position: Tensor


class CrossModalTokens(nn.Module):
    """Makes the memory of the decoder, and the position codes of queries in the same spaces.

    Args:
        channels: C of tokens; published 256.
        range_m: x, y, z minima, then maxima: what normalised coordinates 0 and 1 stand for.
        bev_channels: channels of the LiDAR features, None for a model without LiDAR.
        bev_stride: tokens are this many cells of the LiDAR features wide; published 1.
        image_stride: image tokens are the mean of this many cells by as many; published 1.
        cameras: False for a model without cameras.
        ray_hidden: width of the ray MLP; published 1024.
        num_depths, depth_m: see :class:`RayPositionCode`.
    """

    low: Tensor
    extent: Tensor

    def __init__(
        self,
        *,
        channels: int,
        range_m: tuple[float, float, float, float, float, float],
        bev_channels: int | None,
        bev_stride: int = 1,
        image_stride: int = 1,
        cameras: bool,
        ray_hidden: int = 1024,
        num_depths: int = 64,
        depth_m: tuple[float, float] = (1.0, 54.0),
    ) -> None:
        super().__init__()
        self.shared_conv = (
            None if bev_channels is None else _conv_norm_relu(bev_channels, channels, bev_stride)
        )
        self.bev_stride, self.image_stride = bev_stride, image_stride
        # The camera-only model has the plane code too: its queries use it.
        self.plane = PlanePositionCode(channels)
        self.ray = (
            RayPositionCode(
                channels, hidden=ray_hidden, range_m=range_m, num_depths=num_depths, depth_m=depth_m
            )
            if cameras
            else None
        )
        # In evaluation: the plane's code is the same for all frames, the rays' for a fixed rig.
        self._plane_code, self._ray_code = KeptCode(), KeptCode()
        self.channels = channels
        self.range_m = range_m
        low, high = torch.tensor(range_m[:3]), torch.tensor(range_m[3:])
        self.register_buffer("low", low, persistent=False)
        self.register_buffer("extent", high - low, persistent=False)

    def share(self, bev: BEVFeatures) -> BEVFeatures:
        """LiDAR features (B, bev_channels, ny, nx) as (B, C, ny / stride, nx / stride).

        3x3 convolution, norm, ReLU.
        """
        if self.shared_conv is None:
            raise ValueError(
                "these tokens were built without LiDAR (bev_channels=None); found BEV features"
            )
        return BEVFeatures(self.shared_conv(bev.data), bev.grid.stride(self.bev_stride))

    def memory(
        self, bev: BEVFeatures | None, images: ImageFeatures | None, cameras: Cameras | None
    ) -> Memory:
        """Memory of the sensors that are there.

        Args:
            bev: LiDAR features with C channels (after :meth:`share`), or None.
            images: (B, V, C, h, w), or None.
            cameras: needed with ``images``.

        Raises:
            ValueError: no sensor at all, or image features without cameras.
        """
        data: list[Tensor] = []
        position: list[Tensor] = []
        if bev is not None:
            data.append(bev.data.flatten(2).transpose(1, 2))
            rows, columns = bev.data.shape[-2:]
            code = self._plane_code(
                self.plane, (rows, columns), lambda: self.plane.grid(rows, columns)
            )
            position.append(code.expand(len(bev.data), -1, -1))
        if images is not None:
            ray = self.ray
            if ray is None or cameras is None:
                raise ValueError(
                    "image features need a model built with cameras, and their projections"
                )
            maps = images.data
            if self.image_stride > 1:
                pooled = avg_pool2d(maps.flatten(0, 1), self.image_stride)
                maps = pooled.unflatten(0, maps.shape[:2])
            data.append(maps.permute(0, 1, 3, 4, 2).flatten(1, 3))
            h, w = maps.shape[-2:]
            to_image, image_hw = cameras.ref_to_image, cameras.image_hw
            code = self._ray_code(
                ray, (to_image, h, w, *image_hw), lambda: ray.tokens(to_image, (h, w), image_hw)
            )
            position.append(code.flatten(1, 3))
        if not data:
            raise ValueError("a batch needs LiDAR points, images or both; found neither")
        return Memory(torch.cat(data, dim=1), torch.cat(position, dim=1))

    def query_position(self, reference: Tensor, cameras: Cameras | None) -> Tensor:
        """Position codes of queries: the plane part, plus the ray part when cameras are there.

        Args:
            reference: (B, Q, 3) in [0, 1].
            cameras: None when no image is in the memory.

        Returns:
            (B, Q, C) float32.
        """
        # sigmoid(logit(.)) is the identity but for the margins that the logit clamps; published.
        reference = inverse_sigmoid(reference.float()).sigmoid()
        position = self.plane.points(reference[..., :2])
        if self.ray is None or cameras is None:
            return position
        reference_m = reference * self.extent + self.low
        return position + self.ray.queries(reference_m, cameras.ref_to_image, cameras.image_hw)


def _conv_norm_relu(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))
