"""Draw a scene with Open3D in a process of its own; :mod:`perception3d.viewer.scene3d` starts it.

Arguments: ARRAYS.npz render PICTURE.png WIDTH HEIGHT, or ARRAYS.npz window TITLE. It imports
nothing of this package, so that it starts fast and dies alone.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

_GROUND = (0.05, 0.067, 0.09, 1.0)


def _geometries(o3d: Any, arrays: Any) -> list[tuple[str, Any, Any]]:
    result = []
    if len(arrays["xyz_m"]):
        cloud = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(arrays["xyz_m"].astype(float)))
        cloud.colors = o3d.utility.Vector3dVector(arrays["point_rgb"] / 255.0)
        material = o3d.visualization.rendering.MaterialRecord()
        material.shader, material.point_size = "defaultUnlit", 2.2
        result.append(("points", cloud, material))
    if len(arrays["segments_m"]):
        segments = arrays["segments_m"].astype(float)
        lines = o3d.geometry.LineSet(
            o3d.utility.Vector3dVector(segments.reshape(-1, 3)),
            o3d.utility.Vector2iVector(np.arange(2 * len(segments)).reshape(-1, 2)),
        )
        lines.colors = o3d.utility.Vector3dVector(arrays["segment_rgb"] / 255.0)
        material = o3d.visualization.rendering.MaterialRecord()
        material.shader, material.line_width = "unlitLine", 2.4
        result.append(("boxes", lines, material))
    return result


def _viewpoint(arrays: Any) -> tuple[list[float], list[float], list[float]]:
    """Target, eye and up: 24 m behind the vehicle, 17 m up, looking ahead of it."""
    ahead = np.append(arrays["forward"], 0.0)
    ahead = ahead / np.linalg.norm(ahead)
    target, eye = ahead * 11.0, ahead * -24.0 + np.array([0.0, 0.0, 17.0])
    return target.tolist(), eye.tolist(), [0.0, 0.0, 1.0]


def _render(o3d: Any, arrays: Any, picture: str, width: int, height: int) -> None:
    renderer = o3d.visualization.rendering.OffscreenRenderer(width, height)
    renderer.scene.set_background(list(_GROUND))
    renderer.scene.view.set_post_processing(False)
    for name, geometry, material in _geometries(o3d, arrays):
        renderer.scene.add_geometry(name, geometry, material)
    renderer.setup_camera(55.0, *_viewpoint(arrays))
    image = renderer.render_to_image()
    if not o3d.io.write_image(picture, image):
        raise RuntimeError(f"Open3D could not write {picture}")


def _show(o3d: Any, arrays: Any, title: str) -> None:
    drawn = [
        {"name": name, "geometry": geometry, "material": material}
        for name, geometry, material in _geometries(o3d, arrays)
    ]
    target, eye, up = _viewpoint(arrays)
    o3d.visualization.draw(
        drawn, title=title, lookat=target, eye=eye, up=up, bg_color=_GROUND, show_skybox=False
    )


def main(arguments: list[str]) -> int:
    """Run one drawing; errors go to the error stream, the last line says what happened."""
    import open3d as o3d

    with np.load(arguments[0], allow_pickle=False) as arrays:
        if arguments[1] == "render":
            _render(o3d, arrays, arguments[2], int(arguments[3]), int(arguments[4]))
        else:
            _show(o3d, arrays, arguments[2])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
