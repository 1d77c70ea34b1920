"""The town in the Argoverse 2 sensor format: our reader, and the ``av2`` package."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from perception3d.datasets import ImageAugment, collate
from perception3d.datasets.av2 import AV2Frames, read_ground_height
from perception3d.datasets.town import build_av2, rig, rig_av2
from perception3d.datasets.town.build_av2 import STAMP, build_av2_town
from perception3d.datasets.town.settings import TownSettings
from perception3d.geometry import points_in_boxes
from perception3d.structures import BEVGrid
from perception3d.structures.taxonomy_av2 import AV2_CAMERAS, AV2_CLASSES, AV2_RING_CAMERAS

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # raised inside av2

SETTINGS = TownSettings(
    seed=11,
    train_scenes=1,
    val_scenes=1,
    scene_length_s=1.0,
    train_districts=1,
    val_districts=1,
    image_scale=0.05,
    density=0.4,
)


def quiet(line: str) -> None:
    """Drop progress lines."""


def contents(root: Path) -> dict[str, bytes]:
    files = (path for path in root.rglob("*") if path.is_file() and "index" not in path.parts)
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("town_av2") / "town"
    build_av2_town(folder, SETTINGS, cameras=AV2_CAMERAS, processes=1, report=quiet)
    return folder


@pytest.fixture(scope="module")
def frames(root: Path) -> AV2Frames:
    return AV2Frames(root, "val", cameras=AV2_CAMERAS)


def test_cameras_expose_as_the_beam_passes() -> None:
    # Counted from the left (89.6 degrees), clockwise, 50 ms a turn; later than 25 ms: one earlier.
    offset = {view.channel: view.time_offset_us for view in rig_av2.cameras(1.0)}
    assert offset["ring_front_left"] == round((89.6 - 45) / 360 * 50_000)
    assert offset["ring_front_center"] == round(89.6 / 360 * 50_000)
    assert offset["ring_rear_right"] == round((89.6 + 153) / 360 * 50_000 - 50_000)
    assert max(map(abs, offset.values())) <= 25_000
    sizes = {(view.height, view.width) for view in rig_av2.cameras(1.0, AV2_RING_CAMERAS[:2])}
    assert sizes == {(2048, 1550), (1550, 2048)}


def test_cameras_look_where_their_names_say() -> None:
    for view in rig_av2.cameras(0.25):
        R = view.ego_SE3_camera[:3, :3]
        assert np.allclose(R @ R.T, np.eye(3), atol=1e-9) and np.linalg.det(R) > 0
        forward, down = R[:, 2], R[:, 1]
        assert down[2] < -0.99
        assert (forward[0] > 0) == ("front" in view.channel)
        if not view.channel.startswith("stereo") and view.channel != "ring_front_center":
            assert (forward[1] > 0) == view.channel.endswith("left")


def test_logs_hold_every_sweep_with_its_images(frames: AV2Frames) -> None:
    # A second: turns at 0, 0.1 .. 0.9 s.
    assert len(frames) == 10
    times = [frames[i].time_ns for i in range(10)]
    assert np.diff(times).tolist() == [100_000_000] * 9
    frame = frames[2]
    assert frame.rig is not None and frame.images is not None and frame.points is not None
    assert tuple(frame.images[0].shape) == (102, 78, 3)
    assert tuple(frame.images[1].shape) == (78, 102, 3)
    offset = [view.time_offset_us * 1000 for view in rig_av2.cameras(0.05)]
    assert (frame.rig.time_ns - frame.time_ns).tolist() == offset
    assert len(frame.points) > 20_000


def test_points_lie_on_the_ground_and_not_on_the_own_car(frames: AV2Frames) -> None:
    ringed = AV2Frames(frames.root, "val", ring=True, cameras=())[0].points
    assert ringed is not None and ringed.ring is not None
    assert torch.unique(ringed.ring).tolist()[0] == 0 and int(ringed.ring.max()) > 45
    xyz = ringed.xyz_m
    assert float(xyz.norm(dim=1).max()) < rig.MAX_RANGE_M + 5
    low = xyz[(xyz[:, 2] < -0.2) & (xyz[:, :2].norm(dim=1) < 15)]
    assert float(low[:, 2].median()) == pytest.approx(-rig_av2.EGO_HEIGHT_M, abs=0.02)
    on_roof = (xyz[:, 0] > -0.5) & (xyz[:, 0] < 3) & (xyz[:, 1].abs() < 0.5) & (xyz[:, 2] > 0.5)
    assert int(on_roof.sum()) == 0


@pytest.mark.parametrize("split", ["train", "val"])
def test_points_inside_boxes_are_counted_as_annotated(root: Path, split: str) -> None:
    frames, boxes_seen = AV2Frames(root, split, cameras=()), 0
    for frame in (frames[i] for i in range(len(frames))):
        boxes, points = frame.boxes, frame.points
        assert boxes is not None and points is not None
        inside = points_in_boxes(points.xyz_m, boxes.center_m, boxes.size_lwh_m, boxes.yaw_rad)
        assert inside.sum(dim=0).tolist() == boxes.num_points.tolist()
        boxes_seen += int((boxes.num_points > 0).sum())
    assert boxes_seen > 50


def test_standing_points_of_two_sweeps_agree(root: Path) -> None:
    """Poses and times are one story: moved by ego motion, sweeps lie on each other."""
    from scipy.spatial import cKDTree

    points = AV2Frames(root, "val", cameras=(), num_sweeps=2)[4].points
    assert points is not None
    xyz = points.xyz_m.numpy()
    high = (xyz[:, 2] > 0.5) & (np.linalg.norm(xyz[:, :2], axis=1) < 30)
    now, past = xyz[high & (points.age_s == 0).numpy()], xyz[high & (points.age_s > 0).numpy()]
    assert float(np.median(cKDTree(now).query(past)[0])) < 0.12


def test_a_batch_for_training(root: Path) -> None:
    frames = AV2Frames(root, "train")
    step = ImageAugment.test((64, 96), horizon=0.4)
    rng = np.random.default_rng(0)
    batch = collate([step(frames[i], rng) for i in range(2)])
    assert batch.images is not None and tuple(batch.images.shape) == (2, 7, 3, 64, 96)


def test_the_map_is_under_the_car(root: Path) -> None:
    grid = BEVGrid(x_m=(-30.0, 30.0), y_m=(-30.0, 30.0), z_m=(-5.0, 3.0), cell_m=0.5)
    frames = AV2Frames(root, "val", cameras=(), load_points=False, map_grid=grid)
    drawn = frames[0].map
    assert drawn is not None and bool(drawn.mask[0, 58:62, 58:62].all())
    assert 0.002 < float(drawn.mask[2].float().mean()) < 0.3
    place = frames[0].global_SE3_ref.translation_m[None, :2].numpy()
    assert read_ground_height(frames.log_folder(0).map).at(place).tolist() == [0.0]
    assert frames.location(0) == "TWN"


def test_same_bytes_from_two_processes_and_after_an_interruption(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = contents(root)
    other = tmp_path / "again"
    real, names = build_av2.LogWriter.write, []

    def stop_in_the_second(self: build_av2.LogWriter, *arguments: object) -> dict[str, int]:
        names.append(self.folder)
        if len(names) == 2:
            self.blobs.write(f"{self.folder}/annotations.feather", b"half")
            raise KeyboardInterrupt
        return real(self, *arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(build_av2.LogWriter, "write", stop_in_the_second)
        with pytest.raises(KeyboardInterrupt):
            build_av2_town(other, SETTINGS, cameras=AV2_CAMERAS, processes=1, report=quiet)
    assert not (other / "val").exists()
    shutil.rmtree(other / "train")
    (other / build_av2.WORK / "parts" / "scene-0001.json").unlink()
    build_av2_town(other, SETTINGS, cameras=AV2_CAMERAS, processes=2, report=quiet)
    assert contents(other) == made


def test_other_folders_are_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="made with other settings"):
        build_av2_town(root, replace(SETTINGS, seed=12), cameras=AV2_CAMERAS, report=quiet)
    with pytest.raises(ValueError, match="made with other cameras"):
        build_av2_town(root, SETTINGS, report=quiet)
    (tmp_path / "mine.txt").touch()
    with pytest.raises(ValueError, match=f"holds no {STAMP}"):
        build_av2_town(tmp_path, SETTINGS, report=quiet)


# With the official package.


def test_the_packages_loader_reads_it(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = pytest.importorskip("av2.datasets.sensor.sensor_dataloader")
    monkeypatch.setattr(loader, "HOME", tmp_path)
    data = loader.SensorDataloader(root, with_cache=False)
    assert data.num_logs == 2 and len(data) == 20
    ours = {s: AV2Frames(root, s) for s in ("train", "val")}
    for k in (0, 14):
        datum = data[k]
        frames = ours[data.sensor_cache.xs("lidar", level=2).index[k][0]]
        frame = frames[frames.index_of(f"{datum.log_id}:{datum.timestamp_ns}")]
        assert frame.points is not None and frame.images is not None and frame.rig is not None
        assert np.array_equal(frame.points.xyz_m, datum.sweep.xyz.astype(np.float32))
        cuboids = datum.annotations.cuboids
        counts = [int(c.compute_interior_points(datum.sweep.xyz)[1].sum()) for c in cuboids]
        assert frame.boxes is not None and frame.boxes.num_points.tolist() == counts
        pictures = datum.synchronized_imagery
        assert len(pictures) == 7
        for name, image in zip(frame.rig.names, frame.images):
            found = pictures[name]
            assert found.img.shape == tuple(image.shape)
            if found.timestamp_ns == int(frame.rig.time_ns[frame.rig.names.index(name)]):
                assert np.array_equal(found.img[..., ::-1], image)


def test_the_packages_projection_is_ours(root: Path, frames: AV2Frames) -> None:
    camera = pytest.importorskip("av2.geometry.camera.pinhole_camera").PinholeCamera
    from av2.utils.io import read_city_SE3_ego

    frame, folder = frames[3], frames.log_folder(3).path
    poses = read_city_SE3_ego(folder)
    assert frame.rig is not None and frame.points is not None
    xyz = frame.points.xyz_m[::10].double()
    uv, _ = frame.rig.project(xyz)
    for view, name in enumerate(AV2_CAMERAS):
        expected, _, valid = camera.from_feather(
            folder, name
        ).project_ego_to_img_motion_compensated(
            xyz.numpy(), poses[int(frame.rig.time_ns[view])], poses[frame.time_ns]
        )
        assert valid.sum() > 50
        assert np.abs(uv[view].numpy() - expected)[valid].max() < 1e-3


def test_the_packages_map_reads_it(root: Path) -> None:
    api = pytest.importorskip("av2.map.map_api")
    frames = AV2Frames(root, "val", cameras=(), load_points=False)
    avm = api.ArgoverseStaticMap.from_map_dir(frames.log_folder(0).map, build_raster=True)
    place = frames[0].global_SE3_ref.translation_m[None].numpy()
    on_road = avm.get_raster_layer_points_boolean(place, api.RasterLayerType.DRIVABLE_AREA)
    assert on_road.all()
    assert avm.raster_ground_height_layer.get_ground_height_at_xy(place).tolist() == [0.0]
    lanes = avm.get_scenario_lane_segments()
    ids = {lane.id for lane in lanes}
    assert len(lanes) > 50
    assert all(set(lane.successors) <= ids for lane in lanes)
    for lane in lanes:
        if lane.left_neighbor_id is not None:
            other = next(k for k in lanes if k.id == lane.left_neighbor_id)
            assert other.right_neighbor_id == lane.id
    crossings = avm.get_scenario_ped_crossings()
    walked = [np.linalg.norm(c.edge1.xyz[-1] - c.edge1.xyz[0]) for c in crossings]
    across = [np.linalg.norm(c.edge2.xyz[0] - c.edge1.xyz[0]) for c in crossings]
    assert len(crossings) > 4
    assert (np.array(walked) > np.array(across)).all()  # edges lead from kerb to kerb


def test_the_packages_evaluator_gives_its_truth_full_marks(root: Path) -> None:
    pytest.importorskip("av2.evaluation.detection.eval")
    from av2.evaluation.detection.eval import evaluate
    from av2.evaluation.detection.utils import DetectionCfg
    from av2.utils.io import read_all_annotations

    truth = read_all_annotations(root, "val")
    seen = truth[truth.num_interior_pts > 0].drop(columns=["num_interior_pts", "track_uuid"])
    detections = seen.assign(score=1.0)
    cfg = DetectionCfg(dataset_dir=root / "val")
    _, _, summary = evaluate(detections, truth, cfg, n_jobs=1)
    present = sorted(set(truth.category) & set(AV2_CLASSES))
    scores = summary.loc[present]
    in_region = scores[scores["AP"] > 0]
    assert len(in_region) >= 4
    assert (in_region["AP"] == 1).all() and (in_region["ATE"] < 1e-6).all()
