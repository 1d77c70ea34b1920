"""Draw a scene with Open3D in a process of its own; :mod:`perception3d.viewer.scene3d` starts it.

Arguments: ARRAYS.npz render PICTURE.png WIDTH HEIGHT, or ARRAYS.npz window TITLE LAYER...
It imports nothing of this package, so that it starts fast and dies alone.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np


def _material(o3d: Any, shader: str, **knobs: float) -> Any:
    material = o3d.visualization.rendering.MaterialRecord()
    material.shader = shader
    for name, value in knobs.items():
        setattr(material, name, value)
    return material


def _background(arrays: Any) -> list[float]:
    """Return the ground's colour; the renderer takes it as sRGB and vertex colours as they are."""
    color = np.asarray(arrays["background"])
    encoded = np.where(color <= 0.0031308, 12.92 * color, 1.055 * color ** (1 / 2.4) - 0.055)
    return [*encoded.tolist(), 1.0]


def _map(o3d: Any, arrays: Any) -> Any:
    mesh = o3d.geometry.TriangleMesh(
        o3d.utility.Vector3dVector(arrays["ground_m"].astype(float)),
        o3d.utility.Vector3iVector(arrays["ground_triangles"]),
    )
    mesh.vertex_colors = o3d.utility.Vector3dVector(arrays["ground_rgb"] / 255.0)
    return mesh


def _lines(o3d: Any, arrays: Any, number: int) -> Any:
    segments = arrays[f"lines_m_{number}"].astype(float)
    lines = o3d.geometry.LineSet(
        o3d.utility.Vector3dVector(segments.reshape(-1, 3)),
        o3d.utility.Vector2iVector(np.arange(2 * len(segments)).reshape(-1, 2)),
    )
    lines.colors = o3d.utility.Vector3dVector(arrays[f"lines_rgb_{number}"] / 255.0)
    return lines


def _common(o3d: Any, arrays: Any, scale: float) -> list[tuple[str, Any, Any]]:
    """Return what every view shows: points and map."""
    result = []
    if len(arrays["xyz_m"]):
        cloud = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(arrays["xyz_m"].astype(float)))
        cloud.colors = o3d.utility.Vector3dVector(arrays["point_rgb"] / 255.0)
        result.append(("points", cloud, _material(o3d, "defaultUnlit", point_size=2.0 * scale)))
    if "ground_m" in arrays and len(arrays["ground_triangles"]):
        result.append(("map", _map(o3d, arrays), _material(o3d, "defaultUnlit")))
    return result


def _render(o3d: Any, arrays: Any, picture: str, width: int, height: int) -> None:
    renderer = o3d.visualization.rendering.OffscreenRenderer(width, height)
    renderer.scene.set_background(_background(arrays))
    renderer.scene.view.set_post_processing(False)
    for name, geometry, material in _common(o3d, arrays, height / 900):
        renderer.scene.add_geometry(name, geometry, material)
    view = {key: arrays[key].tolist() for key in ("target_m", "eye_m", "up")}
    renderer.setup_camera(float(arrays["fov_deg"]), *view.values())
    if not o3d.io.write_image(picture, renderer.render_to_image()):
        raise RuntimeError(f"Open3D could not write {picture}")


def _show(o3d: Any, arrays: Any, title: str, layers: list[str]) -> None:
    shown = _common(o3d, arrays, 1.0)
    for number, name in enumerate(layers):
        material = _material(o3d, "unlitLine", line_width=2.4)
        if len(arrays[f"lines_m_{number}"]):
            shown.append((name, _lines(o3d, arrays, number), material))
    drawn = [
        {"name": name, "geometry": geometry, "material": material}
        for name, geometry, material in shown
    ]
    o3d.visualization.draw(
        drawn,
        title=title,
        lookat=arrays["target_m"].tolist(),
        eye=arrays["eye_m"].tolist(),
        up=arrays["up"].tolist(),
        bg_color=_background(arrays),
        show_skybox=False,
    )


def main(arguments: list[str]) -> int:
    """Run one drawing; errors go to the error stream, the last line says what happened."""
    import open3d as o3d

    with np.load(arguments[0], allow_pickle=False) as arrays:
        if arguments[1] == "render":
            _render(o3d, arrays, arguments[2], int(arguments[3]), int(arguments[4]))
        else:
            _show(o3d, arrays, arguments[2], arguments[3:])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
