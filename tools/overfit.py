"""Train CMT on one real key frame until it finds its boxes again, and draw what it found.

    python tools/overfit.py FRAME.json [--steps 150] [--out work_dirs/overfit]

A mirrored axis, a turned box or a wrong pose cannot hide here: the model sees real points and
pixels, and its boxes are drawn over them beside the truth. FRAME.json is one frame of
mmdetection3d's info format (version 2) as JSON, with the sensor files beside it.
"""

from __future__ import annotations

import logging
import math
import statistics
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import tyro

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from configs.cmt_fusion import SIZES, model
from perception3d.datasets.augment import ImageAugment
from perception3d.datasets.collate import collate
from perception3d.datasets.info_json import read_info_json
from perception3d.datasets.transforms import ClassFilter, Compose, MinPointsFilter, RangeFilter
from perception3d.structures import Boxes3D, Frame, Prediction
from perception3d.structures.taxonomy import NUSCENES_CLASSES
from perception3d.viewer import draw_bev, draw_cameras, write_image


@dataclass(frozen=True, kw_only=True)
class Recall:
    """How many boxes were found again.

    Attributes:
        found, total: boxes with a prediction of their class within ``radius_m``, and all boxes.
        predicted: boxes above the score threshold.
        yaw_error_rad: median difference of heading of the boxes found, front and back told apart.
    """

    found: int
    total: int
    predicted: int
    radius_m: float
    yaw_error_rad: float

    def __str__(self) -> str:
        share = self.found / max(self.total, 1)
        return (
            f"{self.found} of {self.total} boxes found within {self.radius_m:g} m "
            f"({share:.2f}), {self.predicted} predicted, median heading error "
            f"{self.yaw_error_rad:.3f} rad"
        )


def overfit(
    frame: tyro.conf.Positional[Path],
    *,
    steps: int = 150,
    lr: float = 2e-3,
    out: Path | None = Path("work_dirs/overfit"),
    seed: int = 0,
) -> Recall:
    """Train on one frame, then look for its boxes.

    Args:
        frame: the JSON file.
        steps: optimiser steps.
        lr: peak learning rate.
        out: folder for the pictures; None draws nothing.
        seed: of weights and noise.
    """
    torch.manual_seed(seed)
    size = replace(SIZES["town"], half_range_m=51.2, voxel_m=0.4, bev_queries=200, image_queries=50)
    whole = read_info_json(frame)
    seen = prepared(whole, size.half_range_m, size.image_hw)
    batch = collate([seen])
    detector = model(size, "fusion", "heatmap").train()
    optimizer = torch.optim.AdamW(detector.parameters(), lr=lr, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    for step in range(steps):
        outputs = detector(batch, detector.denoising(batch))
        loss = torch.stack(list(detector.loss(outputs, batch)["detection"].values())).sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(detector.parameters(), 35.0)
        optimizer.step()
        schedule.step()
        if step % 20 == 0 or step == steps - 1:
            print(f"step {step + 1}/{steps}  loss {loss.item():.2f}", flush=True)
    # Statistics of one batch are what the weights were fitted with: running means lag behind.
    with torch.no_grad():
        prediction = detector.predict(detector(batch), batch)[0]
    if out is not None:
        draw(whole, prediction, out)
    assert seen.boxes is not None
    return recall(prediction, seen.boxes.select(seen.boxes.num_points >= 5))


def prepared(frame: Frame, half_range_m: float, image_hw: tuple[int, int]) -> Frame:
    """The frame as the model sees it, without augmentation."""
    reach = (-half_range_m, half_range_m)
    steps = (
        MinPointsFilter(1),
        RangeFilter(x_m=reach, y_m=reach),
        ClassFilter(NUSCENES_CLASSES),
        ImageAugment.test(image_hw),
    )
    return Compose(steps)(frame, np.random.default_rng(0))


def recall(
    prediction: Prediction, truth: Boxes3D, *, radius_m: float = 2.0, min_score: float = 0.3
) -> Recall:
    """Match greedily by score: each truth once, same class, centres within ``radius_m`` in BEV."""
    kept = prediction.score >= min_score
    boxes = prediction.boxes.select(kept)
    distance = torch.cdist(boxes.center_m[:, :2], truth.center_m[:, :2])
    distance[boxes.label[:, None] != truth.label[None]] = torch.inf
    free = torch.ones(len(truth), dtype=torch.bool)
    turned = [torch.inf]
    for yaw, row in zip(boxes.yaw_rad, distance):
        row = row.masked_fill(~free, torch.inf)
        if len(row) and float(row.min()) < radius_m:
            nearest = int(row.argmin())
            free[nearest] = False
            turned.append(abs(math.remainder(float(yaw - truth.yaw_rad[nearest]), 2 * math.pi)))
    return Recall(
        found=int((~free).sum()),
        total=len(truth),
        predicted=len(boxes),
        radius_m=radius_m,
        yaw_error_rad=statistics.median(turned[1:] or turned),
    )


def draw(frame: Frame, prediction: Prediction, out: Path) -> None:
    """Truth and prediction over the real points and images."""
    for name, image in (
        ("bev.png", draw_bev(frame, prediction, layout="overlay", min_score=0.3)),
        ("bev_side.png", draw_bev(frame, prediction, layout="side", min_score=0.3)),
        ("cameras.png", draw_cameras(frame, prediction, layout="side", min_score=0.3)),
    ):
        print(write_image(out / name, image))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    print(tyro.cli(overfit, description=__doc__))
