"""The query head of PETR and PETRv2: decoder, branches, losses and decoding.

Reference: arXiv 2203.05625, sections 3.4 and 3.5; arXiv 2206.01256; megvii-research/PETR,
``PETRHead``, ``PETRv2Head`` and ``PETRv2DNHead``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from perception3d.heads.box_code import decode_centers
from perception3d.heads.petr_box_code import (
    NOISE_SIZE_AXES,
    decode_petr_boxes,
    encode_petr_boxes,
    petr_slots,
)
from perception3d.heads.petr_branches import (
    LayerBranches,
    SplitBoxBranch,
    box_branch,
    class_branch,
    silence,
)
from perception3d.heads.petr_query_code import QueryCode
from perception3d.heads.queries import Guess, QuerySet
from perception3d.heads.query import QueryOutputs, with_denoising
from perception3d.heads.query_decode import DECODED_RANGE_M, decode_queries
from perception3d.heads.query_decoder import QueryDecoder
from perception3d.heads.query_denoising import Denoising, DenoisingBuilder
from perception3d.heads.query_loss import QueryLoss, Targets
from perception3d.nn.position import inverse_sigmoid
from perception3d.structures import Boxes3D

#: What reference coordinates 0 and 1 stand for (published): x, y, z minima, then maxima.
POINT_RANGE_M = (-51.2, -51.2, -5.0, 51.2, 51.2, 3.0)

#: Slots in which a guess is added; centres are in the reference points.
_GUESSED_SLOTS = (0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0)

#: Losses of PETR: velocity counts a fifth, negatives don't dilute the class term.
PETR_LOSS = QueryLoss(
    code_weights=(1.0,) * 8 + (0.2, 0.2), background_weight=0.0, mean_positives=True
)

#: Losses of PETRv2: all slots alike, but for the angle in the denoising term, which has no weight.
PETRV2_LOSS = replace(
    PETR_LOSS,
    code_weights=(1.0,) * 10,
    denoising_code_weights=(1.0,) * 6 + (0.0, 0.0, 1.0, 1.0),
)


class PETRHead(nn.Module):
    """Queries look at image tokens and turn into boxes.

    Args:
        decoder: transformer decoder with C channels; published: 6 layers, 8 heads, 2048 hidden,
            dropout 0.1 everywhere.
        num_classes: K.
        range_m: x, y, z minima, then maxima: what reference coordinates 0 and 1 stand for.
        split: PETRv2's branches: sub-heads, separate weights for every layer. False: PETR's, one
            module for all layers.
        loss: costs, weights, normalisers; by default those published for the same ``split``.
        max_boxes: kept per sample when decoding; published 300.
        decoded_range_m: boxes with centres outside are dropped.
        residual: start with branches that predict nothing, so that the first answer is the
            queries' guess.
    """

    low: Tensor
    extent: Tensor

    def __init__(
        self,
        *,
        decoder: QueryDecoder,
        num_classes: int,
        range_m: tuple[float, float, float, float, float, float] = POINT_RANGE_M,
        split: bool,
        loss: QueryLoss | None = None,
        max_boxes: int = 300,
        decoded_range_m: tuple[float, float, float, float, float, float] = DECODED_RANGE_M,
        residual: bool = False,
    ) -> None:
        super().__init__()
        channels, layers = decoder.channels, len(decoder.layers) if split else None
        self.decoder = decoder
        self.query_code = QueryCode(channels, axes=3)
        classes = class_branch(channels, num_classes)
        box = SplitBoxBranch(channels) if split else box_branch(channels)
        if residual:
            silence(classes)
            silence(box)
        self.classes = LayerBranches(classes, layers=layers)
        self.boxes = LayerBranches(box, layers=layers)
        self.num_classes = num_classes
        self.range_m = range_m
        self.query_loss = loss or (PETRV2_LOSS if split else PETR_LOSS)
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
        *,
        memory_blocked: Tensor | None = None,
        gap_s: Tensor | None = None,
        denoising: Denoising | None = None,
    ) -> QueryOutputs:
        """Decode queries.

        Args:
            memory, memory_position: (B, N, C) tokens and their position codes.
            queries: reference points and content.
            memory_blocked: (B, N) bool, True for padding.
            gap_s: (B,) seconds between both frames; the branches then speak of displacements in
                that time. None: they speak of velocities.
            denoising: extra queries, put before the others.

        Returns:
            Outputs of all layers, velocities in m/s.
        """
        reference, content, blocked = with_denoising(queries, denoising)
        features = self.decoder(
            content,
            self.query_code(reference),
            memory,
            memory_position,
            blocked=blocked,
            memory_blocked=memory_blocked,
        )
        box = self.vectors(features, reference, gap_s, queries.guess)
        logits = self.classes(features)
        if queries.guess is not None:
            logits = logits + _after(reference, queries.guess.logits)
        return QueryOutputs.of(box, logits, queries, denoising)

    def vectors(
        self,
        features: Tensor,
        reference: Tensor,
        gap_s: Tensor | None,
        guess: Guess | None = None,
    ) -> Tensor:
        """Box vectors, float32; the same reference point is added at every layer.

        Args:
            features: (L, B, R, C) decoder outputs.
            reference: (B, R, 3) in [0, 1].
            gap_s: (B,) as in :meth:`forward`.
            guess: of the last Q <= R queries: what their branches predict is added to it. Its
                centres are the reference points.

        Returns:
            (L, B, R, 10).
        """
        raw = self.boxes(features)
        with torch.autocast(features.device.type, enabled=False):
            offset = decode_centers(raw) + inverse_sigmoid(reference.float())
            center = offset.sigmoid() * self.extent + self.low
            velocity = raw[..., 8:]
            if gap_s is not None:
                velocity = velocity / gap_s.to(raw)[:, None, None]
            vector = torch.cat(
                (center[..., :2], raw[..., 2:4], center[..., 2:], raw[..., 5:8], velocity), dim=-1
            )
            if guess is None:
                return vector
            believed = petr_slots(guess.box) * vector.new_tensor(_GUESSED_SLOTS)
            return vector + _after(reference, believed)

    def loss(self, outputs: QueryOutputs, boxes: Sequence[Boxes3D]) -> dict[str, Tensor]:
        """Terms by name, see :class:`QueryLoss`; ``boxes`` hold one set a sample."""
        return self.query_loss(
            outputs.box,
            outputs.logits,
            petr_targets(boxes, self.num_classes),
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
            build=decode_petr_boxes,
        )


def _after(reference: Tensor, value: Tensor) -> Tensor:
    """``value`` (B, Q, D) as the last rows of zeros (B, R, D): denoising queries have no guess."""
    return nn.functional.pad(value.float(), (0, 0, reference.shape[1] - value.shape[1], 0))


def petr_targets(boxes: Sequence[Boxes3D], num_classes: int) -> Targets:
    """Targets of a batch in PETR's box code, in the order of the boxes."""
    return Targets.of(boxes, num_classes, encode=encode_petr_boxes, by_label=False)


def petr_denoising(
    num_classes: int,
    *,
    range_m: tuple[float, float, float, float, float, float] = POINT_RANGE_M,
    groups: int = 10,
    noise_scale: float = 1.0,
    split: float = 0.75,
) -> DenoisingBuilder:
    """Denoising as PETRv2 trains with: always the same number of groups, PETR's box code."""
    return DenoisingBuilder(
        range_m=range_m,
        num_classes=num_classes,
        query_budget=None,
        max_groups=groups,
        noise_scale=noise_scale,
        split=split,
        size_axes=NOISE_SIZE_AXES,
        encode=encode_petr_boxes,
    )
