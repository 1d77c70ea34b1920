from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from perception3d.structures import SE3, BEVGrid, MapRaster
from perception3d.viewer.bev import GAP_PX, BevView, draw_bev, predicted_map
from perception3d.viewer.canvas import Canvas, write_image
from perception3d.viewer.colors import BACKGROUND, class_color, height_colors
from perception3d.viewer.drawable import check_tokens, ego_outline, up_rotation
from perception3d.viewer.legend import HEADER_PX

Make = Callable[..., Any]
VIEW = BevView(20.0, 400, 0.0, float(HEADER_PX), np.eye(2))
CAR = class_color(0, ("car",))


def pixel(image: np.ndarray, x_m: float, y_m: float) -> np.ndarray:
    u, v = VIEW.to_pixels(np.array([x_m, y_m]))
    return image[int(v), int(u)].astype(int)


def draw(frame: Any, **knobs: Any) -> np.ndarray:
    return draw_bev(frame, extent_m=20.0, size_px=400, **knobs)


def near(color: np.ndarray, wanted: tuple[int, int, int], slack: int = 40) -> bool:
    return bool((np.abs(color - np.array(wanted)) <= slack).all())


def test_x_goes_right_and_y_up() -> None:
    u, v = VIEW.to_pixels(np.array([[0.0, 0.0], [5.0, 0.0], [0.0, 5.0]])).T
    assert u.tolist() == [200.0, 250.0, 200.0]
    assert v.tolist() == [HEADER_PX + 200.0, HEADER_PX + 200.0, HEADER_PX + 150.0]


def test_a_point_is_painted_at_its_place_in_the_colour_of_its_height(make_frame: Make) -> None:
    image = draw(make_frame(points=[(6.0, 12.0, 1.0)]))
    assert pixel(image, 6.02, 11.98).tolist() == height_colors(np.array([1.0]))[0].tolist()
    for x, y in ((-6.0, 12.0), (6.0, -12.0), (12.0, 6.0)):
        assert pixel(image, x, y).tolist() == list(BACKGROUND)


def test_the_highest_point_of_a_pixel_is_seen(make_frame: Make) -> None:
    image = draw(make_frame(points=[(6.0, 12.0, 3.0), (6.0, 12.0, -1.5)]))
    assert pixel(image, 6.02, 11.98).tolist() == height_colors(np.array([3.0]))[0].tolist()


@pytest.mark.parametrize("yaw", [0.0, np.pi / 2, np.pi, -np.pi / 2])
def test_the_heading_line_goes_from_the_centre_to_the_front(
    make_frame: Make, make_boxes: Make, yaw: float
) -> None:
    image = draw(make_frame(boxes=make_boxes((8.0, 8.0, yaw))))
    ahead = np.array([np.cos(yaw), np.sin(yaw)])
    line, tail = 8.0 + ahead * 1.3, 8.0 - ahead * 1.3
    assert near(pixel(image, *line), CAR)
    assert not near(pixel(image, *tail), CAR)


def test_the_outline_lies_at_length_and_width(make_frame: Make, make_boxes: Make) -> None:
    image = draw(make_frame(boxes=make_boxes((8.0, 8.0, 0.0))))
    assert near(pixel(image, 7.0, 9.0), CAR)  # Half the width to the left of the centre line.
    assert near(pixel(image, 6.0, 8.5), CAR)  # Half the length behind the centre.
    assert not near(pixel(image, 7.0, 10.0), CAR)


def test_the_velocity_arrow_points_where_the_object_goes(
    make_frame: Make, make_boxes: Make
) -> None:
    moving = draw(make_frame(boxes=make_boxes((-8.0, 8.0, np.pi / 2, 5.0, 0.0))))
    still = draw(make_frame(boxes=make_boxes((-8.0, 8.0, np.pi / 2))))
    rows, columns = np.nonzero((moving != still).any(axis=2))
    left, middle = VIEW.to_pixels(np.array([-8.0, 8.0]))
    right, _ = VIEW.to_pixels(np.array([-3.0, 8.0]))
    assert left - 3 <= columns.min() and abs(columns.max() - right) <= 2
    assert np.abs(rows - middle).max() <= 5


def test_unknown_velocity_draws_no_arrow(make_frame: Make, make_boxes: Make) -> None:
    unknown = draw(make_frame(boxes=make_boxes((-8.0, 8.0, 0.0, float("nan"), float("nan")))))
    still = draw(make_frame(boxes=make_boxes((-8.0, 8.0, 0.0))))
    assert np.array_equal(unknown, still)


def test_map_rows_are_y_and_columns_x(make_frame: Make) -> None:
    grid = BEVGrid((-20.0, 20.0), (-20.0, 20.0), (-5.0, 3.0), 0.5)
    mask = torch.zeros(1, grid.ny, grid.nx, dtype=torch.bool)
    row, column = grid.index(torch.tensor([[9.0, 16.0]]))[0][0].tolist()
    mask[0, row - 2 : row + 3, column - 2 : column + 3] = True
    image = draw(make_frame(map=MapRaster(mask, ("ped_crossing",), grid)))
    assert pixel(image, 9.0, 16.0).sum() > sum(BACKGROUND) + 60
    for x, y in ((16.0, 9.0), (9.0, -16.0), (-9.0, 16.0), (9.0, 14.0), (11.5, 16.0)):
        assert pixel(image, x, y).tolist() == list(BACKGROUND)


