"""CMT: queries with 3-D reference points look at LiDAR and image tokens side by side.

Reference: Cross Modal Transformer: Towards Fast and Robust 3D Object Detection, arXiv 2301.01283
(ICCV 2023), figure 2; junjie18/CMT for what the paper leaves open.

    points -> LiDAR branch --- BEV map -+-> shared conv -> BEV tokens + plane code -+
                               [balance]|                                           +-> memory
    images -> normalise -> backbone -> neck -+-> image tokens + ray code -----------+     |
                                             |                                            |
    memory, BEV map, image map ---------------> [fork] -+-> detection: decoder, branches -> boxes
                                                        +-> [maps: queries, decoder -> maps]
    reference points -> plane code + ray code -> position of queries (and denoising queries)

What stands in brackets is ours: maps beside boxes on the same tokens, with FULLER's calibration of
gradients (arXiv 2307.16617; :mod:`perception3d.balancing`). Without them it is the published model.

Where they sit. Balance takes the outputs of the two sensor branches: all that comes back into a
branch comes through it. The fork must cut every path from a task into what both share. That is the
memory's data, and also the two feature maps that it was made of, for heat-map queries and map
queries read them directly; so it takes all three at once, and weighs tasks by one Gram matrix over
all. They are a cut: the memory is made of the maps before the fork, so that what comes back through
it passes the fork there and nowhere again. Position codes alone would be shared around the fork, by
the codes of both heads' queries. Where there are boxes, maps take codes without gradient: they are
detection's.

Maps come from queries on the tokens (:mod:`perception3d.heads.token_maps`), not from convolutions
on the BEV map: cameras have no cells in that map, so that a dense head could not do without LiDAR.
Each query starts from what either sensor shows at its place, which a CPU learns in minutes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn

from perception3d.balancing import Balance, Fork, Rule
from perception3d.fusion.tokens import Cameras, CrossModalTokens, Memory
from perception3d.heads.queries import QuerySource
from perception3d.heads.query import QueryHead, QueryOutputs
from perception3d.heads.query_denoising import Denoising, DenoisingBuilder
from perception3d.heads.segmentation import MapOutputs
from perception3d.heads.token_maps import TokenMaps
from perception3d.models.fuller import DETECTION, SEGMENTATION, positive
from perception3d.models.image_branch import ImageBranch
from perception3d.models.lidar_branch import LidarBranch
from perception3d.structures import Batch, BEVFeatures, Boxes3D, ImageFeatures, Prediction


@dataclass(frozen=True)
class CMTOutputs:
    """What the heads of a model with maps say; boxes are None where it only draws maps."""

    boxes: QueryOutputs | None
    map: MapOutputs


@dataclass(frozen=True)
class _Shared:
    """What tasks share: the memory, and the features that it was made of."""

    memory: Memory
    bev: BEVFeatures | None
    images: ImageFeatures | None


class CMT(nn.Module):
    """The detector; which sensors and tasks it has follows from its parts.

    A model with both branches also runs on batches with one of them (``batch.points`` or
    ``batch.images`` None): that sensor's tokens are absent then. Samples of one batch have the same
    sensors. (Masked-modal training, where tokens stay and the sensor's values are zero, is a
    transform of the data.)

    Args:
        lidar: None for a camera-only model.
        image: None for a LiDAR-only model.
        tokens: memory and position codes, built for the same sensors.
        queries: where queries come from (:class:`perception3d.heads.queries.QuerySource`); with
            ``head``.
        head: decoder, branches, losses; None for a model that only draws maps.
        denoising: None trains without denoising queries.
        maps: None for a model that only detects.
        fork: between boxes and maps; None for the plain sum. Does nothing where there is one task.
        balance: of camera and LiDAR, in this order; None for none. Does nothing where there is one
            sensor.
        map_scale: what the map's terms are multiplied by before any rule sees them.
    """

    def __init__(
        self,
        *,
        lidar: LidarBranch | None,
        image: ImageBranch | None,
        tokens: CrossModalTokens,
        queries: nn.Module | None,
        head: QueryHead | None,
        denoising: DenoisingBuilder | None = None,
        maps: TokenMaps | None = None,
        fork: Fork | None = None,
        balance: Balance | None = None,
        map_scale: float = 1.0,
    ) -> None:
        super().__init__()
        if lidar is None and image is None:
            raise ValueError("CMT needs a LiDAR branch, an image branch or both; found neither")
        if (lidar is None) != (tokens.shared_conv is None) or (image is None) != (
            tokens.ray is None
        ):
            raise ValueError("tokens must be built for the same sensors as the branches")
        if lidar is not None:
            here, there = lidar.grid.range_m, tokens.range_m
            if here[:2] + here[3:5] != there[:2] + there[3:5]:
                raise ValueError(
                    f"the LiDAR branch covers {here}, tokens and head {there}: BEV cells would be "
                    "placed wrongly; give both one range"
                )
        _check_detection(tokens, queries, head, denoising)
        _check_tasks(head, maps, fork, balance)
        _check_maps(lidar, image, tokens, maps)
        self.lidar = lidar
        self.image = image
        self.tokens = tokens
        self.queries = queries
        self.head = head
        self.build_denoising = denoising
        self.maps = maps
        self.fork, self.balance = fork, balance
        self.map_scale = positive(map_scale)

    @property
    def rule(self) -> Rule | None:
        """What weighs the tasks' losses; None for their sum."""
        return None if self.fork is None else self.fork.rule

    def denoising(self, batch: Batch) -> Denoising | None:
        """Denoising queries of a training batch; None if there are none to make."""
        if self.build_denoising is None or batch.boxes is None:
            return None
        return self.build_denoising(batch.boxes)

    def forward(
        self, batch: Batch, denoising: Denoising | None = None
    ) -> QueryOutputs | CMTOutputs:
        """Outputs of all decoder layers: the boxes' alone, or with maps those of both.

        Raises:
            ValueError: the batch has none of the sensors of this model, or a sensor for some of its
                samples only.
        """
        batch.refuse_mixed(lidar=self.lidar is not None, images=self.image is not None)
        bev, images, cameras = self._sensors(batch)
        shared = None if bev is None else self.tokens.share(bev)
        memory = self.tokens.memory(shared, images, cameras)
        for_boxes, for_map = self._parted(_Shared(memory, bev, images))
        boxes = None
        if self.head is not None and self.queries is not None:
            boxes = self.head(
                for_boxes.memory.data,
                for_boxes.memory.position,
                self.queries(for_boxes.bev, for_boxes.images, batch),
                lambda reference: self.tokens.query_position(reference, cameras),
                denoising,
            )
        if self.maps is None:
            assert boxes is not None
            return boxes
        return CMTOutputs(boxes, self._draw(self.maps, for_map, batch, cameras))

    def _sensors(
        self, batch: Batch
    ) -> tuple[BEVFeatures | None, ImageFeatures | None, Cameras | None]:
        """What the branches make of the sensors that are there, balanced where there are two."""
        bev, images, cameras = None, None, None
        if self.lidar is not None and batch.points is not None and batch.offsets is not None:
            bev = self.lidar(batch.points, batch.offsets)
        if self.image is not None and batch.images is not None and batch.rig is not None:
            images, image_hw = self.image(batch.images)
            cameras = Cameras(batch.rig.ref_to_image(), image_hw)
        if bev is not None and images is not None and self.balance is not None:
            camera, lidar = self.balance(images.data, bev.data)
            images, bev = replace(images, data=camera), replace(bev, data=lidar)
        return bev, images, cameras

    def _parted(self, shared: _Shared) -> Sequence[_Shared]:
        """What is shared, once for boxes and once for maps."""
        if self.head is None or self.maps is None:
            return shared, shared
        bev, images = shared.bev, shared.images
        maps = [part.data for part in (bev, images) if part is not None]
        parted = []
        for data, *features in (self.fork or _copies)(shared.memory.data, *maps):
            of_sensor = iter(features)
            parted.append(
                _Shared(
                    Memory(data, shared.memory.position),
                    None if bev is None else replace(bev, data=next(of_sensor)),
                    None if images is None else replace(images, data=next(of_sensor)),
                )
            )
        return parted

    def _draw(
        self, maps: TokenMaps, shared: _Shared, batch: Batch, cameras: Cameras | None
    ) -> MapOutputs:
        learns = self.head is None and torch.is_grad_enabled()

        def place_code(xyz_m: Tensor) -> Tensor:
            with torch.set_grad_enabled(learns):
                reference = (xyz_m - self.tokens.low) / self.tokens.extent
                return self.tokens.query_position(reference, cameras)

        position = shared.memory.position
        return maps(
            shared.memory.data,
            position if learns else position.detach(),
            shared.bev,
            shared.images,
            batch,
            place_code,
        )

    def loss(
        self, outputs: QueryOutputs | CMTOutputs, batch: Batch
    ) -> dict[str, dict[str, Tensor]]:
        """Loss terms, weighted, by task and name; their sum is to be minimised.

        Raises:
            ValueError: the batch lacks boxes, or the map.
        """
        boxes, drawn = _both(outputs)
        terms: dict[str, dict[str, Tensor]] = {}
        if boxes is not None:
            assert self.head is not None
            if batch.boxes is None:
                raise ValueError("the loss needs Batch.boxes; this batch has no ground truth")
            source = cast(QuerySource, self.queries)
            found = self.head.loss(boxes, batch.boxes)
            terms[DETECTION] = found | source.loss(boxes.queries, batch)
        if drawn is not None:
            assert self.maps is not None
            if batch.map is None:
                raise ValueError("the loss needs Batch.map; this batch has no map")
            by_class = self.maps.head.loss(drawn, batch.map)
            terms[SEGMENTATION] = {n: self.map_scale * term for n, term in by_class.items()}
        return terms

    def predict(self, outputs: QueryOutputs | CMTOutputs, batch: Batch) -> list[Prediction]:
        """Boxes of the last layer by falling score, and maps, on the CPU."""
        boxes, drawn = _both(outputs)
        decoded = [(Boxes3D.empty(), torch.zeros(0))] * batch.batch_size
        if boxes is not None:
            assert self.head is not None
            decoded = self.head.decode(boxes)
        found = Prediction.of_batch(batch, decoded)
        if drawn is None:
            return found
        assert self.maps is not None
        grid, classes = self.maps.grid, tuple(self.maps.head.tasks)
        return [
            replace(one, map_prob=prob, grid=grid, map_classes=classes)
            for one, prob in zip(found, self.maps.head.decode(drawn))
        ]


