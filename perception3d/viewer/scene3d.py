"""The scene in three dimensions with Open3D: a window, or an off-screen picture.

Open3D needs system libraries and a graphics driver, and where one of them is missing it may end the
process instead of raising. Therefore it only ever runs in a process of its own
(:mod:`perception3d.viewer.scene3d_process`), which gets plain arrays. In a picture it draws points
and map; the boxes are drawn over them as into the camera images.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from perception3d.viewer.camera_boxes import Tile, draw_camera_boxes
from perception3d.viewer.canvas import Canvas, encode_image, write_bytes
from perception3d.viewer.colors import BACKGROUND, EGO, PANEL, TEXT
from perception3d.viewer.drawable import BoxArrays
from perception3d.viewer.legend import (
    HEADER_PX,
    Entry,
    box_entries,
    boxes_note,
    class_entries,
    draw_header,
    draw_legend,
    legend_height,
    line_entries,
    map_entries,
    point_entry,
    wrap,
)
from perception3d.viewer.outlines import visible_segments
from perception3d.viewer.scene3d_arrays import SceneArrays, Viewpoint, box_lines

Panel = tuple[BoxArrays | None, BoxArrays | None]

DEBIAN_PACKAGES = "libusb-1.0-0 libegl1 libgl1 libvulkan1 mesa-vulkan-drivers"
GAP_PX = 8
_ATTEMPTS = 3
"""Software drivers now and then stall for minutes on a picture that takes seconds (about once in a
hundred with Open3D 0.19 and llvmpipe), so a drawing that takes too long is begun again."""
_FACE_ALPHA = 0.28
_SUPERSAMPLING = 2
"""Open3D draws this much larger and the picture is averaged down, which smooths its lines."""


class SceneUnavailableError(RuntimeError):
    """Open3D cannot be loaded or cannot draw on this machine; the text says what to install."""


def has_display() -> bool:
    """Say whether a window can be opened: always elsewhere, on Linux with X11 or Wayland."""
    if not sys.platform.startswith("linux"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def render_scene(
    scene: SceneArrays,
    path: str | Path,
    *,
    layout: Literal["side", "overlay"] = "side",
    width_px: int = 1800,
    height_px: int = 900,
    timeout_s: float = 60.0,
) -> Path:
    """Draw the scene off-screen from behind and above the vehicle, with a legend.

    Args:
        scene: Points and boxes.
        path: The .png file.
        layout: With truth and prediction: beside each other, or in one view with the truth dashed.
        width_px: Width of the picture.
        height_px: Height of the view; header and legend are added.
        timeout_s: How long drawing may take before it is begun again.

    Returns:
        The path.

    Raises:
        ValueError: When the name does not end in .png.
        SceneUnavailableError: When Open3D cannot be loaded or cannot draw; names the packages.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"cannot draw a scene into {path.name}; end the name in .png")
    panels: list[Panel] = [(scene.truth, scene.predicted)]
    if layout == "side" and scene.predicted is not None:
        panels = [(scene.truth, None), (None, scene.predicted)]
    width = (width_px - (len(panels) - 1) * GAP_PX) // len(panels)
    view = Viewpoint.behind(scene)
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "scene.png"
        size = [str(_SUPERSAMPLING * width), str(_SUPERSAMPLING * height_px)]
        _run_process(_arrays(scene, view), folder, ["render", str(picture), *size], timeout_s)
        ground = _read(picture, width, height_px)
    return write_bytes(path, encode_image(_compose(scene, panels, ground, view), ".png"))


def _read(path: Path, width_px: int, height_px: int) -> NDArray[np.uint8]:
    import cv2

    large = cv2.imread(str(path))
    if large is None:
        raise SceneUnavailableError(_advice("it wrote no picture"))
    small = cv2.resize(large, (width_px, height_px), interpolation=cv2.INTER_AREA)
    result: NDArray[np.uint8] = np.ascontiguousarray(small[..., ::-1])
    return result


