"""The nouns: frozen, typed, checked on entry; no file is read here and no model is known.

Nouns are imported when they are first used: names alone (``taxonomy``) need no PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perception3d.structures.batch import Batch
    from perception3d.structures.boxes import Boxes3D
    from perception3d.structures.features import BEVFeatures, ImageFeatures, Pillars, SparseVoxels
    from perception3d.structures.frame import Frame, MapRaster
    from perception3d.structures.grid import BEVGrid
    from perception3d.structures.points import PointCloud
    from perception3d.structures.pose import SE3
    from perception3d.structures.prediction import Prediction
    from perception3d.structures.rig import CameraRig

__all__ = [
    "SE3",
    "BEVFeatures",
    "BEVGrid",
    "Batch",
    "Boxes3D",
    "CameraRig",
    "Frame",
    "ImageFeatures",
    "MapRaster",
    "Pillars",
    "PointCloud",
    "Prediction",
    "SparseVoxels",
]

_HOMES = {
    "SE3": "pose",
    "BEVFeatures": "features",
    "BEVGrid": "grid",
    "Batch": "batch",
    "Boxes3D": "boxes",
    "CameraRig": "rig",
    "Frame": "frame",
    "ImageFeatures": "features",
    "MapRaster": "frame",
    "Pillars": "features",
    "PointCloud": "points",
    "Prediction": "prediction",
    "SparseVoxels": "features",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
