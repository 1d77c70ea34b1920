"""Object queries: what a source of queries hands to the decoder, and the learned source of CMT."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from perception3d.structures import Batch, BEVFeatures, ImageFeatures
from perception3d.structures.checks import check_tensor


@dataclass(frozen=True)
class Guess:
    """What a source already believes of each query's box; the head then predicts the difference.

    Attributes:
        box: (B, Q, 10) vectors in the slots of :mod:`perception3d.heads.box_code`.
        logits: (B, Q, K) class logits.
    """

    box: Tensor
    logits: Tensor

    def __post_init__(self) -> None:
        check_tensor("Guess", "box", self.box, ("B", "Q", 10), floating=True)
        check_tensor("Guess", "logits", self.logits, (*self.box.shape[:2], "K"), floating=True)


@dataclass(frozen=True)
class QuerySet:
    """The queries of one forward pass; their number may differ from pass to pass.

    Attributes:
        reference: (B, Q, 3) reference points x, y, z in [0, 1], normalised to the head's range.
        content: (B, Q, C) content the decoder starts from; None stands for zeros (published).
        guess: None lets the head predict boxes from nothing but the reference point (published).
        maps: what the source needs again in its own loss (heat maps, say), by name.
    """

    reference: Tensor
    content: Tensor | None = None
    guess: Guess | None = None
    maps: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_tensor("QuerySet", "reference", self.reference, ("B", "Q", 3), floating=True)
        if self.content is not None:
            batch, count = self.reference.shape[:2]
            check_tensor("QuerySet", "content", self.content, (batch, count, "C"), floating=True)


class QuerySource(Protocol):
    """A module that proposes queries. One that learns from boxes returns its terms in ``loss``."""

    def __call__(
        self, bev: BEVFeatures | None, images: ImageFeatures | None, batch: Batch
    ) -> QuerySet:
        """Queries of a batch.

        Args:
            bev: LiDAR features before the convolution that makes tokens of them, None without
                LiDAR.
            images: image features as the memory holds them (the neck's finest map), None without
                cameras.
            batch: for the cameras (``batch.rig``) and the batch size; sources don't read its boxes.
        """
        ...

    def loss(self, queries: QuerySet, batch: Batch) -> dict[str, Tensor]:
        """Loss terms of the source by name; empty where nothing is supervised."""
        ...


class LearnedQueries(nn.Module):
    """A learnable table of reference points, the same for every sample; content starts at zero.

    Published behaviour of CMT (junjie18/CMT): stored directly in normalised coordinates, no
    sigmoid, drawn uniformly from [0, 1).

    Args:
        num_queries: Q.
    """

    def __init__(self, num_queries: int) -> None:
        super().__init__()
        if num_queries < 1:
            raise ValueError(f"num_queries must be at least 1; found {num_queries}")
        self.reference = nn.Parameter(torch.rand(num_queries, 3))

    def forward(
        self, bev: BEVFeatures | None, images: ImageFeatures | None, batch: Batch
    ) -> QuerySet:
        """(B, Q, 3) reference points; neither features nor cameras matter."""
        return QuerySet(self.reference.expand(batch.batch_size, -1, -1))

    def loss(self, queries: QuerySet, batch: Batch) -> dict[str, Tensor]:
        """No terms: the table learns through the decoder."""
        return {}
