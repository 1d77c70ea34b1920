"""The row of class colours below a picture."""

from __future__ import annotations

from typing import Literal

import numpy as np

from perception3d.viewer.canvas import Canvas
from perception3d.viewer.colors import TEXT, class_color

_LETTER = 0.56
"""Mean advance of DejaVu Sans as a share of the font size, rounded up."""


def draw_legend(
    canvas: Canvas,
    classes: tuple[str, ...],
    left_middle_px: tuple[float, float],
    width_px: float,
    *,
    anchor: Literal["center", "right"] = "center",
) -> None:
    """Draw a swatch and a name for every class in one row, smaller where the width is short.

    Args:
        canvas: The picture.
        classes: Class names by label.
        left_middle_px: Left end of the row and its middle line.
        width_px: Width of the row.
        anchor: Where the entries stand in the row.
    """
    left, middle = left_middle_px
    letters = sum(len(name) for name in classes)
    # In font sizes: the names, then 1.4 for a swatch and 1.4 for a gap each.
    size = min(12.5, (width_px - 16) / (letters * _LETTER + 2.8 * len(classes)))
    total = size * (letters * _LETTER + 2.8 * len(classes) - 1.4)
    u = left + (width_px - total) * (0.5 if anchor == "center" else 1.0)
    swatch = np.array([(0, 0), (1, 0), (1, 1), (0, 1)]) * size * 0.95
    for label, name in enumerate(classes):
        corner = np.array([u, middle - size * 0.47])
        canvas.polygon(swatch + corner, fill=class_color(label, classes))
        canvas.text((u + size * 1.4, middle), name.replace("_", " "), TEXT, size_px=size)
        u += size * (2.8 + len(name) * _LETTER)
