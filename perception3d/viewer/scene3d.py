"""The scene in three dimensions with Open3D: a window, an off-screen picture, or PLY files.

Open3D needs system libraries and a graphics driver, and where one of them is missing it may end the
process instead of raising. Therefore it only ever runs in a process of its own
(:mod:`perception3d.viewer.scene3d_process`), which gets plain arrays. PLY files are written without
it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from perception3d.structures import Frame, Prediction
from perception3d.structures.taxonomy import NUSCENES_CLASSES
from perception3d.viewer.canvas import write_bytes
from perception3d.viewer.colors import EGO, height_colors, intensity_colors
from perception3d.viewer.drawable import (
    BoxArrays,
    check_same_sample,
    ego_outline,
    prediction_arrays,
    to_numpy,
    truth_arrays,
)
from perception3d.viewer.outlines import EDGES

DEBIAN_PACKAGES = "libusb-1.0-0 libegl1 libgl1 libvulkan1 mesa-vulkan-drivers"
TRUTH_SHADE = 0.55
"""The truth below a prediction is drawn in its class colour times this."""


class SceneUnavailableError(RuntimeError):
    """Open3D cannot be loaded or cannot draw on this machine; the text says what to install."""


@dataclass(frozen=True)
class SceneArrays:
    """What the 3-D view shows, in `ref`.

    Attributes:
        xyz_m: (N, 3) float32 points.
        point_rgb: (N, 3) uint8.
        segments_m: (S, 2, 3) float32 edges of boxes.
        segment_rgb: (S, 3) uint8.
        forward: (2,) direction of the vehicle's front in the x, y plane.
    """

    xyz_m: NDArray[np.float32]
    point_rgb: NDArray[np.uint8]
    segments_m: NDArray[np.float32]
    segment_rgb: NDArray[np.uint8]
    forward: NDArray[np.float64]


def scene_arrays(
    frame: Frame,
    prediction: Prediction | None = None,
    *,
    classes: tuple[str, ...] = NUSCENES_CLASSES,
    min_score: float = 0.25,
    color_by: Literal["height", "intensity"] = "height",
) -> SceneArrays:
    """Collect the coloured points and box edges of one sample.

    Args:
        frame: The sample; parts that it lacks are left out.
        prediction: Boxes with scores of the same sample; the truth is then drawn darker.
        classes: Class names by label.
        min_score: Predictions below it are left out.
        color_by: What the colour of a point tells.

    Raises:
        ValueError: When the prediction is of another sample.
    """
    check_same_sample(frame, prediction)
    xyz, rgb = np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint8)
    if frame.points is not None and len(frame.points):
        xyz = to_numpy(frame.points.xyz_m).astype(np.float32)
        by_height = color_by == "height"
        intensity = to_numpy(frame.points.intensity)
        rgb = height_colors(xyz[:, 2]) if by_height else intensity_colors(intensity)
    sets: list[tuple[BoxArrays, float]] = []
    truth = truth_arrays(frame, classes)
    if truth is not None:
        sets.append((truth, 1.0 if prediction is None else TRUTH_SHADE))
    if prediction is not None:
        sets.append((prediction_arrays(prediction, classes, min_score), 1.0))
    parts = [_edges(boxes, shade) for boxes, shade in sets] + [_ego_edges(frame)]
    return SceneArrays(
        xyz,
        rgb,
        np.concatenate([segments for segments, _ in parts]).astype(np.float32),
        np.concatenate([colors for _, colors in parts]).astype(np.uint8),
        to_numpy(frame.ego_SE3_ref.rotation)[0, :2],
    )


def _edges(boxes: BoxArrays, shade: float) -> tuple[NDArray[Any], NDArray[Any]]:
    segments = boxes.corners_m[:, EDGES].reshape(-1, 2, 3)
    # A line on the floor from the centre through the front shows the heading.
    floor = boxes.center_m - np.array([0, 0, 0.5]) * boxes.size_lwh_m
    ahead = np.stack([np.cos(boxes.yaw_rad), np.sin(boxes.yaw_rad), 0 * boxes.yaw_rad], axis=1)
    tips = floor + ahead * (boxes.size_lwh_m[:, :1] / 2 + 0.8)
    segments = np.concatenate([segments, np.stack([floor, tips], axis=1)])
    colors = np.array(boxes.colors, dtype=np.float64).reshape(-1, 3) * shade
    return segments, np.concatenate([np.repeat(colors, len(EDGES), axis=0), colors])


def _ego_edges(frame: Frame) -> tuple[NDArray[Any], NDArray[Any]]:
    outline = ego_outline(frame)
    ground_z = float(frame.ego_SE3_ref.inverse().translation_m[2])
    rings = [np.column_stack([outline, np.full(len(outline), ground_z + z)]) for z in (0.3, 1.5)]
    loops = [np.stack([ring, np.roll(ring, -1, axis=0)], axis=1) for ring in rings]
    segments = np.concatenate([*loops, np.stack(rings, axis=1)])
    return segments, np.tile(np.array(EGO, dtype=np.float64), (len(segments), 1))


def write_ply(path: str | Path, scene: SceneArrays) -> list[Path]:
    """Write the points as ``NAME.ply`` and box edges, where there are any, as ``NAME_boxes.ply``.

    The points lie alone in their file, so that every reader finds as many vertices as points. The
    edges are thin solid bars, because most viewers ignore the edge element of PLY.

    Args:
        path: Name of the first file, ending in .ply.
        scene: Points and edges.

    Returns:
        The files written.

    Raises:
        ValueError: When the name does not end in .ply.
    """
    path = Path(path)
    if path.suffix.lower() != ".ply":
        raise ValueError(f"cannot save a scene as {path.name}; end the name in .ply")
    written = [write_bytes(path, _ply(scene.xyz_m, scene.point_rgb))]
    if len(scene.segments_m):
        vertices, colors, triangles = _bars(scene)
        boxes = path.with_name(f"{path.stem}_boxes.ply")
        written.append(write_bytes(boxes, _ply(vertices, colors, triangles)))
    return written


def _ply(
    xyz: NDArray[np.float32], rgb: NDArray[np.uint8], triangles: NDArray[np.int32] | None = None
) -> bytes:
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(xyz)}"]
    header += [f"property float {axis}" for axis in "xyz"]
    header += [f"property uchar {channel}" for channel in ("red", "green", "blue")]
    vertices = np.empty(len(xyz), dtype=[("xyz", "<f4", 3), ("rgb", "u1", 3)])
    vertices["xyz"], vertices["rgb"] = xyz, rgb
    body = vertices.tobytes()
    if triangles is not None:
        header += [f"element face {len(triangles)}", "property list uchar int vertex_indices"]
        faces = np.empty(len(triangles), dtype=[("count", "u1"), ("index", "<i4", 3)])
        faces["count"], faces["index"] = 3, triangles
        body += faces.tobytes()
    return ("\n".join([*header, "end_header"]) + "\n").encode("ascii") + body


def _bars(
    scene: SceneArrays, half_m: float = 0.02
) -> tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.int32]]:
    """Thicken edges to square bars: vertices (8 S, 3), colours (8 S, 3), triangles (12 S, 3)."""
    start, end = scene.segments_m[:, 0].astype(np.float64), scene.segments_m[:, 1]
    along = end - start
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
    return (
        vertices.reshape(-1, 3).astype(np.float32),
        np.repeat(scene.segment_rgb, 8, axis=0),
        triangles.reshape(-1, 3).astype(np.int32),
    )


def has_display() -> bool:
    """Say whether a window can be opened: always elsewhere, on Linux with X11 or Wayland."""
    if not sys.platform.startswith("linux"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def render_scene(
    scene: SceneArrays,
    path: str | Path,
    *,
    width_px: int = 1600,
    height_px: int = 900,
    timeout_s: float = 180.0,
) -> Path:
    """Draw the scene off-screen from behind and above the vehicle.

    Args:
        scene: Points and edges.
        path: The .png file.
        width_px: Width of the picture.
        height_px: Height of the picture.
        timeout_s: How long drawing may take.

    Returns:
        The path.

    Raises:
        ValueError: When the name does not end in .png.
        SceneUnavailableError: When Open3D cannot be loaded or cannot draw; names the packages.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"cannot draw a scene into {path.name}; end the name in .png")
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "scene.png"
        _run_process(
            scene, folder, ["render", str(picture), str(width_px), str(height_px)], timeout_s
        )
        return write_bytes(path, picture.read_bytes())


