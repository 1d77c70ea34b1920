"""FULLER (arXiv 2307.16617): boxes and maps from cameras and LiDAR, with calibrated gradients.

    python tools/train.py configs/fuller_joint.py                        the town, on a laptop
    python tools/train.py configs/fuller_joint.py --rule uniform --no-intra    the plain sum
    python tools/train.py configs/fuller_joint.py --tasks map            one task
    python tools/train.py configs/fuller_joint.py --data nuscenes        real data, on GPUs

The abstract: 14.4 mIoU of the map and 1.4 mAP above naive joint training on nuScenes. No code was
published, and its equations and sizes could not be read: what is ours is said in
perception3d/balancing. ``published`` is the geometry of BEVFusion (arXiv 2205.13542), which it
builds on: voxels of 0.075 m, 108 m by 108 m, maps of 100 m in cells of half a metre, six classes,
ResNet-50 instead of Swin-T. It has not been trained here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from torch import nn

from configs._balancing import (
    MeasuredAt,
    RuleName,
    Tasks,
    make_rule,
    measured_at,
    refuse_senseless,
    task_names,
)
from perception3d.backbones.second import SECOND
from perception3d.balancing import Balance, Fork, Length
from perception3d.datasets.augment import GlobalAugment, ImageAugment
from perception3d.datasets.locate import DataRoot, locate
from perception3d.datasets.map_raster import MAP_CLASSES
from perception3d.datasets.nuscenes import NuScenesFrames
from perception3d.datasets.nuscenes.map_layers import MapLayers, SceneWithMap
from perception3d.datasets.samples import Transform
from perception3d.datasets.transforms import (
    ClassFilter,
    MinPointsFilter,
    ModalMask,
    PointShuffle,
    RangeFilter,
)
from perception3d.engine.experiment import Experiment, Precision, Samples
from perception3d.engine.frame_samples import evaluation_frames, training_frames
from perception3d.engine.optim import AdamWSettings, CyclicSchedule, GroupRule
from perception3d.evaluation import Modalities
from perception3d.evaluation.map_iou import THRESHOLDS, MapIouEvaluator
from perception3d.evaluation.nuscenes import NuScenesEvaluator
from perception3d.fusion.concat import ConcatFuser
from perception3d.heads.bev_map import BevMapHead
from perception3d.heads.center import NUSCENES_TASKS, CenterHead
from perception3d.heads.petr_depth import DepthBranch, depth_edges
from perception3d.heads.petr_lift import DepthLift
from perception3d.models.fuller import FULLER
from perception3d.models.image_branch import ImageBranch, resnet_branch
from perception3d.models.lidar_branch import LidarBranch, pillar_branch, voxel_branch
from perception3d.nn.fpn import UpsampleConcatNeck
from perception3d.structures import BEVGrid
from perception3d.structures.taxonomy import NUSCENES_CLASSES

SizeName = Literal["auto", "town", "study", "published"]


@dataclass(frozen=True, kw_only=True)
class Size:
    """What differs between a laptop and eight GPUs."""

    half_range_m: float
    cell_m: float
    lidar: Callable[[BEVGrid], LidarBranch]
    image: Callable[..., ImageBranch]
    image_channels: int
    image_hw: tuple[int, int]
    image_resize: tuple[float, float]
    lifted: int
    depth_hidden: int
    depth_m: tuple[float, float]
    depth_bins: int
    fused: int
    widths: tuple[int, int]
    layers: tuple[int, int]
    neck_channels: int
    center_tasks: tuple[int, ...]
    head_channels: int
    iou_power: float
    light: bool
    map_half_m: float
    map_cell_m: float
    sweeps: int
    scene: GlobalAugment
    batch_size: int
    lr: float
    image_lr: float
    epochs: int


_TOWN = Size(
    half_range_m=40.0, cell_m=0.4,
    lidar=partial(
        pillar_branch, max_pillars=(20_000, 20_000), natural=True, depths=(0, 1, 1, 1),
        widths=(16, 24, 48, 64), out_stages=(1, 2, 3), neck_channels=16, drop_path=0.0,
    ),
    image=partial(resnet_branch, depth=18, width=8, stages=(1, 2, 3)),
    image_channels=48, image_hw=(160, 400), image_resize=(0.94, 1.1),
    lifted=14, depth_hidden=32, depth_m=(1.0, 58.0), depth_bins=32,
    fused=48, widths=(48, 64), layers=(1, 1), neck_channels=24,
    center_tasks=(10,), head_channels=32, iou_power=0.2, light=True,
    map_half_m=40.0, map_cell_m=0.8,
    sweeps=5,
    scene=GlobalAugment(
        rotation_rad=0.3, scale=(1.0, 1.0), flip_x_probability=0.0, flip_y_probability=0.0
    ),
    batch_size=1, lr=3e-4, image_lr=0.3, epochs=1,
)  # fmt: skip

SIZES = {
    "town": _TOWN,
    "study": replace(
        _TOWN,
        cell_m=0.5,
        lidar=partial(_TOWN.lidar, widths=(16, 24, 32, 48)),
        image_channels=32, image_hw=(112, 280), image_resize=(0.66, 0.77),
        lifted=12, depth_hidden=24, depth_bins=24,
        fused=32, widths=(32, 48), neck_channels=20, head_channels=24, map_cell_m=1.0,
    ),
    "published": Size(
        half_range_m=54.0, cell_m=0.075,
        lidar=voxel_branch,
        image=resnet_branch, image_channels=256, image_hw=(256, 704), image_resize=(0.38, 0.55),
        lifted=80, depth_hidden=256, depth_m=(1.0, 60.0), depth_bins=118,
        fused=256, widths=(128, 256), layers=(5, 5), neck_channels=256,
        center_tasks=NUSCENES_TASKS, head_channels=64, iou_power=0.5, light=True,
        map_half_m=50.0, map_cell_m=0.5,
        sweeps=10, scene=GlobalAugment(scale=(0.9, 1.1)),
        batch_size=4, lr=1e-4, image_lr=0.1, epochs=20,
    ),
}  # fmt: skip


def experiment(
    *,
    tasks: Tasks = "det,map",
    rule: RuleName = "imtl_g",
    intra: bool = True,
    measure: MeasuredAt = "features",
    length: Length = "rule",
    map_weight: float = 1.0,
    map_scale: float = 1.0,
    data: str = "auto",
    val_split: str | None = None,
    size: SizeName = "auto",
    epochs: int | None = None,
    max_steps: int | None = None,
    batch_size: int | None = None,
    accumulate: int = 1,
    lr: float | None = None,
    mask_sensors: bool = False,
    balance_classes: bool = True,
    map_threshold: float | None = None,
    map_apply_scale: bool = True,
    ema_decay: float | None = None,
    precision: Precision = "fp32",
    workers: int = 1,
    evaluate_every: int = 0,
    weights: Path | None = None,
    seed: int = 0,
) -> Experiment:
    """Train the joint model.

    Args:
        tasks: boxes and maps, or one of them.
        rule: between the tasks where they part; imtl_g is our reading of FULLER.
        intra: bring the gradients of camera and LiDAR to one length, as FULLER does.
        measure: gradients of the tasks, by the shared features (cheap) or by the weights of the
            last layer before them; the paper's words fit both.
        length: of the calibrated gradient: the rule's own, that of the plain sum, or the mean of
            the tasks' (mean_norm).
        map_weight: of the map's loss, with --rule fixed.
        map_scale: what the map's loss is multiplied by before any rule sees it, for studies of
            tasks that starve.
        data: "auto" takes data/nuscenes when it is there, else the generated town; or a folder.
        val_split: evaluate and predict on this split instead (test, for the leaderboard).
        size: town (laptop), study (smaller still, see tools/study.py), published, or auto by the
            data.
        epochs: length of the run.
        max_steps: end after this many steps; without epochs it alone decides the length.
        batch_size: samples a step and process.
        accumulate: steps whose gradients are summed before an update.
        lr: base learning rate; it rises to ten times that during the first 40 % of the run.
        mask_sensors: hide one sensor in half of the samples (masked-modal training).
        balance_classes: show frames with rare classes more often (CBGS).
        map_threshold: a cell belongs to a class from this probability on; by default each class
            has its best of 0.35, 0.40, ..., 0.65 (BEVFusion).
        map_apply_scale: maps grow with points and boxes; BEVFusion's did not.
        ema_decay: evaluate and save averaged weights.
        precision: fp32, bf16 or fp16.
        workers: loader processes.
        evaluate_every: epochs between evaluations; 0: after the last epoch only; -1: never.
        weights: start from these weights.
        seed: of weights, order, augmentation and noise.
    """
    refuse_senseless(tasks, map_weight, map_scale)
    root = locate(data, val_split=val_split)
    name = ("town" if root.kind == "town" else "published") if size == "auto" else size
    chosen = SIZES[name]
    changes = {"epochs": epochs, "batch_size": batch_size, "lr": lr}
    chosen = replace(chosen, **{k: v for k, v in changes.items() if v is not None})
    used = Modalities(camera=True, lidar=True)
    evaluators = []
    if "det" in tasks:
        evaluators.append(
            partial(NuScenesEvaluator, root.root, root.version, root.val_split, meta=used)
        )
    if "map" in tasks:
        evaluators.append(partial(map_evaluator, root, chosen, map_threshold))
    return Experiment(
        name=run_name(tasks, rule, measure, length, intra=intra) + f"_{name}",
        model=partial(
            model, chosen, tasks, rule, intra=intra, measure=measure, length=length,
            map_weight=map_weight, map_scale=map_scale,
        ),
        train=partial(
            training_samples, root, chosen, tasks, seed, balance=balance_classes,
            masked=mask_sensors, apply_scale=map_apply_scale,
        ),
        val=partial(validation_samples, root, chosen),
        optimizer=AdamWSettings(
            lr=chosen.lr,
            weight_decay=0.01,
            rules=tuple(GroupRule(part, lr=chosen.image_lr) for part in ("image.", "lift.")),
        ),
        schedule=CyclicSchedule(peak_ratio=10.0),
        epochs=None if max_steps is not None and epochs is None else chosen.epochs,
        max_steps=max_steps,
        batch_size=chosen.batch_size,
        accumulate=accumulate,
        precision=precision,
        ema_decay=ema_decay,
        seed=seed,
        workers=workers,
        evaluators=tuple(evaluators),
        best_by="NDS" if "det" in tasks else "mIoU",
        modalities=used,
        evaluate_every=None if evaluate_every < 0 else evaluate_every,
        weights=weights,
    )  # fmt: skip


def run_name(
    tasks: Tasks, rule: RuleName, measure: MeasuredAt, length: Length, *, intra: bool
) -> str:
    """Of the run's folder, without the size."""
    words = ["fuller", tasks.replace(",", "_"), rule]
    if measure != "features":
        words.append("by_weights")
    if length != "rule":
        words.append(length)
    return "_".join([*words, *([] if intra else ["inter"])])


