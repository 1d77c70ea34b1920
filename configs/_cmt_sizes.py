"""Sizes of CMT: for the town, of our own for nuScenes, and the four published ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

from perception3d.datasets.augment import GlobalAugment
from perception3d.datasets.points import CloseRule
from perception3d.engine.experiment import Expected
from perception3d.models.image_branch import ImageBranch, resnet_branch, vovnet_branch
from perception3d.models.lidar_branch import LidarBranch, pillar_branch, voxel_branch
from perception3d.structures import BEVGrid

Sensors = Literal["fusion", "lidar", "camera"]
LidarEncoder = Literal["pillars", "voxels"]
SizeName = Literal["town", "base", "published"]
#: The four released configurations of junjie18/CMT.
Recipe = Literal[
    "lidar_voxel0075", "camera_vov_1600x640", "voxel0075_vov_1600x640", "voxel0100_r50_800x320"
]

#: Of the sparse grid that the released voxel0100_r50_800x320 was trained with; its range has 1,080.
PUBLISHED_CELLS = 1024


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
    task_kernel: int = 1
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
    masked: bool = False
    unmasked_epochs: int = 1
    fade_epochs: int = 0
    scene_augment: GlobalAugment
    scene_augment_camera: GlobalAugment
    drop_close: CloseRule
    dropout: float
    grid_mask: bool
    map_half_m: float
    map_cell_m: float
    map_side: int
    map_widths: tuple[int, ...]
    map_layers: int
    map_channels: int
    map_lifted: int
    map_image_lr: float
    expected: tuple[Expected, ...] = field(default=())


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
        map_half_m=40.0, map_cell_m=0.8, map_side=25, map_widths=(32, 16), map_layers=1,
        map_channels=32, map_lifted=32, map_image_lr=0.25,
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
        dropout=0.1, grid_mask=True, epochs=20, masked=True,
        map_half_m=50.0, map_cell_m=0.5, map_side=25, map_widths=(256, 256, 128), map_layers=6,
        map_channels=64, map_lifted=64, map_image_lr=1.0,
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

#: mAP and NDS on nuScenes val: one model, no test-time augmentation.
PUBLISHED_SCORES: dict[Recipe, tuple[float, float]] = {
    "lidar_voxel0075": (0.6214, 0.686),
    "camera_vov_1600x640": (0.406, 0.460),
    "voxel0075_vov_1600x640": (0.703, 0.729),
    "voxel0100_r50_800x320": (0.679, 0.708),
}

#: What differs from ``base``, whose head, sweeps, augmentation and dropout are the published ones.
#: Sensors are masked until the end, but no objects are pasted in the last epochs.
_VOVNET = {"image": vovnet_branch, "image_hw": (640, 1600), "image_resize": (0.94, 1.25)}
RECIPES: dict[Recipe, dict[str, Any]] = {
    "lidar_voxel0075": {
        "voxel_m": 0.075, "lidar": voxel_branch, "task_kernel": 3,
        "batch_size": 2, "lr": 1e-4, "peak_ratio": 6.0, "fade_epochs": 5,
    },
    "camera_vov_1600x640": _VOVNET | {
        "batch_size": 2, "lr": 1e-4, "peak_ratio": 8.0, "grid_mask": False,
    },
    "voxel0075_vov_1600x640": _VOVNET | {
        "voxel_m": 0.075, "lidar": voxel_branch,
        "batch_size": 2, "lr": 1e-4, "peak_ratio": 8.0, "fade_epochs": 5,
    },
    "voxel0100_r50_800x320": {
        "voxel_m": 0.1, "lidar": voxel_branch, "image": partial(resnet_branch, checkpointing=True),
        "batch_size": 4, "lr": 1.4e-4, "peak_ratio": 6.0, "fade_epochs": 5,
    },
}  # fmt: skip
RECIPE_SENSORS: dict[Recipe, Sensors] = {
    "lidar_voxel0075": "lidar",
    "camera_vov_1600x640": "camera",
    "voxel0075_vov_1600x640": "fusion",
    "voxel0100_r50_800x320": "fusion",
}


def choose_size(
    name: SizeName,
    recipe: Recipe | None,
    sensors: Sensors,
    lidar_encoder: LidarEncoder,
    *,
    published_grid: bool,
) -> Size:
    """The size of a run.

    Args:
        name: town, base (ours for nuScenes) or published (the recipe's).
        recipe: a published configuration, or None.
        sensors, lidar_encoder: of the run; a recipe has its own.
        published_grid: with the grid of ``PUBLISHED_CELLS`` cells along x and y.

    Raises:
        ValueError: parts that do not belong together.
    """
    if recipe is not None:
        wanted = RECIPE_SENSORS[recipe]
        voxels = wanted != "camera"
        if sensors != wanted or (voxels and lidar_encoder != "voxels"):
            raise ValueError(
                f"{recipe} was published for --sensors {wanted}"
                + (" --lidar-encoder voxels" if voxels else "")
                + f"; found {sensors}, {lidar_encoder}: take configs/cmt_fusion.py for others"
            )
    if name != "town" and (name == "published") != (recipe is not None):
        raise ValueError(
            f"there is no --size {name} here: base is a size of configs/cmt_fusion.py, published "
            "one of the configs that carry a published model's name, such as "
            "configs/cmt_voxel0075_vov_1600x640.py"
        )
    if published_grid and (name, recipe) != ("published", "voxel0100_r50_800x320"):
        raise ValueError(
            "--published-grid is for configs/cmt_voxel0100_r50_800x320.py at its published size: "
            "no other grid was published too small for its range"
        )
    if name == "published" and recipe is not None:
        return published_size(recipe, published_grid=published_grid)
    return replace(SIZES[name], **(VOXELS[name] if lidar_encoder == "voxels" else {}))


def published_size(recipe: Recipe, *, published_grid: bool = False) -> Size:
    """The published model and recipe (junjie18/CMT, configurations and README)."""
    changes = RECIPES[recipe]
    pasted = ", with pasted objects" if "fade_epochs" in changes else ""
    if published_grid:
        changes = changes | {"lidar": partial(voxel_branch, kept_cells=PUBLISHED_CELLS)}
    expected = tuple(
        Expected(
            metric=metric,
            value=value,
            tolerance=0.01,
            source=f"junjie18/CMT, README: nuScenes val{pasted}",
        )
        for metric, value in zip(("mAP", "NDS"), PUBLISHED_SCORES[recipe])
    )
    return replace(SIZES["base"], unmasked_epochs=0, expected=expected, **changes)
