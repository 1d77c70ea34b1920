"""What the LiDAR sees of its own car: the roof plate with camera housings, and the bonnet.

Shapes fitted to the own-car rows (nearer than 2.5 m) of the real key frame
ca9a282c9e77460f8360f564131a8af5.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from perception3d.datasets.town import rig
from perception3d.datasets.town.lidar_rays import nearest_of_parts
from perception3d.datasets.town.primitives import Material, Rows, Shape, part, rows_of

_LIDAR_X, _, _LIDAR_Z = rig.LIDAR_TOP.translation_m


def own_car() -> Rows:
    """Rows in the ego frame."""
    plate, grey = Material.CAR_PAINT, (0.75, 0.75, 0.75)
    x0, z0 = _LIDAR_X, _LIDAR_Z

    def housing(x: float, y: float, half: tuple[float, float], top: float) -> list[float]:
        centre = (x0 + x, y, z0 + top - 0.05)
        return part(
            Shape.TAPERED,
            centre,
            (*half, 0.05),
            (0.2, 0.2, 0.2),
            Material.PLASTIC,
            taper=(0.2, 0.2, 0.2),
        )

    return rows_of(
        [
            part(
                Shape.TAPERED,
                (x0 - 0.115, 0, z0 - 0.405),
                (0.805, 0.53, 0.05),
                grey,
                plate,
                taper=(0.1, 0.02, 0.03),
            ),
            part(
                Shape.TAPERED,
                (x0 + 0.70, 0, z0 - 0.50),
                (0.2, 0.53, 0.08),
                grey,
                plate,
                taper=(0.5, 0.0, 0.05),
            ),
            part(Shape.BOX, (x0 + 1.9, 0.4, z0 - 0.90), (0.27, 0.22, 0.06), grey, plate),
            part(Shape.BOX, (x0 + 1.9, -0.4, z0 - 0.90), (0.27, 0.22, 0.06), grey, plate),
            housing(-0.83, 0.0, (0.12, 0.09), -0.255),
            housing(-0.47, 0.0, (0.05, 0.07), -0.255),
            housing(0.56, 0.0, (0.07, 0.09), -0.285),
            housing(0.10, 0.46, (0.08, 0.03), -0.255),
            housing(0.10, -0.46, (0.08, 0.03), -0.255),
            housing(0.48, 0.42, (0.08, 0.07), -0.29),
            housing(0.48, -0.42, (0.08, 0.07), -0.29),
        ]
    )


@functools.cache
def own_range_m() -> NDArray[np.float64]:
    """(1084, 32) distance at which each ray meets the own car, else MISS. Read only."""
    mount = rig.LIDAR_TOP.ego_SE3_lidar
    ranges, _ = nearest_of_parts(own_car(), mount[:3, 3].copy(), ray_directions_ego())
    ranges.flags.writeable = False
    return ranges


@functools.cache
def ray_directions_ego() -> NDArray[np.float64]:
    """(1084, 32, 3) unit directions of all rays of a turn in the ego frame. Read only."""
    azimuth, elevation = rig.column_azimuths_rad()[:, None], rig.BEAM_ELEVATIONS_RAD[None, :]
    in_lidar = np.stack(
        [
            np.cos(elevation) * np.cos(azimuth),
            np.cos(elevation) * np.sin(azimuth),
            np.broadcast_to(np.sin(elevation), (len(azimuth), elevation.shape[1])),
        ],
        axis=-1,
    )
    directions = np.ascontiguousarray(in_lidar @ rig.LIDAR_TOP.ego_SE3_lidar[:3, :3].T)
    directions.flags.writeable = False
    return directions
