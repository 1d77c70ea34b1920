from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from perception3d.structures import CameraRig, Frame
from perception3d.viewer.cameras import GAP_PX, camera_rows, draw_cameras, layout_tiles
from perception3d.viewer.colors import BACKGROUND, class_color, depth_colors
from perception3d.viewer.legend import HEADER_PX
from perception3d.viewer.outlines import (
    EDGES,
    FRONT_FACE,
    clip_polygon,
    clip_segments,
    limits,
    visible_edges,
    visible_front,
)

Make = Callable[..., Any]
CAR = np.array(class_color(0, ("car",)), dtype=float)
coordinates = arrays(np.float64, (6, 3), elements=st.floats(-50, 50, width=16))


def tile_of(frame: Frame, name: str, width: int = 160) -> Any:
    return next(t for t in layout_tiles(frame, width, HEADER_PX) if t.name == name)


def changed(frame: Frame, boxes: Any, name: str) -> np.ndarray:
    """Pixels (row, column) of a tile that the boxes change."""
    from dataclasses import replace

    none = boxes.select(torch.zeros(0).long())
    with_boxes, without = (
        draw_cameras(replace(frame, boxes=chosen), tile_width_px=160, with_labels=False)
        for chosen in (boxes, none)
    )
    left, top, right, bottom = (int(n) for n in tile_of(frame, name).rect)
    return np.argwhere((with_boxes != without).any(axis=2)[top:bottom, left:right])


def test_edges_and_front_follow_the_corners_of_boxes(make_boxes: Make) -> None:
    boxes = make_boxes((0.0, 0.0, 0.6))
    corners = boxes.corners()[0].numpy()
    lengths = np.linalg.norm(corners[EDGES[:, 0]] - corners[EDGES[:, 1]], axis=1)
    assert np.allclose(sorted(lengths), sorted([4.0] * 4 + [2.0] * 4 + [1.5] * 4))
    front = corners[FRONT_FACE].mean(axis=0)
    assert np.allclose(front[:2], 2.0 * np.array([np.cos(0.6), np.sin(0.6)]), atol=1e-6)


def test_views_stand_as_one_looks_around(make_frame: Make) -> None:
    frame = make_frame(with_rig=True)
    names = [[frame.rig.names[i] for i in row] for row in camera_rows(frame)]
    assert names == [
        ["CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT"],
        ["CAM_BACK_LEFT", "CAM_BACK", "CAM_BACK_RIGHT"],
    ]


def test_a_box_is_drawn_where_it_projects(make_frame: Make, make_boxes: Make) -> None:
    frame, boxes = make_frame(with_images=True), make_boxes((2.0, 15.0, 0.3))
    uv, depth = frame.rig.project(boxes.corners()[0])
    assert (depth[0] > 0).all()
    low, high = uv[0].min(dim=0).values.numpy(), uv[0].max(dim=0).values.numpy()
    drawn = changed(frame, boxes, "CAM_FRONT")[:, ::-1]
    assert np.allclose(drawn.min(axis=0), low, atol=2.5)
    assert np.allclose(drawn.max(axis=0), high, atol=2.5)
    for other in ("CAM_BACK", "CAM_BACK_LEFT", "CAM_FRONT_LEFT"):
        assert len(changed(frame, boxes, other)) == 0


def test_a_box_behind_the_camera_is_not_drawn(make_frame: Make, make_boxes: Make) -> None:
    frame, boxes = make_frame(with_images=True), make_boxes((0.5, -12.0, 0.0))
    assert len(changed(frame, boxes, "CAM_FRONT")) == 0
    assert len(changed(frame, boxes, "CAM_BACK")) > 0


def test_a_box_through_the_camera_plane_is_cut(make_frame: Make, make_boxes: Make) -> None:
    # 1.5 m to the right, 4 m long, half of it behind the camera.
    frame, boxes = make_frame(with_rig=True), make_boxes((2.5, 0.5, np.pi / 2))
    front = frame.rig.ref_to_image()[frame.rig.names.index("CAM_FRONT")].numpy()
    segments, owner = visible_edges(boxes.corners().numpy(), front, (90, 160))
    assert len(segments) and (owner == 0).all() and np.isfinite(segments).all()
    assert (segments >= -1e-6).all() and (segments <= np.array([160, 90]) + 1e-6).all()
    # The box lies right of the optical axis: nothing may be drawn in the left half.
    assert (segments[..., 0] > 80).all()
    polygon = visible_front(boxes.corners().numpy()[0], front, (90, 160))
    assert (polygon[:, 0] > 80).all()


