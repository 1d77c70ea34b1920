"""PillarNeSt-Tiny (arXiv 2311.17770): LiDAR pillars, a ConvNeXt from above, a centre head.

    python tools/train.py configs/pillarnest_tiny.py                     the town, on a laptop
    python tools/train.py configs/pillarnest_tiny.py --data nuscenes     real data, on GPUs

Two sizes: ``town`` learns the generated town in minutes on two CPU cores (--max-steps 800: six
minutes on one core, mAP 0.217, NDS 0.347, car AP 0.526 at 2 m on its held-out scenes);
``published`` has the published model, schedule, augmentation and class-balanced sampling for
nuScenes, for which the authors name A100s, four samples a GPU. It has not been trained here.
``--size auto`` takes the one that fits the data.

More scenes and time pay in the town. With 48 training scenes of another seed (tools/make_town.py
--out TOWN --seed 1 --train-scenes 48 --train-districts 16), --max-steps 3000 and then, from its
weights, --lr 2e-4 --seed 1 --max-steps 3600 (48 minutes of one core in all) give car AP 0.809 at
2 m, mAP 0.546 and NDS 0.616 on the held-out scenes of the default town.

Published: 58.8 mAP, 65.6 NDS on nuScenes val. What differs from that recipe: objects are not pasted
into training frames yet (``PASTE`` is empty), so the last five epochs "without pasting", a phase of
their own here too, are like those before, and scores will be lower. The peak learning rate is
CenterPoint's (1e-3); the published configuration would give 1e-2 with the stock schedule, which its
authors may have changed: try 1e-3 to 1e-2 (``--lr`` is a tenth of the peak). Weights start at
random, where the authors hand over ImageNet's, of which no tensor fits this size.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from torch import nn

from perception3d.backbones.bev_convnext import PILLARNEST_SIZES
from perception3d.datasets.augment import GlobalAugment
from perception3d.datasets.locate import DataRoot, locate
from perception3d.datasets.nuscenes import NuScenesFrames
from perception3d.datasets.points import CloseRule
from perception3d.datasets.samples import Transform
from perception3d.datasets.transforms import (
    ClassFilter,
    MinPointsFilter,
    PointShuffle,
    RangeFilter,
)
from perception3d.engine.backbone_rules import Rule
from perception3d.engine.backbone_weights import BackboneWeights
from perception3d.engine.experiment import Expected, Experiment, Phase, Precision, Samples
from perception3d.engine.frame_samples import evaluation_frames, training_frames
from perception3d.engine.optim import AdamWSettings, CyclicSchedule
from perception3d.evaluation import Modalities
from perception3d.evaluation.nuscenes import NuScenesEvaluator
from perception3d.heads.center import NUSCENES_TASKS, CenterHead
from perception3d.heads.center_decode import (
    CIRCLE_DISTANCES_SQ_M2,
    CircleSuppression,
    RotatedSuppression,
    Suppression,
)
from perception3d.models.lidar_branch import pillar_branch
from perception3d.models.pillarnest import PillarNeSt
from perception3d.structures import BEVGrid
from perception3d.structures.taxonomy import NUSCENES_CLASSES

Scale = Literal["tiny", "small", "base", "large"]
SizeName = Literal["auto", "town", "published"]
SuppressionName = Literal["rotated", "circle"]

#: What pastes objects of other frames into a training frame, before augmentation: nothing yet.
PASTE: tuple[Transform, ...] = ()

#: Candidates and boxes of a sample, of all tasks together: published 500 and 83 of each of six.
MAX_CANDIDATES, MAX_BOXES = 3000, 498
#: Squared distance of circle suppression where one task holds all classes (1.5 m, by trial).
TOWN_CIRCLE_SQ_M2 = 2.25


@dataclass(frozen=True, kw_only=True)
class Size:
    """A model, and how it is trained."""

    half_range_m: float
    pillar_m: float
    depths: tuple[int, ...]
    widths: tuple[int, ...]
    out_stages: tuple[int, ...]
    neck_channels: int
    tasks: tuple[int, ...]
    head_channels: int
    iou_power: float
    drop_path: float
    natural: bool
    max_pillars: tuple[int, int]
    sweeps: int
    drop_close: CloseRule
    augment: GlobalAugment
    batch_size: int
    lr: float
    epochs: int
    fade_epochs: int
    expected: tuple[Expected, ...] = ()


def published(scale: Scale) -> Size:
    """The published model and recipe (WayneMao/PillarNeSt, configurations and README)."""
    depths, widths, neck_channels = PILLARNEST_SIZES[scale]
    large = scale == "large"
    return Size(
        half_range_m=54.0, pillar_m=0.15,
        depths=depths, widths=widths, out_stages=(2, 3, 4), neck_channels=neck_channels,
        tasks=NUSCENES_TASKS, head_channels=64, iou_power=0.5,
        drop_path=0.4, natural=False, max_pillars=(30_000, 40_000),
        sweeps=10, drop_close="past",
        augment=GlobalAugment(
            rotation_rad=0.3925, scale=(0.95, 1.05), translation_std_m=(0.0, 0.0, 0.0)
        ),
        batch_size=2 if large else 4, lr=5e-5 if large else 1e-4, epochs=20,
        fade_epochs=2 if large else 5,
        expected=tuple(
            Expected(
                metric=metric,
                value=value,
                tolerance=0.01,
                source="WayneMao/PillarNeSt, README: nuScenes val, with pasted objects",
            )
            for metric, value in zip(("mAP", "NDS"), PUBLISHED_SCORES[scale])
        ),
    )  # fmt: skip


#: mAP and NDS on nuScenes val: one model, no test-time augmentation.
PUBLISHED_SCORES: dict[Scale, tuple[float, float]] = {
    "tiny": (0.588, 0.656),
    "small": (0.617, 0.681),
    "base": (0.632, 0.692),
    "large": (0.643, 0.704),
}

#: Blocks and channels of the stages, channels of a neck branch: no block at full resolution but in
#: the largest, and maps of stride 2, for the town has larger pillars.
TOWN_SCALES: dict[Scale, tuple[tuple[int, ...], tuple[int, ...], int]] = {
    "tiny": ((0, 1, 2, 2), (24, 32, 64, 128), 32),
    "small": ((0, 2, 2, 2), (24, 48, 96, 128), 32),
    "base": ((0, 2, 4, 2), (32, 48, 96, 192), 48),
    "large": ((1, 4, 4, 2), (32, 64, 128, 192), 48),
}


def town(scale: Scale) -> Size:
    """Small, for the generated town; no mirror there, for its traffic keeps to the right.

    One task holds all classes: six of them took most of a step's time.
    """
    depths, widths, neck_channels = TOWN_SCALES[scale]
    return Size(
        half_range_m=51.2, pillar_m=0.4,
        depths=depths, widths=widths, out_stages=(1, 2, 3), neck_channels=neck_channels,
        tasks=(len(NUSCENES_CLASSES),), head_channels=32, iou_power=0.2,
        drop_path=0.0, natural=True, max_pillars=(20_000, 20_000),
        sweeps=5, drop_close="all",
        augment=GlobalAugment(
            rotation_rad=0.3, flip_x_probability=0.0, flip_y_probability=0.0
        ),
        batch_size=1, lr=3e-4, epochs=1, fade_epochs=0,
    )  # fmt: skip


def experiment(
    *,
    scale: Scale = "tiny",
    data: str = "auto",
    val_split: str | None = None,
    size: SizeName = "auto",
    suppression: SuppressionName = "rotated",
    sweeps: int | None = None,
    epochs: int | None = None,
    max_steps: int | None = None,
    batch_size: int | None = None,
    accumulate: int = 1,
    lr: float | None = None,
    balance_classes: bool = True,
    ema_decay: float | None = None,
    precision: Precision = "fp32",
    workers: int = 1,
    evaluate_every: int = 0,
    weights: Path | None = None,
    backbone_weights: Path | None = None,
    backbone_rule: Rule = "published",
    backbone_scale_rows: bool = False,
    seed: int = 0,
) -> Experiment:
    """Train PillarNeSt.

    Args:
        scale: tiny, small, base or large; each has a config of its own.
        data: "auto" takes data/nuscenes when it is there, else the generated town; or a folder.
        val_split: evaluate and predict on this split instead (test, for the leaderboard).
        size: town (laptop), published, or auto by the data.
        suppression: of repeated boxes, by overlap (rotated) or by distance (circle).
        sweeps: LiDAR sweeps a sample, the key one included.
        epochs: length of the run.
        max_steps: end after this many steps; without epochs it alone decides the length.
        batch_size: samples a step and process.
        accumulate: steps whose gradients are summed before an update.
        lr: base learning rate; it rises to ten times that during the first 40 % of the run.
        balance_classes: show frames with rare classes more often (CBGS).
        ema_decay: evaluate and save averaged weights.
        precision: fp32, bf16 or fp16.
        workers: loader processes.
        evaluate_every: epochs between evaluations; 0: after the last epoch only; -1: never.
        weights: start from these weights.
        backbone_weights: a ConvNeXt trained on images, of timm, the mm family or its authors, that
            fills what it can of the backbone.
        backbone_rule: what that is: tensors of the same name and shape (published), or also the
            first channels of wider ones (sliced).
        backbone_scale_rows: with sliced, scale linear layers that lost inputs.
        seed: of weights, order, augmentation and noise.
    """
    root = locate(data, val_split=val_split)
    name = ("town" if root.kind == "town" else "published") if size == "auto" else size
    chosen = town(scale) if name == "town" else published(scale)
    changes = {"sweeps": sweeps, "epochs": epochs, "batch_size": batch_size, "lr": lr}
    chosen = replace(chosen, **{k: v for k, v in changes.items() if v is not None})
    used = Modalities(camera=False, lidar=True)
    source = partial(training_samples, root, chosen, seed, balance_classes)
    fade = (Phase(first_epoch=-chosen.fade_epochs, train=source),) if chosen.fade_epochs else ()
    return Experiment(
        name=f"pillarnest_{scale}" + ("_town" if name == "town" else ""),
        model=partial(model, chosen, suppression),
        train=partial(source, paste=PASTE),
        val=partial(validation_samples, root, chosen),
        optimizer=AdamWSettings(lr=chosen.lr, weight_decay=0.01),
        schedule=CyclicSchedule(peak_ratio=10.0),
        phases=fade,
        epochs=None if max_steps is not None and epochs is None else chosen.epochs,
        max_steps=max_steps,
        batch_size=chosen.batch_size,
        accumulate=accumulate,
        precision=precision,
        ema_decay=ema_decay,
        seed=seed,
        workers=workers,
        evaluators=(
            partial(NuScenesEvaluator, root.root, root.version, root.val_split, meta=used),
        ),
        modalities=used,
        evaluate_every=None if evaluate_every < 0 else evaluate_every,
        weights=weights,
        backbone_weights=None
        if backbone_weights is None
        else BackboneWeights(
            file=backbone_weights, rule=backbone_rule, scale_rows=backbone_scale_rows
        ),
        expected=chosen.expected if root.val_split == "val" else (),
    )


def model(size: Size, suppression: SuppressionName) -> nn.Module:
    """The detector of a size."""
    reach = (-size.half_range_m, size.half_range_m)
    lidar = pillar_branch(
        BEVGrid(reach, reach, (-5.0, 3.0), size.pillar_m),
        max_pillars=size.max_pillars,
        natural=size.natural,
        depths=size.depths,
        widths=size.widths,
        out_stages=size.out_stages,
        neck_channels=size.neck_channels,
        drop_path=size.drop_path,
    )
    head = CenterHead(
        in_channels=lidar.channels,
        grid=lidar.grid,
        tasks=size.tasks,
        channels=size.head_channels,
        suppression=suppress(suppression, size.tasks),
        max_candidates=MAX_CANDIDATES // len(size.tasks),
        iou_power=size.iou_power,
    )
    return PillarNeSt(lidar=lidar, head=head)


def suppress(name: SuppressionName, tasks: tuple[int, ...]) -> Suppression:
    """Of repeated boxes within a task; at most ``MAX_BOXES`` stay in all."""
    limit = MAX_BOXES // len(tasks)
    if name == "rotated":
        return RotatedSuppression(post_limit=limit)
    published = tasks == NUSCENES_TASKS
    distances = CIRCLE_DISTANCES_SQ_M2 if published else (TOWN_CIRCLE_SQ_M2,) * len(tasks)
    return CircleSuppression(distances, post_limit=limit)


def training_samples(
    root: DataRoot, size: Size, seed: int, balance: bool, *, paste: tuple[Transform, ...] = ()
) -> Samples:
    """Training frames with the published augmentation, in the published order."""
    source = frames(root, root.train_split, size)
    reach = (-size.half_range_m, size.half_range_m)
    steps: tuple[Transform, ...] = (
        MinPointsFilter(1),
        *paste,
        size.augment,
        RangeFilter(x_m=reach, y_m=reach),
        ClassFilter(NUSCENES_CLASSES),
        PointShuffle(),
    )
    return training_frames(source, steps, seed=seed, balance=balance)


def validation_samples(root: DataRoot, size: Size) -> Samples:
    """Validation frames, cut to the range."""
    source = frames(root, root.val_split, size)
    reach = (-size.half_range_m, size.half_range_m)
    return evaluation_frames(source, (RangeFilter(x_m=reach, y_m=reach),))


def frames(root: DataRoot, split: str, size: Size) -> NuScenesFrames:
    """Frames of a split with their points."""
    return NuScenesFrames(
        root.root,
        split,
        num_sweeps=size.sweeps,
        drop_close=size.drop_close,
        load_points=True,
        load_images=False,
    )
