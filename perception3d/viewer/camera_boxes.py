"""Boxes drawn into one camera's image so that the image stays visible."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perception3d.viewer.canvas import Canvas, Rect, text_width
from perception3d.viewer.colors import BACKGROUND, text_color
from perception3d.viewer.drawable import BoxArrays
from perception3d.viewer.labels import LabelLayout
from perception3d.viewer.outlines import (
    NEAR_M,
    to_homogeneous_pixels,
    visible_edges,
    visible_front,
)

FACE_ALPHA, FACE_LARGEST_SHARE = 0.13, 0.1
"""The front face is tinted to show the heading, unless the box covers more of the image."""
LABEL_SMALLEST_SHARE = 0.1
"""A box lower than this share of the image's height carries no label."""
LABEL_WIDEST = 3.0
"""Nor does one that its label would exceed so many times in width."""
_LABEL_PX, _LABEL_HEIGHT_PX, _LABEL_PAD_PX = 10.5, 15.0, 3.0


@dataclass(frozen=True)
class Tile:
    """One camera's place in a mosaic.

    Attributes:
        camera: Index in the rig.
        layer: Number of the copy; a mosaic may show a camera more than once.
        name: Channel name.
        left_px, top_px: Top left corner in the mosaic.
        height_px, width_px: Size in the mosaic.
        ref_to_tile: (4, 4), homogeneous metres of `ref` to the tile's pixels, (u d, v d, d, 1).
    """

    camera: int
    layer: int
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


@dataclass(frozen=True)
class _Seen:
    """What one box leaves on a tile: cut edges (S, 2, 2) and its bounds in the mosaic's pixels."""

    index: int
    segments: NDArray[np.float64]
    bounds: Rect
    depth_m: float
    reaches_behind: bool

    @property
    def height_px(self) -> float:
        return self.bounds[3] - self.bounds[1]

    @property
    def area_px(self) -> float:
        return (self.bounds[2] - self.bounds[0]) * self.height_px


def _seen_boxes(tile: Tile, boxes: BoxArrays) -> list[_Seen]:
    """Find the boxes that show in a tile, the farthest first."""
    hw = (tile.height_px, tile.width_px)
    segments, owner = visible_edges(boxes.corners_m, tile.ref_to_tile, hw)
    segments = segments + tile.offset
    depth = to_homogeneous_pixels(boxes.center_m, tile.ref_to_tile)[:, 2]
    nearest = to_homogeneous_pixels(boxes.corners_m, tile.ref_to_tile)[..., 2].min(axis=1)
    seen = []
    for i in np.unique(owner).tolist():
        mine = segments[owner == i]
        (left, top), (right, bottom) = mine.min(axis=(0, 1)), mine.max(axis=(0, 1))
        bounds = (float(left), float(top), float(right), float(bottom))
        seen.append(_Seen(i, mine, bounds, float(depth[i]), bool(nearest[i] < NEAR_M)))
    return sorted(seen, key=lambda one: -one.depth_m)


def draw_camera_boxes(
    canvas: Canvas,
    tile: Tile,
    boxes: BoxArrays,
    *,
    dashed: bool = False,
    labels: LabelLayout | None = None,
    face_alpha: float = FACE_ALPHA,
) -> None:
    """Draw boxes into one tile: edges cut at the borders, the face towards the heading tinted.

    Annotations without a LiDAR point inside are drawn faintly: most of them are hidden.

    Args:
        canvas: The mosaic.
        tile: The camera's place in it.
        boxes: Boxes in `ref`.
        dashed: Thin dashed outlines without tint, for the truth below a prediction.
        labels: Where given, large boxes are named there, by score, else by size.
        face_alpha: Opacity of the tint.
    """
    seen = _seen_boxes(tile, boxes)
    scale = float(np.clip(tile.width_px / 640, 0.6, 1.6))
    for one in seen:
        color = boxes.colors[one.index]
        hidden = boxes.score is None and boxes.num_points[one.index] == 0
        share = one.area_px / (tile.height_px * tile.width_px)
        if not (dashed or hidden or one.reaches_behind or share > FACE_LARGEST_SHARE):
            hw = (tile.height_px, tile.width_px)
            face = visible_front(boxes.corners_m[one.index], tile.ref_to_tile, hw) + tile.offset
            canvas.polygon(face, fill=color, fill_alpha=face_alpha, clip=tile.rect)
        # Thick lines and dark borders would fill a box of a few pixels.
        small = one.height_px < 0.08 * tile.height_px
        width = scale * (1.0 if hidden or small else 1.2 if dashed else 1.7)
        canvas.lines(
            one.segments,
            color,
            width_px=width,
            alpha=0.5 if hidden else 1.0,
            dashed=dashed,
            casing=0.0 if hidden or small else 0.35,
            clip=tile.rect,
        )
    if labels is not None:
        _draw_labels(canvas, tile, boxes, seen, labels)


def _draw_labels(
    canvas: Canvas, tile: Tile, boxes: BoxArrays, seen: list[_Seen], labels: LabelLayout
) -> None:
    scores = boxes.score
    order = sorted(seen, key=lambda one: -one.area_px if scores is None else -scores[one.index])
    for one in order:
        hidden = scores is None and boxes.num_points[one.index] == 0
        least_px = max(LABEL_SMALLEST_SHARE * tile.height_px, 1.3 * _LABEL_HEIGHT_PX)
        if hidden or one.height_px < least_px:
            continue
        text = boxes.names[one.index].replace("_", " ")
        if scores is not None:
            text += f" {scores[one.index]:.2f}"
        wide = text_width(text, _LABEL_PX, bold=True) + 2 * _LABEL_PAD_PX
        left, top, right, bottom = one.bounds
        if wide > LABEL_WIDEST * (right - left):
            continue
        # Above the box, else inside at its upper border, else below it.
        corners = [(left, top - _LABEL_HEIGHT_PX - 1), (left, top + 2), (right - wide, top + 2),
                   (left, bottom + 1)]  # fmt: skip
        place = labels.place(wide, _LABEL_HEIGHT_PX, corners)
        if place is None:
            continue
        left, top, right, bottom = place
        chip = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
        canvas.polygon(chip, fill=BACKGROUND, fill_alpha=0.72, clip=tile.rect)
        canvas.text(
            (left + _LABEL_PAD_PX, (top + bottom) / 2),
            text,
            text_color(boxes.colors[one.index]),
            size_px=_LABEL_PX,
            bold=True,
            clip=tile.rect,
        )
