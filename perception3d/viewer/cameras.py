"""All cameras in one picture, laid out as one looks around, with boxes and points projected."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from perception3d.structures import CameraRig, Frame, PointCloud, Prediction
from perception3d.structures.taxonomy import NUSCENES_CLASSES
from perception3d.viewer.canvas import Canvas, Rect
from perception3d.viewer.colors import BACKGROUND, FAINT_TEXT, PANEL, TEXT, depth_colors
from perception3d.viewer.drawable import (
    BoxArrays,
    check_same_sample,
    prediction_arrays,
    to_numpy,
    truth_arrays,
)
from perception3d.viewer.legend import draw_legend
from perception3d.viewer.outlines import (
    NEAR_M,
    to_homogeneous_pixels,
    visible_edges,
    visible_front,
)

GAP_PX, HEADER_PX = 4, 30


@dataclass(frozen=True)
class Tile:
    """One camera's place in the mosaic.

    Attributes:
        camera: Index in the rig.
        name: Channel name.
        left_px, top_px: Top left corner in the mosaic.
        height_px, width_px: Size in the mosaic.
        ref_to_tile: (4, 4), homogeneous metres of `ref` to the tile's pixels, (u d, v d, d, 1).
    """

    camera: int
    name: str
    left_px: int
    top_px: int
    height_px: int
    width_px: int
    ref_to_tile: NDArray[np.float64]

    @property
    def rect(self) -> Rect:
        """Left, top, right, bottom in pixels of the mosaic."""
        left, top = float(self.left_px), float(self.top_px)
        return left, top, left + self.width_px, top + self.height_px

    @property
    def offset(self) -> NDArray[np.float64]:
        """Shift from the tile's pixels to the mosaic's."""
        return np.array([self.left_px, self.top_px], dtype=np.float64)


def camera_rows(frame: Frame) -> list[list[int]]:
    """Order the cameras as one looks around: front views from left to right, then back views.

    A back view is not mirrored; the camera on the vehicle's left stands on the left in both rows.
    The directions come from the extrinsics, so other rigs work too.

    Returns:
        One or two rows of indices into the rig.
    """
    if frame.rig is None:
        return []
    # The optical axis is the third row of a camera's rotation; then into the ego frame (x forward).
    axes = to_numpy(frame.rig.cam_SE3_ref)[:, 2, :3] @ to_numpy(frame.ego_SE3_ref.rotation).T
    azimuth = np.degrees(np.arctan2(axes[:, 1], axes[:, 0]))
    front = [i for i in np.argsort(-azimuth, kind="stable").tolist() if abs(azimuth[i]) <= 90]
    back = [i for i in np.argsort(azimuth % 360, kind="stable").tolist() if abs(azimuth[i]) > 90]
    return [row for row in (front, back) if row]


def layout_tiles(frame: Frame, tile_width_px: int, top_px: int = 0) -> list[Tile]:
    """Place every camera; a row is as high as its highest image at the common width."""
    rig = frame.rig
    if rig is None:
        return []
    tiles: list[Tile] = []
    matrices = to_numpy(rig.ref_to_image())
    top = top_px
    for row in camera_rows(frame):
        heights = []
        for column, camera in enumerate(row):
            height, width = (int(n) for n in rig.image_hw[camera].tolist())
            scale = tile_width_px / width
            tile_height = max(1, round(height * scale))
            resize = np.diag([scale, tile_height / height, 1.0, 1.0])
            left = column * (tile_width_px + GAP_PX)
            tiles.append(
                Tile(
                    camera,
                    rig.names[camera],
                    left,
                    top,
                    tile_height,
                    tile_width_px,
                    resize @ matrices[camera],
                )
            )
            heights.append(tile_height)
        top += max(heights) + GAP_PX
    return tiles


def draw_cameras(
    frame: Frame,
    prediction: Prediction | None = None,
    *,
    classes: tuple[str, ...] = NUSCENES_CLASSES,
    min_score: float = 0.25,
    tile_width_px: int = 800,
    layout: Literal["overlay", "separate"] = "overlay",
    with_points: bool = False,
) -> NDArray[np.uint8]:
    """Draw the mosaic of one sample.

    Args:
        frame: The sample. Without images the tiles stay dark and say so.
        prediction: Boxes with scores of the same sample.
        classes: Class names by label.
        min_score: Predictions below it are not drawn.
        tile_width_px: Width of one camera's image.
        layout: With a prediction: "overlay" draws the truth thin and dashed below the prediction;
            "separate" puts a mosaic of the truth over one of the prediction.
        with_points: Project the LiDAR points, coloured by depth.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: When the prediction is of another sample, or a tile is narrower than 32 pixels.
    """
    check_same_sample(frame, prediction)
    if tile_width_px < 32:
        raise ValueError(f"tile_width_px = {tile_width_px}; give at least 32")
    truth = truth_arrays(frame, classes)
    if prediction is None:
        return _mosaic(frame, truth, None, "truth", classes, tile_width_px, with_points)
    predicted = prediction_arrays(prediction, classes, min_score)
    name = f"prediction (score >= {min_score:g})"
    if layout == "overlay":
        title = f"{name} solid, truth dashed" if truth is not None else f"{name}; no annotation"
        return _mosaic(frame, truth, predicted, title, classes, tile_width_px, with_points)
    above = _mosaic(frame, truth, None, "truth", classes, tile_width_px, with_points)
    below = _mosaic(frame, None, predicted, name, classes, tile_width_px, with_points)
    return np.concatenate([above, below])


def _mosaic(
    frame: Frame,
    truth: BoxArrays | None,
    predicted: BoxArrays | None,
    title: str,
    classes: tuple[str, ...],
    tile_width_px: int,
    with_points: bool,
) -> NDArray[np.uint8]:
    tiles = layout_tiles(frame, tile_width_px, HEADER_PX)
    width = round(max((tile.rect[2] for tile in tiles), default=tile_width_px))
    height = round(max((tile.rect[3] for tile in tiles), default=HEADER_PX + tile_width_px / 2))
    image = np.full((height, width, 3), PANEL, dtype=np.uint8)
    for tile in tiles:
        _paint_tile(image, frame, tile, with_points)
    canvas = Canvas(image)
    for tile in tiles:
        if truth is not None:
            draw_camera_boxes(canvas, tile, truth, dashed=predicted is not None)
        if predicted is not None:
            draw_camera_boxes(canvas, tile, predicted)
        at = (tile.left_px + 10.0, tile.top_px + 15.0)
        canvas.text(at, tile.name, TEXT, size_px=12, bold=True, background=BACKGROUND)
        if frame.images is None:
            middle = (tile.left_px + tile.width_px / 2, tile.top_px + tile.height_px / 2)
            canvas.text(middle, "no image", FAINT_TEXT, size_px=16, anchor="center")
    if not tiles:
        canvas.text(
            (width / 2, height / 2),
            "no cameras in this frame",
            FAINT_TEXT,
            size_px=16,
            anchor="center",
        )
    notes = [title, frame.token] + (
        ["no annotation"] if truth is None and predicted is None else []
    )
    if with_points and frame.points is None:
        notes.append("no points")
    canvas.text((10, HEADER_PX / 2), "    ".join(notes), TEXT, size_px=13, bold=True)
    if width > 1500:
        draw_legend(
            canvas, classes, (width * 0.45, HEADER_PX / 2), width * 0.55 - 8, anchor="right"
        )
    return canvas.rgb()


def _paint_tile(mosaic: NDArray[np.uint8], frame: Frame, tile: Tile, with_points: bool) -> None:
    import cv2

    left, top, size = tile.left_px, tile.top_px, (tile.width_px, tile.height_px)
    place = mosaic[top : top + tile.height_px, left : left + tile.width_px]
    if frame.images is None:
        place[:] = BACKGROUND
    else:
        source = to_numpy(frame.images[tile.camera])
        method = cv2.INTER_AREA if source.shape[1] > tile.width_px else cv2.INTER_LINEAR
        place[:] = cv2.resize(source, size, interpolation=method)
    if with_points and frame.points is not None:
        _paint_depth(place, frame.points, tile)


def _paint_depth(place: NDArray[np.uint8], points: PointCloud, tile: Tile) -> None:
    homogeneous = to_homogeneous_pixels(to_numpy(points.xyz_m), tile.ref_to_tile)
    homogeneous = homogeneous[homogeneous[:, 2] > max(NEAR_M, 1.0)]
    depth = homogeneous[:, 2]
    uv = np.floor(homogeneous[:, :2] / depth[:, None]).astype(np.int64)
    near = (np.abs(uv - (tile.width_px // 2, tile.height_px // 2)) < 4 * tile.width_px).all(axis=1)
    uv, depth = uv[near], depth[near]
    order = np.argsort(-depth, kind="stable")  # The nearest point of a pixel is painted last.
    uv, colors = uv[order], depth_colors(depth[order])
    size = 2 if tile.width_px >= 400 else 1
    for du in range(size):
        for dv in range(size):
            u, v = uv[:, 0] + du, uv[:, 1] + dv
            inside = (u >= 0) & (u < tile.width_px) & (v >= 0) & (v < tile.height_px)
            place[v[inside], u[inside]] = colors[inside]


def draw_camera_boxes(
    canvas: Canvas, tile: Tile, boxes: BoxArrays, *, dashed: bool = False
) -> None:
    """Draw boxes into one tile: edges cut at the borders, the face towards the heading filled.

    Args:
        canvas: The mosaic.
        tile: The camera's place in it.
        boxes: Boxes in `ref`; those with a score carry it as a label when they are large enough.
        dashed: Thin dashed outlines without filling, for the truth below a prediction.
    """
    hw = (tile.height_px, tile.width_px)
    segments, owner = visible_edges(boxes.corners_m, tile.ref_to_tile, hw)
    segments = segments + tile.offset
    depth = to_homogeneous_pixels(boxes.center_m, tile.ref_to_tile)[:, 2]
    seen = np.unique(owner)
    for i in seen[np.argsort(-depth[seen], kind="stable")].tolist():
        color, mine = boxes.colors[i], segments[owner == i]
        if not dashed:
            face = visible_front(boxes.corners_m[i], tile.ref_to_tile, hw) + tile.offset
            canvas.polygon(face, fill=color, fill_alpha=0.25, clip=tile.rect)
        thin = tile.width_px < 500 or depth[i] > 40
        width = 1.0 if dashed else (1.2 if thin else 1.8)
        canvas.lines(mine, color, width_px=width, dashed=dashed, clip=tile.rect)
        low, high = mine.min(axis=(0, 1)), mine.max(axis=(0, 1))
        if boxes.score is not None and high[1] - low[1] > 0.08 * tile.height_px:
            label = f"{boxes.names[i].replace('_', ' ')} {boxes.score[i]:.2f}"
            at = (low[0], max(low[1] - 8, tile.rect[1] + 8))
            canvas.text(
                at,
                label,
                color,
                size_px=10,
                background=BACKGROUND,
                background_alpha=0.6,
                clip=tile.rect,
            )


def camera_matrices(rig: CameraRig) -> NDArray[np.float64]:
    """Return (V, 3, 4) projections: (x, y, z, 1) of `ref` in metres -> (u d, v d, d) in pixels."""
    matrices: NDArray[np.float64] = to_numpy(rig.ref_to_image())[:, :3]
    return matrices
