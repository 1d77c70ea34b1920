"""What a 3-D scene holds, as arrays: points, boxes as lines and faces, the map on the ground."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from perception3d.structures import Frame, Prediction
from perception3d.structures.taxonomy import NUSCENES_CLASSES
from perception3d.viewer.colors import BACKGROUND, EGO, height_colors, intensity_colors
from perception3d.viewer.drawable import (
    BoxArrays,
    check_same_sample,
    ego_outline,
    frame_score,
    prediction_arrays,
    to_numpy,
    truth_arrays,
)
from perception3d.viewer.ground import ground_plane, paint_map
from perception3d.viewer.outlines import EDGES

DASH_M, DASH_GAP_M = 0.32, 0.22
_BELOW_M = 0.15
"""The map lies this much below the road, so that it does not swallow the points of the road."""


@dataclass(frozen=True)
class Lines:
    """Segments (S, 2, 3) in `ref` with a colour (S, 3) uint8 each."""

    segments_m: NDArray[np.float32]
    rgb: NDArray[np.uint8]


@dataclass(frozen=True)
class Mesh:
    """Vertices (V, 3) in `ref` with a colour (V, 3) uint8 each, and triangles (T, 3)."""

    vertices_m: NDArray[np.float32]
    rgb: NDArray[np.uint8]
    triangles: NDArray[np.int32]


@dataclass(frozen=True)
class SceneArrays:
    """What the 3-D view shows of one sample, in `ref`.

    Attributes:
        frame: The sample.
        xyz_m: (N, 3) float32 points.
        point_rgb: (N, 3) uint8.
        truth: Annotated boxes, None without annotation.
        predicted: Predicted boxes, None without prediction.
        own_car: Outline of the vehicle.
        ground: The map, None without one.
        forward: (2,) direction of the vehicle's front in the x, y plane.
        min_score: Smallest score of the predicted boxes.
        classes: Class names by label.
        color_by: What the colour of a point tells.
    """

    frame: Frame
    xyz_m: NDArray[np.float32]
    point_rgb: NDArray[np.uint8]
    truth: BoxArrays | None
    predicted: BoxArrays | None
    own_car: Lines
    ground: Mesh | None
    forward: NDArray[np.float64]
    min_score: float
    classes: tuple[str, ...]
    color_by: str


def scene_arrays(
    frame: Frame,
    prediction: Prediction | None = None,
    *,
    classes: tuple[str, ...] = NUSCENES_CLASSES,
    min_score: float | None = None,
    color_by: Literal["height", "intensity"] = "height",
) -> SceneArrays:
    """Collect the coloured points, boxes and ground of one sample.

    Args:
        frame: The sample; parts that it lacks are left out.
        prediction: Boxes with scores of the same sample.
        classes: Class names by label.
        min_score: Predictions below it are left out; None chooses it by
            :func:`perception3d.viewer.drawable.balanced_score`.
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
    truth = truth_arrays(frame, classes)
    score = frame_score(truth, prediction, min_score)
    predicted = None if prediction is None else prediction_arrays(prediction, classes, score)
    return SceneArrays(
        frame,
        xyz,
        rgb,
        truth,
        predicted,
        _own_car(frame),
        _ground(frame, xyz),
        to_numpy(frame.ego_SE3_ref.rotation)[0, :2],
        score,
        classes,
        color_by,
    )


def _road_height(frame: Frame) -> float:
    return float(frame.ego_SE3_ref.inverse().translation_m[2])


def _own_car(frame: Frame) -> Lines:
    outline = ego_outline(frame)
    rings = [
        np.column_stack([outline, np.full(len(outline), _road_height(frame) + z)])
        for z in (0.3, 1.5)
    ]
    loops = [np.stack([ring, np.roll(ring, -1, axis=0)], axis=1) for ring in rings]
    segments = np.concatenate([*loops, np.stack(rings, axis=1)])
    return Lines(segments.astype(np.float32), np.tile(np.array(EGO, np.uint8), (len(segments), 1)))


def _ground(frame: Frame, xyz_m: NDArray[np.float32]) -> Mesh | None:
    """Lay the map on the plane of the road: a vertex a cell, cells outside every area left out."""
    if frame.map is None:
        return None
    grid = frame.map.grid
    picture = paint_map(frame.map)
    # Out to the sides of the cells' middles; a cell is far smaller than what is seen of it.
    xy = to_numpy(grid.centers_m()).reshape(-1, 2).astype(np.float64)
    a, b, c = ground_plane(xyz_m.astype(np.float64), _road_height(frame))
    vertices = np.column_stack([xy, xy @ np.array([a, b]) + c - _BELOW_M])
    rgb = picture[..., :3] + (1.0 - picture[..., 3:]) * np.array(BACKGROUND, dtype=np.float32)
    number = np.arange(grid.ny * grid.nx).reshape(grid.ny, grid.nx)
    corners = [number[:-1, :-1], number[:-1, 1:], number[1:, 1:], number[1:, :-1]]
    quads = np.stack([corner.reshape(-1) for corner in corners], axis=1)
    quads = quads[(picture[..., 3].reshape(-1)[quads] > 0.01).any(axis=1)]
    triangles = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    return Mesh(
        vertices.astype(np.float32),
        rgb.round().clip(0, 255).astype(np.uint8).reshape(-1, 3),
        triangles.astype(np.int32),
    )


