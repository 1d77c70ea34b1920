"""CMT on cameras and LiDAR (arXiv 2301.01283): PillarNeSt or SECOND beside ResNet.

    python tools/train.py configs/cmt_fusion.py                     the town, on a laptop
    python tools/train.py configs/cmt_fusion.py --data nuscenes     real data, on GPUs
    python tools/train.py configs/cmt_fusion.py --sensors lidar     one sensor: CMT-L, CMT-C
    python tools/train.py configs/cmt_fusion.py --lidar-encoder voxels    sparse convolutions

Two sizes: ``town`` learns the generated town in minutes on two CPU cores (LOG.md has times and
scores); ``base`` has the published head (900 queries, 6 layers), schedule and augmentation for
nuScenes, and has not been trained yet. ``--size auto`` takes the one that fits the data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from torch import nn

from perception3d.datasets.augment import GlobalAugment, ImageAugment
from perception3d.datasets.collate import collate
from perception3d.datasets.locate import DataRoot, locate
from perception3d.datasets.nuscenes import NuScenesFrames
from perception3d.datasets.points import CloseRule
from perception3d.datasets.samples import FrameDataset, Transform
from perception3d.datasets.sampling import class_balanced_repeats
from perception3d.datasets.transforms import (
    ClassFilter,
    Compose,
    MinPointsFilter,
    ModalMask,
    PointShuffle,
    RangeFilter,
)
from perception3d.engine.experiment import Experiment, Phase, Precision, Samples
from perception3d.engine.optim import AdamWSettings, CyclicSchedule, GroupRule
from perception3d.evaluation import Modalities
from perception3d.evaluation.nuscenes import NuScenesEvaluator
from perception3d.fusion.tokens import CrossModalTokens
from perception3d.heads.heatmap import HeatmapQueries
from perception3d.heads.queries import LearnedQueries
from perception3d.heads.query import QueryHead
from perception3d.heads.query_decoder import QueryDecoder
from perception3d.heads.query_denoising import DenoisingBuilder
from perception3d.models.cmt import CMT
from perception3d.models.image_branch import ImageBranch, named_branch, resnet_branch
from perception3d.models.lidar_branch import LidarBranch, pillar_branch, voxel_branch
from perception3d.nn.sparse_convolve import Backend
from perception3d.structures import BEVGrid
from perception3d.structures.taxonomy import NUSCENES_CLASSES, NUSCENES_TYPICAL_SIZE_LWH_M

Sensors = Literal["fusion", "lidar", "camera"]


@dataclass(frozen=True, kw_only=True)
class Size:
    """What differs between a laptop and eight GPUs."""

    half_range_m: float
    voxel_m: float
    lidar: Callable[[BEVGrid], LidarBranch]
    token_stride: int
    heat_hidden: int
    image_hw: tuple[int, int]
    image_resize: tuple[float, float]
    image: Callable[..., ImageBranch]
    image_token_stride: int
    channels: int
    heads: int
    hidden: int
    layers: int
    learned_queries: int
    bev_queries: int
    image_queries: int
    image_queries_alone: int
    lifted_channels: int
    num_depths: int
    sweeps: int
    batch_size: int
    lr: float
    peak_ratio: float
    decoder_lr: float
    epochs: int
    scene_augment: GlobalAugment
    scene_augment_camera: GlobalAugment
    drop_close: CloseRule
    dropout: float
    grid_mask: bool


#: No mirror: traffic keeps to the right, which tells headings long before shapes do (LOG.md).
TOWN_AUGMENT = GlobalAugment(rotation_rad=0.3, flip_x_probability=0.0, flip_y_probability=0.0)
#: Published for cameras alone.
CAMERA_AUGMENT = GlobalAugment(
    rotation_rad=0.3925,
    scale=(0.95, 1.05),
    translation_std_m=(0.0, 0.0, 0.0),
    flip_x_probability=0.0,
    flip_y_probability=0.0,
)

SIZES = {
    "town": Size(
        half_range_m=40.0, voxel_m=0.4,
        lidar=partial(
            pillar_branch, max_pillars=(20000, 20000), natural=True, depths=(0, 1, 2, 2),
            widths=(24, 32, 64, 128), out_stages=(1, 2, 3), neck_channels=32, drop_path=0.0,
        ),
        token_stride=2, heat_hidden=48,
        image_hw=(224, 400), image_resize=(0.94, 1.1),
        image=partial(resnet_branch, depth=18, width=16, stages=(1, 2, 3)), image_token_stride=2,
        channels=128, heads=4, hidden=256, layers=2,
        learned_queries=200, bev_queries=150, image_queries=30, image_queries_alone=150,
        lifted_channels=32,
        num_depths=32, sweeps=5, batch_size=1, lr=4e-4, peak_ratio=8.0, decoder_lr=0.2,
        scene_augment=TOWN_AUGMENT, scene_augment_camera=TOWN_AUGMENT, drop_close="all",
        dropout=0.0, grid_mask=False, epochs=1,
    ),
    "base": Size(
        half_range_m=54.0, voxel_m=0.15, lidar=pillar_branch, token_stride=1, heat_hidden=64,
        image_hw=(320, 800), image_resize=(0.47, 0.625),
        image=resnet_branch, image_token_stride=1,
        channels=256, heads=8, hidden=1024, layers=6,
        learned_queries=900, bev_queries=200, image_queries=100, image_queries_alone=500,
        lifted_channels=64,
        num_depths=64, sweeps=11, batch_size=4, lr=1.4e-4, peak_ratio=6.0, decoder_lr=1.0,
        scene_augment=GlobalAugment(), scene_augment_camera=CAMERA_AUGMENT, drop_close="none",
        dropout=0.1, grid_mask=True, epochs=20,
    ),
}  # fmt: skip

#: What differs with voxels instead of pillars; ``base`` is the published voxel-0.075 branch.
VOXELS: dict[str, dict[str, Any]] = {
    "town": {
        "voxel_m": 0.2,
        "lidar": partial(
            voxel_branch, height_m=0.4, max_voxels=(60000, 60000), natural=True,
            widths=(16, 24, 32), blocks=1, out_channels=32,
            bev_widths=(48, 96), bev_layers=(2, 2), neck_channels=48,
        ),
    },
    "base": {"voxel_m": 0.075, "lidar": voxel_branch},
}  # fmt: skip


def experiment(
    *,
    sensors: Sensors = "fusion",
    lidar_encoder: Literal["pillars", "voxels"] = "pillars",
    sparse_backend: Backend = "own",
    image_backbone: str = "auto",
    data: str = "auto",
    val_split: str | None = None,
    size: Literal["auto", "town", "base"] = "auto",
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
    ema_decay: float | None = None,
    precision: Precision = "fp32",
    workers: int = 1,
    evaluate_every: int = 0,
    weights: Path | None = None,
    seed: int = 0,
) -> Experiment:
    """Train CMT.

    Args:
        sensors: cameras and LiDAR, or one of them.
        lidar_encoder: pillars (PillarNeSt) or voxels (SECOND's sparse convolutions).
        sparse_backend: kernels of sparse convolutions: own, or those of the package spconv.
        image_backbone: resnet50, vovnet99, ... or timm:NAME (any of timm); auto by size.
        data: "auto" takes data/nuscenes when it is there, else the generated town; or a folder.
        val_split: evaluate and predict on this split instead (test, for the leaderboard).
        size: town (laptop), base (published head), or auto by the data.
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
        ema_decay: evaluate and save averaged weights.
        precision: fp32, bf16 or fp16.
        workers: loader processes.
        evaluate_every: epochs between evaluations; 0: after the last epoch only; -1: never.
        weights: start from these weights; the image branch then learns slowly, as published.
        seed: of weights, order, augmentation and noise.
    """
    root = locate(data, val_split=val_split)
    name = ("town" if root.kind == "town" else "base") if size == "auto" else size
    chosen = SIZES[name]
    if lidar_encoder == "voxels":
        chosen = replace(chosen, **VOXELS[name])
        chosen = replace(chosen, lidar=partial(chosen.lidar, backend=sparse_backend))
    elif sparse_backend != "own":
        raise ValueError(
            "--sparse-backend is for --lidar-encoder voxels: pillars are not sparse 3-D"
        )
    if image_backbone != "auto":
        branch = named_branch(image_backbone, chosen.image_hw)
        chosen = replace(chosen, image=branch, image_token_stride=1)
    changes = {"voxel_m": voxel_m, "half_range_m": half_range_m, "sweeps": sweeps,
               "epochs": epochs, "batch_size": batch_size, "lr": lr}  # fmt: skip
    chosen = replace(chosen, **{k: v for k, v in changes.items() if v is not None})
    if queries == "auto":
        queries = "heatmap" if name == "town" else "learned"
    masked = (name == "base" and sensors == "fusion") if mask_sensors is None else mask_sensors
    used = Modalities(camera=sensors != "lidar", lidar=sensors != "camera")
    source = partial(training_samples, root, chosen, sensors, seed, balance_classes)
    return Experiment(
        name=f"cmt_{sensors}_{name}" + ("_voxels" if lidar_encoder == "voxels" else ""),
        model=partial(
            model, chosen, sensors, queries, denoising_queries, pretrained=weights is not None
        ),
        train=partial(source, masked=masked),
        val=partial(validation_samples, root, chosen, sensors),
        optimizer=AdamWSettings(
            lr=chosen.lr,
            weight_decay=0.01,
            rules=optimizer_rules(chosen, sensors, pretrained=weights is not None),
        ),
        schedule=CyclicSchedule(peak_ratio=chosen.peak_ratio),
        phases=(Phase(first_epoch=-1, train=partial(source, masked=False)),) if masked else (),
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
    )


def model(
    size: Size,
    sensors: Sensors,
    queries: str,
    denoising_queries: int | None = None,
    *,
    pretrained: bool = False,
) -> nn.Module:
    """The detector of a size; a pre-trained image backbone keeps its batch statistics."""
    lidar = None if sensors == "camera" else size.lidar(grid(size))
    image = None
    if sensors != "lidar":
        image = size.image(
            size.channels, grid_mask=size.grid_mask and lidar is not None, frozen=pretrained
        )
    area = grid(size)
    if denoising_queries is None:
        denoising_queries = size.learned_queries if queries == "learned" else 0
    return CMT(
        lidar=lidar,
        image=image,
        tokens=CrossModalTokens(
            channels=size.channels,
            range_m=area.range_m,
            bev_channels=None if lidar is None else lidar.channels,
            bev_stride=size.token_stride,
            image_stride=size.image_token_stride,
            cameras=image is not None,
            ray_hidden=size.hidden,
            num_depths=size.num_depths,
            depth_m=(1.0, area.x_m[1]),
        ),
        queries=LearnedQueries(size.learned_queries)
        if queries == "learned"
        else HeatmapQueries(
            channels=size.channels,
            bev_channels=None if lidar is None else lidar.channels,
            hidden=size.heat_hidden,
            grid=area,
            bev_queries=0 if lidar is None else size.bev_queries,
            image_queries=0 if image is None else size.image_queries,
            image_queries_alone=size.image_queries_alone,
            lifted_channels=0 if image is None or lidar is None else size.lifted_channels,
            typical_size_lwh_m=[NUSCENES_TYPICAL_SIZE_LWH_M[name] for name in NUSCENES_CLASSES],
        ),
        head=QueryHead(
            decoder=QueryDecoder(
                channels=size.channels,
                layers=size.layers,
                heads=size.heads,
                hidden=size.hidden,
                dropout=size.dropout,
            ),
            num_classes=len(NUSCENES_CLASSES),
            range_m=area.range_m,
            residual=queries == "heatmap",
        ),
        denoising=DenoisingBuilder(
            range_m=area.range_m,
            num_classes=len(NUSCENES_CLASSES),
            query_budget=denoising_queries,
        ),
    )


def grid(size: Size) -> BEVGrid:
    """The grid of pillars or voxels from above."""
    reach = (-size.half_range_m, size.half_range_m)
    return BEVGrid(reach, reach, (-5.0, 3.0), size.voxel_m)


def optimizer_rules(size: Size, sensors: Sensors, *, pretrained: bool) -> tuple[GroupRule, ...]:
    """Published factors of a pre-trained image branch; from scratch it learns like the rest.

    Attention bears no more than the published peak (8e-4), whatever the rest learns with (LOG.md).
    """
    rules = [GroupRule(name, lr=size.decoder_lr) for name in ("head.", "tokens.")]
    if sensors != "lidar" and pretrained:
        rules.append(GroupRule("image.backbone.", lr=0.01, weight_decay=5.0))
        rules.append(GroupRule("image.neck.", lr=0.1))
    return tuple(rules)


def training_samples(
    root: DataRoot, size: Size, sensors: Sensors, seed: int, balance: bool, *, masked: bool
) -> Samples:
    """Training frames with the published augmentation."""
    source = frames(root, root.train_split, size, sensors)
    steps: list[Transform] = [MinPointsFilter(1)]
    if masked:
        steps.append(ModalMask())
    reach = (-size.half_range_m, size.half_range_m)
    steps += [
        size.scene_augment_camera if sensors == "camera" else size.scene_augment,
        RangeFilter(x_m=reach, y_m=reach),
        ClassFilter(NUSCENES_CLASSES),
        PointShuffle(),
    ]
    if sensors != "lidar":
        steps.append(ImageAugment(size.image_hw, resize=size.image_resize))
    return Samples(
        dataset=FrameDataset(source, Compose(tuple(steps)), seed=seed),
        collate=collate,
        repeats=class_balanced_repeats(source.class_counts(), seed=seed) if balance else None,
        fingerprint=source.fingerprint,
    )


def validation_samples(root: DataRoot, size: Size, sensors: Sensors) -> Samples:
    """Validation frames, unchanged but for the crop of the images."""
    source = frames(root, root.val_split, size, sensors)
    reach = (-size.half_range_m, size.half_range_m)
    steps: list[Transform] = [RangeFilter(x_m=reach, y_m=reach)]
    if sensors != "lidar":
        steps.append(ImageAugment.test(size.image_hw))
    dataset = FrameDataset(source, Compose(tuple(steps)))
    return Samples(
        dataset=dataset,
        collate=collate,
        fingerprint=source.fingerprint,
        tokens=source.tokens,
    )


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