def _copies(*features: Tensor) -> list[list[Tensor]]:
    """What a fork gives, uncalibrated: gradients are then summed in its order, to the bit."""
    once = [tensor.view_as(tensor) for tensor in features]
    return [[tensor.view_as(tensor) for tensor in once] for _ in range(2)]


def _both(outputs: QueryOutputs | CMTOutputs) -> tuple[QueryOutputs | None, MapOutputs | None]:
    if isinstance(outputs, CMTOutputs):
        return outputs.boxes, outputs.map
    return outputs, None


def _check_detection(
    tokens: CrossModalTokens,
    queries: nn.Module | None,
    head: QueryHead | None,
    denoising: DenoisingBuilder | None,
) -> None:
    if (head is None) != (queries is None):
        raise ValueError("head and queries belong together; one of them is None")
    if head is None:
        if denoising is not None:
            raise ValueError("denoising queries are for boxes; this model has no head for them")
        return
    if tokens.range_m != head.range_m or tokens.channels != head.decoder.channels:
        raise ValueError(
            f"tokens ({tokens.channels} channels, range {tokens.range_m}) and head "
            f"({head.decoder.channels} channels, range {head.range_m}) must agree"
        )
    if denoising is not None and denoising.range_m != head.range_m:
        raise ValueError(
            f"denoising range {denoising.range_m} and head range {head.range_m} must agree"
        )


