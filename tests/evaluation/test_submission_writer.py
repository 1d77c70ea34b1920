"""Predictions out to results files and back, and through the official classes."""

from __future__ import annotations

import dataclasses
import json
import math
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perception3d.evaluation import (
    Modalities,
    SubmissionWriter,
    attribute_by_speed,
    official_boxes,
    predictions_from_submission,
    validate_submission,
)
from perception3d.structures import SE3, Boxes3D, Prediction
from perception3d.structures.taxonomy import (
    NUSCENES_ATTRIBUTES,
    NUSCENES_CLASS_RANGE_M,
    NUSCENES_CLASSES,
)


def pose(seed: int, *, tilt_rad: float = 0.03, far_m: float = 1000.0) -> SE3:
    g = torch.Generator().manual_seed(seed)
    yaw, axis = torch.rand(1, generator=g) * 6.28, torch.randn(2, generator=g) * tilt_rad / 2
    upright = SE3.from_quaternion([math.cos(yaw / 2), 0, 0, math.sin(yaw / 2)], [0, 0, 0])
    tilted = SE3.from_quaternion([1.0, float(axis[0]), float(axis[1]), 0.0], [0, 0, 0])
    shift = torch.rand(3, generator=g, dtype=torch.float64) * far_m
    return SE3((upright @ tilted).rotation, shift)


def prediction(seed: int, count: int = 20, *, spread_m: float = 20.0) -> Prediction:
    g = torch.Generator().manual_seed(seed)
    boxes = Boxes3D.build(
        (torch.rand(count, 3, generator=g) - 0.5) * 2 * spread_m,
        torch.rand(count, 3, generator=g) * 8 + 0.2,
        (torch.rand(count, generator=g) - 0.5) * 6.28,
        torch.randint(0, 10, (count,), generator=g),
        velocity_mps=torch.randn(count, 2, generator=g) * 3,
    )
    ego_SE3_ref = SE3.from_quaternion([0.7, 0.0, 0.0, -0.7], [0.9, 0.0, 1.8])
    score = torch.rand(count, generator=g) * 0.98 + 0.01
    return Prediction(f"sample-{seed}", boxes, score, pose(seed), ego_SE3_ref)


def with_boxes(old: Prediction, **changes: torch.Tensor) -> Prediction:
    return dataclasses.replace(old, boxes=dataclasses.replace(old.boxes, **changes))


