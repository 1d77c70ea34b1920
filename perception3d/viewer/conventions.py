"""The picture of CONVENTIONS.md: frames, a box, the grid and a camera, drawn with the nouns.

Every place in it is computed by the code it explains (corners by ``Boxes3D``, cells by ``BEVGrid``,
pixels by ``CameraRig``), so the picture changes when a convention does.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from perception3d.structures import SE3, BEVGrid, Boxes3D, CameraRig, Frame
from perception3d.viewer.bev import BevView
from perception3d.viewer.canvas import Canvas
from perception3d.viewer.drawable import ego_outline, to_numpy
from perception3d.viewer.outlines import to_homogeneous_pixels, visible_edges, visible_front

INK, FAINT, RED, GREEN, BLUE = (
    (31, 41, 55),
    (107, 114, 128),
    (214, 48, 49),
    (22, 138, 67),
    (37, 99, 235),
)
BOX, CELL, RULE = (217, 119, 6), (253, 230, 180), (209, 213, 219)
CAPTIONS = ("Frames from above", "A box (Boxes3D)", "A grid (BEVGrid)", "A camera (CameraRig)")
_POINT_M = (2.6, 1.3)


def example_frame() -> Frame:
    """Return a nuScenes-like sample: LiDAR above the car, another car, one camera."""
    # ref (LIDAR_TOP): x right, y forward; ego: x forward, y left, origin below the rear axle.
    turn = torch.tensor([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    ego_SE3_ref = SE3(turn, torch.tensor([0.94, 0.0, 1.84], dtype=torch.float64))
    # Camera: x right, y down, z forward, 0.7 m ahead of the LiDAR and 0.3 m below it.
    cam_SE3_ref = torch.eye(4, dtype=torch.float64)
    cam_SE3_ref[:3, :3] = torch.tensor([[1.0, 0, 0], [0, 0, -1.0], [0, 1.0, 0]])
    cam_SE3_ref[:3, 3] = -cam_SE3_ref[:3, :3] @ torch.tensor([0.0, 0.7, -0.3], dtype=torch.float64)
    K = torch.tensor([[620.0, 0, 400.0], [0, 620.0, 215.0], [0, 0, 1]], dtype=torch.float64)
    rig = CameraRig(
        ("CAM_FRONT",),
        K[None],
        cam_SE3_ref[None],
        torch.tensor([[450, 800]]),
        torch.eye(3, dtype=torch.float64)[None],
        torch.zeros(1, dtype=torch.int64),
    )
    boxes = Boxes3D.build(
        torch.tensor([[2.4, 9.0, -1.05]]),
        torch.tensor([[4.6, 1.9, 1.6]]),
        torch.tensor([0.85]),
        torch.zeros(1, dtype=torch.int64),
        velocity_mps=torch.tensor([[2.0, 2.28]]),
    )
    return Frame("", "", 0, SE3.identity(), ego_SE3_ref, rig=rig, boxes=boxes)


def draw_conventions() -> NDArray[np.uint8]:
    """Draw the picture: (H, W, 3) uint8 RGB, about 150 kB as PNG."""
    frame = example_frame()
    canvas = Canvas(np.full((900, 1400, 3), 255, dtype=np.uint8))
    places = ((24, 40), (724, 40), (24, 640), (724, 490))
    for caption, (u, v) in zip(CAPTIONS, places, strict=True):
        canvas.text((u, v), caption, INK, size_px=19, bold=True)
    canvas.lines(np.array([[(700, 24), (700, 876)]]), RULE, width_px=1)
    canvas.lines(np.array([[(24, 612), (700, 612)], [(700, 462), (1376, 462)]]), RULE, width_px=1)
    _draw_frames(canvas, frame)
    _draw_box(canvas, frame)
    _draw_grid(canvas)
    _draw_camera(canvas, frame)
    return canvas.rgb()


def _shifted(at: NDArray[np.float64], u: float, v: float) -> NDArray[np.float64]:
    return at + np.array([u, v])


def _axes(
    canvas: Canvas,
    view: BevView,
    origin: NDArray[np.float64],
    x: NDArray[np.float64],
    length_m: float,
    letters_px: tuple[tuple[float, float], tuple[float, float]],
) -> None:
    """Draw a frame's x (red) and y (green) axis; z points to the reader (blue)."""
    at, y = view.to_pixels(origin), np.array([-x[1], x[0]])
    for axis, color, letter, off in (
        (x, RED, "x", letters_px[0]),
        (y, GREEN, "y", letters_px[1]),
    ):
        tip = view.to_pixels(origin + axis * length_m)
        canvas.arrow(at, tip, color, width_px=3.5, head_px=15)
        canvas.text(_shifted(tip, *off), letter, color, size_px=18, anchor="center", bold=True)
    canvas.circle(at, 8, (255, 255, 255), filled=True)
    canvas.circle(at, 8, BLUE, width_px=2.5)
    canvas.circle(at, 3, BLUE, filled=True)
    canvas.text(_shifted(at, -15, 15), "z", BLUE, size_px=18, anchor="center", bold=True)


