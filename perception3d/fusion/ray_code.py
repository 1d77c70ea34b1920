"""Position codes of things seen by cameras: points along the viewing ray (CMT, section 3.2)."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from perception3d.nn.position import uniform_depths

#: Keeps the projection of points in the camera plane finite (junjie18/CMT).
DIVISOR_EPS = 1e-6


class RayPositionCode(nn.Module):
    """Codes image tokens by the points along their rays, and queries by the rays that hit them.

    A ray through pixel (u, v) holds the points T (u d, v d, d, 1) for K depths d, T being the
    inverse projection. Normalised to the range and concatenated (depth-major, xyz-minor: 3 K
    numbers, neither clamped nor passed through a logit) they enter an MLP.

    Every point is ``d * direction + origin``, so the first layer W of the MLP is evaluated as
    ``(sum_k d_k W_k) direction + (sum_k W_k) origin``: 6 inputs instead of 3 K, the same function.

    Args:
        channels: C of the codes.
        hidden: width of the MLP; published 1024 = 4 C.
        range_m: x, y, z minima, then maxima, of the detection range in ``ref``.
        num_depths: K; published 64.
        depth_m: nearest depth, and the end of the depth range (excluded); published 1 to 54 m.
    """

    depths: Tensor
    low: Tensor
    extent: Tensor

    def __init__(
        self,
        channels: int,
        *,
        hidden: int,
        range_m: tuple[float, float, float, float, float, float],
        num_depths: int = 64,
        depth_m: tuple[float, float] = (1.0, 54.0),
    ) -> None:
        super().__init__()
        self.embedding = nn.Sequential(
            nn.Linear(3 * num_depths, hidden), nn.ReLU(), nn.Linear(hidden, channels)
        )
        low, high = torch.tensor(range_m[:3]), torch.tensor(range_m[3:])
        self.register_buffer("depths", uniform_depths(*depth_m, num_depths), persistent=False)
        self.register_buffer("low", low, persistent=False)
        self.register_buffer("extent", high - low, persistent=False)

    def tokens(
        self, ref_to_image: Tensor, feature_hw: tuple[int, int], image_hw: tuple[int, int]
    ) -> Tensor:
        """Codes of the cells of image features.

        A cell's pixel is its top left corner: column * W / w, row * H / h, without half a pixel.

        Args:
            ref_to_image: (B, V, 4, 4) float64, see ``CameraRig.ref_to_image``.
            feature_hw: (h, w) of the features.
            image_hw: (H, W) of the network's input, padding included.

        Returns:
            (B, V, h, w, C) float32.
        """
        with torch.autocast(ref_to_image.device.type, enabled=False):
            (h, w), (height, width) = feature_hw, image_hw
            device = ref_to_image.device
            v = torch.arange(h, device=device, dtype=torch.float32) * height / h
            u = torch.arange(w, device=device, dtype=torch.float32) * width / w
            v, u = torch.meshgrid(v, u, indexing="ij")
            pixels = torch.stack((u, v, torch.ones_like(u)), dim=-1)
            inverse = torch.linalg.inv(ref_to_image.double()).float()
            direction = torch.einsum("bvij,hwj->bvhwi", inverse[..., :3, :3], pixels)
            origin = inverse[..., None, None, :3, 3]
            return self._embed(direction, origin)

    def queries(
        self, reference_m: Tensor, ref_to_image: Tensor, image_hw: tuple[int, int]
    ) -> Tensor:
        """Codes of reference points: sum of the codes of the rays of all cameras that see them.

        Args:
            reference_m: (B, Q, 3) metres in ``ref``.
            ref_to_image: (B, V, 4, 4) float64.
            image_hw: (H, W) of the network's input, padding included.

        Returns:
            (B, Q, C) float32; exact zeros where no camera sees the point.
        """
        with torch.autocast(reference_m.device.type, enabled=False):
            pixels, visible = self._project(reference_m.float(), ref_to_image, image_hw)
            inverse = torch.linalg.inv(ref_to_image.double()).float()
            sample, view, query = visible.nonzero(as_tuple=True)
            seen = inverse[sample, view]
            direction = (seen[:, :3, :3] @ pixels[sample, view, query, :, None]).squeeze(-1)
            codes = self._embed(direction, seen[:, :3, 3])
            batch, count = reference_m.shape[:2]
            total = codes.new_zeros(batch * count, codes.shape[-1])
            return total.index_add(0, sample * count + query, codes).view(batch, count, -1)

    def _project(
        self, reference_m: Tensor, ref_to_image: Tensor, image_hw: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Homogeneous pixels (B, V, Q, 3) and which of them lie in the image (B, V, Q) bool."""
        T = ref_to_image.float()
        p = torch.einsum("bvij,bqj->bvqi", T[..., :3, :3], reference_m) + T[..., None, :3, 3]
        depth = p[..., 2:].detach()
        # The published code detaches the divisor; the third component stays Z / (Z +- eps), a
        # little off 1.
        pixels = p / torch.where(depth > 0, depth + DIVISOR_EPS, depth - DIVISOR_EPS)
        u, v = pixels[..., 0], pixels[..., 1]
        height, width = image_hw
        visible = (u >= 0) & (u < width) & (v >= 0) & (v < height) & (depth[..., 0] > 0)
        return pixels, visible

    def _embed(self, direction: Tensor, origin: Tensor) -> Tensor:
        """MLP of the points ``d * direction + origin``; both (..., 3) in metres, broadcast."""
        first, last = cast(nn.Linear, self.embedding[0]), self.embedding[2]
        weight = first.weight.unflatten(1, (-1, 3))
        by_direction = torch.einsum("k,hki->hi", self.depths, weight)
        by_origin = weight.sum(dim=1)
        from_direction = nn.functional.linear(direction / self.extent, by_direction)
        from_origin = nn.functional.linear((origin - self.low) / self.extent, by_origin, first.bias)
        return last(torch.relu(from_direction + from_origin))
