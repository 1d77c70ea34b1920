"""The rules of the nuScenes detection task that the writer and the validator share.

Sources: nuscenes-devkit 1.2.0, `eval/detection/configs/detection_cvpr_2019.json` (ranges, limit of
boxes) and `eval/detection/utils.py` (attributes of a class); for the attribute by speed,
mmdetection3d `mmdet3d/evaluation/metrics/nuscenes_metric.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

MAX_BOXES_PER_SAMPLE = 500
"""The official evaluator refuses a file in which any sample holds more boxes."""

MOVING_SPEED_MPS = 0.2
"""Above this speed the published stack calls an object moving (strictly greater)."""

META_FIELDS = ("use_camera", "use_lidar", "use_radar", "use_map", "use_external")

BOX_FIELDS = (
    "sample_token",
    "translation",
    "size",
    "rotation",
    "velocity",
    "detection_name",
    "detection_score",
    "attribute_name",
)

_VEHICLE = ("vehicle.moving", "vehicle.parked", "vehicle.stopped")
_CYCLE = ("cycle.with_rider", "cycle.without_rider")
_PEDESTRIAN = ("pedestrian.moving", "pedestrian.standing", "pedestrian.sitting_lying_down")

CLASS_ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "car": _VEHICLE,
    "truck": _VEHICLE,
    "construction_vehicle": _VEHICLE,
    "bus": _VEHICLE,
    "trailer": _VEHICLE,
    "barrier": (),
    "motorcycle": _CYCLE,
    "bicycle": _CYCLE,
    "pedestrian": _PEDESTRIAN,
    "traffic_cone": (),
}
"""Attributes that a box of each detection class may carry; none for barriers and cones."""


def attribute_by_speed(class_name: str, speed_mps: float) -> str:
    """Attribute of a box whose model predicts none, from its speed.

    | class | faster than 0.2 m/s | otherwise |
    | --- | --- | --- |
    | car, truck, trailer, construction_vehicle | vehicle.moving | vehicle.parked |
    | bus | vehicle.moving | vehicle.stopped |
    | motorcycle, bicycle | cycle.with_rider | cycle.without_rider |
    | pedestrian | pedestrian.moving | pedestrian.standing |
    | barrier, traffic_cone | (none) | (none) |

    This is the rule of mmdetection3d (see the module), which the published scores of CMT, PETRv2
    and PillarNeSt went through. A NaN speed counts as standing.

    Args:
        class_name: one of the ten detection classes.
        speed_mps: length of the horizontal velocity, m/s.

    Returns:
        The attribute's name, "" for a class without attributes.

    Raises:
        ValueError: unknown class.
    """
    if class_name not in CLASS_ATTRIBUTES:
        known = ", ".join(CLASS_ATTRIBUTES)
        raise ValueError(f"unknown detection class {class_name!r}; use one of: {known}")
    attributes = CLASS_ATTRIBUTES[class_name]
    moving = speed_mps > MOVING_SPEED_MPS
    if attributes is _VEHICLE:
        at_rest = "vehicle.stopped" if class_name == "bus" else "vehicle.parked"
        return "vehicle.moving" if moving else at_rest
    if attributes is _CYCLE:
        return "cycle.with_rider" if moving else "cycle.without_rider"
    if attributes is _PEDESTRIAN:
        return "pedestrian.moving" if moving else "pedestrian.standing"
    return ""


@dataclass(frozen=True)
class Modalities:
    """What a submission used: the content of its `meta` (the leaderboard sorts by it).

    Attributes:
        camera, lidar, radar, map: sensors and map data that the model read.
        external: training data beyond nuScenes and ImageNet-style pre-training.
    """

    camera: bool = False
    lidar: bool = False
    radar: bool = False
    map: bool = False
    external: bool = False

    def to_meta(self) -> dict[str, bool]:
        """The five fields as the format spells them."""
        return {
            "use_camera": self.camera,
            "use_lidar": self.lidar,
            "use_radar": self.radar,
            "use_map": self.map,
            "use_external": self.external,
        }
