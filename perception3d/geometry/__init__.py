"""Pure functions of geometry on tensors: rigid transforms, rotations, projection, boxes."""

from perception3d.geometry.boxes import box_corners, points_in_boxes
from perception3d.geometry.projection import pixel_rays, project_points
from perception3d.geometry.rotation import matrix_from_yaw, wrap_to_pi, yaw_from_matrix
from perception3d.geometry.se3 import (
    apply_transform,
    invert_rigid,
    matrix_from_quaternion,
    quaternion_from_matrix,
    rigid_matrix,
)

__all__ = [
    "apply_transform",
    "box_corners",
    "invert_rigid",
    "matrix_from_quaternion",
    "matrix_from_yaw",
    "pixel_rays",
    "points_in_boxes",
    "project_points",
    "quaternion_from_matrix",
    "rigid_matrix",
    "wrap_to_pi",
    "yaw_from_matrix",
]
