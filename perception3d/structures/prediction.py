"""What a model says of one sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from perception3d.structures.batch import Batch
from perception3d.structures.boxes import Boxes3D
from perception3d.structures.checks import check_same_length, check_tensor, move
from perception3d.structures.grid import BEVGrid
from perception3d.structures.pose import SE3


@dataclass(frozen=True)
class Prediction:
    """Boxes with scores, and a map where the model draws one; all in ``ref``.

    Attributes:
        token: the sample.
        boxes: N boxes.
        score: (N,) in [0, 1].
        global_SE3_ref, ego_SE3_ref: the sample's poses, for writers.
        map_prob: (K, ny, nx) in [0, 1] on ``grid``, or None.
        map_classes: K names, where the model knows them.
    """

    token: str
    boxes: Boxes3D
    score: Tensor
    global_SE3_ref: SE3
    ego_SE3_ref: SE3
    map_prob: Tensor | None = None
    grid: BEVGrid | None = None
    map_classes: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        check_tensor("Prediction", "score", self.score, ("N",), floating=True)
        check_same_length("Prediction", boxes=len(self.boxes), score=len(self.score))
        if self.map_prob is not None:
            if self.grid is None:
                raise ValueError("Prediction.map_prob needs Prediction.grid")
            check_tensor("Prediction", "map_prob", self.map_prob, ("K", self.grid.ny, self.grid.nx))
            if self.map_classes is not None and len(self.map_classes) != len(self.map_prob):
                raise ValueError(
                    f"Prediction.map_prob has {len(self.map_prob)} layers, map_classes names "
                    f"{len(self.map_classes)}: {', '.join(self.map_classes)}"
                )

    def to(self, device: torch.device | str) -> Prediction:
        """A copy on another device."""
        return move(self, device)

    @classmethod
    def of_batch(cls, batch: Batch, decoded: Sequence[tuple[Boxes3D, Tensor]]) -> list[Prediction]:
        """Of every sample of a batch, from its boxes and their scores."""
        return [
            cls(
                token=batch.tokens[i],
                boxes=boxes,
                score=score,
                global_SE3_ref=batch.global_SE3_ref[i],
                ego_SE3_ref=batch.ego_SE3_ref[i],
            )
            for i, (boxes, score) in enumerate(decoded)
        ]
