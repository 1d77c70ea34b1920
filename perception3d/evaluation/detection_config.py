"""The official configuration of nuScenes detection, detection_cvpr_2019, and its names.

Sources: nuscenes-devkit 1.2.0, `eval/detection/configs/detection_cvpr_2019.json` (values and the
order of the classes, in which means are summed), `eval/detection/utils.py` (categories) and
`eval/detection/constants.py` (attributes). This module imports nothing heavy, so that scoring a
file needs no PyTorch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from perception3d.structures.taxonomy import NUSCENES_ATTRIBUTES, NUSCENES_RAW_TO_DETECTION

TP_ERRORS = ("trans_err", "scale_err", "orient_err", "vel_err", "attr_err")
"""The five errors of true positives: metres, 1 - IoU, radians, m/s, 1 - accuracy."""

NUM_RECALLS = 101
"""Curves are sampled at recall 0, 0.01 .. 1."""

CATEGORY_CLASS = NUSCENES_RAW_TO_DETECTION
"""Category of an annotation -> class that is evaluated; the others are passed over."""

RACK_CATEGORY = "static_object.bicycle_rack"
RACKED_CLASSES = ("bicycle", "motorcycle")
"""Boxes of these classes inside a bicycle rack are not evaluated."""

ATTRIBUTES = NUSCENES_ATTRIBUTES
"""Attributes a box may carry; their index, -1 for none."""

UNDEFINED_ERRORS = {
    "traffic_cone": ("orient_err", "vel_err", "attr_err"),
    "barrier": ("vel_err", "attr_err"),
}
"""Errors that a class does not have; NaN in its row."""

SYMMETRIC_CLASSES = ("barrier",)
"""Front and back are the same: headings are compared modulo pi."""


@dataclass(frozen=True)
class DetectionConfig:
    """Values of the configuration.

    Attributes:
        class_range_m: (class, largest distance from the vehicle in m), in the official order; a
            class's index here is its number everywhere in the evaluator.
        thresholds_m: distances below which a prediction matches.
        tp_threshold_m: the one at which errors are taken.
        min_recall, min_precision: what lies below does not count for AP.
        max_boxes: a sample with more is refused.
        mean_ap_weight: of mAP in NDS, against 1 for each error.
    """

    class_range_m: tuple[tuple[str, int], ...] = (
        ("car", 50),
        ("truck", 50),
        ("bus", 50),
        ("trailer", 50),
        ("construction_vehicle", 50),
        ("pedestrian", 40),
        ("motorcycle", 40),
        ("bicycle", 40),
        ("traffic_cone", 30),
        ("barrier", 30),
    )
    thresholds_m: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)
    tp_threshold_m: float = 2.0
    min_recall: float = 0.1
    min_precision: float = 0.1
    max_boxes: int = 500
    mean_ap_weight: int = 5

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return tuple(name for name, _ in self.class_range_m)

    def official(self) -> dict[str, Any]:
        """As the field `cfg` of metrics_summary.json spells it."""
        return {
            "class_range": dict(self.class_range_m),
            "dist_fcn": "center_distance",
            "dist_ths": list(self.thresholds_m),
            "dist_th_tp": self.tp_threshold_m,
            "min_recall": self.min_recall,
            "min_precision": self.min_precision,
            "max_boxes_per_sample": self.max_boxes,
            "mean_ap_weight": self.mean_ap_weight,
        }


OFFICIAL = DetectionConfig()
"""detection_cvpr_2019, the leaderboard's."""
