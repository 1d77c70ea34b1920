"""The nouns refuse what does not fit and say what they found."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from perception3d.structures import (
    SE3,
    Batch,
    BEVFeatures,
    BEVGrid,
    Boxes3D,
    CameraRig,
    Frame,
    MapRaster,
    Pillars,
    PointCloud,
    Prediction,
)
from perception3d.structures.taxonomy import (
    CAMERA_CHANNELS,
    CLASS_COLORS,
    NUSCENES_CLASS_RANGE_M,
    NUSCENES_CLASSES,
    NUSCENES_RAW_TO_DETECTION,
)
from perception3d.structures.taxonomy_av2 import AV2_CLASS_COLORS

GRID = BEVGrid((-8.0, 8.0), (-4.0, 4.0), (-5.0, 3.0), 0.5)
unit = st.floats(-1, 1)
metres = st.floats(-100, 100)
poses = st.builds(
    SE3.from_quaternion,
    st.tuples(unit, unit, unit, unit).filter(lambda q: sum(x * x for x in q) > 1e-3),
    st.tuples(metres, metres, metres),
)


def rig(views: int = 2) -> CameraRig:
    K = torch.tensor([[100.0, 0, 50], [0, 100, 30], [0, 0, 1]], dtype=torch.float64)
    eye = torch.eye(4, dtype=torch.float64)
    return CameraRig(
        CAMERA_CHANNELS[:views],
        K.repeat(views, 1, 1),
        eye.repeat(views, 1, 1),
        torch.tensor([[60, 100]] * views),
        torch.eye(3, dtype=torch.float64).repeat(views, 1, 1),
        torch.zeros(views, dtype=torch.int64),
    )


def boxes(n: int = 3) -> Boxes3D:
    return Boxes3D.build(
        torch.arange(3.0 * n).view(n, 3), torch.ones(n, 3), torch.zeros(n), torch.arange(n)
    )


@given(poses, poses, st.tuples(metres, metres, metres))
def test_se3_products_cancel(a_SE3_b: SE3, b_SE3_c: SE3, point: tuple[float, ...]) -> None:
    p = torch.tensor([point], dtype=torch.float64)
    both = (a_SE3_b @ b_SE3_c).apply(p)
    assert torch.allclose(both, a_SE3_b.apply(b_SE3_c.apply(p)), atol=1e-8)
    identity = (a_SE3_b @ a_SE3_b.inverse()).matrix()
    assert torch.allclose(identity, torch.eye(4, dtype=torch.float64), atol=1e-9)
    again = SE3.from_quaternion(a_SE3_b.quaternion_wxyz(), a_SE3_b.translation_m)
    assert torch.allclose(again.matrix(), a_SE3_b.matrix(), atol=1e-9)


def test_se3_keeps_the_dtype_of_points_and_refuses_mirrors() -> None:
    assert SE3.identity().apply(torch.zeros(4, 3)).dtype == torch.float32
    mirrored = torch.diag(torch.tensor([1.0, 1.0, -1.0]))
    with pytest.raises(ValueError, match="proper rotation"):
        SE3(mirrored, torch.zeros(3))
    with pytest.raises(ValueError, match=r"shape \(3, 3\); found \(4, 4\)"):
        SE3(torch.eye(4), torch.zeros(3))


@given(st.floats(-7.99, 7.99), st.floats(-3.99, 3.99))
def test_grid_index_is_the_cell_whose_centre_is_nearest(x: float, y: float) -> None:
    cell, inside = GRID.index(torch.tensor([[x, y]]))
    assert bool(inside)
    row, column = cell[0].tolist()
    center = GRID.centers_m()[row, column]
    assert abs(float(center[0]) - x) <= 0.2501
    assert abs(float(center[1]) - y) <= 0.2501


def test_grid_edges_and_strides() -> None:
    assert (GRID.ny, GRID.nx) == (16, 32)
    xy = torch.tensor([[-8.0, -4.0], [8.0, 0.0], [0.0, -4.001], [float("nan"), 0.0]])
    cell, inside = GRID.index(xy)
    assert inside.tolist() == [True, False, False, False]
    assert cell[0].tolist() == [0, 0]
    assert GRID.stride(4).cell_m == 2.0
    with pytest.raises(ValueError, match="does not divide"):
        GRID.stride(5)
    with pytest.raises(ValueError, match="whole number of cells"):
        BEVGrid((-8.0, 8.0), (-4.0, 4.0), (-5.0, 3.0), 0.3)


def test_boxes_check_their_fields() -> None:
    three = boxes()
    assert len(three.select(three.label > 0)) == 2
    assert len(Boxes3D.cat([three, three])) == 6
    assert len(Boxes3D.cat([])) == 0
    assert bool(torch.isnan(three.velocity_mps).all())
    with pytest.raises(ValueError, match="box 0 has"):
        Boxes3D.build(
            torch.zeros(1, 3),
            torch.tensor([[1.0, 0.0, 1.0]]),
            torch.zeros(1),
            torch.zeros(1, dtype=torch.int64),
        )
    with pytest.raises(ValueError, match="non-finite"):
        Boxes3D.build(
            torch.full((1, 3), math.inf),
            torch.ones(1, 3),
            torch.zeros(1),
            torch.zeros(1, dtype=torch.int64),
        )
    with pytest.raises(ValueError, match="one length"):
        Boxes3D.build(
            torch.zeros(2, 3), torch.ones(2, 3), torch.zeros(3), torch.zeros(2, dtype=torch.int64)
        )
    with pytest.raises(ValueError, match="integer"):
        Boxes3D.build(torch.zeros(1, 3), torch.ones(1, 3), torch.zeros(1), torch.zeros(1))


@given(st.floats(-20, 20))
def test_boxes_keep_yaw_in_range(yaw: float) -> None:
    one = Boxes3D.build(
        torch.zeros(1, 3), torch.ones(1, 3), torch.tensor([yaw]), torch.zeros(1, dtype=torch.int64)
    )
    assert -math.pi <= float(one.yaw_rad) < math.pi


def test_points_select_and_refuse_the_future() -> None:
    cloud = PointCloud(torch.rand(5, 3), torch.rand(5), torch.zeros(5))
    assert cloud.features().shape == (5, 5)
    assert len(cloud.select(torch.tensor([0, 2]))) == 2
    assert len(PointCloud.empty()) == 0
    with pytest.raises(ValueError, match="past"):
        PointCloud(torch.rand(1, 3), torch.rand(1), torch.tensor([-0.1]))


def test_rig_projects_through_the_image_augmentation() -> None:
    two = rig()
    uv, depth = two.project(torch.tensor([[0.5, 0.2, 2.0]]))
    assert uv[0, 0].tolist() == pytest.approx([75.0, 40.0])
    assert depth.tolist() == [[2.0], [2.0]]
    half = torch.diag(torch.tensor([0.5, 0.5, 1.0], dtype=torch.float64)).repeat(2, 1, 1)
    scaled = CameraRig(two.names, two.K, two.cam_SE3_ref, two.image_hw, half, two.time_ns)
    assert scaled.project(torch.tensor([[0.5, 0.2, 2.0]]))[0][1, 0].tolist() == pytest.approx(
        [37.5, 20.0]
    )
    stacked = CameraRig.stack([two, scaled])
    assert stacked.ref_to_image().shape == (2, 2, 4, 4)
    with pytest.raises(ValueError, match="same cameras"):
        CameraRig.stack([two, rig(1)])


def test_frame_and_map_check_shapes() -> None:
    pose = SE3.identity()
    image = torch.zeros(60, 100, 3, dtype=torch.uint8)
    frame = Frame("t", "log", 0, pose, pose, images=(image, image), rig=rig())
    assert frame.boxes is None
    with pytest.raises(ValueError, match="no rig"):
        Frame("t", "log", 0, pose, pose, images=(image,))
    with pytest.raises(ValueError, match="must be uint8"):
        Frame("t", "log", 0, pose, pose, images=(image.float(), image), rig=rig())
    with pytest.raises(ValueError, match=r"\(1, 16, 32\)"):
        MapRaster(torch.zeros(1, 32, 16, dtype=torch.bool), ("drivable_area",), GRID)


def test_batch_checks_offsets_and_moves() -> None:
    pose = SE3.identity()
    common = {
        "tokens": ("a", "b"),
        "time_ns": torch.zeros(2, dtype=torch.int64),
        "global_SE3_ref": (pose, pose),
        "ego_SE3_ref": (pose, pose),
        "sensor_present": torch.ones(2, 2, dtype=torch.bool),
    }
    batch = Batch(**common, points=torch.rand(4, 5), offsets=torch.tensor([0, 4, 4]))
    assert batch.to("cpu").batch_size == 2
    with pytest.raises(ValueError, match="run from 0 to 4"):
        Batch(**common, points=torch.rand(4, 5), offsets=torch.tensor([0, 2, 3]))
    with pytest.raises(ValueError, match="belong together"):
        Batch(**common, points=torch.rand(4, 5))


def test_pillars_land_in_their_cells() -> None:
    pillars = Pillars(torch.tensor([[1, 3, 7], [0, 0, 0]]), torch.tensor([[5.0], [2.0]]), GRID, 2)
    canvas = pillars.dense()
    assert canvas.shape == (2, 1, 16, 32)
    assert canvas[1, 0, 3, 7] == 5
    assert canvas.sum() == 7
    with pytest.raises(ValueError, match="BEVFeatures"):
        BEVFeatures(canvas.transpose(2, 3), GRID)


def test_prediction_needs_one_score_a_box() -> None:
    pose = SE3.identity()
    with pytest.raises(ValueError, match="one length"):
        Prediction("t", boxes(3), torch.ones(2), pose, pose)
    assert Prediction("t", boxes(3), torch.ones(3), pose, pose).to("cpu").token == "t"


def test_taxonomy_is_complete() -> None:
    assert len(NUSCENES_CLASSES) == 10
    assert set(NUSCENES_RAW_TO_DETECTION.values()) == set(NUSCENES_CLASSES)
    assert set(NUSCENES_CLASS_RANGE_M) == set(NUSCENES_CLASSES)
    assert set(CLASS_COLORS) == {*NUSCENES_CLASSES, *AV2_CLASS_COLORS}
