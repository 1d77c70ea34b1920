"""Argoverse 2 logs as frames: by hand-worked numbers, and damage that is named."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import feather

from perception3d.datasets.augment import GlobalAugment, SceneChange
from perception3d.datasets.av2 import AV2Frames, LogMapLayers, read_ground_height
from perception3d.datasets.nuscenes.map_layers import SceneWithMap
from perception3d.geometry import apply_transform
from perception3d.structures import BEVGrid, Frame
from perception3d.structures.taxonomy_av2 import (
    AV2_CAMERAS,
    AV2_CLASS_COLORS,
    AV2_CLASSES,
    AV2_IGNORED_CATEGORIES,
    AV2_RING_CAMERAS,
    AV2_TYPICAL_SIZE_LWH_M,
)
from tests.datasets.av2_fixture import BEGIN_NS, MOVER_MPS, SWEEP_NS, camera_hw, make_log, pose_at

LOGS = ("log-a", "log-b")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("av2")
    for seed, name in enumerate(LOGS):
        make_log(folder / "val" / name, sweeps=4 - seed, seed=seed)
    make_log(folder / "test" / "log-c", sweeps=2, annotated=False, images=False)
    return folder


@pytest.fixture()
def own(tmp_path: Path) -> Path:
    """A data set that a test may damage."""
    make_log(tmp_path / "val" / "log-a", sweeps=3)
    return tmp_path


def log_of(root: Path) -> Path:
    return root / "val" / "log-a"


def change_column(path: Path, name: str, values: pa.Array | list) -> None:
    table = feather.read_table(path)
    table = table.set_column(table.column_names.index(name), name, [values])
    feather.write_feather(table, str(path))


def cells_at(frame: Frame, grid: BEVGrid, *xy: tuple[float, float]) -> list[list[bool]]:
    """Every class of the map at places of the city."""
    assert frame.map is not None
    city = torch.tensor([(x, y, float(frame.global_SE3_ref.translation_m[2])) for x, y in xy])
    place = frame.global_SE3_ref.inverse().apply(city.double())[:, :2].float()
    cell, inside = grid.index(place)
    assert bool(inside.all())
    return frame.map.mask[:, cell[:, 0], cell[:, 1]].T.tolist()


def test_classes_are_the_thirty_categories() -> None:
    assert len(AV2_CLASSES) == 26 and len(AV2_IGNORED_CATEGORIES) == 4
    assert len({*AV2_CLASSES, *AV2_IGNORED_CATEGORIES}) == 30
    assert list(AV2_CLASSES) == sorted(AV2_CLASSES)
    assert set(AV2_TYPICAL_SIZE_LWH_M) == set(AV2_CLASS_COLORS) == set(AV2_CLASSES)


def test_every_sweep_is_a_sample_with_log_and_time_as_token(root: Path) -> None:
    frames = AV2Frames(root, "val")
    assert len(frames) == 7
    assert frames.tokens[:2] == (f"log-a:{BEGIN_NS}", f"log-a:{BEGIN_NS + SWEEP_NS}")
    assert frames.tokens[4] == f"log-b:{BEGIN_NS}"
    assert [frames.index_of(token) for token in frames.tokens] == list(range(7))
    assert frames.location(0) == "PIT"
    for token in (f"log-a:{BEGIN_NS + 1}", "log-z:1", "log-a", f"log-a:{BEGIN_NS + 9 * SWEEP_NS}"):
        with pytest.raises(KeyError, match="not in split"):
            frames.index_of(token)
    with pytest.raises(IndexError):
        frames[7]


def test_a_frame_is_in_the_vehicles_frame_at_the_sweeps_time(root: Path) -> None:
    frame = AV2Frames(root, "val")[2]
    time_ns = BEGIN_NS + 2 * SWEEP_NS
    assert (frame.log, frame.time_ns) == ("log-a", time_ns)
    assert np.allclose(frame.global_SE3_ref.matrix(), pose_at(time_ns), atol=1e-12)
    assert torch.equal(frame.ego_SE3_ref.matrix(), torch.eye(4, dtype=torch.float64))
    assert frame.points is not None and len(frame.points) == 300
    assert float(frame.points.age_s.max()) == 0.0


def test_boxes_have_labels_and_velocities_over_ground(root: Path) -> None:
    frames = AV2Frames(root, "val", load_points=False, cameras=())
    for number in range(4):
        frame = frames[number]
        boxes = frame.boxes
        assert boxes is not None
        # The mover, 26 classes, one ignored; once: one more. The vehicle itself is no object.
        assert len(boxes) == 29 if number == 0 else 28
        assert int((boxes.label == -1).sum()) == 1
        mover = boxes.select(torch.tensor([0]))
        assert int(mover.label) == AV2_CLASSES.index("REGULAR_VEHICLE")
        in_ego = pose_at(frame.time_ns)[:3, :3].T @ np.array(MOVER_MPS)
        assert torch.allclose(mover.velocity_mps[0].double(), torch.tensor(in_ego[:2]), atol=1e-4)
        standing = boxes.velocity_mps[1:28]
        assert float(standing.abs().max()) < 1e-4
        assert bool((boxes.attribute == -1).all())
    first = frames[0].boxes
    assert first is not None and bool(first.velocity_mps[28].isnan().all())


def test_class_counts_are_of_boxes_that_hold_points(root: Path) -> None:
    frames = AV2Frames(root, "val", load_points=False, cameras=())
    counts = frames.class_counts()
    assert counts.shape == (7, 26)
    for number in (0, 5):
        boxes = frames[number].boxes
        assert boxes is not None
        seen = boxes.label[(boxes.num_points != 0) & (boxes.label >= 0)]
        assert counts[number].tolist() == torch.bincount(seen, minlength=26).tolist()


def test_sweeps_are_moved_by_the_vehicles_motion(root: Path) -> None:
    alone = [AV2Frames(root, "val", cameras=())[i].points for i in (1, 2)]
    both = AV2Frames(root, "val", num_sweeps=2, ring=True, cameras=())[2].points
    assert both is not None and alone[0] is not None and alone[1] is not None
    assert torch.equal(both.xyz_m[:300], alone[1].xyz_m)
    assert both.age_s[:300].unique().tolist() == [0.0]
    assert both.age_s[300:].unique().tolist() == pytest.approx([0.1])
    times = [BEGIN_NS + SWEEP_NS, BEGIN_NS + 2 * SWEEP_NS]
    moved = np.linalg.inv(pose_at(times[1])) @ pose_at(times[0])
    expected = alone[0].xyz_m.double() @ torch.tensor(moved[:3, :3]).T + torch.tensor(moved[:3, 3])
    assert torch.allclose(both.xyz_m[300:].double(), expected, atol=2e-5)
    assert both.ring is not None and 0 <= int(both.ring.min()) <= int(both.ring.max()) < 64


def test_a_logs_first_frames_have_fewer_sweeps(root: Path) -> None:
    frames = AV2Frames(root, "val", num_sweeps=3, cameras=())
    lengths = [len(frames[i].points or ()) for i in range(6)]
    assert lengths == [300, 600, 900, 900, 300, 600]


def test_every_camera_has_its_own_size_and_exposes_at_its_own_time(root: Path) -> None:
    frame = AV2Frames(root, "val", cameras=AV2_CAMERAS)[1]
    rig, images = frame.rig, frame.images
    assert rig is not None and images is not None and rig.names == AV2_CAMERAS
    assert [tuple(i.shape[:2]) for i in images] == [camera_hw(name) for name in AV2_CAMERAS]
    # Shots of camera v: -20 + 3 v + 50 n ms. The nearest one to 100 ms.
    lag_ms = ((rig.time_ns - frame.time_ns) / 1_000_000).tolist()
    assert lag_ms == [-20, -17, -14, -11, -8, -5, -2, 1, 4]
    point = torch.tensor([[12.0, 3.0, 0.5]])
    city = frame.global_SE3_ref.apply(point.double())
    for view, time_ns in enumerate(rig.time_ns.tolist()):
        index = AV2Frames(root, "val").index
        T = pose_at(time_ns) @ np.array(index["log_ego_T_camera"][0][view])
        camera = np.linalg.inv(T) @ np.array([*city[0].tolist(), 1.0])
        expected = np.array(index["log_K"][0][view]) @ camera[:3]
        uv, depth = rig.project(point)
        assert float(depth[view, 0]) == pytest.approx(expected[2], abs=1e-9)
        if expected[2] > 1:
            assert np.allclose(uv[view, 0], expected[:2] / expected[2], atol=1e-8)


def test_images_can_be_decoded_smaller(root: Path) -> None:
    frame = AV2Frames(root, "val", image_reduce=2, cameras=("ring_front_center",))[0]
    assert frame.images is not None and frame.rig is not None
    assert tuple(frame.images[0].shape) == (64, 49, 3)
    assert frame.rig.image_aug[0].diagonal().tolist() == [0.5, 0.5, 1.0]


def test_a_log_without_images_keeps_its_rig(root: Path) -> None:
    frames = AV2Frames(root, "test", load_images=False)
    frame = frames[0]
    assert frame.boxes is None and frame.images is None
    assert frame.rig is not None and frame.rig.time_ns.tolist() == [frame.time_ns] * 7
    with pytest.raises(FileNotFoundError, match="no image of ring_front_center"):
        AV2Frames(root, "test")[0]


def test_the_map_is_drawn_at_its_place(root: Path) -> None:
    grid = BEVGrid(x_m=(-15.0, 15.0), y_m=(-15.0, 15.0), z_m=(-5.0, 3.0), cell_m=0.25)
    frame = AV2Frames(root, "val", map_grid=grid, cameras=(), load_points=False)[0]
    assert frame.map is not None and frame.map.classes == (
        "drivable_area",
        "ped_crossing",
        "divider",
    )
    found = cells_at(
        frame, grid, (695, 2194), (702, 2200), (695, 2202), (695, 2198), (695, 2207), (711, 2200)
    )
    assert found == [
        [True, False, False],  # street
        [True, True, False],  # crossing
        [True, False, True],  # left boundary
        [True, False, True],  # right boundary
        [True, False, False],  # boundary in an intersection
        [False, False, False],
    ]


def test_the_map_follows_changes_of_the_scene(root: Path) -> None:
    grid = BEVGrid(x_m=(-15.0, 15.0), y_m=(-15.0, 15.0), z_m=(-5.0, 3.0), cell_m=0.25)
    frames = AV2Frames(root, "val", cameras=(), load_points=False)
    layers, frame = LogMapLayers(frames, grid), frames[0]
    plain = layers.draw(frame)
    assert torch.equal(layers.of_token(frame.token).mask, plain.mask)
    # A mirror turns the raster over; the shapes' corners are rounded to cells anew.
    mirrored = layers.draw(frame, SceneChange(flip_y=True))
    assert float((mirrored.mask.flip(1) == plain.mask).float().mean()) > 0.98
    # The places that the plain map says, after a random change of everything.
    step = SceneWithMap(GlobalAugment(), layers)  # type: ignore[arg-type]
    change = GlobalAugment().draw(np.random.default_rng(3))
    changed = step(frame, np.random.default_rng(3))
    assert changed.map is not None
    cells = grid.centers_m().reshape(-1, 2)
    on_ground = torch.cat((cells, torch.zeros(len(cells), 1)), dim=1)
    row_column, inside = grid.index(apply_transform(change.matrix(), on_ground)[:, :2])
    moved = changed.map.mask[0][row_column[:, 0], row_column[:, 1]][inside]
    assert float((moved == plain.mask[0].flatten()[inside]).float().mean()) > 0.97


def test_ground_height_is_nan_where_unknown(root: Path) -> None:
    ground = read_ground_height(log_of(root) / "map")
    inside = (690 + 20.5 * 0.3, 2190 + 10.5 * 0.3)
    found = ground.at(np.array([inside, (690.1, 2190.1), (713, 2191), (680, 2191)]))
    assert found[:2].tolist() == [-18.0, -20.5]
    assert np.isnan(found[2:]).all()


def test_frames_travel_to_workers(root: Path) -> None:
    frames = AV2Frames(root, "val")
    assert pickle.loads(pickle.dumps(frames))[3].token == frames[3].token


@pytest.mark.parametrize(
    "knobs", [{"num_sweeps": 0}, {"cameras": ("CAM_FRONT",)}, {"image_reduce": 3}]
)
def test_wrong_arguments_are_refused(root: Path, knobs: dict) -> None:
    with pytest.raises(ValueError, match="num_sweeps must be"):
        AV2Frames(root, "val", **knobs)


def test_a_missing_split_names_those_that_exist(root: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"splits with logs in .*: test, val"):
        AV2Frames(root, "train")


def test_missing_sweeps_are_refused_or_dropped(own: Path) -> None:
    lost = log_of(own) / "sensors" / "lidar" / f"{BEGIN_NS + SWEEP_NS}.feather"
    lost.unlink()
    with pytest.raises(FileNotFoundError, match=f"1 of 3 annotated sweeps.*{lost.name}"):
        AV2Frames(own, "val")
    frames = AV2Frames(own, "val", missing_sweeps="drop", num_sweeps=2, cameras=())
    assert frames.tokens == (f"log-a:{BEGIN_NS}", f"log-a:{BEGIN_NS + 2 * SWEEP_NS}")
    points = frames[1].points
    assert points is not None and points.age_s.unique().tolist() == pytest.approx([0.0, 0.2])
    assert frames.index_of(frames.tokens[1]) == 1
    with pytest.raises(KeyError):
        frames.index_of(f"log-a:{BEGIN_NS + SWEEP_NS}")
    assert len(AV2Frames(own, "val", load_points=False)) == 3


FILES = (
    "annotations.feather",
    "city_SE3_egovehicle.feather",
    "calibration/intrinsics.feather",
    "calibration/egovehicle_SE3_sensor.feather",
)


@pytest.mark.parametrize("name", FILES)
def test_cut_and_missing_files_are_named(own: Path, name: str) -> None:
    path = log_of(own) / name
    data = path.read_bytes()
    for part in (data[: len(data) // 2], b""):
        path.write_bytes(part)
        with pytest.raises(ValueError, match=f"{path.name}.*download it again"):
            AV2Frames(own, "val")
    if name.startswith("calibration"):
        path.unlink()
        with pytest.raises(FileNotFoundError, match=path.name):
            AV2Frames(own, "val")


def test_a_cut_sweep_and_image_are_named(own: Path) -> None:
    frames = AV2Frames(own, "val")
    sweep = log_of(own) / "sensors" / "lidar" / f"{BEGIN_NS}.feather"
    image = (
        log_of(own) / "sensors" / "cameras" / AV2_RING_CAMERAS[0] / f"{BEGIN_NS - 20_000_000}.jpg"
    )
    for path in (image, sweep):
        path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=sweep.name):
        frames[0]
    with pytest.raises(ValueError, match=image.name):
        AV2Frames(own, "val", load_points=False)[0]


@pytest.mark.parametrize(
    ("file", "column", "values", "message"),
    [
        ("annotations.feather", "category", "LAMP_POST", "unknown category 'LAMP_POST'"),
        ("annotations.feather", "width_m", 0.0, "sizes must be > 0"),
        ("annotations.feather", "height_m", float("nan"), "sizes must be > 0"),
        ("annotations.feather", "tx_m", float("inf"), "is no pose"),
        ("annotations.feather", "qw", 3.0, "is no pose"),
        ("annotations.feather", "tx_m", "here", "column tx_m has type string; expected float"),
        ("annotations.feather", "timestamp_ns", 0.5, "expected int"),
        ("annotations.feather", "timestamp_ns", 7, "more than once"),
        ("city_SE3_egovehicle.feather", "timestamp_ns", BEGIN_NS, "two poses at"),
        ("calibration/intrinsics.feather", "fx_px", -1.0, "is no camera"),
        ("calibration/egovehicle_SE3_sensor.feather", "sensor_name", "x", "holds no camera"),
    ],
)
def test_wrong_contents_are_named(
    own: Path, file: str, column: str, values: object, message: str
) -> None:
    path = log_of(own) / file
    rows = feather.read_table(path).num_rows
    change_column(path, column, pa.array([values] * rows))
    with pytest.raises(ValueError, match=message) as error:
        AV2Frames(own, "val")
    assert path.name in str(error.value)


def test_sweeps_without_pose_are_named(own: Path) -> None:
    path = log_of(own) / "city_SE3_egovehicle.feather"
    table = feather.read_table(path)
    keep = np.array(table.column("timestamp_ns").to_numpy()) != BEGIN_NS + SWEEP_NS
    feather.write_feather(table.filter(pa.array(keep)), str(path))
    with pytest.raises(ValueError, match=f"no pose at .*{BEGIN_NS + SWEEP_NS}"):
        AV2Frames(own, "val")


def test_images_without_pose_are_not_used_and_counted(own: Path) -> None:
    path = log_of(own) / "city_SE3_egovehicle.feather"
    table = feather.read_table(path)
    keep = np.array(table.column("timestamp_ns").to_numpy()) != BEGIN_NS - 20_000_000
    feather.write_feather(table.filter(pa.array(keep)), str(path))
    frames = AV2Frames(own, "val", load_points=False)
    with pytest.raises(FileNotFoundError, match=r"ring_front_center within .*1 images there"):
        frames[0]
    assert frames[1].images is not None


def test_a_log_without_annotations_among_annotated_ones_is_named(own: Path) -> None:
    make_log(own / "val" / "log-b", sweeps=2, annotated=False)
    with pytest.raises(FileNotFoundError, match=r"log-b.annotations.feather is missing"):
        AV2Frames(own, "val")


def test_a_log_without_map_is_named(own: Path) -> None:
    (path,) = (log_of(own) / "map").glob("log_map_archive_*")
    grid = BEVGrid(x_m=(-15.0, 15.0), y_m=(-15.0, 15.0), z_m=(-5.0, 3.0), cell_m=0.5)
    path.write_text(path.read_text()[:300])
    frames = AV2Frames(own, "val", map_grid=grid, cameras=())
    with pytest.raises(ValueError, match="no Argoverse 2 map, or is cut short"):
        frames[0]
    path.unlink()
    with pytest.raises(FileNotFoundError, match="holds 0 files log_map_archive"):
        frames[0]


def test_few_points_that_are_not_finite_are_dropped(
    own: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = log_of(own) / "sensors" / "lidar" / f"{BEGIN_NS}.feather"
    x = feather.read_table(path).column("x").to_numpy().copy()
    x[:2] = np.inf
    change_column(path, "x", pa.array(x))
    points = AV2Frames(own, "val", cameras=())[0].points
    assert points is not None and len(points) == 298
    assert "dropped 2 of 300" in caplog.text
    x[:50] = np.nan
    change_column(path, "x", pa.array(x))
    with pytest.raises(ValueError, match="the file is damaged"):
        AV2Frames(own, "val", cameras=())[0]
