"""The nouns: frozen, typed, checked on entry; no file is read here and no model is known."""

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
