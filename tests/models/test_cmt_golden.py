"""The published CMT heads and their denoising against ours, part by part."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from perception3d.engine.checkpoints import load_published
from perception3d.fusion.tokens import Cameras, CrossModalTokens
from perception3d.heads.box_code import BOX_BRANCHES
from perception3d.heads.queries import LearnedQueries, QuerySet
from perception3d.heads.query import QueryHead
from perception3d.heads.query_decoder import QueryDecoder
from perception3d.nn.position import grid_centers
from perception3d.structures import BEVFeatures, BEVGrid, Boxes3D, ImageFeatures
from tests.golden_boxes import boxes_of, denoising_builder, range_of
from tests.golden_cases import GoldenCase, golden, load_case

HEAD = "pts_bbox_head."


class Parts(nn.Module):
    """What a head case holds of CMT: everything behind the branches."""

    def __init__(self, case: GoldenCase) -> None:
        super().__init__()
        shapes = case.weight_shapes
        layers = {
            int(k.split(".")[4])
            for k in shapes
            if k.startswith(HEAD + "transformer.decoder.layers")
        }
        channels = shapes[HEAD + "transformer.decoder.post_norm.weight"][0]
        shared, ray = (
            shapes.get(HEAD + "shared_conv.conv.weight"),
            shapes.get(HEAD + "rv_embedding.0.weight"),
        )
        task = HEAD + "task_heads.0."
        range_m = range_of(case)
        self.tokens = CrossModalTokens(
            channels=channels,
            range_m=range_m,
            bev_channels=shared[1] if shared else None,
            cameras=ray is not None,
            ray_hidden=ray[0] if ray else 1,
            num_depths=ray[1] // 3 if ray else 1,
            depth_m=(1.0, range_m[3]),
        )
        self.queries = LearnedQueries(case.inputs()["reference_points"].shape[0])
        decoder = QueryDecoder(
            channels=channels,
            layers=len(layers),
            heads=int(case.stated(r"(\d+) attention heads")[0]),
            hidden=shapes[HEAD + "transformer.decoder.layers.0.ffns.0.layers.0.0.weight"][0],
        )
        self.head = QueryHead(
            decoder=decoder,
            num_classes=shapes[task + "cls_logits.3.bias"][0] // len(layers),
            range_m=range_m,
            task_hidden=shapes[task + "cls_logits.0.weight"][0] // len(layers),
            task_kernel=shapes[task + "cls_logits.0.weight"][2],
        )
        weights = case.weights()
        weights[HEAD + "reference_points.weight"] = case.inputs()["reference_points"]
        load_published(self, weights)
        self.eval()


def sensors(
    inputs: dict[str, Tensor],
) -> tuple[BEVFeatures | None, ImageFeatures | None, Cameras | None]:
    bev, images, cameras = None, None, None
    if "x" in inputs:
        rows, columns = inputs["x"].shape[-2:]
        # The grid's size in metres is of no consequence here: tokens sit at shares of the range.
        grid = BEVGrid((0.0, float(columns)), (0.0, float(rows)), (-5.0, 3.0), 1.0)
        bev = BEVFeatures(inputs["x"], grid)
    if "x_img" in inputs:
        batch = len(inputs["lidar2img"])
        height, width = inputs["pad_shape"].tolist()
        stride = height // inputs["x_img"].shape[-2]
        images = ImageFeatures(inputs["x_img"].unflatten(0, (batch, -1)), stride)
        cameras = Cameras(inputs["lidar2img"], (height, width))
    return bev, images, cameras


def batch_of(inputs: dict[str, Tensor]) -> int:
    return len(inputs["x"]) if "x" in inputs else len(inputs["lidar2img"])


def check_branches(case: GoldenCase, box: Tensor, logits: Tensor, prefix: str = "") -> None:
    for name, part in zip(BOX_BRANCHES, box.split(list(BOX_BRANCHES.values()), dim=-1)):
        case.check(prefix + name, part)
    case.check(prefix + "cls_logits", logits)


@pytest.mark.parametrize(
    "name", golden("cmt_head_small", "cmt_head_full", "cmt_image_head", "cmt_lidar_head")
)
@torch.no_grad()
def test_golden_cmt_head(name: str) -> None:
    case = load_case(name)
    parts, inputs = Parts(case), case.inputs()
    bev, images, cameras = sensors(inputs)
    if bev is not None:
        bev = parts.tokens.share(bev)
        rows, columns = bev.data.shape[-2:]
        case.check("shared_conv", bev.data)
        case.check("bev_coords", grid_centers(rows, columns))
        case.check("bev_pos_embed", parts.tokens.plane.grid(rows, columns))
    reference = inputs["reference_points"].expand(batch_of(inputs), -1, -1)
    plane_only = parts.tokens.query_position(reference, None)
    case.check("bev_query_embed", plane_only)
    if images is not None and cameras is not None:
        h, w = images.data.shape[-2:]
        assert parts.tokens.ray is not None
        code = parts.tokens.ray.tokens(cameras.ref_to_image, (h, w), cameras.image_hw)
        case.check("rv_pos_embed", code.flatten(0, 1))
        from_rays = _ray_part(parts, reference, cameras)
        case.check("rv_query_embed", from_rays)
        assert torch.allclose(
            parts.tokens.query_position(reference, cameras), plane_only + from_rays, atol=1e-5
        )
    memory = parts.tokens.memory(bev, images, cameras)
    position = parts.tokens.query_position(reference, cameras)
    features = parts.head.decoder(None, position, memory.data, memory.position)
    case.check("decoder", features)
    outputs = parts.head(
        memory.data,
        memory.position,
        QuerySet(reference),
        lambda points: parts.tokens.query_position(points, cameras),
    )
    check_branches(case, outputs.box, outputs.logits)
    case.finish()


def _ray_part(parts: Parts, reference: Tensor, cameras: Cameras) -> Tensor:
    assert parts.tokens.ray is not None
    clipped = torch.logit(reference, eps=1e-5).sigmoid()
    low, high = torch.tensor(parts.head.range_m[:3]), torch.tensor(parts.head.range_m[3:])
    return parts.tokens.ray.queries(
        clipped * (high - low) + low, cameras.ref_to_image, cameras.image_hw
    )


@pytest.mark.parametrize("name", golden("cmt_dn"))
@torch.no_grad()
def test_golden_cmt_dn(name: str) -> None:
    case = load_case(name)
    parts, inputs = Parts(case), case.inputs()
    boxes = boxes_of(inputs)
    queries = len(inputs["reference_points"])
    build = denoising_builder(
        case, inputs["noise"], boxes, queries=queries, classes=parts.head.num_classes
    )
    denoising = build(boxes, inputs["noise"])
    assert denoising is not None
    reference = inputs["reference_points"].expand(batch_of(inputs), -1, -1)
    every = Boxes3D.cat(boxes)
    rows = torch.cat(
        (every.center_m, every.size_lwh_m, every.yaw_rad[:, None], every.velocity_mps), dim=1
    )
    case.check("padded_reference_points", torch.cat((denoising.reference, reference), dim=1))
    case.check("attn_mask", denoising.blocked(queries))
    case.check("known_labels", denoising.label)
    case.check("known_labels_raw", denoising.true_label)
    case.check("known_boxes", rows[denoising.box_index])
    case.check("known_indice", denoising.box_index)
    case.check("batch_idx", denoising.sample[: len(every)])
    case.check("map_known_indice", denoising.slot)
    case.check("pad_size", denoising.num_slots)
    case.check("groups", denoising.num_groups)

    bev, images, cameras = sensors(inputs)
    memory = parts.tokens.memory(bev and parts.tokens.share(bev), images, cameras)
    outputs = parts.head(
        memory.data,
        memory.position,
        QuerySet(reference),
        lambda points: parts.tokens.query_position(points, cameras),
        denoising,
    )
    check_branches(case, outputs.box, outputs.logits)
    assert outputs.denoising_box is not None and outputs.denoising_logits is not None
    check_branches(case, outputs.denoising_box, outputs.denoising_logits, "dn_")
    terms = parts.head.loss(outputs, boxes)
    assert terms.keys() == {key[5:] for key in case.output_specs if key.startswith("loss/")}
    for term, value in terms.items():
        case.check(f"loss/{term}", value)
    case.finish()
