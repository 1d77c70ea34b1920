from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from perception3d.datasets import (
    ClassFilter,
    Compose,
    GlobalAugment,
    ImageAugment,
    MinPointsFilter,
    ModalMask,
    PointShuffle,
    RangeFilter,
)
from perception3d.datasets.points import cloud_of, rows_of
from perception3d.structures import SE3, Boxes3D, Frame, PointCloud
from perception3d.structures.taxonomy import NUSCENES_CLASSES

RNG = np.random.default_rng


@pytest.fixture(params=["packed", "apart"])
def frame(request: pytest.FixtureRequest) -> Frame:
    rng = RNG(0)
    rows = rng.uniform(-80, 80, (500, 5)).astype(np.float32)
    rows[:, 4] = np.abs(rows[:, 4])
    cloud = cloud_of(rows, torch.arange(500, dtype=torch.int16))
    if request.param == "apart":
        cloud = PointCloud(
            cloud.xyz_m.clone(), cloud.intensity.clone(), cloud.age_s.clone(), cloud.ring
        )
    boxes = Boxes3D.build(
        torch.tensor(rng.uniform(-80, 80, (40, 3)), dtype=torch.float32),
        torch.ones(40, 3),
        torch.zeros(40),
        torch.arange(40) % 11 - 1,
        num_points=torch.arange(40) % 5 - 1,
    )
    return Frame("t", "log", 0, SE3.identity(), SE3.identity(), points=cloud, boxes=boxes)


def test_rows_of_a_cloud(frame: Frame) -> None:
    rows = rows_of(frame.points)
    assert np.array_equal(rows, frame.points.features().numpy())
    if frame.points.xyz_m.stride() == (5, 1):
        assert rows.ctypes.data == frame.points.xyz_m.data_ptr()
    empty = rows_of(PointCloud.empty())
    assert empty.shape == (0, 5)


def test_range_filter(frame: Frame) -> None:
    new = RangeFilter((-50, 40), (-30, 60), (-5, 3))(frame, RNG(0))
    xyz = frame.points.xyz_m
    low, high = torch.tensor([-50.0, -30, -5]), torch.tensor([40.0, 60, 3])
    inside = ((xyz > low) & (xyz < high)).all(dim=1)
    assert 0 < int(inside.sum()) < 500
    assert torch.equal(new.points.features(), frame.points.select(inside).features())
    assert torch.equal(new.points.ring, frame.points.ring[inside])
    center = frame.boxes.center_m[:, :2]
    keep = ((center > low[:2]) & (center < high[:2])).all(dim=1)  # whatever the height
    assert torch.equal(new.boxes.center_m, frame.boxes.center_m[keep])


def test_range_filter_may_leave_nothing(frame: Frame) -> None:
    new = RangeFilter((1000, 1001), (0, 1), (0, 1))(frame, RNG(0))
    assert len(new.points) == 0 and len(new.boxes) == 0
    again = Compose((GlobalAugment(), PointShuffle(), ModalMask(), RangeFilter()))(new, RNG(0))
    assert len(again.points) == 0


def test_class_filter(frame: Frame) -> None:
    new = ClassFilter()(frame, RNG(0))
    assert int(new.boxes.label.min()) == 0 and len(new.boxes) == int((frame.boxes.label >= 0).sum())
    cars = ClassFilter(("car", "bus"))(frame, RNG(0)).boxes
    assert {NUSCENES_CLASSES[i] for i in cars.label.tolist()} == {"car", "bus"}
    with pytest.raises(ValueError, match=r"unknown classes \['tram'\]; known are car, truck"):
        ClassFilter(("car", "tram"))


def test_min_points_filter_keeps_unknown_numbers(frame: Frame) -> None:
    kept = MinPointsFilter(2)(frame, RNG(0)).boxes.num_points
    assert set(kept.tolist()) == {-1, 2, 3}


def test_point_shuffle_permutes_whole_rows(frame: Frame) -> None:
    new = PointShuffle()(frame, RNG(0))
    again = PointShuffle()(frame, RNG(0))
    assert torch.equal(new.points.features(), again.points.features())
    order = new.points.ring.long()
    assert sorted(order.tolist()) == list(range(500)) and order.tolist() != list(range(500))
    assert torch.equal(new.points.features(), frame.points.features()[order])


def with_images(frame: Frame) -> Frame:
    from tests.datasets.test_augment import VIEWS, made_rig

    images = (torch.full((90, 160, 3), 7, dtype=torch.uint8),) * VIEWS
    return replace(frame, rig=made_rig((90, 160)), images=images)


def test_modal_mask_shares(frame: Frame) -> None:
    frame, rng = with_images(frame), RNG(0)
    seen = {"both": 0, "lidar": 0, "camera": 0}
    for _ in range(400):
        new = ModalMask()(frame, rng)
        dark = not any(image.any() for image in new.images)
        blind = not new.points.features().any()
        assert len(new.points) == 500 and not (dark and blind)
        seen["lidar" if dark else "camera" if blind else "both"] += 1
    assert seen["both"] == pytest.approx(200, abs=40)
    assert seen["lidar"] == pytest.approx(100, abs=35)


def test_modal_mask_for_tests(frame: Frame) -> None:
    frame = with_images(frame)
    blind = ModalMask(0.0, 1.0)(frame, RNG(0))
    assert not blind.points.features().any() and blind.images[0].any()
    dropped = ModalMask(1.0, 0.0, how="drop")(frame, RNG(0))
    assert dropped.images is None and dropped.rig is not None and dropped.points is not None
    assert ModalMask(0.0, 1.0, how="drop")(frame, RNG(0)).points is None
    with pytest.raises(ValueError, match="sum to at most 1"):
        ModalMask(0.7, 0.4)


def test_whole_published_chain_leaves_missing_parts_missing() -> None:
    chain = Compose(
        (MinPointsFilter(), ModalMask(), GlobalAugment(), RangeFilter(), ClassFilter(),
         PointShuffle(), ImageAugment((64, 96)))
    )  # fmt: skip
    bare = Frame("t", "log", 0, SE3.identity(), SE3.identity())
    assert chain(bare, RNG(0)) == bare
    empty = replace(bare, boxes=Boxes3D.empty(), points=PointCloud.empty())
    new = chain(empty, RNG(1))
    assert len(new.boxes) == 0 and len(new.points) == 0


def test_chain_is_a_function_of_its_generator(frame: Frame) -> None:
    frame = with_images(frame)
    chain = Compose((ModalMask(), GlobalAugment(), PointShuffle(), ImageAugment((64, 96))))
    a, b, c = (chain(frame, RNG(seed)) for seed in (3, 3, 4))
    assert torch.equal(a.points.features(), b.points.features())
    assert torch.equal(a.rig.image_aug, b.rig.image_aug)
    assert torch.equal(a.images[0], b.images[0])
    assert not torch.equal(a.rig.cam_SE3_ref, c.rig.cam_SE3_ref)