def write(path: Path, *predictions: Prediction) -> Path:
    with SubmissionWriter(path, Modalities(camera=True, lidar=True)) as writer:
        for item in predictions:
            writer.add(item)
    return path


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(0, 40))
def test_round_trip(seed: int, count: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    before = prediction(seed, count)
    path = write(tmp_path_factory.mktemp("trip") / "r.json", before)
    poses = {before.token: (before.global_SE3_ref, before.ego_SE3_ref)}
    (after,) = predictions_from_submission(path, poses)
    order = torch.argsort(before.score, descending=True, stable=True)
    ego_ref = before.ego_SE3_ref.inverse().translation_m
    distance = (before.boxes.center_m.double() - ego_ref)[:, :2].norm(dim=1)
    assert bool((distance < 29.5).all())  # nothing falls to the range rule
    expected = before.boxes.select(order)
    assert len(after.boxes) == count
    for name in ("center_m", "size_lwh_m", "velocity_mps"):
        assert torch.allclose(
            getattr(after.boxes, name), getattr(expected, name), rtol=0, atol=1e-4
        ), name
    turn = after.boxes.yaw_rad - expected.yaw_rad
    assert bool((torch.cos(turn) > math.cos(1e-3)).all())
    assert bool((torch.sin(turn).abs() < 1e-4).all())
    assert torch.equal(after.boxes.label, expected.label)
    assert torch.equal(after.score, before.score[order])
    assert validate_submission(path, tokens=poses).accepted or count == 0


def test_round_trip_through_the_official_classes(tmp_path: Path) -> None:
    pytest.importorskip("nuscenes")
    from nuscenes.eval.common.data_classes import EvalBoxes
    from nuscenes.eval.common.utils import quaternion_yaw
    from nuscenes.eval.detection.data_classes import DetectionBox
    from pyquaternion import Quaternion

    before = [prediction(seed) for seed in range(3)]
    path = write(tmp_path / "r.json", *before)
    content = json.loads(path.read_text())
    assert content["meta"] == {
        "use_camera": True,
        "use_lidar": True,
        "use_radar": False,
        "use_map": False,
        "use_external": False,
    }
    official = EvalBoxes.deserialize(content["results"], DetectionBox)
    assert official.sample_tokens == [item.token for item in before]
    for item in before:
        order = torch.argsort(item.score, descending=True, stable=True)
        T = item.global_SE3_ref
        for index, box in zip(order.tolist(), official[item.token], strict=True):
            length, width, height = item.boxes.size_lwh_m[index].tolist()
            assert box.size == pytest.approx((width, length, height), abs=1e-6)
            centre = T.apply(item.boxes.center_m[index].double())
            assert box.translation == pytest.approx(centre.tolist(), abs=1e-9)
            yaw = float(item.boxes.yaw_rad[index])
            # A point one metre ahead of the centre, moved by hand.
            nose = torch.tensor([math.cos(yaw), math.sin(yaw), 0.0], dtype=torch.float64)
            ahead = T.rotation @ nose
            assert Quaternion(box.rotation).rotation_matrix[:, 0] == pytest.approx(
                ahead.numpy(), abs=1e-6
            )
            assert quaternion_yaw(Quaternion(box.rotation)) == pytest.approx(
                math.atan2(ahead[1], ahead[0]), abs=1e-6
            )
            speed = torch.cat((item.boxes.velocity_mps[index].double(), torch.zeros(1)))
            assert box.velocity == pytest.approx((T.rotation @ speed)[:2].tolist(), abs=1e-6)
            assert box.detection_name == NUSCENES_CLASSES[item.boxes.label[index]]
            assert box.detection_score == float(item.score[index])


def test_range_is_measured_from_the_ego_vehicle() -> None:
    # The sensor sits 10 m ahead of the vehicle's origin: distances from the sensor would be wrong.
    ego_SE3_ref = SE3.from_quaternion([1, 0, 0, 0], [10.0, 0, 0])
    ahead = torch.tensor([[39.9, 0, 0], [40.0, 0, 0], [-59.9, 0, 0], [-60.1, 0, 0]])
    boxes = Boxes3D.build(ahead, torch.ones(4, 3), torch.zeros(4), torch.zeros(4).long())
    here = SE3.from_quaternion([1, 0, 0, 0], [500.0, 300.0, 0.0])
    item = Prediction("t", boxes, torch.full((4,), 0.5), here, ego_SE3_ref)
    kept = [row["translation"][0] - 500.0 for row in official_boxes(item)]
    assert kept == pytest.approx([39.9, -59.9], abs=1e-5)  # exactly 50 m from the ego is out
    for label, name in enumerate(NUSCENES_CLASSES):
        limit = NUSCENES_CLASS_RANGE_M[name]
        x = torch.tensor([[limit - 10.1, 0, 50.0], [limit - 9.9, 0, 0]])  # height does not count
        pair = Boxes3D.build(x, torch.ones(2, 3), torch.zeros(2), torch.full((2,), label))
        item = Prediction("t", pair, torch.tensor([0.5, 0.6]), here, ego_SE3_ref)
        assert [row["detection_score"] for row in official_boxes(item)] == [0.5], name


def test_best_five_hundred_and_no_zero_scores() -> None:
    many = prediction(0, 900, spread_m=15.0)
    zeros = many.score.clone()
    zeros[:50] = 0.0
    rows = official_boxes(dataclasses.replace(many, score=zeros))
    scores = [row["detection_score"] for row in rows]
    assert scores == sorted(zeros.double().tolist(), reverse=True)[:500]
    few = dataclasses.replace(prediction(1, 5), score=torch.tensor([0.0, 0.5, 0.5, 1.0, 0.0]))
    assert [row["detection_score"] for row in official_boxes(few)] == [1.0, 0.5, 0.5]


def test_attributes() -> None:
    fast = {name: attribute_by_speed(name, 0.2001) for name in NUSCENES_CLASSES}
    slow = {name: attribute_by_speed(name, 0.2) for name in NUSCENES_CLASSES}
    vehicles = ("car", "truck", "trailer", "construction_vehicle", "bus")
    assert {fast[name] for name in vehicles} == {"vehicle.moving"}
    assert {slow[name] for name in vehicles[:4]} == {"vehicle.parked"}
    assert slow["bus"] == "vehicle.stopped"
    for name in ("motorcycle", "bicycle"):
        assert (fast[name], slow[name]) == ("cycle.with_rider", "cycle.without_rider")
    assert fast["pedestrian"] == "pedestrian.moving"
    assert slow["pedestrian"] == "pedestrian.standing"
    assert fast["barrier"] == slow["traffic_cone"] == ""
    with pytest.raises(ValueError, match="unknown detection class 'tram'; use one of: car"):
        attribute_by_speed("tram", 1.0)
    # A box's own attribute wins when it goes with the class.
    base = with_boxes(prediction(2, 3), label=torch.zeros(3).long())
    index = NUSCENES_ATTRIBUTES.index
    own = torch.tensor([index("vehicle.stopped"), index("cycle.with_rider"), -1])
    item = dataclasses.replace(with_boxes(base, attribute=own), score=torch.tensor([0.9, 0.8, 0.7]))
    names = [row["attribute_name"] for row in official_boxes(item)]
    assert names == ["vehicle.stopped", "vehicle.moving", "vehicle.moving"]


def test_unknown_velocity_becomes_zero() -> None:
    velocity = torch.tensor([[math.nan, 1.0], [math.nan, math.nan]])
    rows = official_boxes(with_boxes(prediction(3, 2), velocity_mps=velocity))
    assert [row["velocity"] for row in rows] == [[0.0, 0.0]] * 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score": torch.tensor([0.5, 1.5])}, "score 1.5; scores must lie in"),
        ({"score": torch.tensor([-0.1, 0.5])}, "score -0.1"),
        ({"score": torch.tensor([0.5, math.nan])}, "score nan"),
        ({"label": torch.tensor([0, 10])}, "label 10 has no class"),
        ({"label": torch.tensor([-1, 0])}, "label -1 has no class"),
        ({"velocity_mps": torch.tensor([[0.0, math.inf], [0.0, 0.0]])}, "infinite velocity"),
    ],
)
def test_bad_predictions_are_refused(
    tmp_path: Path, change: dict[str, torch.Tensor], message: str
) -> None:
    item = prediction(4, 2)
    bad = dataclasses.replace(item, **change) if "score" in change else with_boxes(item, **change)
    with (
        pytest.raises(ValueError, match=f"sample 'sample-4': .*{message}"),
        SubmissionWriter(tmp_path / "r.json", Modalities()) as writer,
    ):
        writer.add(bad)
    assert list(tmp_path.iterdir()) == []