def model(
    size: Size,
    tasks: Tasks,
    rule: RuleName,
    *,
    intra: bool,
    measure: MeasuredAt,
    length: Length,
    map_weight: float,
    map_scale: float,
) -> nn.Module:
    """The joint model of a size."""
    reach = (-size.half_range_m, size.half_range_m)
    lidar = size.lidar(BEVGrid(reach, reach, (-5.0, 3.0), size.cell_m))
    image = size.image(size.image_channels, grid_mask=False)
    lift = DepthLift(
        depth=DepthBranch(
            channels=image.channels,
            hidden=size.depth_hidden,
            lifted=size.lifted,
            num_classes=len(NUSCENES_CLASSES),
            edges_m=depth_edges(*size.depth_m, size.depth_bins),
        ),
        grid=lidar.grid,
    )
    backbone = SECOND(in_channels=size.fused, widths=size.widths, layers=size.layers)
    neck = UpsampleConcatNeck(size.widths, (size.neck_channels,) * 2, (1, 2))
    detection = CenterHead(
        in_channels=neck.channels,
        grid=lidar.grid,
        tasks=size.center_tasks,
        channels=size.head_channels,
        iou_power=size.iou_power,
    )
    segmentation = BevMapHead(
        in_channels=neck.channels,
        grid=lidar.grid,
        map_grid=map_grid(size),
        classes=MAP_CLASSES,
        light=size.light,
    )
    return FULLER(
        lidar=lidar,
        image=image,
        lift=lift,
        fuser=ConcatFuser((lift.depth.lifted, lidar.channels), size.fused),
        backbone=backbone,
        neck=neck,
        detection=detection if "det" in tasks else None,
        segmentation=segmentation if "map" in tasks else None,
        fork=Fork(
            make_rule(rule, task_names(tasks), map_weight),
            length=length,
            measure=measured_at(measure, neck),
        ),
        balance=Balance(("camera", "lidar")) if intra else None,
        map_scale=map_scale,
    )


