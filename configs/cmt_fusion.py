"""CMT on cameras and LiDAR (arXiv 2301.01283): PillarNeSt or SECOND beside ResNet.

    python tools/train.py configs/cmt_fusion.py                     the town, on a laptop
    python tools/train.py configs/cmt_fusion.py --data nuscenes     real data, on GPUs
    python tools/train.py configs/cmt_fusion.py --sensors lidar     one sensor: CMT-L, CMT-C
    python tools/train.py configs/cmt_fusion.py --lidar-encoder voxels    sparse convolutions
    python tools/train.py configs/cmt_fusion.py --tasks det,map     boxes and maps, as FULLER

Two sizes: ``town`` learns the generated town in minutes on two CPU cores (LOG.md has times and
scores); ``base`` has the published head (900 queries, 6 layers), schedule and augmentation for
nuScenes, and has not been trained yet. ``--size auto`` takes the one that fits the data.

With ``--tasks det,map`` a second decoder draws maps from the same tokens, the six classes of
BEVFusion (arXiv 2205.13542: 100 m by 100 m in cells of half a metre; in the town 80 m by 80 m in
cells of 0.8 m), and gradients of tasks and sensors are calibrated (FULLER, arXiv 2307.16617; see
perception3d/models/cmt.py for the places). ``--rule uniform --no-intra`` is the plain sum. In the
town 400 steps give mAP 0.09, NDS 0.26 and mIoU 0.36 (LOG.md). The configs of published models take
it too; their scores are expected of boxes alone.

The four published models have configs of their own, which are variants of this one:
cmt_voxel0075_vov_1600x640, cmt_voxel0100_r50_800x320, cmt_lidar_voxel0075, cmt_camera_vov_1600x640.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

from configs._balancing import RuleName, Tasks
from configs._cmt_model import model as model
from configs._cmt_sizes import SIZES as SIZES  # for others to import from here
from configs._cmt_sizes import LidarEncoder, Recipe, Sensors, Size, SizeName, choose_size
from configs._cmt_tasks import BOXES_ALONE, Joint, joint
from configs.fuller_joint import map_evaluator, map_layers
from perception3d.datasets.augment import ImageAugment
from perception3d.datasets.locate import DataRoot, locate
from perception3d.datasets.nuscenes import NuScenesFrames
from perception3d.datasets.nuscenes.map_layers import SceneWithMap
from perception3d.datasets.samples import Transform
from perception3d.datasets.transforms import (
    ClassFilter,
    MinPointsFilter,
    ModalMask,
    PointShuffle,
    RangeFilter,
)
from perception3d.engine.backbone_weights import BackboneWeights
from perception3d.engine.experiment import Evaluator, Experiment, Phase, Precision, Samples
from perception3d.engine.frame_samples import evaluation_frames, training_frames
from perception3d.engine.optim import AdamWSettings, CyclicSchedule, GroupRule
from perception3d.evaluation import Modalities
from perception3d.evaluation.nuscenes import NuScenesEvaluator
from perception3d.models.image_branch import named_branch
from perception3d.nn.sparse_convolve import Backend
from perception3d.structures.taxonomy import NUSCENES_CLASSES

#: What pastes objects of other frames into a training frame, before all else: nothing yet.
PASTE: tuple[Transform, ...] = ()


def experiment(
    *,
    tasks: Tasks = "det",
    rule: RuleName = "imtl_g",
    intra: bool = True,
    map_weight: float = 1.0,
    map_scale: float = 1.0,
    sensors: Sensors = "fusion",
    lidar_encoder: LidarEncoder = "pillars",
    sparse_backend: Backend = "own",
    image_backbone: str = "auto",
    recompute_images: bool | None = None,
    data: str = "auto",
    val_split: str | None = None,
    size: Literal["auto", "town", "base", "published"] = "auto",
    recipe: Recipe | None = None,
    published_grid: bool = False,
    queries: Literal["auto", "heatmap", "learned"] = "auto",
    denoising_queries: int | None = None,
    voxel_m: float | None = None,
    half_range_m: float | None = None,
    sweeps: int | None = None,
    epochs: int | None = None,
    max_steps: int | None = None,
    batch_size: int | None = None,
    accumulate: int = 1,
    lr: float | None = None,
    mask_sensors: bool | None = None,
    balance_classes: bool = True,
    map_threshold: float | None = None,
    ema_decay: float | None = None,
    precision: Precision = "fp32",
    workers: int = 1,
    evaluate_every: int = 0,
    weights: Path | None = None,
    backbone_weights: Path | None = None,
    seed: int = 0,
) -> Experiment:
    """Train CMT.

    Args:
        tasks: boxes, maps, or both.
        rule: between the tasks where they part; imtl_g is our reading of FULLER. One task has none.
        intra: with maps, bring the gradients of camera and LiDAR to one length, as FULLER does.
        map_weight: of the map's loss, with --rule fixed.
        map_scale: what the map's loss is multiplied by before any rule sees it.
        sensors: cameras and LiDAR, or one of them.
        lidar_encoder: pillars (PillarNeSt) or voxels (SECOND's sparse convolutions).
        sparse_backend: kernels of sparse convolutions: own, or those of the package spconv.
        image_backbone: resnet50, vovnet99, ... or timm:NAME (any of timm); auto by size.
        recompute_images: run the image backbone again in the backward pass, which saves memory;
            auto by size.
        data: "auto" takes data/nuscenes when it is there, else the generated town; or a folder.
        val_split: evaluate and predict on this split instead (test, for the leaderboard).
        size: town (laptop), base (published head), published (all as the recipe says), or auto by
            the data.
        recipe: a published model, whose sensors and encoder these must be; each has a config.
        published_grid: for the weights released with voxel0100_r50_800x320, whose grid ends 5.6 m
            before its range does (see its config); without, the grid has the whole range.
        queries: where queries start: class peaks of heat maps, or the published learned table;
            auto is heatmap on the town.
        denoising_queries: room for denoising queries in training, 0 for none. By default as many as
            learned queries; beside heat maps none: there they cost time only (LOG.md).
        voxel_m: side of a pillar or voxel in metres.
        half_range_m: the grid reaches this far to each side, in metres.
        sweeps: LiDAR sweeps a sample, the key one included.
        epochs: length of the run.
        max_steps: end after this many steps; without epochs it alone decides the length.
        batch_size: samples a step and process.
        accumulate: steps whose gradients are summed before an update.
        lr: base learning rate; it rises to a multiple during the first 40 % of the run.
        mask_sensors: hide one sensor in half of the samples (masked-modal training); auto by size.
        balance_classes: show frames with rare classes more often (CBGS).
        map_threshold: a cell belongs to a class from this probability on; by default each class
            has its best of 0.35, 0.40, ..., 0.65 (BEVFusion).
        ema_decay: evaluate and save averaged weights.
        precision: fp32, bf16 or fp16.
        workers: loader processes.
        evaluate_every: epochs between evaluations; 0: after the last epoch only; -1: never.
        weights: start from these weights; the image branch then learns slowly, as published.
        backbone_weights: the same, but from a file with a pre-trained image backbone only.
        seed: of weights, order, augmentation and noise.
    """
    root = locate(data, val_split=val_split)
    name: SizeName = "published" if recipe is not None else "base"
    if size != "auto":
        name = size
    elif root.kind == "town":
        name = "town"
    chosen = choose_size(name, recipe, sensors, lidar_encoder, published_grid=published_grid)
    if lidar_encoder == "voxels":
        chosen = replace(chosen, lidar=partial(chosen.lidar, backend=sparse_backend))
    elif sparse_backend != "own":
        raise ValueError(
            "--sparse-backend is for --lidar-encoder voxels: pillars are not sparse 3-D"
        )
    if image_backbone != "auto":
        branch = named_branch(image_backbone, chosen.image_hw)
        chosen = replace(chosen, image=branch, image_token_stride=1)
    if recompute_images is not None:
        chosen = replace(chosen, image=partial(chosen.image, checkpointing=recompute_images))
    changes = {"voxel_m": voxel_m, "half_range_m": half_range_m, "sweeps": sweeps,
               "epochs": epochs, "batch_size": batch_size, "lr": lr}  # fmt: skip
    chosen = replace(chosen, **{k: v for k, v in changes.items() if v is not None})
    if queries == "auto":
        queries = "heatmap" if name == "town" else "learned"
    masked = (chosen.masked and sensors == "fusion") if mask_sensors is None else mask_sensors
    pretrained = weights is not None or backbone_weights is not None
    used = Modalities(camera=sensors != "lidar", lidar=sensors != "camera")
    asked = joint(tasks, sensors, rule, intra, map_weight, map_scale)
    source = partial(
        training_samples, root, chosen, sensors, seed, balance_classes, maps=asked.maps
    )
    return Experiment(
        name=run_name(name, recipe, sensors, lidar_encoder) + asked.suffix,
        model=partial(
            model, chosen, sensors, queries, denoising_queries, pretrained=pretrained, asked=asked
        ),
        train=partial(source, masked=masked, paste=PASTE),
        val=partial(validation_samples, root, chosen, sensors),
        optimizer=AdamWSettings(
            lr=chosen.lr,
            weight_decay=0.01,
            rules=optimizer_rules(chosen, sensors, pretrained=pretrained, asked=asked),
        ),
        schedule=CyclicSchedule(peak_ratio=chosen.peak_ratio),
        phases=last_epochs(chosen, source, masked=masked),
        epochs=None if max_steps is not None and epochs is None else chosen.epochs,
        max_steps=max_steps,
        batch_size=chosen.batch_size,
        accumulate=accumulate,
        precision=precision,
        ema_decay=ema_decay,
        seed=seed,
        workers=workers,
        evaluators=evaluators(root, chosen, asked, used, map_threshold),
        best_by="NDS" if asked.boxes else "mIoU",
        modalities=used,
        evaluate_every=None if evaluate_every < 0 else evaluate_every,
        weights=weights,
        backbone_weights=image_weights(sensors, backbone_weights),
        expected=chosen.expected if root.val_split == "val" and tasks == "det" else (),
    )


def run_name(
    name: SizeName, recipe: Recipe | None, sensors: Sensors, lidar_encoder: LidarEncoder
) -> str:
    """Of the run's folder."""
    if recipe is not None:
        return f"cmt_{recipe}" + ("_town" if name == "town" else "")
    return f"cmt_{sensors}_{name}" + ("_voxels" if lidar_encoder == "voxels" else "")


def evaluators(
    root: DataRoot, size: Size, asked: Joint, used: Modalities, map_threshold: float | None
) -> tuple[Callable[[Path], Evaluator], ...]:
    """Of the tasks that are trained."""
    boxes = partial(NuScenesEvaluator, root.root, root.version, root.val_split, meta=used)
    maps = partial(map_evaluator, root, size, map_threshold)
    return (boxes,) * asked.boxes + (maps,) * asked.maps


def image_weights(sensors: Sensors, file: Path | None) -> BackboneWeights | None:
    """What fills the image backbone, if anything does.

    Raises:
        ValueError: there is no image backbone.
    """
    if file is None:
        return None
    if sensors == "lidar":
        raise ValueError(f"--backbone-weights {file} is for models with cameras; found lidar")
    return BackboneWeights(file=file, part="image.backbone")


def last_epochs(size: Size, source: Callable[..., Samples], *, masked: bool) -> tuple[Phase, ...]:
    """Towards the end nothing is pasted any more (published), or no sensor is hidden (ours)."""
    phases = []
    if size.fade_epochs:
        phases.append(Phase(first_epoch=-size.fade_epochs, train=partial(source, masked=masked)))
    if masked and size.unmasked_epochs:
        phases.append(Phase(first_epoch=-size.unmasked_epochs, train=partial(source, masked=False)))
    return tuple(phases)


def optimizer_rules(
    size: Size, sensors: Sensors, *, pretrained: bool, asked: Joint = BOXES_ALONE
) -> tuple[GroupRule, ...]:
    """Published factors of a pre-trained image branch; from scratch it learns like the rest.

    Attention bears no more than the published peak (8e-4), whatever the rest learns with (LOG.md),
    and so do images that maps learn from: the map's gradient alone does not hold their size.
    """
    parts = ["head."] * asked.boxes + ["tokens."] + ["maps.head.decoder."] * asked.maps
    rules = [GroupRule(name, lr=size.decoder_lr) for name in parts]
    if sensors != "lidar" and pretrained:
        rules.append(GroupRule("image.backbone.", lr=0.01, weight_decay=5.0))
        rules.append(GroupRule("image.neck.", lr=0.1))
    elif sensors != "lidar" and asked.maps:
        rules.append(GroupRule("image.", lr=size.map_image_lr))
    return tuple(rules)


def training_samples(
    root: DataRoot,
    size: Size,
    sensors: Sensors,
    seed: int,
    balance: bool,
    *,
    masked: bool,
    paste: tuple[Transform, ...] = (),
    maps: bool = False,
) -> Samples:
    """Training frames with the published augmentation, in the published order."""
    source = frames(root, root.train_split, size, sensors)
    steps: list[Transform] = [MinPointsFilter(1), *paste]
    if masked:
        steps.append(ModalMask())
    reach = (-size.half_range_m, size.half_range_m)
    scene = size.scene_augment_camera if sensors == "camera" else size.scene_augment
    steps += [
        SceneWithMap(scene, map_layers(size, source)) if maps else scene,
        RangeFilter(x_m=reach, y_m=reach),
        ClassFilter(NUSCENES_CLASSES),
        PointShuffle(),
    ]
    if sensors != "lidar":
        steps.append(ImageAugment(size.image_hw, resize=size.image_resize))
    return training_frames(source, steps, seed=seed, balance=balance)


def validation_samples(root: DataRoot, size: Size, sensors: Sensors) -> Samples:
    """Validation frames, unchanged but for the crop of the images."""
    source = frames(root, root.val_split, size, sensors)
    reach = (-size.half_range_m, size.half_range_m)
    steps: list[Transform] = [RangeFilter(x_m=reach, y_m=reach)]
    if sensors != "lidar":
        steps.append(ImageAugment.test(size.image_hw))
    return evaluation_frames(source, steps)


def frames(root: DataRoot, split: str, size: Size, sensors: Sensors) -> NuScenesFrames:
    """Frames of a split with what the sensors need."""
    return NuScenesFrames(
        root.root,
        split,
        num_sweeps=size.sweeps,
        drop_close=size.drop_close,
        load_points=sensors != "camera",
        load_images=sensors != "lidar",
    )