def test_tokens_are_watched(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "r.json"
    with (
        pytest.raises(ValueError, match=r"1 of 2 samples were not added, first 'sample-1'"),
        SubmissionWriter(path, Modalities(), tokens=["sample-0", "sample-1"]) as writer,
    ):
        writer.add(prediction(0))
    assert list(path.parent.iterdir()) == []
    writer = SubmissionWriter(path, Modalities(), tokens=["sample-0"])
    writer.add(prediction(0))
    with pytest.raises(ValueError, match="added before"):
        writer.add(prediction(0))
    with pytest.raises(ValueError, match="not among the 1 expected"):
        writer.add(prediction(1))
    writer.close()
    writer.close()
    with pytest.raises(ValueError, match="closed"):
        writer.add(prediction(2))
    assert [item.name for item in path.parent.iterdir()] == ["r.json"]
    with pytest.raises(ValueError, match="no nuScenes detection classes: tram"):
        SubmissionWriter(path, Modalities(), classes=["car", "tram"])


def test_an_exception_keeps_the_old_file(tmp_path: Path) -> None:
    path = write(tmp_path / "r.json", prediction(0))
    old = path.read_bytes()
    with pytest.raises(KeyboardInterrupt), SubmissionWriter(path, Modalities()) as writer:
        writer.add(prediction(1))
        raise KeyboardInterrupt
    assert [item.name for item in tmp_path.iterdir()] == ["r.json"]
    assert path.read_bytes() == old


@pytest.fixture
def small_files_only() -> Iterator[None]:
    """Files may grow to 100 kB: writing beyond fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("samples", [1, 12])
@pytest.mark.usefixtures("small_files_only")
def test_full_disk_leaves_nothing(tmp_path: Path, samples: int) -> None:
    path = tmp_path / "r.json"
    with (
        pytest.raises(OSError, match=r"nothing was left behind.*r\.json"),
        SubmissionWriter(path, Modalities()) as writer,
    ):
        for seed in range(samples):  # the buffer is 1 MB: fails in close, or in add
            writer.add(prediction(seed, 500, spread_m=15.0))
    assert list(tmp_path.iterdir()) == []


def test_reading_back_refuses_what_it_cannot_read(tmp_path: Path) -> None:
    item = prediction(0, 2)
    poses = {item.token: (item.global_SE3_ref, item.ego_SE3_ref)}
    with pytest.raises(FileNotFoundError, match="is no results file"):
        predictions_from_submission(tmp_path / "none.json", poses)
    path = write(tmp_path / "r.json", item)
    with pytest.raises(ValueError, match="lacks 1 of 2 samples, first 'other'"):
        predictions_from_submission(path, {**poses, "other": poses[item.token]})
    assert predictions_from_submission(path, {}) == []
    for old, new, message in [
        ('"size":[', '"size":[0,', r"list-length sample 'sample-0' \[0\].size"),
        ('"results"', '"result"', "has no field results"),
        ("\n}}\n", "", "end of the file"),
        (':[{"sample', ':{"a":[{"sample', "must be a list of boxes"),
    ]:
        broken = tmp_path / "broken.json"
        broken.write_text(path.read_text().replace(old, new, 1))
        with pytest.raises(ValueError, match=message):
            predictions_from_submission(broken, poses)
