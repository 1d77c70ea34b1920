"""Pieces that several pictures share: labels, legend, map, the score from which boxes are drawn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perception3d.structures import BEVGrid, MapRaster
from perception3d.structures.taxonomy import CLASS_COLORS, NUSCENES_CLASSES
from perception3d.viewer.canvas import Canvas, text_width
from perception3d.viewer.colors import TEXT, class_color
from perception3d.viewer.drawable import balanced_score, truth_arrays
from perception3d.viewer.ground import FADE_M, fade, paint_map, reach_m
from perception3d.viewer.labels import LabelLayout
from perception3d.viewer.legend import (
    Entry,
    class_entries,
    draw_legend,
    legend_height,
    line_entries,
    map_entries,
    point_entry,
    wrap,
)

Make = Callable[..., Any]
MAP_CLASSES = ("drivable_area", "ped_crossing", "walkway", "stop_line", "carpark_area", "divider")
places = st.tuples(st.floats(-20, 220), st.floats(-20, 120))


@given(st.lists(st.tuples(st.floats(5, 60), places, places), max_size=25))
@settings(max_examples=60, deadline=None)
def test_labels_stay_inside_and_apart(wishes: list[tuple[float, Any, Any]]) -> None:
    layout = LabelLayout((0.0, 0.0, 200.0, 100.0))
    layout.reserve((0.0, 0.0, 80.0, 20.0))
    rects = [(0.0, 0.0, 80.0, 20.0)]
    for width, *corners in wishes:
        rect = layout.place(width, 14.0, corners)
        if rect is None:
            continue
        assert rect[0] >= 0 and rect[2] <= 200 + 1e-9 and rect[1] >= 0 and rect[3] <= 100
        for other in rects:
            apart = (rect[2] <= other[0], other[2] <= rect[0], rect[3] <= other[1],
                     other[3] <= rect[1])  # fmt: skip
            assert any(apart)
        rects.append(rect)


def test_the_first_label_takes_the_first_wish() -> None:
    layout = LabelLayout((0.0, 0.0, 200.0, 100.0))
    assert layout.place(50, 10, [(5.0, 5.0), (80.0, 5.0)]) == (5.0, 5.0, 55.0, 15.0)
    assert layout.place(50, 10, [(5.0, 5.0), (80.0, 5.0)]) == (80.0, 5.0, 130.0, 15.0)
    assert layout.place(50, 10, [(5.0, 5.0), (80.0, 5.0)]) is None
    assert layout.place(300, 10, [(5.0, 50.0)]) is None


@pytest.mark.parametrize("width", [320, 900, 1800])
def test_the_legend_fits_and_shows_every_colour(width: int) -> None:
    keys: list[Entry] = [
        *line_entries(True, True, overlay=True),
        *map_entries(MAP_CLASSES),
        point_entry("height"),
    ]
    rows = wrap([class_entries(NUSCENES_CLASSES), keys], width)
    canvas = Canvas(np.zeros((legend_height(rows), width, 3), np.uint8))
    draw_legend(canvas, rows, 0)
    image = canvas.rgb()
    columns = np.nonzero(image.any(axis=(0, 2)))[0]
    assert columns.min() >= 4 and columns.max() < width - 3
    assert sum(len(row) for row in rows) == len(NUSCENES_CLASSES) + len(keys)
    for label in range(len(NUSCENES_CLASSES)):
        assert (image == class_color(label, NUSCENES_CLASSES)).all(axis=2).sum() > 60


def test_line_styles_are_explained_where_both_lie_in_one_picture() -> None:
    marks = [(entry.label, entry.mark) for entry in line_entries(True, True, overlay=True)]
    assert marks == [("truth", "dashed"), ("prediction", "solid")]
    assert line_entries(True, True, overlay=False) == line_entries(True, False, overlay=True) == []


def test_colours_of_classes_differ() -> None:
    colors = [np.array(CLASS_COLORS[name]) for name in NUSCENES_CLASSES]
    assert len({tuple(color) for color in colors}) == len(NUSCENES_CLASSES)


@pytest.mark.parametrize("text", ["car", "construction vehicle 0.46"])
def test_text_is_as_wide_as_measured(text: str) -> None:
    canvas = Canvas(np.zeros((40, 400, 3), np.uint8))
    canvas.text((20, 20), text, TEXT, size_px=16, bold=True)
    columns = np.nonzero(canvas.rgb().any(axis=(0, 2)))[0]
    assert abs(columns.max() - columns.min() - text_width(text, 16, bold=True)) < 4


def test_the_map_fades_towards_its_border() -> None:
    grid = BEVGrid((-30.0, 30.0), (-40.0, 40.0), (-5.0, 3.0), 0.5)
    mask = torch.ones(1, grid.ny, grid.nx, dtype=torch.bool)
    opacity = paint_map(MapRaster(mask, ("drivable_area",), grid))[..., 3]
    assert opacity.shape == (grid.ny, grid.nx)
    across = opacity[grid.ny // 2]
    inner = round(FADE_M / grid.cell_m)
    assert np.ptp(across[inner + 2 : -inner - 2]) < 1e-3
    assert across[0] < 0.02 * across[60] and (np.diff(across[:inner]) > 0).all()
    assert np.allclose(opacity, opacity[::-1, ::-1], atol=1e-6)
    assert reach_m(grid) == 30.0
    narrow = BEVGrid((-4.0, 4.0), (-4.0, 4.0), (-5.0, 3.0), 0.5)
    assert fade(narrow).max() == 1.0


def test_as_many_predictions_are_drawn_as_boxes_can_be_seen(
    make_frame: Make, make_boxes: Make
) -> None:
    truth = truth_arrays(make_frame(boxes=make_boxes(*[(0.0, 9.0, 0.1)] * 3)))
    scores = np.array([0.9, 0.35, 0.237, 0.2, 0.1])
    assert balanced_score([truth], [scores]) == 0.23
    assert balanced_score([truth, truth], [scores, scores + 0.01]) == 0.23
    # The bounds: a model that is sure of everything, and one that is sure of nothing.
    assert balanced_score([truth], [np.full(300, 0.97)]) == 0.4
    assert balanced_score([truth], [np.full(300, 0.03)]) == 0.1
    # Without annotation, or without prediction.
    assert balanced_score([None], [scores]) == 0.25
    assert balanced_score([truth], [np.zeros(0)]) == 0.25
