"""perception3d: surround cameras and LiDAR in; 3-D boxes with velocities and a bird's-eye map out.

Importing this package is cheap; rooms are imported by name:
``from perception3d.structures import Frame``.
"""

__version__ = "0.1.0"