@given(coordinates, coordinates)
@settings(max_examples=60, deadline=None)
def test_cut_segments_lie_inside_and_on_the_line(a: np.ndarray, b: np.ndarray) -> None:
    normals, offsets = limits(90, 160)
    segments, kept = clip_segments(a, b, normals, offsets)
    for start, end, (p, q) in zip(a[kept], b[kept], segments[kept], strict=True):
        for point in (p, q):
            assert (normals @ point + offsets > -1e-6 * (1 + np.abs(normals) @ np.abs(point))).all()
            assert np.allclose(np.cross(point - start, end - start), 0, atol=1e-6 * 50**2)
    # What is dropped has no inner point: sample the line densely.
    shares = np.linspace(0, 1, 41)[:, None, None]
    inside = ((a + (b - a) * shares) @ normals.T + offsets > 1e-9).all(axis=2)
    assert not inside[:, ~kept].any()


@given(coordinates)
@settings(max_examples=40, deadline=None)
def test_a_segment_inside_stays_whole(points: np.ndarray) -> None:
    normals, offsets = limits(90, 160)
    depth = np.abs(points[:, 2:]) + 1.0
    inner = np.concatenate([depth * 80, depth * 45, depth], axis=1) + np.abs(points) * 0.1
    inside = (inner @ normals.T + offsets >= 0).all(axis=1)
    ends = np.roll(inner, 1, axis=0)
    segments, kept = clip_segments(inner, ends, normals, offsets)
    both = inside & np.roll(inside, 1) & (np.abs(inner - ends).max(axis=1) > 0)
    assert kept[both].all()
    assert np.allclose(segments[both], np.stack([inner, ends], axis=1)[both])


def test_polygon_outside_vanishes() -> None:
    square = np.array([(1.0, 1, -1), (2, 1, -1), (2, 2, -1), (1, 2, -1)])
    assert clip_polygon(square, *limits(90, 160)).shape == (0, 3)


def test_points_are_coloured_by_depth_and_near_ones_win(make_frame: Make) -> None:
    frame = make_frame(
        points=[(0.0, 10.0, 0.0), (0.0, 40.0, 0.0), (0.0, -5.0, 0.0)], with_images=True
    )
    image = draw_cameras(frame, with_points=True, tile_width_px=160)
    tile = tile_of(frame, "CAM_FRONT")
    color = image[tile.top_px + 45, tile.left_px + 80]
    assert color.tolist() == depth_colors(np.array([10.0]))[0].tolist()


def test_the_prediction_stands_below_the_truth_of_each_camera(
    make_frame: Make, make_boxes: Make, make_prediction: Make
) -> None:
    frame = make_frame(with_images=True, boxes=make_boxes((0.0, 12.0, 0.0)))
    prediction = make_prediction(frame, make_boxes((1.0, 12.0, 0.0), (2.0, 14.0, 0.0)), 0.8, 0.1)
    separate = draw_cameras(frame, prediction, tile_width_px=160)
    only_truth = draw_cameras(frame, tile_width_px=160)
    tile = tile_of(frame, "CAM_FRONT")
    left, top, right, bottom = (int(n) for n in tile.rect)
    assert np.array_equal(separate[top:bottom, left:right], only_truth[top:bottom, left:right])
    places = layout_tiles(frame, 160, HEADER_PX, layers=2)
    assert [(t.name, t.layer) for t in places if t.name == "CAM_FRONT"] == [
        ("CAM_FRONT", 0),
        ("CAM_FRONT", 1),
    ]
    second = next(t for t in places if t.name == "CAM_FRONT" and t.layer == 1)
    assert second.left_px == left and second.top_px == bottom + GAP_PX
    # The box predicted with 0.8 shows there, one metre to the right of the annotated one.
    truth, predicted = (
        separate[t.top_px + 22 : t.top_px + 90, left:right].astype(int) for t in (tile, second)
    )
    columns = [np.nonzero(orange(part).any(axis=0))[0].mean() for part in (truth, predicted)]
    assert 5 < columns[1] - columns[0] < 12
    overlay = draw_cameras(frame, prediction, tile_width_px=160, layout="overlay")
    assert overlay.shape[0] < separate.shape[0] and overlay.shape[1] == separate.shape[1]


