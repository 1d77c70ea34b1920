from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from perception3d.viewer import scene3d
from perception3d.viewer.colors import class_color
from perception3d.viewer.scene3d import (
    SceneUnavailableError,
    render_scene,
    scene_arrays,
    show_scene,
    write_ply,
)

Make = Callable[..., Any]


def read_ply(path: Path) -> tuple[list[str], np.ndarray, bytes]:
    """Header lines, vertices (N,) with fields xyz and rgb, and what follows them."""
    header, _, body = path.read_bytes().partition(b"end_header\n")
    lines = header.decode().splitlines()
    count = int(next(line for line in lines if line.startswith("element vertex")).split()[-1])
    kind = np.dtype([("xyz", "<f4", 3), ("rgb", "u1", 3)])
    split = count * kind.itemsize
    return lines, np.frombuffer(body[:split], kind), body[split:]


@pytest.fixture
def scene(make_frame: Make, make_boxes: Make) -> Any:
    points = [(float(i), 10.0, 0.1 * i) for i in range(25)]
    return scene_arrays(make_frame(points=points, boxes=make_boxes((0.0, 10.0, 0.5))))


def test_ply_has_a_vertex_a_point(tmp_path: Path, scene: Any) -> None:
    written = write_ply(tmp_path / "scene.ply", scene)
    assert [path.name for path in written] == ["scene.ply", "scene_boxes.ply"]
    lines, vertices, rest = read_ply(written[0])
    assert lines[:2] == ["ply", "format binary_little_endian 1.0"] and rest == b""
    assert np.array_equal(vertices["xyz"], scene.xyz_m)
    assert np.array_equal(vertices["rgb"], scene.point_rgb)
    assert len(vertices) == 25


def test_boxes_become_bars_in_class_colour(tmp_path: Path, scene: Any) -> None:
    _, boxes = write_ply(tmp_path / "scene.ply", scene)
    lines, vertices, rest = read_ply(boxes)
    bars = len(scene.segments_m)
    assert len(vertices) == 8 * bars and f"element face {12 * bars}" in lines
    faces = np.frombuffer(rest, np.dtype([("count", "u1"), ("index", "<i4", 3)]))
    assert (faces["count"] == 3).all() and faces["index"].max() == len(vertices) - 1
    assert (vertices["rgb"][:8] == class_color(0, ("car",))).all()
    # Each bar surrounds its edge.
    middle = vertices["xyz"].reshape(bars, 8, 3).mean(axis=1)
    assert np.allclose(middle, scene.segments_m.mean(axis=1), atol=1e-4)


def test_the_heading_line_leaves_the_front(scene: Any) -> None:
    start, end = scene.segments_m[12]
    assert np.allclose(start[:2], [0.0, 10.0], atol=1e-5)
    assert np.allclose(end - start, 2.8 * np.array([np.cos(0.5), np.sin(0.5), 0.0]), atol=1e-5)


def test_a_frame_without_parts_is_a_scene(tmp_path: Path, make_frame: Make) -> None:
    bare = scene_arrays(make_frame())
    assert len(bare.xyz_m) == 0 and len(bare.segments_m) > 0  # The own car.
    assert len(read_ply(write_ply(tmp_path / "bare.ply", bare)[0])[1]) == 0


def test_wrong_names_are_refused(tmp_path: Path, scene: Any) -> None:
    with pytest.raises(ValueError, match=r"end the name in \.ply"):
        write_ply(tmp_path / "scene.txt", scene)
    with pytest.raises(ValueError, match=r"end the name in \.png"):
        render_scene(scene, tmp_path / "scene.jpg")


def test_a_failing_open3d_names_the_packages(
    tmp_path: Path, scene: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A Python that ends at once, as Open3D does when a system library is missing.
    failing = tmp_path / "python"
    failing.write_text(
        "#!/bin/sh\necho 'libEGL.so.1: cannot open shared object file' >&2\nexit 1\n"
    )
    failing.chmod(0o755)
    monkeypatch.setattr(scene3d.sys, "executable", str(failing))
    with pytest.raises(
        SceneUnavailableError, match=r"libEGL.*apt-get install libusb-1.0-0 libegl1"
    ):
        render_scene(scene, tmp_path / "scene.png")
    assert not (tmp_path / "scene.png").exists()


def test_a_killed_drawing_does_not_take_the_caller_along(
    tmp_path: Path, scene: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = tmp_path / "python"
    killed.write_text("#!/bin/sh\nkill -11 $$\n")
    killed.chmod(0o755)
    monkeypatch.setattr(scene3d.sys, "executable", str(killed))
    with pytest.raises(SceneUnavailableError, match="exit code -11"):
        render_scene(scene, tmp_path / "scene.png")


def test_no_window_without_a_display(scene: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scene3d.sys, "platform", "linux")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(SceneUnavailableError, match="no display"):
        show_scene(scene)


@pytest.mark.slow
def test_open3d_draws_the_scene(tmp_path: Path, scene: Any) -> None:
    try:
        path = render_scene(scene, tmp_path / "scene.png", width_px=320, height_px=240)
    except SceneUnavailableError as error:
        pytest.skip(str(error))
    image = cv2.imread(str(path))[..., ::-1].astype(int)
    assert image.shape == (240, 320, 3)
    orange = (np.abs(image - class_color(0, ("car",))) < 30).all(axis=2)
    assert orange.any()
    rows, columns = np.nonzero(orange)
    # 10 m straight ahead of the vehicle: in the middle, above the own car.
    assert abs(columns.mean() - 160) < 30 and rows.mean() < 140
