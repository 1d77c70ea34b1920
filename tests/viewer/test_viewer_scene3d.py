from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from perception3d.structures import BEVGrid, MapRaster
from perception3d.viewer import scene3d
from perception3d.viewer.colors import BACKGROUND, class_color
from perception3d.viewer.ground import ground_plane
from perception3d.viewer.legend import HEADER_PX
from perception3d.viewer.scene3d import SceneUnavailableError, render_scene, show_scene
from perception3d.viewer.scene3d_arrays import (
    DASH_M,
    Viewpoint,
    box_lines,
    scene_arrays,
    scene_lines,
)
from perception3d.viewer.scene3d_ply import write_ply

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
    segments = scene_lines(scene).segments_m
    bars = len(segments)
    assert len(vertices) == 8 * bars and f"element face {12 * bars}" in lines
    faces = np.frombuffer(rest, np.dtype([("count", "u1"), ("index", "<i4", 3)]))
    assert (faces["count"] == 3).all() and faces["index"].max() == len(vertices) - 1
    own_car = len(scene.own_car.segments_m)
    assert (vertices["rgb"][8 * own_car :] == class_color(0, ("car",))).all()
    assert "comment truth solid 1" in lines and "comment color car 255 158 0" in lines
    # Each bar surrounds its edge.
    middle = vertices["xyz"].reshape(bars, 8, 3).mean(axis=1)
    assert np.allclose(middle, segments.mean(axis=1), atol=1e-4)


def test_the_heading_line_leaves_the_front(scene: Any) -> None:
    start, end = box_lines(scene.truth).segments_m[12]
    assert np.allclose(start[:2], [0.0, 10.0], atol=1e-5)
    assert np.allclose(end - start, 2.8 * np.array([np.cos(0.5), np.sin(0.5), 0.0]), atol=1e-5)


def test_a_frame_without_parts_is_a_scene(tmp_path: Path, make_frame: Make) -> None:
    bare = scene_arrays(make_frame())
    assert len(bare.xyz_m) == 0 and len(scene_lines(bare).segments_m) > 0  # The own car.
    assert len(read_ply(write_ply(tmp_path / "bare.ply", bare)[0])[1]) == 0


@pytest.fixture
def compared(make_frame: Make, make_boxes: Make, make_prediction: Make) -> Any:
    points = [(0.1 * x, 0.4 * y, -1.8) for x in range(-40, 40) for y in range(-10, 40)]
    grid = BEVGrid((-30.0, 30.0), (-30.0, 30.0), (-5.0, 3.0), 0.5)
    road = torch.zeros(1, grid.ny, grid.nx, dtype=torch.bool)
    road[:, :, 50:70] = True
    raster = MapRaster(road, ("drivable_area",), grid)
    frame = make_frame(points=points, boxes=make_boxes((-4.0, 12.0, 0.5)), map=raster)
    prediction = make_prediction(frame, make_boxes((4.0, 12.0, 0.5)), 0.9)
    return scene_arrays(frame, prediction)


def test_the_truth_is_dashed_beside_a_prediction(tmp_path: Path, compared: Any) -> None:
    whole, dashed = (box_lines(compared.truth, dashed=dash).segments_m for dash in (False, True))
    lengths = np.linalg.norm(dashed[:, 1] - dashed[:, 0], axis=1)
    assert lengths.max() < 2 * DASH_M
    total = np.linalg.norm(whole[:, 1] - whole[:, 0], axis=1).sum()
    assert 0.5 * total < lengths.sum() < 0.7 * total
    # Corners stay corners.
    ends = dashed.reshape(-1, 3)
    for corner in compared.truth.corners_m[0]:
        assert np.linalg.norm(ends - corner, axis=1).min() < 1e-5
    _, boxes = write_ply(tmp_path / "scene.ply", compared)
    lines, vertices, _ = read_ply(boxes)
    assert "comment truth dashed 1" in lines and "comment prediction solid 1 score >= 0.4" in lines
    own_car = len(compared.own_car.segments_m)
    assert len(vertices) == 8 * (own_car + len(dashed) + 13)


def test_the_map_lies_on_the_road(compared: Any) -> None:
    ground = compared.ground
    corners = ground.vertices_m[ground.triangles].reshape(-1, 3)
    assert np.allclose(corners[:, 2], -1.8 - 0.15, atol=0.02)
    assert corners[:, 0].min() > -6 and corners[:, 0].max() < 6  # Columns 50 to 70.
    slope = np.array([(x, y, -1.8 + 0.03 * y) for x in range(-30, 30) for y in range(-30, 30)])
    tall = slope + np.array([0.0, 0.0, 2.0])  # As many points on a wall above it.
    plane = ground_plane(np.concatenate([slope, tall[::3]]), -1.8)
    assert np.allclose(plane, [0.0, 0.03, -1.8], atol=0.01)
    assert ground_plane(np.zeros((0, 3)), -1.5).tolist() == [0.0, 0.0, -1.5]


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


