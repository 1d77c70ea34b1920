"""How far each image cell looks: a distribution over depths, taught by LiDAR points and boxes.

BEVDepth (arXiv 2206.10092) found that depths learned from the detection loss alone are poor, and
taught them with LiDAR points, which are not needed afterwards. So it is here. What a cell is told
beside its features follows from the cameras: how far flat ground would be along its ray. The depth
of whatever stands on the ground is then a matter of finding its foot.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from perception3d.heads.heatmap_targets import ImageTargets, image_targets
from perception3d.heads.peak_branch import HEAT_BIAS
from perception3d.losses.focal import gaussian_focal_loss
from perception3d.structures import Batch, CameraRig

#: Height of cameras above the ground (nuScenes: 1.50 to 1.59 m), for the hint.
CAMERA_HEIGHT_M = 1.55
#: Ground nearer than this is not told apart: the hint is bounded.
NEAREST_GROUND_M = 1.0
#: Focal length to which the hint of focal lengths refers.
REFERENCE_FOCAL_PX = 300.0
#: How much more likely the bin of flat ground is than others, as a logarithm, before learning.
GROUND_LOGIT = 3.0
#: Scores of classes are lifted this many times as large: of what an image shows a cell of the map
#: gets a tenth, which would be lost among the other channels.
EVIDENCE = 10.0
#: Channels of :func:`ground_hints`.
HINTS = 3


def depth_edges(near_m: float, far_m: float, count: int) -> Tensor:
    """(count + 1,) float32 borders of depth bins whose widths grow linearly, from near to far."""
    k = torch.arange(count + 1, dtype=torch.float32)
    return near_m + (far_m - near_m) / (count * (count + 1)) * k * (k + 1)


def ground_hints(
    rig: CameraRig, image_hw: tuple[int, int], shape: tuple[int, int], height_m: float
) -> Tensor:
    """What the cameras tell of each cell without a look at pixels.

    Down is the mean of the cameras' own y axes: cameras around a vehicle that all look down a
    little still agree on it, and no mounting of the LiDAR comes in.

    Args:
        rig: stacked, (B, V, ...).
        image_hw: (H, W) of the network's input.
        shape: (h, w) of the cells.
        height_m: of the cameras above the ground.

    Returns:
        (B, V, 3, h, w) float32: height over ground depth (0 above the horizon), slope of the ray
        (down / forward), logarithm of the focal length over 300 pixels.
    """
    (h, w), (height, width) = shape, image_hw
    device = rig.K.device
    intrinsics = rig.image_aug @ rig.K
    v = (torch.arange(h, device=device, dtype=torch.float64) + 0.5) * (height / h)
    u = (torch.arange(w, device=device, dtype=torch.float64) + 0.5) * (width / w)
    v, u = torch.meshgrid(v, u, indexing="ij")
    pixels = torch.stack((u, v, torch.ones_like(u)), dim=-1)
    rays = torch.einsum("bvij,hwj->bvhwi", torch.linalg.inv(intrinsics), pixels)
    # Rows of a camera's rotation are its axes in ``ref``; scale of an augmented scene drops out.
    turn = nn.functional.normalize(rig.cam_SE3_ref[..., :3, :3], dim=-1)
    down = nn.functional.normalize(turn[..., 1, :].mean(dim=1, keepdim=True), dim=-1)
    along = torch.einsum("bvij,bvj->bvi", turn, down.expand(-1, turn.shape[1], -1))
    slope = torch.einsum("bvhwi,bvi->bvhw", rays, along)
    near = (slope / height_m).clamp(0, 1 / NEAREST_GROUND_M)
    focal = (intrinsics[..., 1, 1].abs() / REFERENCE_FOCAL_PX).log()
    hints = (near * height_m, slope.clamp(-2, 2), focal[..., None, None].expand_as(slope))
    return torch.stack(hints, dim=2).float()


@dataclass(frozen=True)
class Seen:
    """What the images of one frame show.

    Attributes:
        depth: (B, V, D, h, w) float32 logits of the depth bins.
        heat: (B, V, K, h, w) logits: box centres of each class.
        context: (B, V, C, h, w) what is worth lifting, the classes' scores among it.
    """

    depth: Tensor
    heat: Tensor
    context: Tensor


class DepthBranch(nn.Module):
    """Image features and hints to a distribution over depth bins and features worth lifting.

    What images show of classes is learned in the images, where it is easiest, and lifted with the
    rest (as PointPainting, arXiv 1911.10150, does for points).

    Args:
        channels: of the image features.
        hidden: channels between both convolutions.
        lifted: channels of what is lifted, beside the classes.
        num_classes: K.
        edges_m: (D + 1,) borders of the depth bins.
        camera_height_m: of the cameras above the ground.
    """

    edges_m: Tensor

    def __init__(
        self,
        *,
        channels: int,
        hidden: int,
        lifted: int,
        num_classes: int,
        edges_m: Tensor,
        camera_height_m: float = CAMERA_HEIGHT_M,
    ) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(channels + HINTS, hidden, 3, padding=1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(inplace=True),
        )
        self.bins = len(edges_m) - 1
        self.depth = nn.Conv2d(hidden + HINTS, self.bins, 3, padding=1)
        self.context = nn.Sequential(
            nn.Conv2d(hidden, lifted, 1, bias=False),
            nn.BatchNorm2d(lifted),
            nn.ReLU(inplace=True),
        )
        self.ground_logit = nn.Parameter(torch.tensor(GROUND_LOGIT))
        self.heat = nn.Conv2d(hidden, num_classes, 3, padding=1)
        nn.init.normal_(self.heat.weight, std=0.01)
        nn.init.constant_(self.heat.bias, HEAT_BIAS)  # type: ignore[arg-type]
        self.lifted = lifted + num_classes
        self.camera_height_m = camera_height_m
        self.register_buffer("edges_m", edges_m, persistent=False)

    def forward(self, features: Tensor, rig: CameraRig, image_hw: tuple[int, int]) -> Seen:
        """What the images of one frame show.

        Args:
            features: (B, V, channels, h, w).
            rig: of the same views.
            image_hw: (H, W) of the network's input.
        """
        shape = (features.shape[-2], features.shape[-1])
        hints = ground_hints(rig, image_hw, shape, self.camera_height_m).flatten(0, 1)
        hints = hints.to(features)
        hidden = self.trunk(torch.cat((features.flatten(0, 1), hints), dim=1))
        logits = self.depth(torch.cat((hidden, hints), dim=1)).float()
        logits = logits + self.ground_logit * self._at_ground(hints[:, 0].float())
        heat = self.heat(hidden)
        context = torch.cat((self.context(hidden), EVIDENCE * heat.sigmoid()), dim=1)
        size = features.shape[:2]
        return Seen(*(part.unflatten(0, size) for part in (logits, heat, context)))

    def _at_ground(self, near: Tensor) -> Tensor:
        """(N, D, h, w) how near each bin is to flat ground, 1 there, 0 two bins away.

        Args:
            near: (N, h, w) height over ground depth.
        """
        ground_m = self.camera_height_m / near.clamp_min(1e-4)
        place = torch.arange(self.bins, device=near.device).view(-1, 1, 1)
        low = (torch.bucketize(ground_m, self.edges_m, right=True) - 1).clamp(0, self.bins)
        width = torch.diff(self.edges_m, append=self.edges_m[-1:] + 1)
        exact = low + (ground_m - self.edges_m[low]) / width[low] - 0.5
        return (1 - (place - exact[:, None]).abs() / 2).clamp(0, 1)


def depth_bins(targets: ImageTargets, edges_m: Tensor) -> Tensor:
    """(B, V, h, w) int64 depth bins of cells, -1 where nothing is known.

    A box centre in a cell decides; the nearest LiDAR point where there is no centre.

    Args:
        targets: of the images.
        edges_m: (D + 1,) borders of the bins.
    """
    log_depth = torch.where(
        targets.is_center, targets.center_log_depth.float(), targets.point_log_depth.float()
    )
    bins = torch.bucketize(log_depth.exp(), edges_m, right=True) - 1
    known = (targets.is_center | targets.has_point) & (bins >= 0) & (bins < len(edges_m) - 1)
    return torch.where(known, bins, torch.full_like(bins, -1))


def image_losses(seen: Seen, batch: Batch, edges_m: Tensor) -> dict[str, Tensor]:
    """Cross-entropy of the depths that are known, and the heat maps' focal loss, by name.

    Args:
        seen: of the first V views of the batch.
        batch: with boxes, images and rig; with LiDAR points where they should teach depths.
        edges_m: (D + 1,) borders of the bins.
    """
    views, classes = seen.heat.shape[1:3]
    assert batch.rig is not None and batch.images is not None
    rig = batch.rig.views(slice(views))
    current = replace(batch, images=batch.images[:, :views], rig=rig)
    targets = image_targets(current, (classes, *seen.heat.shape[-2:]))
    bins = depth_bins(targets, edges_m)
    depth = cross_entropy(
        seen.depth.flatten(0, 1), bins.flatten(0, 1), ignore_index=-1, reduction="sum"
    )
    heat = gaussian_focal_loss(seen.heat.float(), targets.heat).sum()
    return {
        "image_depth": depth / (bins >= 0).sum().clamp_min(1),
        "image_heat": heat / (targets.heat == 1).sum().clamp_min(1),
    }
