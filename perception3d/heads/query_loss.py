"""Matching and losses of the query heads, all decoder layers at once.

Reference: junjie18/CMT, ``CmtHead.loss`` and ``HungarianAssigner3D``; arXiv 2301.01283, section
3.4.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from perception3d.heads.box_code import MATCHED_SLOTS, encode_boxes
from perception3d.heads.query_denoising import Denoising, mean_over_processes, usable_boxes
from perception3d.losses.box import weighted_l1
from perception3d.losses.focal import sigmoid_focal_loss
from perception3d.losses.matching import focal_class_cost, hungarian, l1_cost
from perception3d.structures import Boxes3D

#: Weights of the ten slots: plane coordinates double, velocity a fifth (published).
CODE_WEIGHTS = (2.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.2, 0.2)


@dataclass(frozen=True)
class Targets:
    """Boxes of a batch, padded to the largest sample.

    Within a sample they are stably sorted by label: the order in which the published code of CMT
    numbers them.

    Attributes:
        vector: (B, N, 10).
        label: (B, N) int64, 0 in unused places.
        counts: boxes of each sample.
    """

    vector: Tensor
    label: Tensor
    counts: tuple[int, ...]

    @classmethod
    def of(
        cls,
        boxes: Sequence[Boxes3D],
        num_classes: int,
        *,
        encode: Callable[[Boxes3D], Tensor] = encode_boxes,
        by_label: bool = True,
    ) -> Targets:
        """Targets of one set of boxes a sample, without unknown classes and broken boxes.

        Args:
            boxes: of every sample.
            num_classes: K; boxes of other labels are left out.
            encode: boxes to (N, 10) vectors.
            by_label: sort; False keeps the order of the boxes (published for PETR).
        """
        vectors, labels = [], []
        for sample in boxes:
            usable = usable_boxes(sample, num_classes)
            if by_label:
                usable = usable.select(usable.label.argsort(stable=True))
            vector = encode(usable)
            matchable = torch.isfinite(vector[:, :MATCHED_SLOTS]).all(dim=-1)
            vectors.append(vector[matchable])
            labels.append(usable.label[matchable])
        counts = tuple(len(label) for label in labels)
        largest = max(counts, default=0)
        device = labels[0].device
        vector = torch.zeros(len(boxes), largest, 10, device=device)
        label = torch.zeros(len(boxes), largest, dtype=torch.int64, device=device)
        for b, n in enumerate(counts):
            vector[b, :n], label[b, :n] = vectors[b], labels[b]
        return cls(vector, label, counts)


@dataclass(frozen=True)
class Matches:
    """Pairs of a query and a box, by layer, sample, query and box index; (M,) int64 each."""

    layer: Tensor
    sample: Tensor
    query: Tensor
    box: Tensor


@dataclass(frozen=True)
class QueryLoss:
    """Costs, weights and normalisers; the defaults are the published ones.

    Attributes:
        code_weights: of the ten slots, in the box loss and (the first eight) in the matching cost.
        class_weight, box_weight: of the loss terms.
        class_cost, box_cost: of the matching cost.
        alpha, gamma: of the focal loss, in cost and loss.
        background_weight: a negative query counts as this much of a positive in the class
            normaliser.
        denoising_weight: multiplies both denoising terms.
        denoising_code_weights: of the ten slots in the denoising box loss; None = ``code_weights``.
        mean_positives: divide the box loss by the number of positives averaged over the processes
            of a distributed run (published for PETR) instead of this process' own.
    """

    code_weights: tuple[float, ...] = CODE_WEIGHTS
    class_weight: float = 2.0
    box_weight: float = 0.25
    class_cost: float = 2.0
    box_cost: float = 0.25
    alpha: float = 0.25
    gamma: float = 2.0
    background_weight: float = 0.1
    denoising_weight: float = 1.0
    denoising_code_weights: tuple[float, ...] | None = None
    mean_positives: bool = False

    def __call__(
        self,
        box: Tensor,
        logits: Tensor,
        targets: Targets,
        denoising: Denoising | None = None,
        denoising_box: Tensor | None = None,
        denoising_logits: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Loss terms of all layers.

        Args:
            box: (L, B, Q, 10) predicted vectors.
            logits: (L, B, Q, K).
            targets: of the batch.
            denoising: None without denoising queries; then also the two that follow.
            denoising_box, denoising_logits: (L, B, P, 10 or K) predictions of the denoising slots.

        Returns:
            "loss_cls", "loss_bbox" (and "dn_loss_cls", "dn_loss_bbox") of the last layer;
            "d0.loss_cls", ... of the others. Scalars in float32; the box terms are 0 in a batch
            without boxes.
        """
        box, logits = box.float(), logits.float()
        terms = self.query_terms(box, logits, targets)
        if denoising is not None:
            assert denoising_box is not None and denoising_logits is not None
            terms |= self.denoising_terms(denoising_box, denoising_logits, denoising)
        last = len(box) - 1
        return {
            name if layer == last else f"d{layer}.{name}": values[layer]
            for layer in range(last + 1)
            for name, values in terms.items()
        }

    @torch.no_grad()
    def costs(self, box: Tensor, logits: Tensor, targets: Targets) -> Tensor:
        """(L, B, Q, N) float32 costs; columns past a sample's number of boxes mean nothing."""
        with torch.autocast(box.device.type, enabled=False):
            weight = box.new_tensor(self.code_weights[:MATCHED_SLOTS], dtype=torch.float32)
            predicted = box[..., :MATCHED_SLOTS].float() * weight
            by_class = focal_class_cost(logits, targets.label, alpha=self.alpha, gamma=self.gamma)
            by_box = l1_cost(predicted, targets.vector[..., :MATCHED_SLOTS] * weight)
            return self.class_cost * by_class + self.box_cost * by_box

    @torch.no_grad()
    def match(self, box: Tensor, logits: Tensor, targets: Targets) -> Matches:
        """Cheapest pairs, for every layer and sample by itself."""
        found: list[Tensor] = []
        if max(targets.counts, default=0) > 0:
            # One copy to the host for all layers and samples: the solver runs there.
            costs = self.costs(box, logits, targets).cpu()
            for layer, of_layer in enumerate(costs):
                for sample, (cost, count) in enumerate(zip(of_layer, targets.counts)):
                    query, index = hungarian(cost[:, :count])
                    place = torch.tensor([[layer], [sample]]).expand(2, len(query))
                    found.append(torch.cat((place, torch.stack((query, index)))))
        pairs = torch.cat(found, dim=1) if found else torch.zeros(4, 0, dtype=torch.int64)
        return Matches(*pairs.to(box.device).unbind(0))

    def query_terms(self, box: Tensor, logits: Tensor, targets: Targets) -> dict[str, Tensor]:
        """(L,) class and box losses of the ordinary queries."""
        layers, batch, queries, classes = logits.shape
        m = self.match(box, logits, targets)
        label = torch.full((layers, batch, queries), classes, dtype=torch.int64, device=box.device)
        label[m.layer, m.sample, m.query] = targets.label[m.sample, m.box]
        positives = sum(min(queries, count) for count in targets.counts)
        negatives = batch * queries - positives
        focal = sigmoid_focal_loss(logits, label, alpha=self.alpha, gamma=self.gamma)
        by_class = focal.sum(dim=(1, 2, 3)) / max(
            positives + self.background_weight * negatives, 1.0
        )
        rows = weighted_l1(
            box[m.layer, m.sample, m.query],
            targets.vector[m.sample, m.box],
            box.new_tensor(self.code_weights),
        )
        divisor = mean_over_processes(positives, box.device) if self.mean_positives else positives
        # max(., 1): without a positive the published 0 / 0 is replaced by 0.
        by_box = box.new_zeros(layers).index_add(0, m.layer, rows) / max(divisor, 1)
        if positives == 0:
            # Keeps the box branches in the graph: distributed training wants a gradient of
            # everything.
            by_box = by_box + 0 * box.sum(dim=(1, 2, 3))
        return {"loss_cls": self.class_weight * by_class, "loss_bbox": self.box_weight * by_box}

    def denoising_terms(self, box: Tensor, logits: Tensor, dn: Denoising) -> dict[str, Tensor]:
        """(L,) class and box losses of the denoising rows; slots without a box have none."""
        rows = len(dn.label)
        predicted = box.float()[:, dn.sample, dn.slot]
        scores = logits.float()[:, dn.sample, dn.slot]
        label = dn.label.expand(len(box), -1)
        focal = sigmoid_focal_loss(scores, label, alpha=self.alpha, gamma=self.gamma)
        by_class = focal.sum(dim=(1, 2)) / max(rows * dn.positive_share, 1.0)
        weight = predicted.new_tensor(self.denoising_code_weights or self.code_weights)
        by_box = (
            weighted_l1(predicted, dn.target.expand(len(box), -1, -1), weight).sum(dim=1)
            / dn.mean_rows
        )
        return {
            "dn_loss_cls": self.denoising_weight * self.class_weight * by_class,
            "dn_loss_bbox": self.denoising_weight * self.box_weight * by_box,
        }
