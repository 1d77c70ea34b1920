"""Argoverse 2 sensor data set: logs -> Frame."""

from perception3d.datasets.av2.index import AV2Index, load_index, open_index
from perception3d.datasets.av2.log_files import LogFolder
from perception3d.datasets.av2.map_file import (
    GroundHeight,
    rasterize_log_map,
    read_ground_height,
    read_log_map,
)
from perception3d.datasets.av2.map_layers import LogMapLayers
from perception3d.datasets.av2.reader import AV2Frames

__all__ = [
    "AV2Frames",
    "AV2Index",
    "GroundHeight",
    "LogFolder",
    "LogMapLayers",
    "load_index",
    "open_index",
    "rasterize_log_map",
    "read_ground_height",
    "read_log_map",
]
