"""PLY files of a scene, for any 3-D program; written without Open3D."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from perception3d.viewer.canvas import write_bytes
from perception3d.viewer.colors import class_color
from perception3d.viewer.scene3d_arrays import Lines, Mesh, SceneArrays, scene_lines


def write_ply(path: str | Path, scene: SceneArrays) -> list[Path]:
    """Write the points as ``NAME.ply`` and vehicle and boxes as ``NAME_boxes.ply``.

    The points lie alone in their file, so that every reader finds as many vertices as points. The
    edges are thin solid bars, because most viewers ignore the edge element of PLY; the truth is
    dashed beside a prediction. The header of the boxes' file says which is which in comments.

    Args:
        path: Name of the first file, ending in .ply.
        scene: Points and boxes.

    Returns:
        The files written.

    Raises:
        ValueError: When the name does not end in .ply.
    """
    path = Path(path)
    if path.suffix.lower() != ".ply":
        raise ValueError(f"cannot save a scene as {path.name}; end the name in .ply")
    points = Mesh(scene.xyz_m, scene.point_rgb, np.zeros((0, 3), np.int32))
    written = [write_bytes(path, _ply(points, [f"sample {scene.frame.token}"]))]
    boxes = path.with_name(f"{path.stem}_boxes.ply")
    written.append(write_bytes(boxes, _ply(_bars(scene_lines(scene)), _key(scene))))
    return written


def _key(scene: SceneArrays) -> list[str]:
    """Say what lines and colours mean."""
    key = [f"sample {scene.frame.token}"]
    if scene.truth is not None:
        key.append(f"truth {'solid' if scene.predicted is None else 'dashed'} {len(scene.truth)}")
    if scene.predicted is not None:
        key.append(f"prediction solid {len(scene.predicted)} score >= {scene.min_score:g}")
    for label, name in enumerate(scene.classes):
        red, green, blue = class_color(label, scene.classes)
        key.append(f"color {name} {red} {green} {blue}")
    return key


def _ply(mesh: Mesh, comments: list[str]) -> bytes:
    header = ["ply", "format binary_little_endian 1.0", *(f"comment {text}" for text in comments)]
    header.append(f"element vertex {len(mesh.vertices_m)}")
    header += [f"property float {axis}" for axis in "xyz"]
    header += [f"property uchar {channel}" for channel in ("red", "green", "blue")]
    vertices = np.empty(len(mesh.vertices_m), dtype=[("xyz", "<f4", 3), ("rgb", "u1", 3)])
    vertices["xyz"], vertices["rgb"] = mesh.vertices_m, mesh.rgb
    body = vertices.tobytes()
    if len(mesh.triangles):
        header += [f"element face {len(mesh.triangles)}", "property list uchar int vertex_indices"]
        faces = np.empty(len(mesh.triangles), dtype=[("count", "u1"), ("index", "<i4", 3)])
        faces["count"], faces["index"] = 3, mesh.triangles
        body += faces.tobytes()
    return ("\n".join([*header, "end_header"]) + "\n").encode("ascii", "replace") + body


def _bars(lines: Lines, half_m: float = 0.02) -> Mesh:
    """Thicken S edges to square bars of 8 vertices and 12 triangles each."""
    start, end = lines.segments_m[:, 0].astype(np.float64), lines.segments_m[:, 1]
    along: NDArray[np.float64] = end - start
    along /= np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-9)
    upright = np.abs(along[:, 2:]) > 0.9
    side = np.cross(along, np.where(upright, [[1.0, 0.0, 0.0]], [[0.0, 0.0, 1.0]]))
    side /= np.linalg.norm(side, axis=1, keepdims=True)
    other = np.cross(along, side)
    around = [side + other, other - side, -side - other, side - other]
    vertices = np.stack([at + half_m * off for at in (start, end) for off in around], axis=1)
    quads = [(i, (i + 1) % 4, (i + 1) % 4 + 4, i + 4) for i in range(4)]
    quads += [(3, 2, 1, 0), (4, 5, 6, 7)]
    one = np.array([t for a, b, c, d in quads for t in ((a, b, c), (a, c, d))])
    triangles = one[None] + 8 * np.arange(len(start))[:, None, None]
    return Mesh(
        vertices.reshape(-1, 3).astype(np.float32),
        np.repeat(lines.rgb, 8, axis=0),
        triangles.reshape(-1, 3).astype(np.int32),
    )