def show_scene(scene: SceneArrays, title: str = "perception3d") -> None:
    """Open a window and return when it is closed.

    Raises:
        SceneUnavailableError: When there is no display, or Open3D cannot be loaded or cannot draw.
    """
    if not has_display():
        raise SceneUnavailableError(
            "there is no display (DISPLAY and WAYLAND_DISPLAY are not set); "
            "draw into a .png file or save a .ply file instead"
        )
    with tempfile.TemporaryDirectory() as folder:
        _run_process(scene, folder, ["window", title], None)


def _run_process(
    scene: SceneArrays, folder: str, arguments: list[str], timeout_s: float | None
) -> None:
    arrays = Path(folder) / "scene.npz"
    with arrays.open("wb") as file:
        np.savez(
            file,
            xyz_m=scene.xyz_m,
            point_rgb=scene.point_rgb,
            segments_m=scene.segments_m,
            segment_rgb=scene.segment_rgb,
            forward=scene.forward,
        )
    script = Path(__file__).with_name("scene3d_process.py")
    command = [sys.executable, str(script), str(arrays), *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise SceneUnavailableError(_advice(f"drawing took more than {timeout_s:g} s")) from error
    if done.returncode != 0:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        # A negative code is a signal: the graphics library ended the process without a word.
        what = lines[-1] if lines else "no message"
        raise SceneUnavailableError(_advice(f"exit code {done.returncode}: {what}"))


def _advice(found: str) -> str:
    return (
        f"Open3D cannot draw here ({found}). Install it with: pip install 'perception3d[view]'; on "
        f"Debian or Ubuntu it also needs: apt-get install {DEBIAN_PACKAGES}. "
        "Saving a .ply file works without it."
    )
