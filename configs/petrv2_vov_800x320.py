"""PETRv2 on VoVNet-99, images of 800 x 320 (arXiv 2206.01256): two frames, boxes with velocities.

    python tools/train.py configs/petrv2_vov_800x320.py                     the town, on a laptop
    python tools/train.py configs/petrv2_vov_800x320.py --data nuscenes     real data, on GPUs

Two sizes. ``published`` has the published model and recipe for nuScenes, for which the authors name
eight 2080Ti (one sample each, 30 hours). It has not been trained here; without --weights or
--backbone-weights (theirs is FCOS3D's VoVNet-99) it starts from nothing and will not get there.
``town`` learns the generated town on two CPU cores: queries start where the images of both frames,
lifted with their depths, show something (perception3d/models/petr_town.py). LiDAR points teach the
depths; the model never sees them. From scratch it learns in three parts: what images show, then all
of one frame, then with the earlier one (or without, to compare):

    C=configs/petrv2_vov_800x320.py; LAST=weights/last.safetensors
    python tools/train.py $C --frames 1 --learn images --max-steps 11600 --run images
    python tools/train.py $C --frames 1 --max-steps 2000 --run single \\
        --weights work_dirs/images/$LAST
    python tools/train.py $C --max-steps 500 --weights work_dirs/single/$LAST

That is about an hour on two free cores. Cars are found roughly (AP 0.13 to 0.16 at 4 m, 0.03 to
0.07 at 2 m), most classes not at all; the earlier frame halves the velocity error of cars (LOG.md).

Published: 41.0 mAP, 50.3 NDS, mAVE 0.389 on nuScenes val. What differs from that recipe: fp16,
where it is asked for (--precision fp16), covers all but branches and position codes and scales the
loss by itself (theirs: backbone and neck, by 512).
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

from torch import nn

from configs._petr_sizes import Kind, Size, SizeName, choose_size
from perception3d.datasets.augment import ImageAugment
from perception3d.datasets.locate import DataRoot, locate
from perception3d.datasets.nuscenes import EarlierCameras, NuScenesFrames
from perception3d.datasets.nuscenes.map_layers import MapLayers
from perception3d.datasets.samples import Transform
from perception3d.datasets.transforms import ClassFilter, MinPointsFilter, RangeFilter
from perception3d.engine.backbone_weights import BackboneWeights
from perception3d.engine.experiment import Experiment, Precision, Samples
from perception3d.engine.frame_samples import evaluation_frames, training_frames
from perception3d.engine.optim import AdamWSettings, GroupRule
from perception3d.engine.part_weights import PartWeights
from perception3d.evaluation import Modalities
from perception3d.evaluation.map_iou import THRESHOLD, MapIouEvaluator
from perception3d.evaluation.nuscenes import NuScenesEvaluator
from perception3d.models.image_branch import named_branch
from perception3d.models.petr_published import (
    CHANNELS,
    MAP_GRID,
    petr,
    petrv2,
    petrv2_segmentation,
)
from perception3d.models.petr_town import GRID, IMAGE_CHANNELS, petr_town
from perception3d.structures.taxonomy import NUSCENES_CLASSES

#: Where an earlier frame comes from: the published list of camera frames, or what is nearest to a
#: gap in time.
Earlier = Literal["auto", "published", "gap"]


def experiment(
    *,
    kind: Kind = "petrv2_vov_800x320",
    frames: int | None = None,
    earlier: Earlier = "auto",
    gap_s: float = 1.0,
    learn: Literal["all", "images"] = "all",
    image_backbone: str = "auto",
    data: str = "auto",
    val_split: str | None = None,
    size: SizeName = "auto",
    epochs: int | None = None,
    max_steps: int | None = None,
    batch_size: int | None = None,
    accumulate: int = 1,
    lr: float | None = None,
    balance_classes: bool | None = None,
    map_threshold: float = THRESHOLD,
    ema_decay: float | None = None,
    precision: Precision = "fp32",
    workers: int = 1,
    evaluate_every: int = 0,
    weights: Path | None = None,
    backbone_weights: Path | None = None,
    start: Path | None = None,
    seed: int = 0,
) -> Experiment:
    """Train PETR or PETRv2.

    Args:
        kind: the published model; each has a config of its own.
        frames: 1 or 2; by default as the model has.
        earlier: published takes the earlier frame from the list of camera frames, which needs
            camera sweeps; gap takes what is nearest to gap_s. By default gap in the town.
        gap_s: wanted seconds between both frames.
        learn: all, or first of all what images show: depths and classes (the town's size only).
        image_backbone: resnet50, vovnet99, ... or timm:NAME (any of timm); auto by the model.
        data: "auto" takes data/nuscenes when it is there, else the generated town; or a folder.
        val_split: evaluate and predict on this split instead (test, for the leaderboard).
        size: town (laptop), published, or auto by the data.
        epochs: length of the run.
        max_steps: end after this many steps; without epochs it alone decides the length.
        batch_size: samples a step and process.
        accumulate: steps whose gradients are summed before an update.
        lr: learning rate; in the town it rises to eight times that.
        balance_classes: show frames with rare classes more often (CBGS); by default in the town.
        map_threshold: a cell belongs to a map class from this probability on.
        ema_decay: evaluate and save averaged weights.
        precision: fp32, bf16 or fp16.
        workers: loader processes.
        evaluate_every: epochs between evaluations; 0: after the last epoch only; -1: never.
        weights: start from these weights.
        backbone_weights: the same, but from a file with a pre-trained image backbone only.
        start: the same, but from a run in the town with other heads: what sees and lifts images.
        seed: of weights, order, augmentation and noise.
    """
    root = locate(data, val_split=val_split)
    name: Literal["town", "published"] = "town" if root.kind == "town" else "published"
    if size != "auto":
        name = size
    chosen = choose_size(kind, name)
    changes = {"frames": frames, "epochs": epochs, "batch_size": batch_size, "lr": lr}
    chosen = replace(chosen, **{k: v for k, v in changes.items() if v is not None})
    if chosen.frames not in ((1, 2) if chosen.second else (1,)):
        raise ValueError(f"PETR takes 1 frame, PETRv2 1 or 2; found --frames {frames} of {kind}")
    if image_backbone != "auto":
        branch = named_branch(image_backbone, chosen.image_hw or (900, 1600))
        chosen = replace(chosen, image=branch)
    if earlier == "auto":
        earlier = "gap" if root.kind == "town" else "published"
    balance = chosen.town and not chosen.segmentation
    if balance_classes is not None:
        balance = balance_classes
    used = Modalities(camera=True, lidar=False)
    pairs = partial(earlier_cameras, chosen, earlier, gap_s)
    evaluator = partial(NuScenesEvaluator, root.root, root.version, root.val_split, meta=used)
    if chosen.segmentation:
        evaluator = partial(map_evaluator, root, chosen, map_threshold)
    return Experiment(
        name=run_name(kind, chosen),
        model=partial(model, chosen, only_images=learn == "images"),
        train=partial(training_samples, root, chosen, pairs, seed, balance),
        val=partial(validation_samples, root, chosen, pairs),
        optimizer=AdamWSettings(
            lr=chosen.lr,
            weight_decay=0.01,
            rules=optimizer_rules(chosen, pretrained=weights is not None or start is not None),
        ),
        schedule=chosen.schedule,
        epochs=None if max_steps is not None and epochs is None else chosen.epochs,
        max_steps=max_steps,
        batch_size=chosen.batch_size,
        accumulate=accumulate,
        precision=precision,
        ema_decay=ema_decay,
        seed=seed,
        workers=workers,
        evaluators=(evaluator,),
        best_by="mIoU" if chosen.segmentation else "NDS",
        modalities=used,
        evaluate_every=None if evaluate_every < 0 else evaluate_every,
        weights=weights,
        backbone_weights=parts_of(backbone_weights, start),
        expected=chosen.expected if root.val_split == "val" else (),
    )


def parts_of(backbone: Path | None, start: Path | None) -> BackboneWeights | PartWeights | None:
    """What fills parts of the model, if anything does."""
    if backbone is not None and start is not None:
        raise ValueError("--start holds an image backbone already; give it or --backbone-weights")
    if start is not None:
        return PartWeights(file=start, parts=("image", "lift"))
    return None if backbone is None else BackboneWeights(file=backbone, part="image.backbone")


def run_name(kind: Kind, size: Size) -> str:
    """Of the run's folder."""
    alone = "_alone" if kind.startswith("petrv2") and size.frames == 1 else ""
    return f"{kind}{alone}" + ("_town" if size.town else "")


def model(size: Size, *, only_images: bool = False) -> nn.Module:
    """The model of a size; a published image backbone keeps its batch statistics."""
    if size.town:
        image = size.image(IMAGE_CHANNELS)
        return petr_town(
            image,
            second=size.second,
            frames=size.frames,
            detection=not size.segmentation,
            segmentation=size.segmentation,
            only_images=only_images,
        )
    if only_images:
        raise ValueError("--learn images is for the town's size, whose images teach depths")
    image = size.image(CHANNELS, grid_mask=True, frozen=True)
    if size.segmentation:
        return petrv2_segmentation(image, frames=size.frames)
    if not size.second:
        return petr(image, queries=size.queries)
    return petrv2(
        image,
        queries=size.queries,
        denoising=size.denoising,
        flash=size.flash,
        frames=size.frames,
    )


def optimizer_rules(size: Size, *, pretrained: bool) -> tuple[GroupRule, ...]:
    """The pre-trained backbone learns with a tenth (published).

    In the town, whose rate is large, attention bears no more than 8e-4 (LOG.md), and images from
    scratch no more either: they end up saying nothing but how high in the picture a cell is.
    """
    if not size.town:
        return (GroupRule("image.backbone.", lr=size.backbone_lr),)
    head = "segmentation." if size.segmentation else "head."
    seen = size.backbone_lr / 2 if pretrained else size.backbone_lr
    rules = [GroupRule(name, lr=seen) for name in ("image.", "lift.lift.")]
    return (*rules, *(GroupRule(name, lr=size.decoder_lr) for name in (head, "tokens.")))


def earlier_cameras(
    size: Size, earlier: Earlier, gap_s: float, source: NuScenesFrames, *, training: bool
) -> tuple[Transform, ...]:
    """What puts the earlier frame's cameras behind the current ones."""
    if size.frames == 1:
        return ()
    if earlier == "gap":
        return (EarlierCameras(source, "gap", gap_s=gap_s),)
    return (EarlierCameras(source, "training" if training else "test"),)


def training_samples(
    root: DataRoot, size: Size, pairs: partial[tuple[Transform, ...]], seed: int, balance: bool
) -> Samples:
    """Training frames with the published augmentation.

    The town's hold the LiDAR's points of the moment too: they teach depths and nothing else.
    """
    source = frames_of(root, root.train_split, load_points=size.town)
    steps: list[Transform] = [*pairs(source, training=True)]
    if size.segmentation:
        steps.append(map_layers(size, source))
    steps.append(MinPointsFilter(1))
    reach = (-size.half_range_m, size.half_range_m)
    cut: list[Transform] = [RangeFilter(x_m=reach, y_m=reach), ClassFilter(NUSCENES_CLASSES)]
    crop, scene = image_augment(size), [] if size.scene is None else [size.scene]
    # Published: boxes that a turn carries out of the range stay. What is lifted has an end.
    steps += [*scene, *cut, *crop] if size.town else [*cut, *crop, *scene]
    return training_frames(source, steps, seed=seed, balance=balance)


def image_augment(size: Size) -> list[Transform]:
    """One scale, crop and mirror for all views of both frames; none for images as they are."""
    if size.image_hw is None:
        return []
    return [ImageAugment(size.image_hw, resize=size.image_resize)]


def validation_samples(
    root: DataRoot, size: Size, pairs: partial[tuple[Transform, ...]]
) -> Samples:
    """Validation frames, unchanged but for the crop of the images; no points at all."""
    source = frames_of(root, root.val_split, load_points=False)
    reach = (-size.half_range_m, size.half_range_m)
    steps: list[Transform] = [*pairs(source, training=False), RangeFilter(x_m=reach, y_m=reach)]
    if size.image_hw is not None:
        steps.append(ImageAugment.test(size.image_hw))
    return evaluation_frames(source, steps)


def map_layers(size: Size, source: NuScenesFrames) -> MapLayers:
    """What maps are made of; released weights were taught vehicles from the vehicle's origin."""
    return MapLayers(source, GRID if size.town else MAP_GRID, vehicles_from_ego=not size.town)


def map_evaluator(root: DataRoot, size: Size, threshold: float, folder: Path) -> MapIouEvaluator:
    """Scores maps of the validation split."""
    source = frames_of(root, root.val_split, load_points=False)
    truth = map_layers(size, source).of_token
    return MapIouEvaluator(truth, source.tokens, folder, threshold=threshold)


def frames_of(root: DataRoot, split: str, *, load_points: bool) -> NuScenesFrames:
    """Frames of a split with their images."""
    return NuScenesFrames(root.root, split, num_sweeps=1, load_points=load_points)
