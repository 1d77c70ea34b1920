"""nuScenes: raw tables and blobs of any version -> Frame."""

from perception3d.datasets.index_file import ForeignIndexError, StaleIndexError
from perception3d.datasets.nuscenes.earlier import EarlierCameras
from perception3d.datasets.nuscenes.index import NuScenesIndex, load_index, open_index
from perception3d.datasets.nuscenes.reader import NuScenesFrames
from perception3d.datasets.nuscenes.splits import choose_version, scenes_of_split, version_splits

__all__ = [
    "EarlierCameras",
    "ForeignIndexError",
    "NuScenesFrames",
    "NuScenesIndex",
    "StaleIndexError",
    "choose_version",
    "load_index",
    "open_index",
    "scenes_of_split",
    "version_splits",
]
