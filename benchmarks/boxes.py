"""Rotated suppression, overlap and points in boxes against numba loops, mmcv and the twins."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from perception3d_ops.box_nms import rotated_nms
from perception3d_ops.box_overlap import box_overlap, box_overlap_twin
from perception3d_ops.circle_nms import circle_nms
from perception3d_ops.points_in_boxes import points_in_boxes, points_in_boxes_mask
from torch import Tensor

from benchmarks.peers import mmcv_ops
from benchmarks.timing import Case
from benchmarks.voxels import Ways


def box_cases(points: Tensor) -> Iterator[Case]:
    """Cases and the ways to do them; boxes as a detector proposes them, in clusters."""
    device = points.device
    ops = mmcv_ops()
    for count in (1000, 4000):
        boxes, scores = _proposals(count, device)
        ways: Ways = {"own": lambda b=boxes, s=scores: rotated_nms(b, s, 0.2)}
        if device.type == "cpu":
            ways["numba"] = _numba_nms(boxes, scores, 0.2)
        if ops is not None:
            ways["mmcv"] = lambda b=boxes, s=scores: ops.nms_rotated(b, s, 0.2)
        kept = {name: len(np.asarray(_rows(way()))) for name, way in ways.items()}
        assert len(set(kept.values())) == 1, f"suppression differs: {kept}"
        yield Case(f"rotated NMS of {count} boxes", ways)
        centers = boxes[:, :2].contiguous()
        circle: Ways = {"own": lambda c=centers, s=scores: circle_nms(c, s, 4.0)}
        if device.type == "cpu":
            circle["numba"] = _numba_circle(centers, scores, 4.0)
        yield Case(f"circle NMS of {count} boxes", circle)
    left, _ = _proposals(500, device, seed=1)
    right, _ = _proposals(500, device, seed=2)
    overlap: Ways = {
        "own": lambda: box_overlap(left, right),
        "twin": lambda: box_overlap_twin(left, right, False, False),
    }
    if ops is not None:
        overlap["mmcv"] = lambda: ops.box_iou_rotated(left, right)
    yield Case("overlap of 500 x 500 boxes", overlap)

    boxes7 = _upright(80, device)
    xyz = points[:, :3].contiguous()
    first: Ways = {"own": lambda: points_in_boxes(xyz, boxes7)}
    mask: Ways = {"own": lambda: points_in_boxes_mask(xyz, boxes7)}
    if device.type == "cpu":
        first["numba"] = _numba_points(xyz, boxes7, first_only=True)
        mask["numba"] = _numba_points(xyz, boxes7, first_only=False)
    if ops is not None:
        low = boxes7.clone()
        low[:, 2] -= low[:, 5] / 2
        mask["mmcv"] = lambda: ops.points_in_boxes_cpu(xyz[None], low[None])
    yield Case(f"first of 80 boxes for {len(xyz):,} points", first)
    yield Case(f"mask of 80 boxes for {len(xyz):,} points", mask)


def _rows(kept: Any) -> Any:
    return kept[1] if isinstance(kept, tuple) else kept


def _proposals(count: int, device: torch.device, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Boxes of cars in clusters of five, and scores."""
    generator = torch.Generator().manual_seed(seed)
    center = (torch.rand(count // 5, 2, generator=generator) - 0.5) * 100
    center = center.repeat_interleave(5, 0) + torch.randn(count, 2, generator=generator) * 0.7
    size = torch.tensor([4.6, 1.9]) * (0.8 + 0.4 * torch.rand(count, 2, generator=generator))
    yaw = torch.rand(count // 5, 1, generator=generator).repeat_interleave(5, 0) * 6.28
    yaw = yaw + torch.randn(count, 1, generator=generator) * 0.1
    boxes = torch.cat((center, size, yaw), dim=1)
    return boxes.to(device), torch.rand(count, generator=generator).to(device)


def _upright(count: int, device: torch.device) -> Tensor:
    boxes, _ = _proposals(5 * count, device, seed=3)
    boxes = boxes[::5]
    z, height = boxes.new_full((count, 1), -0.8), boxes.new_full((count, 1), 1.8)
    return torch.cat((boxes[:, :2], z, boxes[:, 2:4], height, boxes[:, 4:]), dim=1)


def _numba_overlap() -> Any:
    """Intersection of two rotated rectangles by clipping one with the other's sides."""
    import numba

    @numba.njit(cache=False)
    def overlap(a: Any, b: Any) -> float:
        x, y = np.empty(16), np.empty(16)
        new_x, new_y = np.empty(16), np.empty(16)
        ca, sa = math.cos(a[4]), math.sin(a[4])
        count = 4
        for i in range(4):
            u = a[2] / 2 * (1 if i in (0, 3) else -1)
            v = a[3] / 2 * (1 if i < 2 else -1)
            x[i], y[i] = a[0] - b[0] + ca * u - sa * v, a[1] - b[1] + sa * u + ca * v
        cb, sb = math.cos(b[4]), math.sin(b[4])
        for side in range(4):
            nx, ny = (cb, sb) if side < 2 else (-sb, cb)
            limit = b[2] / 2 if side < 2 else b[3] / 2
            if side % 2:
                nx, ny = -nx, -ny
            new = 0
            for i in range(count):
                j = (i + 1) % count
                di = nx * x[i] + ny * y[i] - limit
                dj = nx * x[j] + ny * y[j] - limit
                if di <= 0:
                    new_x[new], new_y[new] = x[i], y[i]
                    new += 1
                if di * dj < 0:
                    t = di / (di - dj)
                    new_x[new], new_y[new] = x[i] + t * (x[j] - x[i]), y[i] + t * (y[j] - y[i])
                    new += 1
            count = new
            x[:count], y[:count] = new_x[:count], new_y[:count]
        area = 0.0
        for i in range(count):
            j = (i + 1) % count
            area += x[i] * y[j] - x[j] * y[i]
        area = abs(area) / 2
        return area / max(a[2] * a[3] + b[2] * b[3] - area, 1e-12)

    return overlap


def _numba_nms(boxes: Tensor, scores: Tensor, threshold: float) -> Callable[[], Any]:
    """Greedy, with circles that are looked at first; what one writes without a library."""
    import numba

    overlap = _numba_overlap()

    @numba.njit(cache=False)
    def loop(boxes: Any, order: Any, threshold: float) -> Any:
        count = len(order)
        radius = np.sqrt(boxes[:, 2] ** 2 + boxes[:, 3] ** 2) / 2
        dropped = np.zeros(count, np.bool_)
        kept = []
        for i in range(count):
            if dropped[i]:
                continue
            a = order[i]
            kept.append(a)
            for j in range(i + 1, count):
                b = order[j]
                if dropped[j]:
                    continue
                dx, dy = boxes[a, 0] - boxes[b, 0], boxes[a, 1] - boxes[b, 1]
                reach = radius[a] + radius[b]
                if dx * dx + dy * dy < reach * reach and overlap(boxes[a], boxes[b]) > threshold:
                    dropped[j] = True
        return np.array(kept)

    data, score = boxes.double().numpy(), scores.numpy()
    return lambda: loop(data, np.argsort(-score, kind="stable"), threshold)


def _numba_circle(centers: Tensor, scores: Tensor, threshold_sq: float) -> Callable[[], Any]:
    import numba

    @numba.njit(cache=False)
    def loop(centers: Any, order: Any, threshold_sq: float, most: int) -> Any:
        count = len(order)
        dropped = np.zeros(count, np.bool_)
        kept = []
        for i in range(count):
            if dropped[i]:
                continue
            a = order[i]
            kept.append(a)
            for j in range(i + 1, count):
                b = order[j]
                dx, dy = centers[a, 0] - centers[b, 0], centers[a, 1] - centers[b, 1]
                if dx * dx + dy * dy <= threshold_sq:
                    dropped[j] = True
        return np.array(kept[:most])

    data, score = centers.numpy(), scores.numpy()
    return lambda: loop(data, np.argsort(-score, kind="stable"), threshold_sq, 83)


def _numba_points(xyz: Tensor, boxes: Tensor, *, first_only: bool) -> Callable[[], Any]:
    import numba

    @numba.njit(cache=False)
    def loop(xyz: Any, boxes: Any, first: Any, mask: Any, first_only: bool) -> None:
        c, s = np.cos(boxes[:, 6]), np.sin(boxes[:, 6])
        for i in range(xyz.shape[0]):
            for j in range(boxes.shape[0]):
                if abs(xyz[i, 2] - boxes[j, 2]) > boxes[j, 5] / 2:
                    continue
                dx, dy = xyz[i, 0] - boxes[j, 0], xyz[i, 1] - boxes[j, 1]
                if abs(c[j] * dx + s[j] * dy) >= boxes[j, 3] / 2:
                    continue
                if abs(c[j] * dy - s[j] * dx) >= boxes[j, 4] / 2:
                    continue
                if first_only:
                    first[i] = j
                    break
                mask[i, j] = True

    points, data = xyz.numpy(), boxes.numpy()

    def run() -> Any:
        first = np.full(len(points), -1)
        mask = np.zeros((0 if first_only else len(points), len(data)), np.bool_)
        loop(points, data, first, mask, first_only)
        return first if first_only else mask

    return run
