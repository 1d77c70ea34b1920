"""All cameras in one picture, laid out as one looks around, with boxes and points projected."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from perception3d.structures import CameraRig, Frame, PointCloud, Prediction
from perception3d.structures.taxonomy import NUSCENES_CLASSES
from perception3d.viewer.camera_boxes import Tile, draw_camera_boxes
from perception3d.viewer.canvas import Canvas, text_width
from perception3d.viewer.colors import (
    BACKGROUND,
    FAINT_TEXT,
    PANEL,
    TEXT,
    depth_colors,
    depth_ramp,
)
from perception3d.viewer.drawable import (
    BoxArrays,
    check_same_sample,
    frame_score,
    prediction_arrays,
    to_numpy,
    truth_arrays,
)
from perception3d.viewer.labels import LabelLayout
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
    wrap,
)
from perception3d.viewer.outlines import NEAR_M, to_homogeneous_pixels

GAP_PX, PAIR_GAP_PX = 4, 10


def camera_azimuths(frame: Frame) -> NDArray[np.float64]:
    """Return (V,) directions of view in radians: 0 ahead, positive to the left."""
    if frame.rig is None:
        return np.zeros(0)
    # The optical axis is the third row of a camera's rotation; then into the ego frame (x forward).
    axes = to_numpy(frame.rig.cam_SE3_ref)[:, 2, :3] @ to_numpy(frame.ego_SE3_ref.rotation).T
    result: NDArray[np.float64] = np.arctan2(axes[:, 1], axes[:, 0])
    return result


def camera_rows(frame: Frame) -> list[list[int]]:
    """Order the cameras as one looks around: front views from left to right, then back views.

    A back view is not mirrored; the camera on the vehicle's left stands on the left in both rows.
    The directions come from the extrinsics, so other rigs work too.

    Returns:
        One or two rows of indices into the rig.
    """
    if frame.rig is None:
        return []
    azimuth = np.degrees(camera_azimuths(frame))
    front = [i for i in np.argsort(-azimuth, kind="stable").tolist() if abs(azimuth[i]) <= 90]
    back = [i for i in np.argsort(azimuth % 360, kind="stable").tolist() if abs(azimuth[i]) > 90]
    return [row for row in (front, back) if row]


def layout_tiles(
    frame: Frame, tile_width_px: int, top_px: int = 0, *, layers: int = 1
) -> list[Tile]:
    """Place every camera; a row is as high as its highest image at the common width.

    Args:
        frame: The sample.
        tile_width_px: Width of every image.
        top_px: Where the first row begins.
        layers: How often every row is repeated below itself, for truth above prediction.
    """
    rig = frame.rig
    if rig is None:
        return []
    tiles: list[Tile] = []
    matrices = to_numpy(rig.ref_to_image())
    top = top_px
    for row in camera_rows(frame):
        for layer in range(layers):
            heights = []
            for column, camera in enumerate(row):
                height, width = (int(n) for n in rig.image_hw[camera].tolist())
                scale = tile_width_px / width
                tile_height = max(1, round(height * scale))
                resize = np.diag([scale, tile_height / height, 1.0, 1.0])
                left = column * (tile_width_px + GAP_PX)
                place = (left, top, tile_height, tile_width_px)
                tiles.append(Tile(camera, layer, rig.names[camera], *place,
                                  resize @ matrices[camera]))  # fmt: skip
                heights.append(tile_height)
            top += max(heights) + GAP_PX
        # Rows that belong together stand closer than rows that do not.
        top += PAIR_GAP_PX if layers > 1 else 0
    return tiles


def draw_cameras(
    frame: Frame,
    prediction: Prediction | None = None,
    *,
    classes: tuple[str, ...] = NUSCENES_CLASSES,
    min_score: float | None = None,
    tile_width_px: int = 640,
    layout: Literal["side", "overlay"] = "side",
    with_points: bool = False,
    with_labels: bool = True,
) -> NDArray[np.uint8]:
    """Draw the mosaic of one sample.

    Args:
        frame: The sample. Without images the tiles stay dark and say so.
        prediction: Boxes with scores of the same sample.
        classes: Class names by label.
        min_score: Predictions below it are not drawn; None chooses it by
            :func:`perception3d.viewer.drawable.balanced_score`.
        tile_width_px: Width of one camera's image.
        layout: With a prediction: "side" shows every camera twice, the prediction right below
            the truth; "overlay" shows it once, the truth dashed below the prediction.
        with_points: Project the LiDAR points, coloured by depth.
        with_labels: Write the names of large boxes beside them.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: When the prediction is of another sample, or a tile is narrower than 32 pixels.
    """
    check_same_sample(frame, prediction)
    if tile_width_px < 32:
        raise ValueError(f"tile_width_px = {tile_width_px}; give at least 32")
    truth, predicted = truth_arrays(frame, classes), None
    score = frame_score(truth, prediction, min_score)
    layers: list[tuple[BoxArrays | None, BoxArrays | None]] = [(truth, None)]
    if prediction is not None:
        predicted = prediction_arrays(prediction, classes, score)
        layers = [(truth, None), (None, predicted)]
        if layout == "overlay" or truth is None:
            layers = [(truth, predicted)]
    tiles = layout_tiles(frame, tile_width_px, HEADER_PX, layers=len(layers))
    width = round(max((tile.rect[2] for tile in tiles), default=tile_width_px))
    bottom = round(max((tile.rect[3] for tile in tiles), default=HEADER_PX + tile_width_px / 2))
    rows = wrap(_legend(truth, predicted, classes, len(layers) == 1, with_points), width)
    image = np.full((bottom + legend_height(rows), width, 3), PANEL, dtype=np.uint8)
    for tile in tiles:
        _paint_tile(image, frame, tile, with_points)
    canvas = Canvas(image)
    for tile in tiles:
        _draw_tile(canvas, frame, tile, layers[tile.layer], with_labels)
    if not tiles:
        middle = (width / 2, (HEADER_PX + bottom) / 2)
        canvas.text(middle, "no cameras in this frame", FAINT_TEXT, size_px=16, anchor="center")
    note = boxes_note(truth, predicted, score)
    if len(layers) == 2:
        note = note.replace("truth dashed", "truth above").replace("solid", "below")
    if with_points and frame.points is None:
        note += ", no points"
    draw_header(canvas, frame, note)
    draw_legend(canvas, rows, bottom)
    return canvas.rgb()


def _legend(
    truth: BoxArrays | None,
    predicted: BoxArrays | None,
    classes: tuple[str, ...],
    overlay: bool,
    with_points: bool,
) -> list[list[Entry]]:
    keys = line_entries(truth is not None, predicted is not None, overlay=overlay)
    keys += box_entries(truth)
    if with_points:
        keys.append(Entry("depth of a point, 2 to 60 m", "ramp", depth_ramp()))
    return [class_entries(classes, truth), keys]


def _draw_tile(
    canvas: Canvas,
    frame: Frame,
    tile: Tile,
    layer: tuple[BoxArrays | None, BoxArrays | None],
    with_labels: bool,
) -> None:
    """Draw one camera's boxes, labels, name and notes."""
    truth, predicted = layer
    caption = tile.name
    if (truth is None) != (predicted is None):
        caption += "   truth" if predicted is None else "   prediction"
    labels = LabelLayout(tile.rect)
    left, top = tile.left_px, tile.top_px
    labels.reserve((left, top, left + 16 + text_width(caption, 12, bold=True), top + 26))
    named = labels if with_labels else None
    if truth is not None:
        over = predicted is not None
        draw_camera_boxes(canvas, tile, truth, dashed=over, labels=None if over else named)
    if predicted is not None:
        draw_camera_boxes(canvas, tile, predicted, labels=named)
    at = (left + 9.0, top + 14.0)
    canvas.text(at, caption, TEXT, size_px=12, bold=True, background=BACKGROUND)
    if frame.images is None:
        middle = (left + tile.width_px / 2, top + tile.height_px / 2)
        canvas.text(middle, "no image", FAINT_TEXT, size_px=16, anchor="center")


def _paint_tile(mosaic: NDArray[np.uint8], frame: Frame, tile: Tile, with_points: bool) -> None:
    import cv2

    left, top, size = tile.left_px, tile.top_px, (tile.width_px, tile.height_px)
    place = mosaic[top : top + tile.height_px, left : left + tile.width_px]
    if frame.images is None:
        place[:] = BACKGROUND
    else:
        source = to_numpy(frame.images[tile.camera])
        method = cv2.INTER_AREA if source.shape[1] > tile.width_px else cv2.INTER_CUBIC
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


def camera_matrices(rig: CameraRig) -> NDArray[np.float64]:
    """Return (V, 3, 4) projections: (x, y, z, 1) of `ref` in metres -> (u d, v d, d) in pixels."""
    matrices: NDArray[np.float64] = to_numpy(rig.ref_to_image())[:, :3]
    return matrices