def _draw_frames(canvas: Canvas, frame: Frame) -> None:
    view = BevView(3.6, 560, 20.0, 58.0, np.eye(2))
    shift = np.array([-1.35, -0.6])
    outline = view.to_pixels(ego_outline(frame) + shift)
    canvas.polygon(outline, fill=(241, 243, 246), edge=FAINT, width_px=1.5)
    canvas.text(
        _shifted(outline[0], 0, -8), "front", FAINT, size_px=14, anchor="center", vertical="bottom"
    )
    ref_SE3_ego = frame.ego_SE3_ref.inverse()
    rear_axle = to_numpy(ref_SE3_ego.translation_m)[:2] + shift
    forward = to_numpy(ref_SE3_ego.rotation)[:2, 0]
    _axes(canvas, view, rear_axle, forward, 0.72, ((15, 4), (-13, 0)))
    _axes(canvas, view, shift, np.array([1.0, 0.0]), 1.5, ((14, 0), (0, -13)))
    for at, name in ((shift, "ref = LIDAR_TOP"), (rear_axle, "ego (rear axle)")):
        beside = view.to_pixels(np.array([shift[0] + 0.95, at[1]]))
        canvas.text(_shifted(beside, 0, 20), name, INK, size_px=15, bold=True)
    notes = (
        ("ref: LIDAR_TOP at the key time;", INK),
        ("x right, y forward, z up (to the reader)", FAINT),
        ("ego: the vehicle, below the rear axle;", INK),
        ("x forward, y left, z up", FAINT),
        ("global: the map; x east, y north, z up", INK),
        ("", FAINT),
        ("dst_SE3_src moves points from src to dst:", INK),
        ("p_ego = ego_SE3_ref.apply(p_ref)", FAINT),
    )
    for row, (text, color) in enumerate(notes):
        v = 108 + 24 * row + 8 * (row // 2)
        canvas.text((396, v), text, color, size_px=13, mono=row == 7)


def _draw_box(canvas: Canvas, frame: Frame) -> None:
    assert frame.boxes is not None
    center = to_numpy(frame.boxes.center_m)[0, :2].astype(np.float64)
    view = BevView(4.1, 400, 700.0, 58.0, np.eye(2))
    corners = to_numpy(frame.boxes.corners())[0, :4, :2] - center
    yaw = float(frame.boxes.yaw_rad[0])
    ahead, left = np.array([np.cos(yaw), np.sin(yaw)]), np.array([-np.sin(yaw), np.cos(yaw)])
    canvas.polygon(view.to_pixels(corners), fill=BOX, fill_alpha=0.14, edge=BOX, width_px=2.5)
    canvas.lines(view.to_pixels(corners[[0, 3]])[None], BOX, width_px=5)
    for number, corner in enumerate(corners):
        place = view.to_pixels(corner * 1.13)
        canvas.text(place, str(number), FAINT, size_px=13, anchor="center")
    origin = view.to_pixels(np.zeros(2))
    canvas.lines(view.to_pixels(np.array([(0, 0), (2.5, 0)]))[None], FAINT, dashed=True)
    canvas.text(view.to_pixels(np.array([2.58, 0])), "+x of ref", FAINT, size_px=13)
    arc = np.linspace(0, yaw, 24)
    bow = view.to_pixels(1.5 * np.stack([np.cos(arc), np.sin(arc)], axis=1))
    canvas.lines(np.stack([bow[:-2], bow[1:-1]], axis=1), RED, width_px=2)
    canvas.arrow(bow[-3], bow[-1], RED, width_px=2, head_px=10)
    middle = view.to_pixels(1.72 * np.array([np.cos(yaw * 0.42), np.sin(yaw * 0.42)]))
    canvas.text(middle, "yaw", RED, size_px=15, bold=True, background=(255, 255, 255))
    velocity = to_numpy(frame.boxes.velocity_mps)[0].astype(np.float64)
    tip = view.to_pixels(velocity / np.hypot(*velocity) * 3.7)
    canvas.arrow(origin, tip, BLUE, width_px=2.5, head_px=12)
    canvas.text(_shifted(tip, 10, 2), "velocity", BLUE, size_px=14, bold=True)
    canvas.circle(origin, 5, INK, filled=True)
    length = np.stack([-ahead, ahead]) * 2.3 + left * 1.35
    width = np.stack([-left, left]) * 0.95 - ahead * 2.75
    for ends, name, off in ((length, "length", left * 0.62), (width, "width", -ahead * 0.55)):
        a, b = view.to_pixels(ends)
        canvas.arrow((a + b) / 2, a, INK, width_px=1.3, head_px=9)
        canvas.arrow((a + b) / 2, b, INK, width_px=1.3, head_px=9)
        where = view.to_pixels(ends.mean(axis=0) + off)
        canvas.text(where, name, INK, size_px=14, anchor="center", bold=True)
    notes = (
        "center_m: gravity centre (x, y, z)",
        "size_lwh_m: length along the",
        "heading, width, height",
        "yaw_rad: counter-clockwise from",
        "+x, in [-pi, pi)",
        "velocity_mps: (vx, vy); NaN:",
        "unknown",
        "corners 0-3 below, 4-7 above;",
        "0 and 3 lie at the front",
    )
    for row, note in enumerate(notes):
        bold = row in (0, 1, 3, 5, 7)
        canvas.text((1130, 150 + 25 * row), note, INK if bold else FAINT, size_px=13)


def _draw_grid(canvas: Canvas) -> None:
    grid = BEVGrid((-3.0, 5.0), (-2.0, 3.0), (-5.0, 3.0), 1.0)
    cell, left, top = 32.0, 84.0, 680.0
    row_column, _ = grid.index(torch.tensor([_POINT_M]))
    row, column = (int(n) for n in row_column[0])
    high = top + grid.ny * cell
    corner = np.array([left + column * cell, high - (row + 1) * cell])
    canvas.polygon(corner + np.array([(0, 0), (1, 0), (1, 1), (0, 1)]) * cell, fill=CELL)
    columns = [[(left + i * cell, top), (left + i * cell, high)] for i in range(grid.nx + 1)]
    rows = [
        [(left, top + i * cell), (left + grid.nx * cell, top + i * cell)]
        for i in range(grid.ny + 1)
    ]
    canvas.lines(np.array(columns), RULE, width_px=1.2)
    canvas.lines(np.array(rows), RULE, width_px=1.2)
    zero = np.array([left - grid.x_m[0] * cell, high + grid.y_m[0] * cell])
    canvas.arrow(zero, _shifted(zero, 2 * cell, 0), RED, width_px=2.5, head_px=11)
    canvas.arrow(zero, _shifted(zero, 0, -2 * cell), GREEN, width_px=2.5, head_px=11)
    canvas.text(_shifted(zero, 2 * cell - 4, 12), "x", RED, size_px=15, bold=True)
    canvas.text(_shifted(zero, -14, -2 * cell + 6), "y", GREEN, size_px=15, bold=True)
    point = _shifted(zero, _POINT_M[0] * cell, -_POINT_M[1] * cell)
    canvas.circle(point, 4, BOX, filled=True)
    for i in range(grid.nx):
        at = (left + (i + 0.5) * cell, high + 12)
        canvas.text(at, str(i), INK if i == column else FAINT, size_px=12, anchor="center")
    for i in range(grid.ny):
        at = (left - 12, high - (i + 0.5) * cell)
        canvas.text(at, str(i), INK if i == row else FAINT, size_px=12, anchor="center")
    canvas.text(
        (left + grid.nx * cell / 2, high + 32),
        "column",
        INK,
        size_px=13,
        anchor="center",
        bold=True,
    )
    canvas.text((left - 24, top + 10), "row", INK, size_px=13, anchor="right", bold=True)
    notes = (
        ("data[..., row, column], shape (..., ny, nx)", True),
        (f"here ny = {grid.ny}, nx = {grid.nx}; row = y, column = x", False),
        ("index 0 at the minimum: row 0 lies behind", True),
        ("the vehicle, at the bottom of the picture", False),
        (f"the point x = {_POINT_M[0]}, y = {_POINT_M[1]} lies in", True),
        (f"row {row} = floor((y + {-grid.y_m[0]:g}) / cell_m)", False),
        (f"column {column} = floor((x + {-grid.x_m[0]:g}) / cell_m)", False),
    )
    for line, (note, bold) in enumerate(notes):
        canvas.text((382, 684 + 25 * line), note, INK if bold else FAINT, size_px=13)


def _draw_camera(canvas: Canvas, frame: Frame) -> None:
    assert frame.rig is not None and frame.boxes is not None
    left, top, scale = 760.0, 530.0, 0.45
    height, width = (int(n) for n in frame.rig.image_hw[0].tolist())
    shift = np.array([left, top])
    ref_to_image = np.diag([scale, scale, 1.0, 1.0]) @ to_numpy(frame.rig.ref_to_image())[0]
    rect = np.array([(0, 0), (width, 0), (width, height), (0, height)]) * scale + shift
    canvas.polygon(rect, fill=(246, 248, 250), edge=FAINT, width_px=1.5)
    corners = to_numpy(frame.boxes.corners()).astype(np.float64)
    hw = (round(height * scale), round(width * scale))
    canvas.polygon(visible_front(corners[0], ref_to_image, hw) + shift, fill=BOX, fill_alpha=0.3)
    segments, _ = visible_edges(corners, ref_to_image, hw)
    canvas.lines(segments + shift, BOX, width_px=2)
    center = to_homogeneous_pixels(to_numpy(frame.boxes.center_m), ref_to_image)[0]
    canvas.circle(center[:2] / center[2] + shift, 4, INK, filled=True)
    for tip, letter, off in (((90, 0), "u", (12, 0)), ((0, 90), "v", (0, 13))):
        end = _shifted(shift, *tip)
        canvas.arrow(shift, end, INK, width_px=2.5, head_px=11)
        background = (255, 255, 255)
        canvas.text(
            _shifted(end, *off), letter, INK, size_px=16, anchor="center", bold=True,
            background=background, background_alpha=1.0,
        )  # fmt: skip
    canvas.text(_shifted(shift, -6, -12), "(0, 0)", FAINT, size_px=12)
    _draw_camera_axes(canvas, _shifted(shift, 66, 126))
    notes = (
        ("camera: x right, y down,", True),
        ("z forward (into the page)", False),
        ("image: u right, v down, pixels;", True),
        ("(0, 0) is the corner of", False),
        ("the first pixel", False),
        ("ref_to_image() @ (x, y, z, 1)", True),
        ("= (u d, v d, d, 1), d = depth", False),
        ("the filled face is the front", True),
    )
    for line, (note, bold) in enumerate(notes):
        canvas.text((1142, 546 + 25 * line), note, INK if bold else FAINT, size_px=13)
    below = top + height * scale
    canvas.text(
        (left, below + 30), "ref_to_image = image_aug @ K @ cam_SE3_ref", INK, size_px=13, mono=True
    )
    formula = "cam_SE3_ref holds the ego motion between the key LiDAR's time and the camera's"
    canvas.text((left, below + 54), formula, FAINT, size_px=13)


def _draw_camera_axes(canvas: Canvas, origin: NDArray[np.float64]) -> None:
    """Draw a camera's own axes in its image: x (red), y (green), z into the page (blue)."""
    for tip, color, letter, off in (
        ((70, 0), RED, "x", (12, 0)),
        ((0, 50), GREEN, "y", (13, -2)),
    ):
        end = _shifted(origin, *tip)
        canvas.arrow(origin, end, color, width_px=3, head_px=13)
        canvas.text(_shifted(end, *off), letter, color, size_px=16, anchor="center", bold=True)
    canvas.circle(origin, 9, (255, 255, 255), filled=True)
    canvas.circle(origin, 9, BLUE, width_px=2.5)
    cross = np.array([[(-5.0, -5.0), (5.0, 5.0)], [(-5.0, 5.0), (5.0, -5.0)]]) + origin
    canvas.lines(cross, BLUE, width_px=2.2)
    canvas.text(_shifted(origin, -16, -14), "z", BLUE, size_px=16, anchor="center", bold=True)