def _check_tasks(
    head: QueryHead | None, maps: TokenMaps | None, fork: Fork | None, balance: Balance | None
) -> None:
    heads = ((DETECTION, head), (SEGMENTATION, maps))
    tasks = [name for name, part in heads if part is not None]
    if not tasks:
        raise ValueError("the model needs a head for boxes, one for maps, or both; found neither")
    if fork is not None and list(fork.rule.tasks) != tasks:
        raise ValueError(f"the fork parts {fork.rule.tasks}, the model has heads for {tasks}")
    if balance is not None and len(balance.modalities) != 2:
        raise ValueError(f"balance is between camera and LiDAR; found {balance.modalities}")


def _check_maps(
    lidar: LidarBranch | None,
    image: ImageBranch | None,
    tokens: CrossModalTokens,
    maps: TokenMaps | None,
) -> None:
    if maps is None:
        return
    if maps.head.decoder.channels != tokens.channels:
        raise ValueError(
            f"tokens ({tokens.channels} channels) and maps ({maps.head.decoder.channels} channels) "
            "must agree"
        )
    channels = None if lidar is None else lidar.channels
    if maps.bev_channels != channels or (maps.lift is None) != (image is None):
        raise ValueError("maps must be built for the same sensors as the branches")
    for axis, name in enumerate(("x_m", "y_m")):
        first, last = getattr(maps.grid, name)
        low, high = tokens.range_m[axis], tokens.range_m[axis + 3]
        if first < low or last > high:
            raise ValueError(
                f"the map's {name} {first, last} reaches beyond what the tokens cover "
                f"{low, high}; take a smaller map or a larger range"
            )
