"""PillarNeSt: pillars, a ConvNeXt over the bird's-eye canvas, and a centre head.

Reference: PillarNeSt: Embracing Backbone Scaling and Pretraining for Pillar-based 3D Object
Detection, arXiv 2311.17770 (IEEE T-IV 2024); WayneMao/PillarNeSt for what the paper leaves open.

    points -> pillars -> canvas -> ConvNeXt, strides 4, 8, 16 -> neck, stride 4 -> centre head
"""

from __future__ import annotations

from torch import Tensor, nn

from perception3d.heads.center import CenterHead, CenterOutputs
from perception3d.models.lidar_branch import LidarBranch
from perception3d.structures import Batch, Prediction


class PillarNeSt(nn.Module):
    """The detector; LiDAR only.

    Args:
        lidar: points to a BEV map (published:
            :func:`~perception3d.models.lidar_branch.pillar_branch`).
        head: built for that map's channels and grid.
    """

    def __init__(self, *, lidar: LidarBranch, head: CenterHead) -> None:
        super().__init__()
        if lidar.channels != head.in_channels or lidar.grid != head.grid:
            raise ValueError(
                f"the LiDAR branch gives {lidar.channels} channels on {lidar.grid}, the head takes "
                f"{head.in_channels} on {head.grid}: build it with in_channels=lidar.channels, "
                "grid=lidar.grid"
            )
        self.lidar = lidar
        self.head = head

    def denoising(self, batch: Batch) -> None:
        """Nothing, for there are no queries; training asks every model and hands on the answer."""

    def forward(self, batch: Batch, denoising: None = None) -> CenterOutputs:
        """Raw maps of the head.

        Args:
            batch: with points.
            denoising: what :meth:`denoising` says, for the sake of training.

        Raises:
            ValueError: the batch, or a sample of it, has no LiDAR points. (A cloud may be empty.)
        """
        if batch.points is None or batch.offsets is None:
            raise ValueError("PillarNeSt needs Batch.points; this batch has no LiDAR")
        present = batch.sensor_present[:, 0].tolist()
        if not all(present):
            without = [token for token, there in zip(batch.tokens, present) if not there]
            raise ValueError(
                f"samples {', '.join(without)} have no LiDAR points: they would be answered as if "
                "nothing stood there; leave them out of the batch"
            )
        return self.head(self.lidar(batch.points, batch.offsets))

    def loss(self, outputs: CenterOutputs, batch: Batch) -> dict[str, dict[str, Tensor]]:
        """Loss terms, weighted, by task ("detection") and name; their sum is to be minimised."""
        if batch.boxes is None:
            raise ValueError("the loss needs Batch.boxes; this batch has no ground truth")
        return {"detection": self.head.loss(outputs, batch.boxes)}

    def predict(self, outputs: CenterOutputs, batch: Batch) -> list[Prediction]:
        """Boxes by falling score, on the CPU."""
        return Prediction.of_batch(batch, self.head.decode(outputs))
