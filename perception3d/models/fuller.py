"""FULLER: one model for boxes and maps, with calibrated gradients between tasks and sensors.

Reference: FULLER: Unified Multi-modality Multi-task 3D Perception via Multi-level Gradient
Calibration, arXiv 2307.16617 (ICCV 2023). Known from its text: LiDAR and camera branches, a shared
backbone seen from above, light heads; gradients of the tasks calibrated at the shared backbone's
last layer, then those of the sensors before they enter their branches. The equations and the sizes
could not be read: they are ours, see :mod:`perception3d.balancing`.

    points -> LiDAR branch ---------------> map --+
                                                  +- balance -> fuse -> backbone -> fork -+-> boxes
    images -> image branch -> lift by depth map --+                                       +-> maps
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from perception3d.balancing import Balance, Fork, Rule
from perception3d.fusion.concat import ConcatFuser
from perception3d.heads.bev_map import BevMapHead
from perception3d.heads.center import CenterHead, CenterOutputs
from perception3d.heads.petr_depth import Seen, image_losses
from perception3d.heads.petr_lift import DepthLift
from perception3d.models.image_branch import ImageBranch
from perception3d.models.lidar_branch import LidarBranch
from perception3d.structures import Batch, BEVFeatures, Boxes3D, Prediction

#: Names of the tasks in losses and rules.
DETECTION, SEGMENTATION = "detection", "segmentation"


def positive(map_scale: float) -> float:
    """The scale of the map's loss; ValueError for what would train away from the map, or not."""
    if not (math.isfinite(map_scale) and map_scale > 0):
        raise ValueError(f"map_scale must be a number above 0; found {map_scale}")
    return map_scale


@dataclass(frozen=True)
class FullerOutputs:
    """What the heads say, None for a head that the model lacks; what images show, with cameras."""

    boxes: CenterOutputs | None
    map: Tensor | None
    seen: Seen | None


