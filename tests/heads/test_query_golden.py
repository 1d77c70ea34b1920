"""Published matching, losses, gradients and decoding of CMT against ours."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from perception3d.heads.box_code import BOX_BRANCHES
from perception3d.heads.queries import QuerySet
from perception3d.heads.query import QueryHead, QueryOutputs
from perception3d.heads.query_decoder import QueryDecoder
from perception3d.heads.query_loss import QueryLoss, Targets
from tests.golden_boxes import boxes_of, denoising_builder, range_of
from tests.golden_cases import GoldenCase, golden, load_case


def vector_of(inputs: dict[str, Tensor], prefix: str = "") -> Tensor:
    return torch.cat([inputs[prefix + name] for name in BOX_BRANCHES], dim=-1)


@pytest.mark.parametrize("name", golden("cmt_loss"))
def test_golden_cmt_loss(name: str) -> None:
    case = load_case(name)
    inputs = case.inputs()
    branches = [*BOX_BRANCHES, "cls_logits"]
    leaves = {
        key: inputs[key].requires_grad_()
        for b in branches
        for key in (b, "dn_" + b)
        if key in inputs
    }
    layers, samples, queries, classes = inputs["cls_logits"].shape
    boxes = boxes_of(inputs)
    assert len(boxes) == samples
    build = denoising_builder(case, inputs["noise"], boxes, queries=queries, classes=classes)
    denoising = build(boxes, inputs["noise"])
    assert denoising is not None
    case.check("pad_size", denoising.num_slots)

    loss, targets = QueryLoss(), Targets.of(boxes, classes)
    box, logits = vector_of(inputs), inputs["cls_logits"]
    costs, matches = loss.costs(box, logits, targets), loss.match(box, logits, targets)
    for layer in range(layers):
        for sample, count in enumerate(targets.counts):
            here = (matches.layer == layer) & (matches.sample == sample)
            assigned = torch.zeros(queries, dtype=torch.int64)
            assigned[matches.query[here]] = matches.box[here] + 1
            case.check(f"assigned_l{layer}_s{sample}", assigned)
            if count:
                case.check(f"cost_l{layer}_s{sample}", costs[layer, sample, :, :count])
    terms = loss(box, logits, targets, denoising, vector_of(inputs, "dn_"), inputs["dn_cls_logits"])
    assert terms.keys() == {key[5:] for key in case.output_specs if key.startswith("loss/")}
    for term, value in terms.items():
        case.check(f"loss/{term}", value)
    torch.stack(list(terms.values())).sum().backward()
    checked = [key for key in case.output_specs if key.startswith("grad_")]
    assert len(checked) == len(leaves)
    for key in checked:
        case.check(key, leaves[key.removeprefix("grad_")].grad)
    case.finish()


@pytest.mark.parametrize("name", golden("cmt_decode"))
def test_golden_cmt_decode(name: str) -> None:
    case = load_case(name)
    inputs = case.inputs()
    inputs["dim"][..., 1] = inputs["z"]
    classes = inputs["cls_logits"].shape[-1]
    head = _decoding_head(case, classes)
    outputs = QueryOutputs(vector_of(inputs), inputs["cls_logits"], QuerySet(torch.zeros(1, 1, 3)))
    decoded = head.decode(outputs)
    assert len(decoded) == sum(key.startswith("labels_") for key in case.output_specs)
    for i, (boxes, score) in enumerate(decoded):
        rows = torch.cat(
            (boxes.center_m, boxes.size_lwh_m, boxes.yaw_rad[:, None], boxes.velocity_mps), dim=1
        )
        case.check(f"boxes_{i}", rows)
        case.check(f"scores_{i}", score)
        case.check(f"labels_{i}", boxes.label)
        rows[:, 2] -= rows[:, 5] / 2
        case.check(f"final_boxes_{i}", rows)
    case.finish()


def _decoding_head(case: GoldenCase, classes: int) -> QueryHead:
    decoder = QueryDecoder(channels=8, layers=1, heads=1, hidden=8)
    x0, y0, z0, x1, y1, z1 = case.stated(r"centre filter \[([^]]+)\]")
    return QueryHead(
        decoder=decoder,
        num_classes=classes,
        range_m=range_of(case),
        max_boxes=int(case.stated(r"max_num=(\d+)")[0]),
        decoded_range_m=(x0, y0, z0, x1, y1, z1),
    )
