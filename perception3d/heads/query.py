"""The query head of CMT: decoder, task branches, losses and decoding.

Reference: arXiv 2301.01283, section 3; junjie18/CMT, ``CmtHead`` and its LiDAR-only and
camera-only variants.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from perception3d.heads.box_code import BOX_BRANCHES
from perception3d.heads.queries import Guess, QuerySet
from perception3d.heads.query_decode import DECODED_RANGE_M, decode_queries
from perception3d.heads.query_decoder import QueryDecoder
from perception3d.heads.query_denoising import Denoising
from perception3d.heads.query_loss import QueryLoss, Targets
from perception3d.heads.query_tasks import PackedBranch, PackedTaskHeads
from perception3d.nn.position import inverse_sigmoid
from perception3d.structures import Boxes3D


@dataclass(frozen=True)
class QueryOutputs:
    """What the head says, layer by layer (the last one is the answer).

    Attributes:
        box: (L, B, Q, 10) float32 vectors; slots as in :mod:`perception3d.heads.box_code`.
        logits: (L, B, Q, K) float32 class logits.
        queries: the queries it started from.
        denoising: None outside training, and then also the two that follow.
        denoising_box, denoising_logits: (L, B, P, 10 or K) the same of the denoising slots.
    """

    box: Tensor
    logits: Tensor
    queries: QuerySet
    denoising: Denoising | None = None
    denoising_box: Tensor | None = None
    denoising_logits: Tensor | None = None

    @classmethod
    def of(
        cls, box: Tensor, logits: Tensor, queries: QuerySet, denoising: Denoising | None
    ) -> QueryOutputs:
        """Of R answers, those of the denoising slots first; see :func:`with_denoising`."""
        if denoising is None:
            return cls(box, logits, queries)
        slots = denoising.num_slots
        return cls(
            box[:, :, slots:],
            logits[:, :, slots:],
            queries,
            denoising,
            box[:, :, :slots],
            logits[:, :, :slots],
        )


def with_denoising(
    queries: QuerySet, denoising: Denoising | None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Reference points (B, R, 3) and content (B, R, C) with the denoising slots put before.

    Returns:
        Both, and the (R, R) mask of who must not see whom. Content and mask may be None.
    """
    if denoising is None:
        return queries.reference, queries.content, None
    reference = torch.cat((denoising.reference.to(queries.reference), queries.reference), dim=1)
    content = queries.content
    if content is not None:
        content = nn.functional.pad(content, (0, 0, denoising.num_slots, 0))
    return reference, content, denoising.blocked(queries.reference.shape[1])