@dataclass(frozen=True)
class Viewpoint:
    """Where a scene is seen from, in `ref`; the optical axis goes through the picture's middle.

    Attributes:
        eye_m: (3,) place of the eye.
        target_m: (3,) what is in the middle.
        fov_deg: Angle between the upper and the lower border of the picture.
    """

    eye_m: NDArray[np.float64]
    target_m: NDArray[np.float64]
    fov_deg: float = 55.0

    @classmethod
    def behind(cls, scene: SceneArrays) -> Viewpoint:
        """24 m behind the vehicle and 17 m up, looking ahead of it."""
        ahead = np.append(scene.forward, 0.0) / np.linalg.norm(scene.forward)
        return cls(ahead * -24.0 + np.array([0.0, 0.0, 17.0]), ahead * 11.0)

    def ref_to_image(self, height_px: int, width_px: int) -> NDArray[np.float64]:
        """Return the (4, 4) matrix of homogeneous `ref` metres to (u d, v d, d, 1)."""
        z = (self.target_m - self.eye_m) / np.linalg.norm(self.target_m - self.eye_m)
        x = np.cross(z, [0.0, 0.0, 1.0])
        x /= np.linalg.norm(x)
        view = np.eye(4)
        view[:3, :3] = np.stack([x, np.cross(z, x), z])
        view[:3, 3] = -view[:3, :3] @ self.eye_m
        focal = height_px / 2 / np.tan(np.radians(self.fov_deg) / 2)
        K = np.eye(4)
        K[:3, :3] = [[focal, 0.0, width_px / 2], [0.0, focal, height_px / 2], [0.0, 0.0, 1.0]]
        result: NDArray[np.float64] = K @ view
        return result


def box_lines(boxes: BoxArrays, *, dashed: bool = False) -> Lines:
    """Return the twelve edges of every box and a line on its floor out of its front."""
    edges = boxes.corners_m[:, EDGES].reshape(-1, 2, 3)
    floor = boxes.center_m - np.array([0, 0, 0.5]) * boxes.size_lwh_m
    ahead = np.stack([np.cos(boxes.yaw_rad), np.sin(boxes.yaw_rad), 0 * boxes.yaw_rad], axis=1)
    tips = floor + ahead * (boxes.size_lwh_m[:, :1] / 2 + 0.8)
    segments = np.concatenate([edges, np.stack([floor, tips], axis=1)])
    colors = np.array(boxes.colors, dtype=np.uint8).reshape(-1, 3)
    rgb = np.concatenate([np.repeat(colors, len(EDGES), axis=0), colors])
    if dashed:
        segments, rgb = _dashes(segments, rgb)
    return Lines(segments.astype(np.float32), rgb)


def _dashes(
    segments: NDArray[Any], rgb: NDArray[np.uint8]
) -> tuple[NDArray[Any], NDArray[np.uint8]]:
    """Cut segments into dashes; every one begins and ends with a dash, so that corners close."""
    pieces, colors = [], []
    for (start, end), color in zip(segments, rgb, strict=True):
        length = float(np.linalg.norm(end - start))
        count = max(1, round((length + DASH_GAP_M) / (DASH_M + DASH_GAP_M)))
        dash = DASH_M / (count * (DASH_M + DASH_GAP_M) - DASH_GAP_M)
        step = (1.0 - dash) / max(count - 1, 1)
        starts = np.arange(count)[:, None] * step
        shares = np.concatenate([starts, starts + (dash if count > 1 else 1.0)], axis=1)
        pieces.append(start + shares[..., None] * (end - start))
        colors.append(np.repeat(color[None], count, axis=0))
    if not pieces:
        return segments, rgb
    return np.concatenate(pieces), np.concatenate(colors)


def scene_lines(scene: SceneArrays) -> Lines:
    """Return the vehicle and all boxes; the truth is dashed beside a prediction."""
    parts = [scene.own_car]
    if scene.truth is not None:
        parts.append(box_lines(scene.truth, dashed=scene.predicted is not None))
    if scene.predicted is not None:
        parts.append(box_lines(scene.predicted))
    return Lines(
        np.concatenate([part.segments_m for part in parts]),
        np.concatenate([part.rgb for part in parts]),
    )
