"""Published overlap, suppression and points in boxes against ours: kernels and their twins."""

from __future__ import annotations

import pytest
import torch
from perception3d_ops.box_nms import rotated_nms, rotated_nms_by_bits
from perception3d_ops.box_overlap import (
    box_overlap,
    box_overlap_3d,
    box_overlap_twin,
    height_overlap,
)
from perception3d_ops.circle_nms import circle_nms, circle_nms_by_bits
from perception3d_ops.points_in_boxes import (
    points_in_boxes,
    points_in_boxes_mask,
    points_in_boxes_mask_twin,
    points_in_boxes_twin,
)
from torch import Tensor

from tests.golden_cases import golden, load_case


class Kernels:
    """The public functions."""

    @staticmethod
    def overlap(one: Tensor, other: Tensor, measure: str, aligned: bool = False) -> Tensor:
        op = box_overlap if one.shape[1] == 5 else box_overlap_3d
        return op(one, other, measure, aligned=aligned)

    rotated = staticmethod(rotated_nms)
    circle = staticmethod(circle_nms)

    @staticmethod
    def points(xyz: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        return points_in_boxes(xyz, boxes), points_in_boxes_mask(xyz, boxes)


class Twins:
    """The same by the twins."""

    @staticmethod
    def overlap(one: Tensor, other: Tensor, measure: str, aligned: bool = False) -> Tensor:
        return box_overlap_twin(one, other, aligned, measure == "iof")

    @staticmethod
    def _shared(rows: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros(len(rows), dtype=torch.int64), torch.tensor([0, len(rows)])

    @classmethod
    def rotated(
        cls, rows: Tensor, scores: Tensor, at: float, pre_limit: int = -1, post_limit: int = -1
    ) -> Tensor:
        return rotated_nms_by_bits(rows, scores, *cls._shared(rows), at, pre_limit, post_limit)

    @classmethod
    def circle(cls, rows: Tensor, scores: Tensor, at: float, post_limit: int) -> Tensor:
        return circle_nms_by_bits(rows, scores, *cls._shared(rows), at, -1, post_limit)

    @staticmethod
    def points(xyz: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        ends = torch.tensor([0, len(xyz)]), torch.tensor([0, len(boxes)])
        return (
            points_in_boxes_twin(xyz, boxes, *ends),
            points_in_boxes_mask_twin(xyz, boxes, *ends),
        )


WAYS = {"kernels": Kernels, "twins": Twins}
TURNED = torch.tensor([1.0, 1, 1, 1, -1])


def from_bottom(boxes: Tensor) -> Tensor:
    """Published boxes, whose z is that of the bottom face, with z at the gravity centre."""
    raised = boxes.double()
    raised[:, 2] += raised[:, 5] / 2
    return raised


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", golden("geometry_iou_nms"))
def test_golden_geometry_iou_nms(name: str, way: str) -> None:
    case, ours = load_case(name), WAYS[way]
    inputs = case.inputs()
    atol = float(case.about.get("suggested_atol", 1e-4))
    case.about["suggested_atol"] = {}  # one number for all overlaps; exact geometry needs less

    one, other = inputs["pair_boxes1"], inputs["pair_boxes2"]
    for measure in ("iou", "iof"):
        pairs = ours.overlap(one, other, measure, True)
        case.check(f"pair_{measure}", pairs, atol=atol)
        case.check(f"pair_{measure}_exact", pairs, rtol=0, atol=1e-6)
    # Published "clockwise=False" negates the angles.
    case.check(
        "pair_iou_clockwise_false", ours.overlap(one * TURNED, other * TURNED, "iou", True),
        atol=atol,
    )  # fmt: skip
    wrong = ours.overlap(inputs["wrong_pair_boxes1"], inputs["wrong_pair_boxes2"], "iou", True)
    case.check("wrong_pair_iou_exact", wrong, rtol=0, atol=1e-6)
    published = torch.from_numpy(case.arrays["out/wrong_pair_iou_published"]).view_as(wrong)
    gap = float((wrong - published).abs().max())
    assert gap > 1e-3  # it is not to be reproduced
    case.errors["wrong_pair_iou_published"] = gap

    solid, solids = from_bottom(inputs["boxes1"]), from_bottom(inputs["boxes2"])
    flat, flats = (boxes[:, [0, 1, 3, 4, 6]] for boxes in (solid, solids))
    for measure in ("iou", "iof"):
        case.check(f"matrix_{measure}", ours.overlap(flat, flats, measure), atol=atol)
        case.check(f"matrix_{measure}3d", ours.overlap(solid, solids, measure), atol=atol)
    heights = height_overlap(solid[:, None, 2], solid[:, None, 5], solids[:, 2], solids[:, 5])
    case.check("height_overlaps", heights)

    boxes, scores = inputs["nms_boxes"], inputs["nms_scores"]
    low, high = inputs["nms_thresholds"].tolist()
    case.check("nms_keep_low", ours.rotated(boxes, scores, low))
    case.check("nms_keep_high", ours.rotated(boxes, scores, high))
    pre, post = map(int, inputs["nms_bev_sizes"].tolist())
    limited = ours.rotated(boxes, scores, low, pre_limit=pre, post_limit=post)
    case.check("nms_bev_keep", limited)
    dets = inputs["circle_dets"]
    limits = map(int, inputs["circle_post_max_sizes"].tolist())
    for letter, at, limit in zip("ab", inputs["circle_thresholds"].tolist(), limits):
        kept = ours.circle(dets[:, :2], dets[:, 2], at, post_limit=limit)
        case.check(f"circle_keep_{letter}", kept)
    case.finish()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", golden("geometry_points_in_boxes"))
def test_golden_geometry_points_in_boxes(name: str, way: str) -> None:
    case = load_case(name)
    inputs = case.inputs()
    first, mask = WAYS[way].points(inputs["points"], from_bottom(inputs["boxes"]))
    case.check("in_box", mask)
    case.check("first_box", first)
    case.finish()