def orange(image: np.ndarray) -> np.ndarray:
    """Where the line colour of cars is seen."""
    return (np.abs(image - np.array(class_color(0, ("car",)))) < 60).all(axis=2)


def test_a_large_or_near_box_does_not_cover_the_image(make_frame: Make, make_boxes: Make) -> None:
    frame = make_frame(with_images=True)
    # Both look at the camera: 4.5 m away one fills the image, 16 m away one is small.
    near, far = (make_boxes((0.0, y, -np.pi / 2)) for y in (4.5, 16.0))
    tinted = [len(changed(frame, boxes, "CAM_FRONT")) for boxes in (near, far)]
    widths = [200.0 / (4.5 - 2), 200.0 / (16 - 2)]
    heights = [150.0 / (4.5 - 2), 150.0 / (16 - 2)]
    assert tinted[0] < 0.45 * widths[0] * heights[0]  # Lines only.
    assert tinted[1] > 0.9 * widths[1] * heights[1]  # The face as well.


def test_the_tint_is_light(make_frame: Make, make_boxes: Make) -> None:
    frame = make_frame(with_images=True)
    from dataclasses import replace

    far = replace(frame, boxes=make_boxes((0.0, 16.0, -np.pi / 2)))
    image = draw_cameras(far, tile_width_px=160, with_labels=False)
    tile = tile_of(frame, "CAM_FRONT")
    ground = frame.images[frame.rig.names.index("CAM_FRONT")][0, 0].numpy().astype(float)
    middle = image[tile.top_px + 43, tile.left_px + 76].astype(float)
    share = (middle - ground) @ (CAR - ground) / ((CAR - ground) @ (CAR - ground))
    assert 0.02 < share < 0.2


def test_labels_do_not_meet_and_small_boxes_have_none(make_frame: Make, make_boxes: Make) -> None:
    frame = make_frame(with_images=True)
    from dataclasses import replace

    def labels(*rows: tuple[float, ...]) -> int:
        boxes = replace(frame, boxes=make_boxes(*rows))
        pictures = [
            draw_cameras(boxes, tile_width_px=480, with_labels=with_labels)
            for with_labels in (True, False)
        ]
        return int((pictures[0] != pictures[1]).any(axis=2).sum())

    one = labels((0.0, 14.0, 0.0))
    assert one > 0
    assert labels((0.0, 60.0, 0.0)) == 0
    # A second box at the same place takes another place, a twentieth finds none.
    assert one < labels(*[(0.0, 14.0, 0.0)] * 20) < 8 * one


def test_frames_without_images_or_cameras(make_frame: Make, make_boxes: Make) -> None:
    without_images = make_frame(with_rig=True, boxes=make_boxes((0.0, 12.0, 0.0)))
    image = draw_cameras(without_images, tile_width_px=160)
    tile = tile_of(without_images, "CAM_FRONT")
    assert image[tile.top_px + 80, tile.left_px + 5].tolist() == list(BACKGROUND)
    bare = draw_cameras(make_frame(), tile_width_px=160, with_points=True)
    assert bare.ndim == 3 and bare.std() > 0  # The notes.


def test_augmented_images_take_the_boxes_along(make_frame: Make, make_boxes: Make) -> None:
    frame, boxes = make_frame(with_images=True), make_boxes((2.0, 15.0, 0.3))
    from dataclasses import replace

    rig: CameraRig = frame.rig
    mirror = torch.tensor([[-1.0, 0, 160.0], [0, 1, 0], [0, 0, 1]], dtype=torch.float64)
    flipped = replace(frame, rig=replace(rig, image_aug=mirror.repeat(6, 1, 1)))
    plain, turned = changed(frame, boxes, "CAM_FRONT"), changed(flipped, boxes, "CAM_FRONT")
    assert abs((159 - plain[:, 1].min()) - turned[:, 1].max()) <= 2


def test_narrow_tiles_are_refused(make_frame: Make) -> None:
    with pytest.raises(ValueError, match="give at least 32"):
        draw_cameras(make_frame(), tile_width_px=8)