class FULLER(nn.Module):
    """The joint model; which sensors and tasks it has follows from its parts.

    Args:
        lidar: points to a map from above; None for cameras alone.
        image: pixels to features; with ``lift``. None for LiDAR alone.
        lift: features to a map on the LiDAR map's grid.
        fuser: joins the sensors' maps, camera first.
        backbone: joined map to maps; ``neck``: to one.
        detection, segmentation: heads; at least one.
        fork: between the tasks; None for the plain sum, and where there is one task.
        balance: between the sensors; None for none.
        depth_weight, heat_weight: of what images are taught directly; both terms belong to no
            task, and go past the fork.
        map_scale: what the map's terms are multiplied by before any rule sees them.
    """

    def __init__(
        self,
        *,
        lidar: LidarBranch | None,
        image: ImageBranch | None,
        lift: DepthLift | None,
        fuser: ConcatFuser,
        backbone: nn.Module,
        neck: nn.Module,
        detection: CenterHead | None,
        segmentation: BevMapHead | None,
        fork: Fork | None = None,
        balance: Balance | None = None,
        depth_weight: float = 1.0,
        heat_weight: float = 1.0,
        map_scale: float = 1.0,
    ) -> None:
        super().__init__()
        if lidar is None and image is None:
            raise ValueError("the model needs a LiDAR branch, an image branch or both")
        if (image is None) != (lift is None):
            raise ValueError("image and lift belong together; one of them is None")
        if detection is None and segmentation is None:
            raise ValueError("the model needs a detection head, a segmentation head or both")
        if lidar is not None and lift is not None and lidar.grid != lift.grid:
            raise ValueError(f"LiDAR's map lies on {lidar.grid}, the cameras' on {lift.grid}")
        tasks = [
            name
            for name, head in ((DETECTION, detection), (SEGMENTATION, segmentation))
            if head is not None
        ]
        if fork is not None and list(fork.rule.tasks) != tasks:
            raise ValueError(f"the fork parts {fork.rule.tasks}, the model has heads for {tasks}")
        self.lidar, self.image, self.lift = lidar, image, lift
        self.fuser, self.backbone, self.neck = fuser, backbone, neck
        self.detection, self.segmentation = detection, segmentation
        self.fork, self.balance = fork, balance
        self.depth_weight, self.heat_weight = depth_weight, heat_weight
        self.map_scale = positive(map_scale)

    @property
    def rule(self) -> Rule | None:
        """What weighs the tasks' losses; None for their sum."""
        return None if self.fork is None else self.fork.rule

    def denoising(self, batch: Batch) -> None:
        """Nothing, for there are no queries; training asks every model and hands on the answer."""

    def forward(self, batch: Batch, denoising: None = None) -> FullerOutputs:
        """Raw maps of the heads.

        A sensor that the whole batch lacks counts as an empty map.

        Args:
            batch: with points, images, or both.
            denoising: what :meth:`denoising` says, for the sake of training.

        Raises:
            ValueError: no sensor of this model is there, or one for some samples only.
        """
        self._refuse_foreign(batch)
        from_lidar = from_camera = seen = None
        if self.lidar is not None and batch.points is not None and batch.offsets is not None:
            from_lidar = self.lidar(batch.points, batch.offsets).data
        if self.image is not None and self.lift is not None and batch.images is not None:
            assert batch.rig is not None
            features, _ = self.image(batch.images)
            hw = (batch.images.shape[-2], batch.images.shape[-1])
            from_camera, seen = self.lift(features, batch.rig, hw)
        if from_lidar is not None and from_camera is not None and self.balance is not None:
            from_camera, from_lidar = self.balance(from_camera, from_lidar)
        joined = self.fuser(*self._maps(from_camera, from_lidar))
        shared = self.neck(self.backbone(joined))
        return self._answer(shared, seen)

    def _answer(self, shared: Tensor, seen: Seen | None) -> FullerOutputs:
        grid = (self.detection or self.segmentation).grid  # type: ignore[union-attr]
        each = [shared, shared]
        if self.fork is not None and len(self.fork.rule.tasks) == len(each):
            each = self.fork(shared)
        boxes = None
        if self.detection is not None:
            boxes = self.detection(BEVFeatures(each[0], grid))
        drawn = None
        if self.segmentation is not None:
            drawn = self.segmentation(BEVFeatures(each[1], grid))
        return FullerOutputs(boxes, drawn, seen)

    def _maps(self, camera: Tensor | None, lidar: Tensor | None) -> list[Tensor]:
        """What the fuser takes: zeros for a sensor that is absent."""
        there = camera if lidar is None else lidar
        assert there is not None
        maps, channels = [], iter(self.fuser.in_channels)
        for branch, data in ((self.lift, camera), (self.lidar, lidar)):
            if branch is not None:
                width = next(channels)
                empty = (len(there), width, *there.shape[-2:])
                maps.append(there.new_zeros(empty) if data is None else data)
        return maps

    def _refuse_foreign(self, batch: Batch) -> None:
        used = (self.lidar is not None, self.image is not None)
        there = (batch.points is not None, batch.images is not None)
        if not any(use and here for use, here in zip(used, there)):
            raise ValueError(
                "the batch has none of the sensors of this model; it needs "
                + " or ".join(n for n, use in zip(("points", "images"), used) if use)
            )
        batch.refuse_mixed(lidar=used[0], images=used[1])

    def loss(self, outputs: FullerOutputs, batch: Batch) -> dict[str, dict[str, Tensor]]:
        """Loss terms, weighted, by task and name.

        "images" is no task of the model's: it teaches depths and what images show.
        """
        terms: dict[str, dict[str, Tensor]] = {}
        if self.detection is not None and outputs.boxes is not None:
            if batch.boxes is None:
                raise ValueError("the loss needs Batch.boxes; this batch has no ground truth")
            terms[DETECTION] = self.detection.loss(outputs.boxes, batch.boxes)
        if self.segmentation is not None and outputs.map is not None:
            if batch.map is None:
                raise ValueError("the loss needs Batch.map; this batch has no map")
            drawn = self.segmentation.loss(outputs.map, batch.map)
            terms[SEGMENTATION] = {name: self.map_scale * term for name, term in drawn.items()}
        if self.lift is not None and outputs.seen is not None and batch.boxes is not None:
            seen = image_losses(outputs.seen, batch, self.lift.depth.edges_m)
            weights = {"image_depth": self.depth_weight, "image_heat": self.heat_weight}
            terms["images"] = {name: weights[name] * term for name, term in seen.items()}
        return terms

    def predict(self, outputs: FullerOutputs, batch: Batch) -> list[Prediction]:
        """Boxes by falling score, and maps, on the CPU."""
        decoded = [(Boxes3D.empty(), torch.zeros(0))] * batch.batch_size
        if self.detection is not None and outputs.boxes is not None:
            decoded = self.detection.decode(outputs.boxes)
        found = Prediction.of_batch(batch, decoded)
        if self.segmentation is None or outputs.map is None:
            return found
        head = self.segmentation
        return [
            replace(one, map_prob=drawn, grid=head.map_grid, map_classes=head.classes)
            for one, drawn in zip(found, head.decode(outputs.map))
        ]
