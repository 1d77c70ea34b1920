"""The published heads of PETR, PETRv2, its denoising and segmentation against ours."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from perception3d.engine.checkpoints import load_published
from perception3d.engine.key_tables import KeyTable
from perception3d.engine.key_tables_petr import PETR_KEYS, PETR_SEG_KEYS, PETRV2_KEYS
from perception3d.evaluation.map_iou import intersection_union
from perception3d.fusion.petr_position import RayPointCode
from perception3d.fusion.petr_sine import padded_cells, view_sine_code
from perception3d.fusion.petr_tokens import ImageMemory, PETRTokens, RigCode
from perception3d.geometry.temporal import frame_gap_s
from perception3d.heads.petr import PETRHead, petr_denoising
from perception3d.heads.queries import LearnedQueries, QuerySet
from perception3d.heads.query_decoder import QueryDecoder
from perception3d.heads.segmentation import (
    MAP_TASKS,
    SegmentationHead,
    turned,
)
from perception3d.structures import Boxes3D
from tests.golden_cases import GoldenCase, golden, load_case
from tests.heads.test_petr_box_code import all_stored, stored_rows

HEAD = "pts_bbox_head."
Range = tuple[float, float, float, float, float, float]


def range_of(case: GoldenCase, name: str) -> Range:
    x0, y0, z0, x1, y1, z1 = case.stated(name + r" range \[([^]]+)\]")
    return x0, y0, z0, x1, y1, z1


def decoder_of(case: GoldenCase, transformer: str) -> QueryDecoder:
    shapes, start = case.weight_shapes, f"{HEAD}{transformer}.decoder."
    layers = {k.split(".")[4] for k in shapes if k.startswith(start + "layers.")}
    return QueryDecoder(
        channels=shapes[start + "post_norm.weight"][0],
        layers=len(layers),
        heads=int(case.stated(r"(\d+) heads")[0]),
        hidden=shapes[start + "layers.0.ffns.0.layers.0.0.weight"][0],
        dropout_everywhere=True,
    )


def segmentation_of(case: GoldenCase) -> SegmentationHead:
    shapes, lane = case.weight_shapes, HEAD + "lane_branches_dri.0.layers."
    blocks = sum(key.startswith(lane) and key.endswith(".up.bias") for key in shapes)
    weights = (case.stated(name + r" (\d+)")[0] for name in ("drivable", "lane", "vehicle"))
    return SegmentationHead(
        decoder=decoder_of(case, "transformer_lane"),
        tasks=dict(zip(MAP_TASKS, weights)),
        side=math.isqrt(case.shape("query_embed")[0]),
        widths=[shapes[f"{lane}{i}.up.bias"][0] for i in range(blocks)],
        alpha=case.stated(r"alpha ([\d.]*\d)")[0],
        gamma=case.stated(r"gamma ([\d.]*\d)")[0],
    )


class Parts(nn.Module):
    """What a head case holds of the model: everything behind the image branch."""

    def __init__(self, case: GoldenCase) -> None:
        super().__init__()
        shapes = case.weight_shapes
        channels, inputs = shapes[HEAD + "input_proj.weight"][:2]
        hidden, depths = shapes[HEAD + "position_encoder.0.weight"][:2]
        view_hidden, view_feats = shapes[HEAD + "adapt_pos3d.0.weight"][:2]
        self.tokens = PETRTokens(
            in_channels=inputs,
            channels=channels,
            rays=RayPointCode(
                channels,
                hidden=hidden,
                range_m=range_of(case, "position"),
                num_depths=depths // 3,
                near_m=case.stated(r"depth start ([\d.]+)")[0],
            ),
            gated=any(".conv_reduce." in key for key in shapes),
            view_feats=view_feats // 3,
            view_hidden=view_hidden,
        )
        weights = case.weights()
        if HEAD + "query_embedding_lane.0.weight" in shapes:
            table: KeyTable = PETR_SEG_KEYS
            self.segmentation = segmentation_of(case)
        else:
            split = HEAD + "reg_branches.0.reg_branch.0.weight" in shapes
            table = PETRV2_KEYS if split else PETR_KEYS
            reference = case.inputs()["reference_points"]
            weights[HEAD + "reference_points.weight"] = reference
            self.queries = LearnedQueries(len(reference))
            self.head = PETRHead(
                decoder=decoder_of(case, "transformer"),
                num_classes=shapes[HEAD + "cls_branches.0.6.bias"][0],
                range_m=range_of(case, "point"),
                split=split,
            )
        load_published(self, weights, table=table)
        self.eval()

    def memory(self, inputs: dict[str, Tensor]) -> tuple[ImageMemory, RigCode, Tensor]:
        """Memory, codes and projected features of a case."""
        height, width = inputs["pad_shape"].tolist()
        h, w = inputs["feats"].shape[-2:]
        features = self.tokens.features(inputs["feats"])
        code = self.tokens.rig_code(
            inputs["lidar2img"], inputs["img_shape"], (height, width), (h, w)
        )
        return self.tokens.memory(features, code), code, features

    def reference(self, inputs: dict[str, Tensor]) -> QuerySet:
        return QuerySet(self.queries.reference.expand(len(inputs["feats"]), -1, -1))


def check_codes(case: GoldenCase, parts: Parts, inputs: dict[str, Tensor]) -> None:
    """Everything on the way to the position codes that the case holds."""
    _, code, features = parts.memory(inputs)
    h, w = inputs["feats"].shape[-2:]
    height, width = inputs["pad_shape"].tolist()
    padded = padded_cells(inputs["img_shape"], (height, width), (h, w))
    assert code.padded is not None and torch.equal(code.padded, padded) and code.views is not None
    case.check("masks", padded)
    points = parts.tokens.rays.coordinates(inputs["lidar2img"], (h, w), (height, width))
    case.check("coords01", points.flatten(0, 1))
    # The published code computes this mask and drops it; so do we, but for this line.
    outside = ((points < 0) | (points > 1)).sum(dim=2) > points.shape[2] // 3 // 2
    case.check("coords_mask", padded | outside)
    case.check("pos3d", code.rays)
    case.check("sine", view_sine_code(padded, parts.tokens.view_feats or 0))
    case.check("sine_embed", code.views.flatten(0, 1))
    if parts.tokens.gate is not None:
        case.check("input_proj", features.flatten(0, 1))
        case.check("pos3d_gated", (code.rays * parts.tokens.gate(features)).flatten(0, 1))


@pytest.mark.parametrize(
    "name",
    golden("petr_pe_v1", "petr_pe_v2", "petr_head", "petrv2_head", "petrv2_head_full"),
)
@torch.no_grad()
def test_golden_petr_head(name: str) -> None:
    case = load_case(name)
    parts, inputs = Parts(case), case.inputs()
    memory, code, features = parts.memory(inputs)
    if "coords01" in case.output_specs:
        check_codes(case, parts, inputs)
    case.check("pos_embed", parts.tokens.position(features, code))
    case.check("query_embed", parts.head.query_code(inputs["reference_points"]))
    queries = parts.reference(inputs)
    if "decoder" in case.output_specs:
        position = parts.head.query_code(queries.reference)
        decoded = parts.head.decoder(
            None, position, memory.data, memory.position, memory_blocked=memory.padded
        )
        case.check("decoder", decoded)
    outputs = parts.head(
        memory.data,
        memory.position,
        queries,
        memory_blocked=memory.padded,
        gap_s=frame_gap_s(inputs["timestamp"]) if "timestamp" in inputs else None,
    )
    case.check("cls_scores", outputs.logits)
    case.check("bbox_preds", outputs.box)
    case.finish()


@pytest.mark.parametrize("name", golden("petrv2_dn"))
@torch.no_grad()
def test_golden_petrv2_dn(name: str) -> None:
    case = load_case(name)
    parts, inputs = Parts(case), case.inputs()
    boxes, queries = all_stored(inputs), parts.reference(inputs)
    build = petr_denoising(
        parts.head.num_classes,
        range_m=parts.head.range_m,
        groups=int(case.stated(r"always (\d+) groups")[0]),
        noise_scale=case.stated(r"noise_scale ([\d.]+)")[0],
        split=case.stated(r"\bsplit ([\d.]+)")[0],
    )
    denoising = build(boxes, inputs["noise"])
    assert denoising is not None
    every = Boxes3D.cat(boxes)
    case.check(
        "padded_reference_points", torch.cat((denoising.reference, queries.reference), dim=1)
    )
    case.check("attn_mask", denoising.blocked(queries.reference.shape[1]))
    case.check("known_labels", denoising.label)
    case.check("known_boxes", stored_rows(every)[denoising.box_index])
    case.check("known_indice", denoising.box_index)
    case.check("batch_idx", denoising.sample[: len(every)])
    case.check("map_known_indice", denoising.slot)
    case.check("pad_size", denoising.num_slots)
    memory, _, _ = parts.memory(inputs)
    outputs = parts.head(
        memory.data,
        memory.position,
        queries,
        memory_blocked=memory.padded,
        gap_s=frame_gap_s(inputs["timestamp"]),
        denoising=denoising,
    )
    case.check("cls_scores", outputs.logits)
    case.check("bbox_preds", outputs.box)
    case.check("dn_cls_scores", outputs.denoising_logits)
    case.check("dn_bbox_preds", outputs.denoising_box)
    check_terms(case, parts.head.loss(outputs, boxes))
    case.finish()


@pytest.mark.slow
@pytest.mark.parametrize("name", golden("petrv2_seg"))
@torch.no_grad()
def test_golden_petrv2_seg(name: str) -> None:
    case = load_case(name)
    parts, inputs = Parts(case), case.inputs()
    memory, code, features = parts.memory(inputs)
    head = parts.segmentation
    case.check("pos_embed", parts.tokens.position(features, code))
    position = head.query_code(head.points)
    case.check("query_embed", position)
    decoded = head.decoder(
        None,
        position.expand(len(features), -1, -1),
        memory.data,
        memory.position,
        memory_blocked=memory.padded,
    )
    case.check("decoder", decoded)
    outputs = head(memory.data, memory.position, memory_blocked=memory.padded)
    case.check("map_logits", turned(outputs.logits).flatten(-2))
    target = turned(inputs["gt_map"].bool().permute(2, 0, 1))[None]
    check_terms(case, head.loss(outputs, target))
    probability = head.decode(outputs)
    (count,) = (key for key in case.output_specs if key.startswith("prob_ge_"))
    threshold = float(count.split("_")[2])
    inter, union = intersection_union(probability, target, threshold)
    case.check("inter", inter)
    case.check("union", union)
    case.check(count, (probability >= threshold).sum(dim=(0, 2, 3)))
    case.finish()


def check_terms(case: GoldenCase, terms: dict[str, Tensor]) -> None:
    assert terms.keys() == {key[5:] for key in case.output_specs if key.startswith("loss/")}
    for term, value in terms.items():
        case.check(f"loss/{term}", value)
