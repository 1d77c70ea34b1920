"""The tiny town that many tests read, and a smaller one for tests of the making itself."""

from __future__ import annotations

from pathlib import Path

from perception3d.datasets.town.build import build_town
from perception3d.datasets.town.settings import TownSettings

# One scene a split, six key frames each, every sweep, images of 400 x 225; all ten classes in both
# splits, which the official scores of perfect predictions need.
TINY = TownSettings(
    seed=3,
    train_scenes=1,
    val_scenes=1,
    scene_length_s=3.0,
    train_districts=1,
    val_districts=1,
    night_share=0.0,
    fog_share=0.0,
    image_scale=0.25,
    keep_sweep_every=1,
    min_boxes_per_class=1,
)

# The smallest town: two scenes of two key frames, thumbnails.
SMALL = TownSettings(
    seed=11,
    train_scenes=1,
    val_scenes=1,
    scene_length_s=1.0,
    train_districts=1,
    val_districts=1,
    image_scale=0.05,
    keep_sweep_every=5,
    density=0.4,
    camera_sweeps=True,
    min_boxes_per_class=0,
)


def quiet(line: str) -> None:
    """Drop progress lines."""


def tiny_town(tmp_root: Path) -> Path:
    """Make (or find complete) the tiny town below a folder.

    Args:
        tmp_root: folder that will hold the town.

    Returns:
        The data set's folder, with `v1.0-town`, samples, sweeps and maps; splits town_train and
        town_val with one scene each.
    """
    root = tmp_root / "tiny_town"
    build_town(root, TINY, processes=1, report=quiet)
    return root
