"""What explains a picture: the lines above it and the legend below it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from perception3d.structures import Frame
from perception3d.viewer.canvas import Canvas, text_width
from perception3d.viewer.colors import (
    BACKGROUND,
    FAINT_TEXT,
    HEIGHT_RANGE_M,
    TEXT,
    Rgb,
    class_color,
    height_ramp,
    intensity_ramp,
    map_color,
    map_weight,
)
from perception3d.viewer.drawable import BoxArrays
from perception3d.viewer.ground import LINES

HEADER_PX = 52
_SIZE_PX, _ROW_PX, _PAD_PX, _SPACE_PX, _MARK_GAP_PX = 12.5, 25, 9, 20.0, 6.0
_MARK_PX = {
    "swatch": 12.0,
    "area": 16.0,
    "solid": 26.0,
    "dashed": 26.0,
    "arrow": 24.0,
    "ramp": 64.0,
}


@dataclass(frozen=True)
class Entry:
    """One line of a legend.

    Attributes:
        label: What the mark means.
        mark: A class's colour, a map area, a line, an arrow, or a range of colours.
        colors: Colour of the mark; of a ramp, from low to high.
    """

    label: str
    mark: Literal["swatch", "area", "solid", "dashed", "arrow", "ramp"]
    colors: Sequence[Rgb]

    @property
    def width_px(self) -> float:
        """Width of mark and label."""
        return _MARK_PX[self.mark] + _MARK_GAP_PX + text_width(self.label, _SIZE_PX)


Rows = list[list[Entry]]


def class_entries(classes: Sequence[str], truth: BoxArrays | None = None) -> list[Entry]:
    """One swatch a class, and one for ignored classes where the truth holds such boxes."""
    names = tuple(classes)
    entries = [
        Entry(name.replace("_", " "), "swatch", [class_color(label, names)])
        for label, name in enumerate(names)
    ]
    if truth is not None and (truth.label < 0).any():
        entries.append(Entry("ignored", "swatch", [class_color(-1, names)]))
    return entries


def map_entries(names: Sequence[str]) -> list[Entry]:
    """One area a map class, in the colour that it has over the ground of the picture."""
    texts = {"ped_crossing": "crossing", "carpark_area": "car park", "stop_line": "stop line"}
    entries = []
    for name in names:
        ground = np.array(BACKGROUND, dtype=np.float64)
        r, g, b = (ground + map_weight(name) * (np.array(map_color(name)) - ground)).astype(int)
        label = texts.get(name, name.replace("_", " "))
        shown = [(int(r), int(g), int(b)), map_color(name)]
        entries.append(Entry(label, "solid" if name in LINES else "area", shown))
    return entries


def line_entries(truth: bool, prediction: bool, *, overlay: bool) -> list[Entry]:
    """How truth and prediction are told apart where both lie in one picture."""
    if not (truth and prediction and overlay):
        return []
    return [Entry("truth", "dashed", [TEXT]), Entry("prediction", "solid", [TEXT])]


def box_entries(truth: BoxArrays | None) -> list[Entry]:
    """How boxes are drawn in perspective."""
    entries = [Entry("tinted: front", "area", [(90, 96, 104), TEXT])]
    if truth is not None and (truth.num_points == 0).any():
        entries.insert(0, Entry("faint: no LiDAR point inside", "solid", [FAINT_TEXT]))
    return entries


def point_entry(color_by: str) -> Entry:
    """Say what the colour of a point means."""
    if color_by == "intensity":
        return Entry("intensity, dull to bright", "ramp", intensity_ramp())
    low, high = HEIGHT_RANGE_M
    return Entry(f"height of a point, {low:g} to {high:g} m".replace("-", "\u2212"), "ramp",
                 height_ramp())  # fmt: skip


def wrap(groups: Sequence[Sequence[Entry]], width_px: float) -> Rows:
    """Break entries into rows as few and as even as the width allows; a group begins a new row."""
    limit = width_px - 2 * _PAD_PX
    rows: Rows = []
    for group in groups:
        best = _fill(group, limit)
        for share in np.linspace(0.98, 0.4, 30):
            even = _fill(group, limit * share)
            if len(even) > len(best):
                break
            best = even
        rows += best
    return rows


def _fill(group: Sequence[Entry], limit_px: float) -> Rows:
    rows: Rows = []
    used = np.inf
    for entry in group:
        if used + entry.width_px > limit_px:
            rows.append([])
            used = 0.0
        rows[-1].append(entry)
        used += entry.width_px + _SPACE_PX
    return rows


def legend_height(rows: Rows) -> int:
    """Height of a legend in pixels."""
    return len(rows) * _ROW_PX + 2 * _PAD_PX if rows else 0


def draw_legend(canvas: Canvas, rows: Rows, top_px: float) -> None:
    """Draw the rows, each centred, below ``top_px``."""
    for number, row in enumerate(rows):
        middle = top_px + _PAD_PX + (number + 0.5) * _ROW_PX
        total = sum(entry.width_px for entry in row) + _SPACE_PX * (len(row) - 1)
        u = max((canvas.width - total) / 2, float(_PAD_PX))
        for entry in row:
            _draw_mark(canvas, entry, u, middle)
            at = (u + _MARK_PX[entry.mark] + _MARK_GAP_PX, middle)
            canvas.text(at, entry.label, TEXT, size_px=_SIZE_PX)
            u += entry.width_px + _SPACE_PX


def _draw_mark(canvas: Canvas, entry: Entry, u: float, middle: float) -> None:
    width = _MARK_PX[entry.mark]
    first = entry.colors[0]
    unit = np.array([(0, -0.5), (1, -0.5), (1, 0.5), (0, 0.5)])
    at = np.array([u, middle])
    if entry.mark == "swatch":
        canvas.polygon(at + unit * width, fill=first)
    elif entry.mark == "area":
        edge = entry.colors[-1]
        canvas.polygon(at + unit * (width, 12), fill=first, edge=edge, edge_alpha=0.8, width_px=1.0)
    elif entry.mark == "ramp":
        steps = 32
        places = np.linspace(0, len(entry.colors) - 1, steps)
        channels = np.array(entry.colors, dtype=np.float64).T
        shades = [np.interp(places, np.arange(len(entry.colors)), channel) for channel in channels]
        for i, shade in enumerate(np.stack(shades, axis=1)):
            piece = at + (unit * (width / steps + 0.5, 10)) + np.array([i * width / steps, 0])
            canvas.polygon(piece, fill=shade.tolist())
    elif entry.mark == "arrow":
        canvas.arrow(at, at + np.array([width, 0]), first, width_px=1.4, head_px=7)
    else:
        ends = np.stack([at, at + np.array([width, 0])])[None]
        canvas.lines(ends, first, width_px=1.8, dashed=entry.mark == "dashed")


def boxes_note(
    truth: BoxArrays | None,
    predicted: BoxArrays | None,
    min_score: float,
    *,
    truth_wanted: bool = True,
) -> str:
    """Say what boxes a panel holds, how many, and which is which where it holds both kinds."""
    both = truth is not None and predicted is not None
    parts = []
    if truth is not None:
        parts.append(f"truth{' dashed' if both else ''}: {_count(truth)}")
    elif truth_wanted:
        parts.append("no annotation")
    if predicted is not None:
        name = "prediction solid" if both else "prediction"
        parts.append(f"{name}: {_count(predicted)} with score \u2265 {min_score:g}")
    return ", ".join(parts)


def _count(boxes: BoxArrays) -> str:
    return f"{len(boxes)} box{'' if len(boxes) == 1 else 'es'}"


def draw_header(canvas: Canvas, frame: Frame, note: str) -> None:
    """Name the sample in the first line and what is drawn of it in the second."""
    title = f"{frame.log}   {frame.token}" if canvas.width > 1000 else frame.token
    canvas.text((14, HEADER_PX * 0.36), title, TEXT, size_px=15, bold=True)
    canvas.text((14, HEADER_PX * 0.76), note, FAINT_TEXT, size_px=12)