def _compose(
    scene: SceneArrays, panels: list[Panel], ground: NDArray[np.uint8], view: Viewpoint
) -> NDArray[np.uint8]:
    """Repeat the picture of points and map for each panel and draw boxes, header and legend."""
    height, width = ground.shape[:2]
    total = len(panels) * (width + GAP_PX) - GAP_PX
    names = class_entries(scene.classes, scene.truth)
    rows = wrap([names, _keys(scene, overlay=len(panels) == 1)], total)
    image = np.full((HEADER_PX + height + legend_height(rows), total, 3), PANEL, dtype=np.uint8)
    matrix = view.ref_to_image(height, width)
    tiles = [
        Tile(0, number, "", number * (width + GAP_PX), HEADER_PX, height, width, matrix)
        for number in range(len(panels))
    ]
    for tile in tiles:
        image[HEADER_PX : HEADER_PX + height, tile.left_px : tile.left_px + width] = ground
    canvas = Canvas(image)
    for tile, (truth, predicted) in zip(tiles, panels, strict=True):
        car = visible_segments(scene.own_car.segments_m, matrix, (height, width)) + tile.offset
        canvas.lines(car, EGO, width_px=1.8, clip=tile.rect)
        if truth is not None:
            over = predicted is not None
            draw_camera_boxes(canvas, tile, truth, dashed=over, face_alpha=_FACE_ALPHA)
        if predicted is not None:
            draw_camera_boxes(canvas, tile, predicted, face_alpha=_FACE_ALPHA)
        wanted = predicted is None or len(panels) == 1
        title = boxes_note(truth, predicted, scene.min_score, truth_wanted=wanted)
        at = (tile.left_px + 14, HEADER_PX + 20)
        canvas.text(at, title, TEXT, size_px=15, bold=True, background=BACKGROUND)
    points = f"{len(scene.xyz_m):,} LiDAR points" if len(scene.xyz_m) else "no points"
    draw_header(canvas, scene.frame, f"{points}, from behind and above the vehicle")
    draw_legend(canvas, rows, HEADER_PX + height)
    return canvas.rgb()


def _keys(scene: SceneArrays, *, overlay: bool) -> list[Entry]:
    keys = line_entries(scene.truth is not None, scene.predicted is not None, overlay=overlay)
    keys += box_entries(scene.truth)
    if scene.frame.map is not None:
        keys += map_entries(scene.frame.map.classes)
    if len(scene.xyz_m):
        keys.append(point_entry(scene.color_by))
    return keys


def show_scene(scene: SceneArrays, title: str = "perception3d") -> None:
    """Open a window and return when it is closed; truth, prediction and points can be switched.

    Raises:
        SceneUnavailableError: When there is no display, or Open3D cannot be loaded or cannot draw.
    """
    if not has_display():
        raise SceneUnavailableError(
            "there is no display (DISPLAY and WAYLAND_DISPLAY are not set); "
            "draw into a .png file or save a .ply file instead"
        )
    arrays = _arrays(scene, Viewpoint.behind(scene))
    layers = {"vehicle": scene.own_car}
    both = scene.truth is not None and scene.predicted is not None
    if scene.truth is not None:
        layers["truth (dashed)" if both else "truth"] = box_lines(scene.truth, dashed=both)
    if scene.predicted is not None:
        layers["prediction (solid)" if both else "prediction"] = box_lines(scene.predicted)
    for number, lines in enumerate(layers.values()):
        arrays |= {f"lines_m_{number}": lines.segments_m, f"lines_rgb_{number}": lines.rgb}
    with tempfile.TemporaryDirectory() as folder:
        _run_process(arrays, folder, ["window", title, *layers], None)


def _arrays(scene: SceneArrays, view: Viewpoint) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = {
        "xyz_m": scene.xyz_m,
        "point_rgb": scene.point_rgb,
        "eye_m": view.eye_m,
        "target_m": view.target_m,
        "up": np.array([0.0, 0.0, 1.0]),
        "fov_deg": np.array(view.fov_deg),
        "background": np.array(BACKGROUND, dtype=np.float64) / 255.0,
    }
    if scene.ground is not None:
        arrays |= {"ground_m": scene.ground.vertices_m, "ground_rgb": scene.ground.rgb}
        arrays["ground_triangles"] = scene.ground.triangles
    return arrays


def _run_process(
    arrays: dict[str, NDArray[Any]], folder: str, arguments: list[str], timeout_s: float | None
) -> None:
    file = Path(folder) / "scene.npz"
    with file.open("wb") as stream:
        np.savez(stream, **arrays)
    script = Path(__file__).with_name("scene3d_process.py")
    command = [sys.executable, str(script), str(file), *arguments]
    for attempt in range(_ATTEMPTS):
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=timeout_s, check=False
            )
            break
        except subprocess.TimeoutExpired as error:
            if attempt == _ATTEMPTS - 1:
                found = f"drawing took more than {timeout_s:g} s, {_ATTEMPTS} times"
                raise SceneUnavailableError(_advice(found)) from error
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