@pytest.mark.slow
def test_a_stalled_drawing_is_begun_again(
    tmp_path: Path, compared: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    cv2.imwrite(str(tmp_path / "drawn.png"), np.full((480, 640, 3), 7, np.uint8))
    stalling = tmp_path / "python"
    stalling.write_text(
        f"#!/bin/sh\ncd {tmp_path}\n"
        'if [ ! -f tried ]; then touch tried; exec sleep 30; fi\ncp drawn.png "$4"\n'
    )
    stalling.chmod(0o755)
    monkeypatch.setattr(scene3d.sys, "executable", str(stalling))
    path = render_scene(
        compared, tmp_path / "scene.png", width_px=640, height_px=240, timeout_s=2.0
    )
    assert (tmp_path / "tried").exists() and cv2.imread(str(path)).shape[1] == 640
    stalling.write_text("#!/bin/sh\nexec sleep 30\n")
    with pytest.raises(SceneUnavailableError, match=r"more than 0\.3 s, 3 times"):
        render_scene(compared, tmp_path / "scene.png", timeout_s=0.3)


def test_the_viewpoint_is_behind_and_above(scene: Any) -> None:
    view = Viewpoint.behind(scene)
    matrix = view.ref_to_image(300, 400)

    def pixel(*xyz: float) -> np.ndarray:
        u, v, d, _ = matrix @ np.array([*xyz, 1.0])
        assert d > 0
        return np.array([u, v]) / d

    assert np.allclose(pixel(*view.target_m), [200, 150])
    ahead, right, up = pixel(0, 20, 0), pixel(5, 11, 0), pixel(0, 11, 3)
    assert abs(ahead[0] - 200) < 1e-9 and ahead[1] < 150
    assert right[0] > 210 and up[1] < 140
    # The upper border of the picture is half the field of view away from the middle.
    z = (view.target_m - view.eye_m) / np.linalg.norm(view.target_m - view.eye_m)
    tilt = np.arctan2(-z[2], z[1]) - np.radians(27.5)
    edge = view.eye_m + 30 * np.array([0.0, np.cos(tilt), -np.sin(tilt)])
    assert np.allclose(pixel(*edge), [200, 0])


def test_no_window_without_a_display(scene: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scene3d.sys, "platform", "linux")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(SceneUnavailableError, match="no display"):
        show_scene(scene)


def rendered(scene: Any, path: Path, **knobs: Any) -> np.ndarray:
    try:
        render_scene(scene, path, width_px=640, height_px=240, **knobs)
    except SceneUnavailableError as error:
        pytest.skip(str(error))
    image: np.ndarray = cv2.imread(str(path))[..., ::-1].astype(int)
    assert image.shape[1] == 640 and image.shape[0] > HEADER_PX + 240  # The legend is below.
    return image[HEADER_PX + 40 : HEADER_PX + 240]


def orange(image: np.ndarray) -> np.ndarray:
    return (np.abs(image - class_color(0, ("car",))) < 45).all(axis=2)


@pytest.mark.slow
def test_open3d_draws_the_scene(tmp_path: Path, scene: Any) -> None:
    view = rendered(scene, tmp_path / "scene.png")
    assert np.abs(view[5, 5] - BACKGROUND).max() <= 2
    rows, columns = np.nonzero(orange(view))
    # 10 m straight ahead of the vehicle: in the middle, above the own car.
    assert abs(columns.mean() - 320) < 30 and rows.mean() < 100


@pytest.mark.slow
def test_points_lie_where_boxes_are_drawn(tmp_path: Path, make_frame: Make) -> None:
    # Open3D draws the points and this package the boxes: both must see from the same place.
    places = [(-9.0, 12.0, 2.0), (8.0, 4.0, -1.0), (0.0, 30.0, 0.0)]
    rng = np.random.default_rng(0)
    points = [tuple(np.array(at) + rng.normal(0, 0.05, 3)) for at in places for _ in range(200)]
    scene = scene_arrays(make_frame(points=points))
    view = rendered(scene, tmp_path / "points.png")
    lit = (np.abs(view - BACKGROUND) > 40).any(axis=2)
    matrix = Viewpoint.behind(scene).ref_to_image(240, 640)
    for at in places:
        u, v, d, _ = matrix @ np.array([*at, 1.0])
        column, row = round(u / d), round(v / d) - 40
        rows, columns = np.nonzero(lit[row - 6 : row + 7, column - 6 : column + 7])
        assert abs(rows.mean() - 6) < 1.5 and abs(columns.mean() - 6) < 1.5


@pytest.mark.slow
def test_truth_and_prediction_stand_beside_each_other(tmp_path: Path, compared: Any) -> None:
    side = rendered(compared, tmp_path / "side.png")
    left, right = side[:, :316], side[:, 324:]
    # The annotated car is left of the middle of its view, the predicted one right of it.
    assert np.nonzero(orange(left))[1].mean() < 150 < 166 < np.nonzero(orange(right))[1].mean()
    overlay = orange(rendered(compared, tmp_path / "overlay.png", layout="overlay"))
    dashed, solid = overlay[:, :320].sum(), overlay[:, 320:].sum()
    assert 0 < dashed < 0.85 * solid
