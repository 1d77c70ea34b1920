"""CMT: queries with 3-D reference points look at LiDAR and image tokens side by side.

Reference: Cross Modal Transformer: Towards Fast and Robust 3D Object Detection, arXiv 2301.01283
(ICCV 2023), figure 2; junjie18/CMT for what the paper leaves open.

    points -> LiDAR branch -> BEV map -> shared conv -----------> BEV tokens + plane code --+
    images -> normalise -> backbone -> neck ----------------> image tokens + ray code  ---+-> memory
    reference points -> plane code + ray code -> position of queries                         |
    queries (and denoising queries in training) ------------> decoder <----------------------+
                                                                 +--> task branches of every layer
                                                                 -> boxes
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from perception3d.fusion.tokens import Cameras, CrossModalTokens
from perception3d.heads.queries import QuerySource
from perception3d.heads.query import QueryHead, QueryOutputs
from perception3d.heads.query_denoising import Denoising, DenoisingBuilder
from perception3d.models.image_branch import ImageBranch
from perception3d.models.lidar_branch import LidarBranch
from perception3d.structures import Batch, Prediction


class CMT(nn.Module):
    """The detector; which sensors it has follows from which branches are given.

    A model with both branches also runs on batches with one of them (``batch.points`` or
    ``batch.images`` None): that sensor's tokens are absent then. Samples of one batch have the same
    sensors. (Masked-modal training, where tokens stay and the sensor's values are zero, is a
    transform of the data.)

    Args:
        lidar: None for a camera-only model.
        image: None for a LiDAR-only model.
        tokens: memory and position codes, built for the same sensors.
        queries: where queries come from (:class:`perception3d.heads.queries.QuerySource`).
        head: decoder, branches, losses.
        denoising: None trains without denoising queries.
    """

    def __init__(
        self,
        *,
        lidar: LidarBranch | None,
        image: ImageBranch | None,
        tokens: CrossModalTokens,
        queries: nn.Module,
        head: QueryHead,
        denoising: DenoisingBuilder | None = None,
    ) -> None:
        super().__init__()
        if lidar is None and image is None:
            raise ValueError("CMT needs a LiDAR branch, an image branch or both; found neither")
        if (lidar is None) != (tokens.shared_conv is None) or (image is None) != (
            tokens.ray is None
        ):
            raise ValueError("tokens must be built for the same sensors as the branches")
        if tokens.range_m != head.range_m or tokens.channels != head.decoder.channels:
            raise ValueError(
                f"tokens ({tokens.channels} channels, range {tokens.range_m}) and head "
                f"({head.decoder.channels} channels, range {head.range_m}) must agree"
            )
        if lidar is not None:
            here, there = lidar.grid.range_m, tokens.range_m
            if here[:2] + here[3:5] != there[:2] + there[3:5]:
                raise ValueError(
                    f"the LiDAR branch covers {here}, tokens and head {there}: BEV cells would be "
                    "placed wrongly; give both one range"
                )
        if denoising is not None and denoising.range_m != head.range_m:
            raise ValueError(
                f"denoising range {denoising.range_m} and head range {head.range_m} must agree"
            )
        self.lidar = lidar
        self.image = image
        self.tokens = tokens
        self.queries = queries
        self.head = head
        self.build_denoising = denoising

    def denoising(self, batch: Batch) -> Denoising | None:
        """Denoising queries of a training batch; None if there are none to make."""
        if self.build_denoising is None or batch.boxes is None:
            return None
        return self.build_denoising(batch.boxes)

    def forward(self, batch: Batch, denoising: Denoising | None = None) -> QueryOutputs:
        """Outputs of all decoder layers.

        Raises:
            ValueError: the batch has none of the sensors of this model, or a sensor for some of its
                samples only.
        """
        batch.refuse_mixed(lidar=self.lidar is not None, images=self.image is not None)
        bev, shared, images, cameras = None, None, None, None
        if self.lidar is not None and batch.points is not None and batch.offsets is not None:
            bev = self.lidar(batch.points, batch.offsets)
            shared = self.tokens.share(bev)
        if self.image is not None and batch.images is not None and batch.rig is not None:
            images, image_hw = self.image(batch.images)
            cameras = Cameras(batch.rig.ref_to_image(), image_hw)
        memory = self.tokens.memory(shared, images, cameras)
        return self.head(
            memory.data,
            memory.position,
            self.queries(bev, images, batch),
            lambda reference: self.tokens.query_position(reference, cameras),
            denoising,
        )

    def loss(self, outputs: QueryOutputs, batch: Batch) -> dict[str, dict[str, Tensor]]:
        """Loss terms, weighted, by task ("detection") and name; their sum is to be minimised."""
        if batch.boxes is None:
            raise ValueError("the loss needs Batch.boxes; this batch has no ground truth")
        terms = self.head.loss(outputs, batch.boxes)
        source = cast(QuerySource, self.queries)
        return {"detection": terms | source.loss(outputs.queries, batch)}

    def predict(self, outputs: QueryOutputs, batch: Batch) -> list[Prediction]:
        """Boxes of the last layer, by falling score, on the CPU."""
        return Prediction.of_batch(batch, self.head.decode(outputs))
