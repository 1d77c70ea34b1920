"""PETR and PETRv2: queries look at image cells that know which points their rays pass.

Reference: PETR: Position Embedding Transformation for Multi-View 3D Object Detection, arXiv
2203.05625 (ECCV 2022), figure 2; PETRv2, arXiv 2206.01256 (ICCV 2023), figure 2;
megvii-research/PETR for what the papers leave open.

    images of V cameras (PETRv2: now, then the same V cameras 15 camera frames ago)
        -> normalise -> GridMask -> backbone -> neck -> project --------> features --+--> values
    rig, earlier views seen from the current frame -> ray code --x gate <--+         +--> keys
    place among views, rows, columns -> view code -----------------------+--> position
    reference points -> query code -> decoder -> boxes (displacements / time gap = velocities)
    fixed grid       -> query code -> decoder -> maps seen from above
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn

from perception3d.fusion.petr_tokens import PETRTokens, RigCode
from perception3d.geometry.temporal import camera_ages_s, frame_gap_s
from perception3d.heads.petr import PETRHead
from perception3d.heads.petr_depth import Seen
from perception3d.heads.petr_lift import Lifted, TemporalLift
from perception3d.heads.queries import QuerySource
from perception3d.heads.query import QueryOutputs
from perception3d.heads.query_denoising import Denoising, DenoisingBuilder
from perception3d.heads.segmentation import MapOutputs, SegmentationHead
from perception3d.models.image_branch import ImageBranch
from perception3d.structures import (
    Batch,
    BEVGrid,
    Boxes3D,
    CameraRig,
    ImageFeatures,
    Prediction,
)


@dataclass(frozen=True)
class PETROutputs:
    """What the heads that a model has say; None for a head that it lacks."""

    detection: QueryOutputs | None
    map: MapOutputs | None
    seen: Seen | None = None


class PETR(nn.Module):
    """The camera model; which tasks it has follows from which heads are given.

    With two frames a batch holds both on its view axis: ``batch.images`` (B, 2 V, 3, H, W) and
    ``batch.rig`` with the V current cameras first, then the same cameras of the earlier frame in
    the same order; ``rig.cam_SE3_ref`` of all of them starts in the current ``ref``
    (:func:`perception3d.geometry.temporal.shift_reference`), ``rig.time_ns`` says when each
    exposed. A first frame of a scene stands in for its missing predecessor, with times from
    :func:`perception3d.geometry.temporal.repeated_times_ns`.

    Args:
        image: pixels to features of one stride.
        tokens: features to memory.
        queries: where box queries come from (:class:`perception3d.heads.queries.QuerySource`, one
            that looks at no features); with ``head``.
        head: boxes; None for a model that only draws maps.
        segmentation: maps; None for a model that only detects.
        map_grid: where the maps lie; with ``segmentation``.
        map_classes: what they show, for those who look at predictions.
        frames: 1 (PETR) or 2 (PETRv2).
        lift: carries the images to a map from above, which queries then start from; None, as
            published, for queries that look at no features.
        denoising: None trains without denoising queries.
        only_images: with ``lift``: look at the current frame's images and do nothing else: the
            first part of a training from scratch. The weights are those of the whole model.
    """

    def __init__(
        self,
        *,
        image: ImageBranch,
        tokens: PETRTokens,
        queries: nn.Module | None = None,
        head: PETRHead | None = None,
        segmentation: SegmentationHead | None = None,
        map_grid: BEVGrid | None = None,
        map_classes: tuple[str, ...] | None = None,
        frames: int = 1,
        lift: TemporalLift | None = None,
        denoising: DenoisingBuilder | None = None,
        only_images: bool = False,
    ) -> None:
        super().__init__()
        if only_images and lift is None:
            raise ValueError("only_images needs a lift, which learns what images show")
        if frames not in (1, 2):
            raise ValueError(f"PETR takes 1 frame, PETRv2 takes 2; found {frames}")
        if head is None and segmentation is None:
            raise ValueError("the model needs a head, a segmentation head or both; found neither")
        if (head is None) != (queries is None):
            raise ValueError("head and queries belong together; one of them is None")
        _check_map(segmentation, map_grid)
        _check_lift(lift, frames, map_grid)
        for name, part in (("head", head), ("segmentation", segmentation)):
            if part is not None and part.decoder.channels != tokens.channels:
                raise ValueError(
                    f"tokens ({tokens.channels} channels) and {name} ({part.decoder.channels} "
                    "channels) must agree"
                )
        if denoising is not None and (head is None or denoising.range_m != head.range_m):
            raise ValueError(
                f"denoising range {denoising.range_m} and head range "
                f"{None if head is None else head.range_m} must agree"
            )
        self.image = image
        self.tokens = tokens
        self.queries = queries
        self.head = head
        self.segmentation = segmentation
        self.map_grid, self.map_classes = map_grid, map_classes
        self.frames = frames
        self.lift = lift
        self.only_images = only_images
        self.build_denoising = denoising

    def denoising(self, batch: Batch) -> Denoising | None:
        """Denoising queries of a training batch; None if there are none to make."""
        if self.build_denoising is None or batch.boxes is None:
            return None
        return self.build_denoising(batch.boxes)

    def forward(self, batch: Batch, denoising: Denoising | None = None) -> PETROutputs:
        """Outputs of all decoder layers.

        Raises:
            ValueError: a sample has no images, or the views are not those of ``frames`` frames.
        """
        images, rig = self.cameras(batch)
        if len(rig) % self.frames:
            raise ValueError(
                f"{self.frames} frames need as many views each; found {len(rig)}: {rig.names}"
            )
        if self.only_images and self.lift is not None:
            maps, _ = self.image(images[:, : len(rig) // self.frames])
            return PETROutputs(None, None, self.lift.look(maps, rig))
        maps, image_hw = self.maps(images)
        features = self.tokens.features(maps.data if self.lift is None else maps.data.detach())
        h, w = features.shape[-2:]
        valid_hw = None if image_hw == tuple(images.shape[-2:]) else rig.image_hw
        code = self.tokens.rig_code(rig.ref_to_image(), valid_hw, image_hw, (h, w))
        gap_s = None
        if self.frames == 2:  # of maps too: it tells whether the views are those of two moments
            gap_s = frame_gap_s(camera_ages_s(batch.time_ns, rig.time_ns))
        lifted = None
        if self.lift is not None:
            lifted = self.lift(maps, rig, (images.shape[-2], images.shape[-1]))
        return self.answer(features, code, batch, gap_s=gap_s, denoising=denoising, lifted=lifted)

    def cameras(self, batch: Batch) -> tuple[Tensor, CameraRig]:
        """Images and rig of a batch; ValueError where a sample has none."""
        if batch.images is None or batch.rig is None or not bool(batch.sensor_present[:, 1].all()):
            without = [
                token for token, seen in zip(batch.tokens, batch.sensor_present[:, 1]) if not seen
            ]
            raise ValueError(
                "PETR needs the cameras of every sample; none for "
                f"{', '.join(without) or 'the whole batch (Batch.images, Batch.rig)'}"
            )
        return batch.images, batch.rig

    def maps(self, images: Tensor) -> tuple[ImageFeatures, tuple[int, int]]:
        """Image features (B, V, channels, h, w) before projection, and the padded (H, W)."""
        if self.lift is None or self.lift.earlier_gradient or self.frames == 1:
            return self.image(images)
        now, then = images.chunk(2, dim=1)
        current, image_hw = self.image(now)
        with torch.no_grad():
            earlier, _ = self.image(then)
        both = torch.cat((current.data, earlier.data), dim=1)
        return ImageFeatures(both, current.stride), image_hw

    def answer(
        self,
        features: Tensor,
        code: RigCode,
        batch: Batch,
        *,
        gap_s: Tensor | None,
        denoising: Denoising | None = None,
        lifted: Lifted | None = None,
        every_map: bool = True,
    ) -> PETROutputs:
        """Outputs from projected features and rig codes of all views.

        Args:
            features: (B, V, C, h, w).
            code: of the same views.
            batch: for its size.
            gap_s: (B,) seconds between both frames, None with one frame.
            denoising: extra queries.
            lifted: with ``lift``.
            every_map: maps of all layers, or of the last one, all that prediction needs.
        """
        memory = self.tokens.memory(features, code)
        detection, drawn = None, None
        bev = None if lifted is None else lifted.map
        if self.head is not None and self.queries is not None:
            detection = self.head(
                memory.data,
                memory.position,
                self.queries(bev, None, batch),
                memory_blocked=memory.padded,
                gap_s=gap_s,
                denoising=denoising,
            )
        if self.segmentation is not None:
            drawn = self.segmentation(
                memory.data,
                memory.position,
                memory_blocked=memory.padded,
                bev=None if bev is None else bev.data,
                every_layer=every_map,
            )
        return PETROutputs(detection, drawn, None if lifted is None else lifted.seen)

    def loss(self, outputs: PETROutputs, batch: Batch) -> dict[str, dict[str, Tensor]]:
        """Loss terms, weighted, by task ("detection", "segmentation", "images") and name.

        LiDAR points, where the batch holds some, teach depths; nothing else reads them.
        """
        terms = {}
        if self.head is not None and outputs.detection is not None:
            if batch.boxes is None:
                raise ValueError("the loss needs Batch.boxes; this batch has no ground truth")
            source = cast(QuerySource, self.queries)
            terms["detection"] = self.head.loss(outputs.detection, batch.boxes) | source.loss(
                outputs.detection.queries, batch
            )
        if self.segmentation is not None and outputs.map is not None:
            if batch.map is None:
                raise ValueError("the loss needs Batch.map; this batch has no map")
            terms["segmentation"] = self.segmentation.loss(outputs.map, batch.map)
        if self.lift is not None and outputs.seen is not None:
            terms["images"] = self.lift.loss(outputs.seen, batch)
        return terms

    def predict(self, outputs: PETROutputs, batch: Batch) -> list[Prediction]:
        """Boxes of the last layer by falling score, and maps, on the CPU."""
        none = (Boxes3D.empty(), torch.zeros(0))
        decoded = [none] * batch.batch_size
        if self.head is not None and outputs.detection is not None:
            decoded = self.head.decode(outputs.detection)
        found = Prediction.of_batch(batch, decoded)
        if self.segmentation is None or outputs.map is None:
            return found
        maps = self.segmentation.decode(outputs.map)
        return [
            replace(one, map_prob=drawn, grid=self.map_grid, map_classes=self.map_classes)
            for one, drawn in zip(found, maps)
        ]


def _check_lift(lift: TemporalLift | None, frames: int, map_grid: BEVGrid | None) -> None:
    if lift is None:
        return
    if lift.frames != frames:
        raise ValueError(f"a model of {frames} frames needs a lift of as many; found {lift.frames}")
    here = lift.lift.grid
    if map_grid is not None and (here.x_m, here.y_m) != (map_grid.x_m, map_grid.y_m):
        raise ValueError(
            f"maps lie on x {map_grid.x_m}, y {map_grid.y_m}, what is lifted on x {here.x_m}, "
            f"y {here.y_m}: give both one area"
        )


def _check_map(segmentation: SegmentationHead | None, grid: BEVGrid | None) -> None:
    if (segmentation is None) != (grid is None):
        raise ValueError("segmentation and map_grid belong together; one of them is None")
    if segmentation is None or grid is None:
        return
    cells = (segmentation.cells, segmentation.cells)
    if (grid.ny, grid.nx) != cells:
        raise ValueError(
            f"the segmentation head draws {cells} cells; map_grid has {grid.ny, grid.nx}"
        )
