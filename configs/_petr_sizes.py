"""The published sizes and recipes of PETR and PETRv2, and the town's.

Source: megvii-research/PETR, configurations on the branches main and flash, and README.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from perception3d.backbones.image_input import RGB_MEAN, RGB_STD, ImageNormalize
from perception3d.datasets.augment import GlobalAugment
from perception3d.engine.experiment import Expected
from perception3d.engine.optim import CyclicSchedule, EpochCosineSchedule, Schedule
from perception3d.models.image_branch import ImageBranch, resnet_branch, vovnet_branch

Kind = Literal[
    "petr_vov_800x320",
    "petrv2_vov_800x320",
    "petrv2_vov_800x320_dn",
    "petrv2_r50_704x256",
    "petrv2_bevseg",
]
SizeName = Literal["auto", "town", "published"]


@dataclass(frozen=True, kw_only=True)
class Size:
    """A model, and how it is trained.

    Attributes:
        town: the town's small model instead of the published ones.
        second: PETRv2, not PETR.
        frames: 1 or 2, as PETR and PETRv2 have.
        segmentation: maps instead of boxes.
        image: builds the image branch from ``channels`` and keywords.
        image_hw, image_resize: of the images; None: as they are.
        half_range_m: boxes with centres further out are not learned.
        scene: augmentation of the scene; None for none.
        queries, denoising, flash: see :mod:`perception3d.models.petr_published`.
        batch_size, lr, backbone_lr, decoder_lr, epochs, schedule: the run.
        expected: published scores.
    """

    town: bool
    second: bool
    frames: int
    segmentation: bool
    image: Callable[..., ImageBranch]
    image_hw: tuple[int, int] | None
    image_resize: tuple[float, float] | None
    half_range_m: float
    scene: GlobalAugment | None
    queries: int
    denoising: bool
    flash: bool
    batch_size: int
    lr: float
    backbone_lr: float
    decoder_lr: float
    epochs: int
    schedule: Schedule
    expected: tuple[Expected, ...] = ()


#: Turn and scale, no shift and no mirror.
SCENE = GlobalAugment(
    rotation_rad=0.3925,
    scale=(0.95, 1.05),
    translation_std_m=(0.0, 0.0, 0.0),
    flip_x_probability=0.0,
    flip_y_probability=0.0,
)

#: PETR-R50 of the branch "flash": torch's ResNet, red first, batch norms frozen.
R50 = partial(
    resnet_branch,
    depth=50,
    norm_frozen=True,
    normalize=ImageNormalize(mean=RGB_MEAN, std=RGB_STD, bgr=False),
)

_VOV = Size(
    town=False, second=True, frames=2, segmentation=False,
    image=vovnet_branch, image_hw=(320, 800), image_resize=(0.47, 0.625),
    half_range_m=51.2, scene=SCENE, queries=900, denoising=False, flash=False,
    batch_size=1, lr=2e-4, backbone_lr=0.1, decoder_lr=1.0, epochs=24,
    schedule=EpochCosineSchedule(epochs=24),
)  # fmt: skip


def _scores(metrics: dict[str, float], source: str) -> tuple[Expected, ...]:
    return tuple(
        Expected(metric=name, value=value, tolerance=0.01, source=f"megvii-research/PETR, {source}")
        for name, value in metrics.items()
    )


PUBLISHED: dict[Kind, Size] = {
    "petr_vov_800x320": replace(
        _VOV,
        second=False,
        frames=1,
        expected=_scores({"mAP": 0.378, "NDS": 0.426}, "README: nuScenes val"),
    ),
    "petrv2_vov_800x320": replace(
        _VOV,
        expected=_scores({"mAP": 0.4104, "NDS": 0.5025, "mAVE": 0.3893}, "README: nuScenes val"),
    ),
    "petrv2_vov_800x320_dn": replace(
        _VOV,
        denoising=True,
        expected=_scores({"mAP": 0.4191, "NDS": 0.5107, "mAVE": 0.3814}, "README: nuScenes val"),
    ),
    "petrv2_r50_704x256": replace(
        _VOV,
        image=R50, image_hw=(256, 704), image_resize=(0.386, 0.55),
        queries=1500, denoising=True, flash=True,
        batch_size=2, lr=4e-4, epochs=60, schedule=EpochCosineSchedule(epochs=60),
        expected=_scores(
            {"mAP": 0.3934, "NDS": 0.4946, "mAVE": 0.3608}, "branch flash: nuScenes val"
        ),
    ),
    "petrv2_bevseg": replace(
        _VOV,
        segmentation=True, image_hw=None, image_resize=None, scene=None,
        epochs=50, schedule=EpochCosineSchedule(epochs=50),
        expected=_scores(
            {"IoU_drivable_area": 0.856, "IoU_divider": 0.490, "IoU_vehicle": 0.463},
            "README: nuScenes val, threshold 0.43",
        ),
    ),
}  # fmt: skip

#: The lower 160 of 225 rows: above are sky and house fronts. No scale of the scene, which images
#: cannot tell, and no mirror: traffic keeps to the right.
_TOWN = Size(
    town=True, second=True, frames=2, segmentation=False,
    image=partial(resnet_branch, depth=18, width=16, stages=(1, 2, 3)),
    image_hw=(160, 400), image_resize=(0.94, 1.1),
    half_range_m=40.0, scene=replace(SCENE, scale=(1.0, 1.0)),
    queries=150, denoising=False, flash=False,
    batch_size=1, lr=2e-4, backbone_lr=0.5, decoder_lr=0.4, epochs=1,
    schedule=CyclicSchedule(peak_ratio=8.0, up=0.15),
)  # fmt: skip


def choose_size(kind: Kind, name: Literal["town", "published"]) -> Size:
    """The size of a model."""
    if name == "published":
        return PUBLISHED[kind]
    published = PUBLISHED[kind]
    return replace(
        _TOWN,
        second=published.second,
        frames=published.frames,
        segmentation=published.segmentation,
    )
