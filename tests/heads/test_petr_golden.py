"""Published matching, losses, gradients and decoding of PETRv2 against ours."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from perception3d.heads.petr import PETRV2_LOSS, PETRHead, petr_targets
from perception3d.heads.queries import QuerySet
from perception3d.heads.query import QueryOutputs
from perception3d.heads.query_decoder import QueryDecoder
from tests.golden_cases import GoldenCase, golden, load_case
from tests.heads.test_petr_box_code import all_stored, stored_rows

PARTS = ("centre", "log_wl", "cz", "log_h", "sincos", "vel")


def vector_of(inputs: dict[str, Tensor]) -> Tensor:
    return torch.cat([inputs[part] for part in PARTS], dim=-1)


@pytest.mark.parametrize("name", golden("petr_loss"))
def test_golden_petr_loss(name: str) -> None:
    case = load_case(name)
    inputs = case.inputs()
    box = vector_of(inputs).requires_grad_()
    logits = inputs["cls_scores"].requires_grad_()
    layers, samples, queries, classes = logits.shape
    boxes = all_stored(inputs)
    assert len(boxes) == samples
    targets, loss = petr_targets(boxes, classes), PETRV2_LOSS
    costs, matches = loss.costs(box, logits, targets), loss.match(box, logits, targets)
    for layer in range(layers):
        for sample, count in enumerate(targets.counts):
            here = (matches.layer == layer) & (matches.sample == sample)
            assigned = torch.zeros(queries, dtype=torch.int64)
            assigned[matches.query[here]] = matches.box[here] + 1
            case.check(f"assigned_l{layer}_s{sample}", assigned)
            if count:
                case.check(f"cost_l{layer}_s{sample}", costs[layer, sample, :, :count])
    terms = loss(box, logits, targets)
    assert terms.keys() == {key[5:] for key in case.output_specs if key.startswith("loss/")}
    for term, value in terms.items():
        case.check(f"loss/{term}", value)
    torch.stack(list(terms.values())).sum().backward()
    case.check("grad_cls_scores", logits.grad)
    case.check("grad_bbox_preds", box.grad)
    case.finish()


def decoding_head(case: GoldenCase, classes: int) -> PETRHead:
    x0, y0, z0, x1, y1, z1 = case.stated(r"centre filter \[([^]]+)\]")
    return PETRHead(
        decoder=QueryDecoder(channels=8, layers=1, heads=1, hidden=8),
        num_classes=classes,
        split=True,
        max_boxes=int(case.stated(r"max_num=(\d+)")[0]),
        decoded_range_m=(x0, y0, z0, x1, y1, z1),
    )


@pytest.mark.parametrize("name", golden("petr_decode"))
def test_golden_petr_decode(name: str) -> None:
    case = load_case(name)
    inputs = case.inputs()
    head = decoding_head(case, inputs["cls_scores"].shape[-1])
    queries = QuerySet(torch.zeros(1, 1, 3))
    decoded = head.decode(QueryOutputs(vector_of(inputs), inputs["cls_scores"], queries))
    assert len(decoded) == sum(key.startswith("labels_") for key in case.output_specs)
    for i, (boxes, score) in enumerate(decoded):
        rows = stored_rows(boxes)
        case.check(f"boxes_{i}", rows)
        case.check(f"scores_{i}", score)
        case.check(f"labels_{i}", boxes.label)
        rows[:, 2] -= rows[:, 5] / 2
        case.check(f"final_boxes_{i}", rows)
    case.finish()
