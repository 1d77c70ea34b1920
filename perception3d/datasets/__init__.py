"""From files to frames to batches."""

from perception3d.datasets.augment import GlobalAugment, ImageAugment
from perception3d.datasets.collate import collate
from perception3d.datasets.info_json import read_info_json
from perception3d.datasets.locate import DataRoot, locate
from perception3d.datasets.map_raster import MAP_CLASSES, rasterize, read_map
from perception3d.datasets.nuscenes import NuScenesFrames
from perception3d.datasets.samples import FrameDataset
from perception3d.datasets.sampling import EpochSampler, SampleKey, class_balanced_repeats
from perception3d.datasets.transforms import (
    ClassFilter,
    Compose,
    MinPointsFilter,
    ModalMask,
    PointShuffle,
    RangeFilter,
)

__all__ = [
    "MAP_CLASSES",
    "ClassFilter",
    "Compose",
    "DataRoot",
    "EpochSampler",
    "FrameDataset",
    "GlobalAugment",
    "ImageAugment",
    "MinPointsFilter",
    "ModalMask",
    "NuScenesFrames",
    "PointShuffle",
    "RangeFilter",
    "SampleKey",
    "class_balanced_repeats",
    "collate",
    "locate",
    "rasterize",
    "read_info_json",
    "read_map",
]
