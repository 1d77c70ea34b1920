"""Position codes of image cells by points along their viewing rays, as PETR makes them.

Reference: PETR, arXiv 2203.05625, sections 3.2 and 3.3; PETRv2, arXiv 2206.01256, section 3.3 (the
gate); megvii-research/PETR, ``PETRHead.position_embeding`` and ``PETRv2Head``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from perception3d.nn.position import inverse_sigmoid, uniform_depths

#: Published range of the ray points: x, y, z minima, then maxima, in metres. Wider than the range
#: of boxes.
POSITION_RANGE_M = (-61.2, -61.2, -10.0, 61.2, 61.2, 10.0)


def growing_depths(near_m: float, far_m: float, count: int) -> Tensor:
    """(count,) float32 depths whose steps grow linearly: near + k (k + 1) delta.

    delta = (far - near) / (count (count + 1)), so ``far`` would be depth number ``count`` and is
    never reached ("LID", arXiv 2005.13423).
    """
    k = torch.arange(count, dtype=torch.float32)
    return near_m + (far_m - near_m) / (count * (count + 1)) * k * (k + 1)


class RayPointCode(nn.Module):
    """Codes a cell by points along the ray through its top left pixel.

    Unlike CMT's ray code the normalised coordinates pass a logit, so no linear layer can be moved
    in front of it.

    Args:
        channels: C of the codes; published 256.
        hidden: width of the MLP; published 1024 = 4 C.
        range_m: x, y, z minima, then maxima, that points are normalised to, in ``ref``; its x
            maximum is the end of the depths too (published).
        num_depths: K; published 64.
        near_m: first depth; published 1.
        growing: depths grow apart with the distance (published); evenly spaced if False.
    """

    depths: Tensor
    low: Tensor
    extent: Tensor

    def __init__(
        self,
        channels: int,
        *,
        hidden: int = 1024,
        range_m: tuple[float, float, float, float, float, float] = POSITION_RANGE_M,
        num_depths: int = 64,
        near_m: float = 1.0,
        growing: bool = True,
    ) -> None:
        super().__init__()
        self.embedding = pointwise_mlp(3 * num_depths, hidden, channels)
        spread = growing_depths if growing else uniform_depths
        low, high = torch.tensor(range_m[:3]), torch.tensor(range_m[3:])
        self.register_buffer("depths", spread(near_m, range_m[3], num_depths), persistent=False)
        self.register_buffer("low", low, persistent=False)
        self.register_buffer("extent", high - low, persistent=False)

    def forward(
        self, ref_to_image: Tensor, feature_hw: tuple[int, int], image_hw: tuple[int, int]
    ) -> Tensor:
        """Codes of all cells.

        Args:
            ref_to_image: (B, V, 4, 4) float64, metres in ``ref`` to (u d, v d, d, 1).
            feature_hw: (h, w) of the features.
            image_hw: (H, W) of the network's input, padding included.

        Returns:
            (B, V, C, h, w) float32.
        """
        with torch.autocast(ref_to_image.device.type, enabled=False):
            points = self.coordinates(ref_to_image, feature_hw, image_hw)
            code = self.embedding(inverse_sigmoid(points).flatten(0, 1))
            return code.unflatten(0, points.shape[:2])

    def coordinates(
        self, ref_to_image: Tensor, feature_hw: tuple[int, int], image_hw: tuple[int, int]
    ) -> Tensor:
        """(B, V, 3 K, h, w) float32 points in units of the range, not clamped; channel 3 k + axis.

        A cell's pixel is its top left corner: column * W / w, row * H / h, without half a pixel.
        """
        (h, w), (height, width) = feature_hw, image_hw
        device = ref_to_image.device
        v = torch.arange(h, device=device, dtype=torch.float32) * height / h
        u = torch.arange(w, device=device, dtype=torch.float32) * width / w
        v, u = torch.meshgrid(v, u, indexing="ij")
        pixels = torch.stack((u, v, torch.ones_like(u)), dim=-1)
        # The logit behind amplifies rounding up to 1e5 times: the products run in float64.
        inverse = torch.linalg.inv(ref_to_image.double())
        direction = torch.einsum("bvij,hwj->bvihw", inverse[..., :3, :3], pixels.double())
        origin = inverse[..., :3, 3, None, None]
        points = self.depths.double()[:, None, None, None] * direction[:, :, None]
        points = (points + origin[:, :, None]).float()
        shared = (3, 1, 1)
        return ((points - self.low.view(shared)) / self.extent.view(shared)).flatten(2, 3)


class FeatureGate(nn.Module):
    """Feature-guided position code of PETRv2: what a cell shows decides how much its code counts.

    sigmoid(MLP(features)) multiplies the code, channel by channel and cell by cell, without
    pooling.

    Args:
        channels: C of features and codes.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = pointwise_mlp(channels, channels, channels)

    def forward(self, features: Tensor) -> Tensor:
        """(B, V, C, h, w) features -> factors in (0, 1) of the same shape."""
        # One layout, so that kernels round alike whether views came together or frame by frame.
        maps = features.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        return self.layers(maps).sigmoid().unflatten(0, features.shape[:2])


def pointwise_mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Two 1x1 convolutions with ReLU between; wider kernels do not converge (arXiv 2203.05625)."""
    return nn.Sequential(
        nn.Conv2d(inputs, hidden, 1), nn.ReLU(inplace=True), nn.Conv2d(hidden, outputs, 1)
    )