def test_a_predicted_map_lies_below_predicted_boxes_only(
    make_frame: Make, make_boxes: Make, make_prediction: Make
) -> None:
    grid = BEVGrid((-20.0, 20.0), (-20.0, 20.0), (-5.0, 3.0), 0.5)
    true = torch.zeros(1, grid.ny, grid.nx, dtype=torch.bool)
    true[0, 55:65, 55:65] = True  # x and y from 7.5 to 12.5 m
    frame = make_frame(map=MapRaster(true, ("ped_crossing",), grid))
    probability = torch.zeros(1, grid.ny, grid.nx)
    probability[0, 5:15, 55:65] = 0.6  # y from -17.5 to -12.5 m
    bare = make_prediction(frame, make_boxes((0.0, 15.0, 0.0)), 0.9)
    drawn = replace(bare, map_prob=probability, grid=grid, map_classes=("ped_crossing",))
    both = draw(frame, prediction=drawn)
    other = both[:, 400 + GAP_PX :]
    light = sum(BACKGROUND) + 60
    assert pixel(both, 10.0, 10.0).sum() > light and pixel(other, 10.0, -15.0).sum() > light
    assert pixel(both, 10.0, -15.0).tolist() == list(BACKGROUND)
    assert pixel(other, 10.0, 10.0).tolist() == list(BACKGROUND)
    # Without names of its layers, or below the threshold, there is nothing to draw.
    unnamed = replace(drawn, map_classes=None)
    assert predicted_map(unnamed) is None and predicted_map(bare) is None
    high = predicted_map(drawn, 0.7)
    assert high is not None and not high.mask.any()
    with pytest.raises(ValueError, match="has 1 layers, map_classes names 2: a, b"):
        replace(drawn, map_classes=("a", "b"))


def test_forward_is_up_where_ref_has_x_forward(make_frame: Make, make_boxes: Make) -> None:
    frame = make_frame(ego_SE3_ref=SE3.identity(), points=[(12.0, 5.0, 1.0)])
    assert np.array_equal(up_rotation(frame), [[0, -1], [1, 0]])
    image = draw(frame)
    assert pixel(image, -4.98, 11.98).tolist() == height_colors(np.array([1.0]))[0].tolist()
    assert np.allclose(ego_outline(frame)[0], [3.42, 0.0])


def test_the_own_car_looks_forward(make_frame: Make) -> None:
    outline = ego_outline(make_frame())
    assert np.allclose(outline[0], [0.0, 3.42 - 0.9])  # The front bumper is first.
    assert near(pixel(draw(make_frame()), 0.0, 1.0), (235, 240, 246))


def test_truth_stands_beside_the_prediction(
    make_frame: Make, make_boxes: Make, make_prediction: Make
) -> None:
    frame = make_frame(boxes=make_boxes((8.0, 8.0, 0.0)))
    prediction = make_prediction(frame, make_boxes((-8.0, -8.0, 0.0), (-8.0, 8.0, 0.0)), 0.9, 0.1)
    side = draw(frame, prediction=prediction)
    left, right = side[:, :400], side[:, 408:]
    assert near(pixel(left, 9.3, 8.0), CAR) and not near(pixel(right, 9.3, 8.0), CAR)
    assert near(pixel(right, -6.7, -8.0), CAR) and not near(pixel(left, -6.7, -8.0), CAR)
    assert not near(pixel(right, -6.7, 8.0), CAR)  # Below the smallest score.
    overlay = draw(frame, prediction=prediction, layout="overlay")
    assert overlay.shape[1] == 400
    assert near(pixel(overlay, -6.7, -8.0), CAR)
    # The dashed truth has gaps.
    dashes = [near(pixel(overlay, x, 8.0), CAR) for x in np.linspace(8.1, 9.9, 40)]
    assert any(dashes) and not all(dashes)


def test_missing_parts_are_noted_in_the_picture(make_frame: Make, make_boxes: Make) -> None:
    bare, empty = draw(make_frame()), draw(make_frame(points=[], boxes=make_boxes()))
    assert bare.shape == empty.shape
    bottom = slice(HEADER_PX + 360, HEADER_PX + 400)
    assert not np.array_equal(bare[bottom], empty[bottom])  # "no points" and "is empty".
    top = slice(HEADER_PX, HEADER_PX + 40)
    assert not np.array_equal(bare[top], empty[top])  # "no annotation" and "0 boxes".


def test_a_foreign_prediction_is_refused(
    make_frame: Make, make_boxes: Make, make_prediction: Make
) -> None:
    prediction = make_prediction(make_frame(token="other"), make_boxes(), *())
    with pytest.raises(ValueError, match="prediction is of sample other and the frame is sample"):
        draw_bev(make_frame(), prediction)


def test_foreign_results_list_the_unknown_tokens() -> None:
    check_tokens(("a", "b"), {"a", "b", "c"}, "results.json")
    with pytest.raises(ValueError, match=r"lacks 1 of 2 samples: b\. It holds 1 others: z"):
        check_tokens(("a", "b"), {"a", "z"}, "results.json")


@pytest.mark.parametrize("knobs", [{"extent_m": 0.0}, {"size_px": 10}])
def test_impossible_sizes_are_refused(make_frame: Make, knobs: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="give an extent > 0 and a size >= 64"):
        draw_bev(make_frame(), **knobs)


def test_pictures_are_written_whole(tmp_path: Path) -> None:
    image = np.zeros((8, 9, 3), np.uint8)
    image[2, 3] = (255, 0, 0)
    path = write_image(tmp_path / "new" / "picture.png", image)
    import cv2

    assert np.array_equal(cv2.imread(str(path))[..., ::-1], image)
    assert [p.name for p in path.parent.iterdir()] == ["picture.png"]
    with pytest.raises(ValueError, match=r"end the name in \.png or \.jpg"):
        write_image(tmp_path / "picture.tif", image)
    with pytest.raises(ValueError, match="RGB image"):
        Canvas(np.zeros((8, 9), np.uint8))
