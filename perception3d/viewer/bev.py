"""The scene from above: points, map, boxes with heading and velocity, truth beside prediction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from perception3d.structures import Frame, MapRaster, PointCloud, Prediction
from perception3d.structures.taxonomy import NUSCENES_CLASSES
from perception3d.viewer.canvas import Canvas, Rect, text_width
from perception3d.viewer.colors import (
    BACKGROUND,
    EGO,
    FAINT_TEXT,
    LINE,
    PANEL,
    TEXT,
    height_colors,
    intensity_colors,
    text_color,
)
from perception3d.viewer.drawable import (
    BoxArrays,
    check_same_sample,
    ego_outline,
    frame_score,
    prediction_arrays,
    to_numpy,
    truth_arrays,
    up_rotation,
)
from perception3d.viewer.ground import paint_map
from perception3d.viewer.labels import LabelLayout
from perception3d.viewer.legend import (
    HEADER_PX,
    Entry,
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

Floats = NDArray[Any]
GAP_PX = 8
VELOCITY_S = 1.0
"""A velocity arrow ends where the object will be after this time."""


@dataclass(frozen=True)
class BevView:
    """The square of `ref` that a panel shows, and where it lies in the picture.

    Attributes:
        extent_m: Half side of the square around the origin of `ref`.
        size_px: Side of the panel.
        left_px, top_px: Top left corner of the panel in the picture.
        turn: (2, 2) rotation of `ref` before drawing, see :func:`up_rotation`.
    """

    extent_m: float
    size_px: int
    left_px: float
    top_px: float
    turn: NDArray[np.float64]

    @property
    def px_per_m(self) -> float:
        """Scale."""
        return self.size_px / (2.0 * self.extent_m)

    @property
    def rect(self) -> Rect:
        """Left, top, right, bottom in pixels."""
        return (
            self.left_px,
            self.top_px,
            self.left_px + self.size_px,
            self.top_px + self.size_px,
        )

    def to_pixels(self, xy_m: Floats) -> NDArray[np.float64]:
        """Map (..., 2) metres of `ref` to pixels (u, v): x (turned) to the right, y up."""
        turned = np.asarray(xy_m, dtype=np.float64) @ self.turn.T
        u = self.left_px + (turned[..., 0] + self.extent_m) * self.px_per_m
        v = self.top_px + (self.extent_m - turned[..., 1]) * self.px_per_m
        return np.stack([u, v], axis=-1)


def draw_bev(
    frame: Frame,
    prediction: Prediction | None = None,
    *,
    classes: tuple[str, ...] = NUSCENES_CLASSES,
    min_score: float | None = None,
    extent_m: float = 52.0,
    size_px: int = 900,
    layout: Literal["side", "overlay"] = "side",
    color_by: Literal["height", "intensity"] = "height",
    map_threshold: float = 0.5,
) -> NDArray[np.uint8]:
    """Draw one sample from above.

    Without a prediction there is one panel with the truth; with one there are two side by side,
    or, in the layout "overlay", one with the truth dashed below the prediction. A predicted map
    lies below the predicted boxes. What the frame lacks is noted in the picture. The vehicle's
    front points up.

    Args:
        frame: The sample; boxes, points, map and all coordinates in `ref`.
        prediction: Boxes with scores of the same sample.
        classes: Class names by label.
        min_score: Predictions below it are not drawn; None chooses it by
            :func:`perception3d.viewer.drawable.balanced_score`.
        extent_m: Half side of the square shown.
        size_px: Side of a panel.
        layout: See above.
        color_by: What the colour of a point tells.
        map_threshold: A cell of a predicted map is drawn from this probability on.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: When the prediction is of another sample, or the extent or size is not positive.
    """
    check_same_sample(frame, prediction)
    if not extent_m > 0 or size_px < 64:
        raise ValueError(
            f"extent_m = {extent_m} and size_px = {size_px}; give an extent > 0 and a size >= 64"
        )
    truth, predicted = truth_arrays(frame, classes), None
    panels: list[tuple[BoxArrays | None, BoxArrays | None]] = [(truth, None)]
    score = 0.0
    if prediction is not None:
        score = frame_score(truth, prediction, min_score)
        predicted = prediction_arrays(prediction, classes, score)
        panels = [(truth if layout == "overlay" else None, predicted)]
        if layout == "side":
            panels.insert(0, (truth, None))
    views = [
        BevView(extent_m, size_px, i * (size_px + GAP_PX), HEADER_PX, up_rotation(frame))
        for i in range(len(panels))
    ]
    width = len(panels) * (size_px + GAP_PX) - GAP_PX
    drawn_map = None if prediction is None else predicted_map(prediction, map_threshold)
    shown = [raster for raster in (frame.map, drawn_map) if raster is not None]
    names = tuple(dict.fromkeys(name for raster in shown for name in raster.classes))
    rows = wrap(_legend(frame, classes, names, predicted, color_by, layout == "overlay"), width)
    height = HEADER_PX + size_px + legend_height(rows)
    image = np.full((height, width, 3), PANEL, dtype=np.uint8)
    for (_, boxes), view in zip(panels, views, strict=True):
        raster = frame.map if drawn_map is None or boxes is None else drawn_map
        left = int(view.left_px)
        ground = _ground(frame, raster, views[0], color_by)
        image[HEADER_PX : HEADER_PX + size_px, left : left + size_px] = ground
    canvas = Canvas(image)
    for (truth_boxes, predicted_boxes), view in zip(panels, views, strict=True):
        _draw_panel(canvas, view, frame, truth_boxes, predicted_boxes)
        wanted = predicted_boxes is None or layout == "overlay"
        title = boxes_note(truth_boxes, predicted_boxes, score, truth_wanted=wanted)
        _draw_panel_title(canvas, view, title, frame)
    points = "no points" if frame.points is None else f"{len(frame.points):,} LiDAR points"
    note = f"{points}, {2 * extent_m:g} m from side to side, the vehicle's front points up"
    if drawn_map is not None:
        note += f"; map predicted where its probability is \u2265 {map_threshold:g}"
    draw_header(canvas, frame, note)
    draw_legend(canvas, rows, HEADER_PX + size_px)
    return canvas.rgb()


def _draw_panel(
    canvas: Canvas,
    view: BevView,
    frame: Frame,
    truth: BoxArrays | None,
    predicted: BoxArrays | None,
) -> None:
    """Draw range rings, the own car, boxes and scores."""
    _draw_rings(canvas, view)
    canvas.polygon(view.to_pixels(ego_outline(frame)), fill=EGO, fill_alpha=0.9, clip=view.rect)
    if truth is not None:
        draw_boxes(canvas, view, truth, dashed=predicted is not None)
    if predicted is not None:
        draw_boxes(canvas, view, predicted)
        _draw_scores(canvas, view, predicted)


def _legend(
    frame: Frame,
    classes: tuple[str, ...],
    map_classes: tuple[str, ...],
    predicted: BoxArrays | None,
    color_by: str,
    overlay: bool,
) -> list[list[Entry]]:
    """Collect what the picture holds: class colours, then lines, map areas and points."""
    keys = line_entries(frame.boxes is not None, predicted is not None, overlay=overlay)
    keys.append(Entry(f"way in {VELOCITY_S:g} s", "arrow", [EGO]))
    keys += map_entries(map_classes)
    if frame.points is not None and len(frame.points):
        keys.append(point_entry(color_by))
    return [class_entries(classes, truth_arrays(frame, classes)), keys]


def predicted_map(prediction: Prediction, threshold: float = 0.5) -> MapRaster | None:
    """The map of a prediction where its probabilities reach a threshold; None where it has none."""
    if prediction.map_prob is None or prediction.map_classes is None or prediction.grid is None:
        return None
    return MapRaster(prediction.map_prob >= threshold, prediction.map_classes, prediction.grid)


def _ground(
    frame: Frame, raster: MapRaster | None, view: BevView, color_by: str
) -> NDArray[np.uint8]:
    """Paint map and points of a panel: (size, size, 3) uint8."""
    panel = np.empty((view.size_px, view.size_px, 3), dtype=np.uint8)
    panel[:] = BACKGROUND
    local = BevView(view.extent_m, view.size_px, 0.0, 0.0, view.turn)
    if raster is not None:
        _paint_map(panel, raster, local)
    if frame.points is not None and len(frame.points):
        _paint_points(panel, frame.points, local, color_by)
    return panel


def _paint_map(panel: NDArray[np.uint8], raster: MapRaster, view: BevView) -> None:
    import cv2

    grid = raster.grid
    # Pixel centres of the panel -> cell coordinates of the grid, an affine map.
    corners = np.array(
        [(grid.x_m[0], grid.y_m[0]), (grid.x_m[1], grid.y_m[0]), (grid.x_m[0], grid.y_m[1])]
    )
    cells = np.array([(0.0, 0.0), (grid.nx, 0.0), (0.0, grid.ny)], dtype=np.float32) - 0.5
    pixels = (view.to_pixels(corners) - 0.5).astype(np.float32)
    affine = cv2.getAffineTransform(cells.astype(np.float32), pixels)
    size = (view.size_px, view.size_px)
    picture = cv2.warpAffine(paint_map(raster), affine, size, flags=cv2.INTER_LINEAR)
    blended = picture[..., :3] + (1.0 - picture[..., 3:]) * panel.astype(np.float32)
    panel[:] = blended.round().clip(0, 255).astype(np.uint8)


def _paint_points(
    panel: NDArray[np.uint8], points: PointCloud, view: BevView, color_by: str
) -> None:
    xyz = to_numpy(points.xyz_m)
    colors = (
        height_colors(xyz[:, 2])
        if color_by == "height"
        else intensity_colors(to_numpy(points.intensity))
    )
    cells = np.floor(view.to_pixels(xyz[:, :2])).astype(np.int64)
    order = np.argsort(xyz[:, 2], kind="stable")  # The highest point of a pixel is painted last.
    cells, colors = cells[order], colors[order]
    for du, dv in ((1, 0), (0, 1), (0, 0)) if view.px_per_m > 6 else ((0, 0),):
        u, v = cells[:, 0] + du, cells[:, 1] + dv
        inside = (u >= 0) & (u < view.size_px) & (v >= 0) & (v < view.size_px)
        soft = 1.0 if (du, dv) == (0, 0) else 0.55
        panel[v[inside], u[inside]] = (colors[inside] * soft).astype(np.uint8)


def _draw_rings(canvas: Canvas, view: BevView) -> None:
    step = next(s for s in (5, 10, 20, 25, 50, 100, 1000) if view.extent_m / s <= 6)
    center = view.to_pixels(np.zeros(2))
    for radius in range(step, int(view.extent_m * 1.42) + 1, step):
        canvas.circle(center, radius * view.px_per_m, LINE, width_px=1.0, alpha=0.9, clip=view.rect)
        if radius < view.extent_m:
            at = center + np.array([0.7071, 0.7071]) * radius * view.px_per_m
            canvas.text(
                at,
                f"{radius} m",
                FAINT_TEXT,
                size_px=11,
                anchor="center",
                background=BACKGROUND,
                background_alpha=0.55,
                clip=view.rect,
            )


def draw_boxes(canvas: Canvas, view: BevView, boxes: BoxArrays, *, dashed: bool = False) -> None:
    """Draw boxes from above: outline, heading from the centre to the front, velocity."""
    footprints = view.to_pixels(boxes.corners_m[:, :4, :2])
    centers = view.to_pixels(boxes.center_m[:, :2])
    left, top, right, bottom = view.rect
    for i, (footprint, center, color) in enumerate(
        zip(footprints, centers, boxes.colors, strict=True)
    ):
        low, high = footprint.min(axis=0), footprint.max(axis=0)
        if high[0] < left or low[0] > right or high[1] < top or low[1] > bottom:
            continue
        canvas.polygon(
            footprint,
            fill=color,
            fill_alpha=0.0 if dashed else 0.22,
            edge=color,
            width_px=1.3 if dashed else 1.7,
            dashed=dashed,
            clip=view.rect,
        )
        front = footprint[[0, 3]]
        nose = front.mean(axis=0)
        if not dashed:
            canvas.lines(front[None], color, width_px=3.2, clip=view.rect)
        heading = np.stack([center, nose])[None]
        canvas.lines(heading, color, width_px=1.3, dashed=dashed, clip=view.rect)
        velocity = boxes.velocity_mps[i]
        if np.isfinite(velocity).all() and np.hypot(*velocity) > 0.3:
            tip = view.to_pixels(boxes.center_m[i, :2] + velocity * VELOCITY_S)
            canvas.arrow(
                center, tip, (255, 255, 255), width_px=1.2, head_px=6, alpha=0.85, clip=view.rect
            )


def _draw_scores(canvas: Canvas, view: BevView, boxes: BoxArrays) -> None:
    """Write scores beside their boxes, the best first, none over another or over the title."""
    assert boxes.score is not None
    layout = LabelLayout(view.rect)
    layout.reserve((view.left_px, view.top_px, view.left_px + view.size_px, view.top_px + 34))
    footprints = view.to_pixels(boxes.corners_m[:, :4, :2])
    left, top, right, bottom = view.rect
    for i in np.argsort(-boxes.score, kind="stable").tolist():
        low, high = footprints[i].min(axis=0), footprints[i].max(axis=0)
        if high[0] < left or low[0] > right or high[1] < top or low[1] > bottom:
            continue
        text = f"{boxes.score[i]:.2f}"
        wide, tall = text_width(text, 9.5), 11.0
        middle = float(low[1] + high[1] - tall) / 2
        corners = [(float(high[0]) + 3, middle), (float(low[0]) - 3 - wide, middle)]
        place = layout.place(wide, tall, corners)
        if place is not None:
            at = (place[0], (place[1] + place[3]) / 2)
            canvas.text(at, text, text_color(boxes.colors[i]), size_px=9.5, clip=view.rect)


def _draw_panel_title(canvas: Canvas, view: BevView, title: str, frame: Frame) -> None:
    left, top, _, bottom = view.rect
    canvas.text((left + 14, top + 20), title, TEXT, size_px=15, bold=True, background=BACKGROUND)
    note = ""
    if frame.points is None:
        note = "no points in this frame"
    elif len(frame.points) == 0:
        note = "the point cloud is empty"
    canvas.text((left + 14, bottom - 20), note, FAINT_TEXT, size_px=13, background=BACKGROUND)
