"""Names of the nuScenes world: detection classes, attributes, cameras, colours.

Source: nuscenes-devkit 1.2.0 (``nuscenes/eval/detection``) and, for the order of the labels, the
published models (mmdetection3d's nuScenes configuration).
"""

from __future__ import annotations

from perception3d.structures.taxonomy_av2 import AV2_CLASS_COLORS

#: Detection classes; the index is the label of every model here.
NUSCENES_CLASSES = (
    "car",
    "truck",
    "construction_vehicle",
    "bus",
    "trailer",
    "barrier",
    "motorcycle",
    "bicycle",
    "pedestrian",
    "traffic_cone",
)

#: Attributes; the index is ``Boxes3D.attribute``.
NUSCENES_ATTRIBUTES = (
    "cycle.with_rider",
    "cycle.without_rider",
    "pedestrian.moving",
    "pedestrian.standing",
    "pedestrian.sitting_lying_down",
    "vehicle.moving",
    "vehicle.parked",
    "vehicle.stopped",
)

#: Official split -> the end of the version names that hold it.
OFFICIAL_SPLITS = {
    "train": "trainval",
    "val": "trainval",
    "train_detect": "trainval",
    "train_track": "trainval",
    "mini_train": "mini",
    "mini_val": "mini",
    "test": "test",
}

#: Raw category of an annotation -> detection class; categories that are not listed are ignored.
NUSCENES_RAW_TO_DETECTION = {
    "movable_object.barrier": "barrier",
    "vehicle.bicycle": "bicycle",
    "vehicle.bus.bendy": "bus",
    "vehicle.bus.rigid": "bus",
    "vehicle.car": "car",
    "vehicle.construction": "construction_vehicle",
    "vehicle.motorcycle": "motorcycle",
    "human.pedestrian.adult": "pedestrian",
    "human.pedestrian.child": "pedestrian",
    "human.pedestrian.construction_worker": "pedestrian",
    "human.pedestrian.police_officer": "pedestrian",
    "movable_object.trafficcone": "traffic_cone",
    "vehicle.trailer": "trailer",
    "vehicle.truck": "truck",
}

#: Raw categories that exist and are not evaluated.
NUSCENES_IGNORED_CATEGORIES = (
    "animal",
    "human.pedestrian.personal_mobility",
    "human.pedestrian.stroller",
    "human.pedestrian.wheelchair",
    "movable_object.debris",
    "movable_object.pushable_pullable",
    "static_object.bicycle_rack",
    "vehicle.emergency.ambulance",
    "vehicle.emergency.police",
)

#: Evaluated distance from the ego vehicle, in metres (configuration detection_cvpr_2019).
NUSCENES_CLASS_RANGE_M = {
    "car": 50.0,
    "truck": 50.0,
    "construction_vehicle": 50.0,
    "bus": 50.0,
    "trailer": 50.0,
    "barrier": 30.0,
    "motorcycle": 40.0,
    "bicycle": 40.0,
    "pedestrian": 40.0,
    "traffic_cone": 30.0,
}

#: Length, width, height in metres from which a model may start to learn sizes: rounded means, no
#: ground truth.
NUSCENES_TYPICAL_SIZE_LWH_M = {
    "car": (4.6, 2.0, 1.7),
    "truck": (6.9, 2.5, 2.8),
    "construction_vehicle": (6.4, 2.8, 3.2),
    "bus": (11.2, 3.0, 3.5),
    "trailer": (12.3, 2.9, 3.9),
    "barrier": (0.5, 2.5, 1.0),
    "motorcycle": (2.1, 0.8, 1.5),
    "bicycle": (1.7, 0.6, 1.3),
    "pedestrian": (0.7, 0.7, 1.8),
    "traffic_cone": (0.4, 0.4, 1.1),
}

#: Camera channels in the order in which frames hold them.
CAMERA_CHANNELS = (
    "CAM_FRONT",
    "CAM_FRONT_RIGHT",
    "CAM_FRONT_LEFT",
    "CAM_BACK",
    "CAM_BACK_LEFT",
    "CAM_BACK_RIGHT",
)

#: RGB of every class, the same in all pictures; names of both data sets differ in case.
CLASS_COLORS = {
    "car": (255, 158, 0),
    "truck": (233, 84, 32),
    "construction_vehicle": (204, 170, 60),
    "bus": (255, 92, 138),
    "trailer": (186, 104, 255),
    "barrier": (132, 151, 176),
    "motorcycle": (190, 230, 60),
    "bicycle": (236, 64, 240),
    "pedestrian": (64, 132, 255),
    "traffic_cone": (64, 224, 208),
    **AV2_CLASS_COLORS,
}

#: RGB of map classes.
MAP_COLORS = {
    "drivable_area": (190, 196, 204),
    "ped_crossing": (251, 176, 110),
    "walkway": (204, 158, 180),
    "stop_line": (240, 120, 120),
    "carpark_area": (170, 195, 235),
    "divider": (120, 105, 160),
    "vehicle": (255, 158, 0),
}