def map_grid(size: Size) -> BEVGrid:
    """Where the maps lie."""
    reach = (-size.map_half_m, size.map_half_m)
    return BEVGrid(reach, reach, (-5.0, 3.0), size.map_cell_m)


def training_samples(
    root: DataRoot,
    size: Size,
    tasks: Tasks,
    seed: int,
    *,
    balance: bool,
    masked: bool,
    apply_scale: bool,
) -> Samples:
    """Training frames; map, boxes, points and cameras turn together."""
    source = frames(root, root.train_split, size)
    reach = (-size.half_range_m, size.half_range_m)
    steps: list[Transform] = [ModalMask()] if masked else []
    if "map" in tasks:
        steps.append(SceneWithMap(size.scene, map_layers(size, source), apply_scale=apply_scale))
    else:
        steps.append(size.scene)
    steps += [
        MinPointsFilter(1),
        RangeFilter(x_m=reach, y_m=reach),
        ClassFilter(NUSCENES_CLASSES),
        PointShuffle(),
        ImageAugment(size.image_hw, resize=size.image_resize),
    ]
    return training_frames(source, steps, seed=seed, balance=balance)


def validation_samples(root: DataRoot, size: Size) -> Samples:
    """Validation frames, unchanged but for the crop of the images."""
    source = frames(root, root.val_split, size)
    reach = (-size.half_range_m, size.half_range_m)
    steps = (RangeFilter(x_m=reach, y_m=reach), ImageAugment.test(size.image_hw))
    return evaluation_frames(source, steps)


def map_layers(size: Size, source: NuScenesFrames) -> MapLayers:
    """The six classes of BEVFusion."""
    return MapLayers(
        source, map_grid(size), classes=MAP_CLASSES, else_do=" (--tasks det learns boxes alone)"
    )


def map_evaluator(
    root: DataRoot, size: Size, threshold: float | None, folder: Path
) -> MapIouEvaluator:
    """Scores maps of the validation split, as BEVFusion does unless there is one threshold."""
    source = frames(root, root.val_split, size)
    truth = map_layers(size, source).of_token
    chosen = THRESHOLDS if threshold is None else threshold
    return MapIouEvaluator(truth, source.tokens, folder, threshold=chosen)


def frames(root: DataRoot, split: str, size: Size) -> NuScenesFrames:
    """Frames of a split with points and images."""
    return NuScenesFrames(root.root, split, num_sweeps=size.sweeps, drop_close="all")