class QueryHead(nn.Module):
    """Queries look at the memory and turn into boxes.

    Args:
        decoder: transformer decoder with C channels.
        num_classes: K.
        range_m: x, y, z minima, then maxima, in metres: what reference coordinates 0 and 1 stand
            for.
        task_hidden: channels inside the branches; published 64.
        task_kernel: taps along the query axis; see :class:`PackedTaskHeads`.
        loss: costs, weights, normalisers.
        max_boxes: kept per sample when decoding; published 300.
        decoded_range_m: boxes with centres outside are dropped.
        residual: start with branches that predict nothing, so that the first answer is the
            queries' guess.
        class_prior: initial score of every class; None keeps torch's initialisation (scores near
            0.5), which is what the published models start from.
    """

    low: Tensor
    extent: Tensor

    def __init__(
        self,
        *,
        decoder: QueryDecoder,
        num_classes: int,
        range_m: tuple[float, float, float, float, float, float],
        task_hidden: int = 64,
        task_kernel: int = 1,
        loss: QueryLoss | None = None,
        max_boxes: int = 300,
        decoded_range_m: tuple[float, float, float, float, float, float] = DECODED_RANGE_M,
        class_prior: float | None = None,
        residual: bool = False,
    ) -> None:
        super().__init__()
        self.decoder = decoder
        self.tasks = PackedTaskHeads(
            decoder.channels,
            {**BOX_BRANCHES, "cls_logits": num_classes},
            layers=len(decoder.layers),
            hidden=task_hidden,
            kernel=task_kernel,
        )
        if residual:
            for branch in self.tasks.branches.values():
                nn.init.zeros_(cast(PackedBranch, branch).output_weight)
                nn.init.zeros_(cast(PackedBranch, branch).output_bias)
        if class_prior is not None:
            bias = math.log(class_prior / (1 - class_prior))
            classes = cast(PackedBranch, self.tasks.branches["cls_logits"])
            nn.init.constant_(classes.output_bias, float(bias))
        self.num_classes = num_classes
        self.range_m = range_m
        self.query_loss = QueryLoss() if loss is None else loss
        self.max_boxes = max_boxes
        self.decoded_range_m = decoded_range_m
        low, high = torch.tensor(range_m[:3]), torch.tensor(range_m[3:])
        self.register_buffer("low", low, persistent=False)
        self.register_buffer("extent", high - low, persistent=False)

    def forward(
        self,
        memory: Tensor,
        memory_position: Tensor,
        queries: QuerySet,
        query_position: Callable[[Tensor], Tensor],
        denoising: Denoising | None = None,
    ) -> QueryOutputs:
        """Decode queries.

        Args:
            memory, memory_position: (B, N, C) tokens and their position codes.
            queries: reference points and content.
            query_position: position codes (B, R, C) of reference points (B, R, 3).
            denoising: extra queries, put before the others.

        Returns:
            Outputs of all layers.
        """
        reference, content, blocked = with_denoising(queries, denoising)
        features = self.decoder(
            content, query_position(reference), memory, memory_position, blocked=blocked
        )
        box, logits = self.boxes(features, reference, queries.guess)
        return QueryOutputs.of(box, logits, queries, denoising)

    def boxes(
        self, features: Tensor, reference: Tensor, guess: Guess | None = None
    ) -> tuple[Tensor, Tensor]:
        """Box vectors and class logits, float32.

        The same reference point is added at every layer: no iterative refinement.

        Args:
            features: (L, B, R, C) decoder outputs.
            reference: (B, R, 3) in [0, 1].
            guess: of the last Q <= R queries: what their branches predict is added to it.

        Returns:
            (L, B, R, 10) and (L, B, R, K).
        """
        raw = self.tasks(features)
        with torch.autocast(features.device.type, enabled=False):
            anchor = inverse_sigmoid(reference.float())
            vector = torch.cat([raw[name] for name in BOX_BRANCHES], dim=-1)
            logits = raw["cls_logits"]
            if guess is not None:
                # The third slot is bounded like a height but means a log length: see box_code.
                bounded = ((guess.box[..., 2] - self.low[2]) / self.extent[2]).clamp(0, 1)
                anchor[:, -bounded.shape[1] :, 2] = inverse_sigmoid(bounded)
                rest = nn.functional.pad(guess.box[..., 3:], (3, 0))
                vector = vector + _after(reference, rest)
                logits = logits + _after(reference, guess.logits)
            position = (vector[..., :3] + anchor).sigmoid() * self.extent + self.low
            return torch.cat((position, vector[..., 3:]), dim=-1), logits

    def loss(self, outputs: QueryOutputs, boxes: Sequence[Boxes3D]) -> dict[str, Tensor]:
        """Terms by name, see :class:`QueryLoss`; ``boxes`` hold one set a sample."""
        targets = Targets.of(boxes, self.num_classes)
        return self.query_loss(
            outputs.box,
            outputs.logits,
            targets,
            outputs.denoising,
            outputs.denoising_box,
            outputs.denoising_logits,
        )

    def decode(self, outputs: QueryOutputs) -> list[tuple[Boxes3D, Tensor]]:
        """Boxes and scores of every sample, from the last layer; see :func:`decode_queries`."""
        return decode_queries(
            outputs.box[-1],
            outputs.logits[-1],
            max_boxes=self.max_boxes,
            range_m=self.decoded_range_m,
        )


def _after(reference: Tensor, value: Tensor) -> Tensor:
    """``value`` (B, Q, D) as the last rows of zeros (B, R, D): denoising queries have no guess."""
    return nn.functional.pad(value.float(), (0, 0, reference.shape[1] - value.shape[1], 0))
