"""Names of the Argoverse 2 sensor data set: categories, cameras, map classes.

Source: the ``av2`` package 0.3.6 (``datasets/sensor/constants.py``, ``evaluation/detection``).
"""

from __future__ import annotations

#: Evaluated categories in the evaluator's order; the index is the label.
AV2_CLASSES = (
    "ARTICULATED_BUS",
    "BICYCLE",
    "BICYCLIST",
    "BOLLARD",
    "BOX_TRUCK",
    "BUS",
    "CONSTRUCTION_BARREL",
    "CONSTRUCTION_CONE",
    "DOG",
    "LARGE_VEHICLE",
    "MESSAGE_BOARD_TRAILER",
    "MOBILE_PEDESTRIAN_CROSSING_SIGN",
    "MOTORCYCLE",
    "MOTORCYCLIST",
    "PEDESTRIAN",
    "REGULAR_VEHICLE",
    "SCHOOL_BUS",
    "SIGN",
    "STOP_SIGN",
    "STROLLER",
    "TRUCK",
    "TRUCK_CAB",
    "VEHICULAR_TRAILER",
    "WHEELCHAIR",
    "WHEELED_DEVICE",
    "WHEELED_RIDER",
)

#: Annotated categories that are not evaluated; their label is -1.
AV2_IGNORED_CATEGORIES = (
    "ANIMAL",
    "OFFICIAL_SIGNALER",
    "RAILED_VEHICLE",
    "TRAFFIC_LIGHT_TRAILER",
)

#: The recording vehicle itself, which some annotation files hold as a track: no object.
AV2_EGO_CATEGORY = "EGO_VEHICLE"

#: The seven cameras around the vehicle, in the order in which frames hold them: as
#: ``taxonomy.CAMERA_CHANNELS``, from the front to the back, right before left.
AV2_RING_CAMERAS = (
    "ring_front_center",
    "ring_front_right",
    "ring_front_left",
    "ring_side_right",
    "ring_side_left",
    "ring_rear_right",
    "ring_rear_left",
)

#: The two cameras that look ahead side by side.
AV2_STEREO_CAMERAS = ("stereo_front_left", "stereo_front_right")

AV2_CAMERAS = AV2_RING_CAMERAS + AV2_STEREO_CAMERAS

#: Map classes; "divider" is the lane boundaries outside intersections.
AV2_MAP_CLASSES = ("drivable_area", "ped_crossing", "divider")

#: Length, width, height in metres from which a model may start to learn sizes: rounded means of
#: objects in a few logs where these hold the category, else a guess; no ground truth.
AV2_TYPICAL_SIZE_LWH_M = {
    "ARTICULATED_BUS": (18.0, 3.1, 3.3),
    "BICYCLE": (1.6, 0.6, 1.2),
    "BICYCLIST": (1.0, 0.7, 2.0),
    "BOLLARD": (0.4, 0.3, 0.9),
    "BOX_TRUCK": (9.0, 2.7, 3.6),
    "BUS": (11.0, 3.1, 3.1),
    "CONSTRUCTION_BARREL": (0.6, 0.6, 1.0),
    "CONSTRUCTION_CONE": (0.4, 0.3, 0.8),
    "DOG": (0.8, 0.4, 0.7),
    "LARGE_VEHICLE": (7.3, 2.6, 2.8),
    "MESSAGE_BOARD_TRAILER": (2.5, 2.0, 3.0),
    "MOBILE_PEDESTRIAN_CROSSING_SIGN": (0.5, 0.5, 1.0),
    "MOTORCYCLE": (1.9, 0.7, 1.3),
    "MOTORCYCLIST": (1.3, 0.8, 1.5),
    "PEDESTRIAN": (0.7, 0.8, 1.8),
    "REGULAR_VEHICLE": (4.4, 2.0, 1.7),
    "SCHOOL_BUS": (11.0, 3.1, 3.2),
    "SIGN": (0.4, 1.4, 3.0),
    "STOP_SIGN": (0.3, 0.8, 2.5),
    "STROLLER": (1.2, 0.9, 1.4),
    "TRUCK": (9.6, 2.7, 3.2),
    "TRUCK_CAB": (9.4, 3.2, 3.2),
    "VEHICULAR_TRAILER": (6.8, 2.6, 3.6),
    "WHEELCHAIR": (1.2, 0.8, 1.4),
    "WHEELED_DEVICE": (1.2, 0.6, 1.5),
    "WHEELED_RIDER": (0.8, 0.7, 1.8),
}

#: RGB of every class: close relatives of the colours in ``taxonomy.CLASS_COLORS``.
AV2_CLASS_COLORS = {
    "ARTICULATED_BUS": (255, 60, 110),
    "BICYCLE": (236, 64, 240),
    "BICYCLIST": (206, 120, 255),
    "BOLLARD": (150, 168, 190),
    "BOX_TRUCK": (244, 110, 52),
    "BUS": (255, 92, 138),
    "CONSTRUCTION_BARREL": (40, 196, 160),
    "CONSTRUCTION_CONE": (64, 224, 208),
    "DOG": (150, 210, 120),
    "LARGE_VEHICLE": (204, 170, 60),
    "MESSAGE_BOARD_TRAILER": (170, 130, 220),
    "MOBILE_PEDESTRIAN_CROSSING_SIGN": (240, 210, 90),
    "MOTORCYCLE": (190, 230, 60),
    "MOTORCYCLIST": (220, 240, 130),
    "PEDESTRIAN": (64, 132, 255),
    "REGULAR_VEHICLE": (255, 158, 0),
    "SCHOOL_BUS": (255, 210, 40),
    "SIGN": (132, 151, 176),
    "STOP_SIGN": (220, 80, 80),
    "STROLLER": (110, 180, 255),
    "TRUCK": (233, 84, 32),
    "TRUCK_CAB": (200, 70, 50),
    "VEHICULAR_TRAILER": (186, 104, 255),
    "WHEELCHAIR": (90, 210, 240),
    "WHEELED_DEVICE": (240, 120, 220),
    "WHEELED_RIDER": (130, 150, 255),
}
