"""Real logs: the reader against the ``av2`` package (boxes, poses, points, projection, map)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from perception3d.datasets.av2 import AV2Frames, LogFolder, read_ground_height, read_log_map
from perception3d.datasets.av2.log_files import read_poses
from perception3d.geometry import points_in_boxes, yaw_from_matrix
from perception3d.structures import BEVGrid, Frame
from perception3d.structures.taxonomy_av2 import AV2_CAMERAS, AV2_CLASSES

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # raised inside av2

FULL = "7fab2350-7eaf-3b7e-a39d-6937a4c1bede"
ONE_SWEEP = "adcf7d18-0510-35b0-a2fa-b4cea13a6d76"
WITH_EGO = "3b3570b4-7b0b-3268-a571-b0889dbf40b6"
LOGS = (FULL, ONE_SWEEP, WITH_EGO)


@pytest.fixture(scope="module", autouse=True)
def package() -> None:
    pytest.importorskip("av2.datasets.sensor.av2_sensor_dataloader")


@pytest.fixture(scope="module")
def root(realdata: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real logs as a split, by links. Cameras get names of images near the sweeps at times of
    real poses, for there are no real images.
    """
    folder = tmp_path_factory.mktemp("av2_real")
    for name in LOGS:
        source, target = realdata / "av2_log" / name, folder / "val" / name
        if not source.is_dir():
            pytest.skip(f"no log {name} in {realdata}")
        target.mkdir(parents=True)
        for part in ("city_SE3_egovehicle.feather", "map", "calibration"):
            if (source / part).exists():
                (target / part).symlink_to(source / part)
        (boxes,) = source.glob("annotations*.feather")
        (target / "annotations.feather").symlink_to(boxes)
        (target / "sensors").mkdir()
        if (source / "sensors" / "lidar").is_dir():
            (target / "sensors" / "lidar").symlink_to(source / "sensors" / "lidar")
        times = read_poses(LogFolder(target).poses).time_ns
        for view, camera in enumerate(AV2_CAMERAS):
            (target / "sensors" / "cameras" / camera).mkdir(parents=True)
            for time_ns in times[view::7]:
                LogFolder(target).image(camera, int(time_ns)).touch()
    return folder


@pytest.fixture(scope="module")
def frames(root: Path) -> AV2Frames:
    return AV2Frames(root, "val", cameras=AV2_CAMERAS, load_images=False, missing_sweeps="drop")


@pytest.fixture(scope="module")
def sweeps(root: Path) -> AV2Frames:
    """The three times with a point file, without cameras."""
    return AV2Frames(root, "val", cameras=(), missing_sweeps="drop")


@pytest.fixture(scope="module")
def annotated(root: Path) -> AV2Frames:
    """All annotated times, without points and cameras."""
    return AV2Frames(root, "val", cameras=(), load_points=False)


def of_log(frames: AV2Frames, log: str) -> list[Frame]:
    return [frames[i] for i, token in enumerate(frames.tokens) if token.startswith(log)]


@pytest.mark.parametrize("log", LOGS)
def test_boxes_are_the_packages_cuboids(root: Path, annotated: AV2Frames, log: str) -> None:
    from av2.structures.cuboid import CuboidList

    cuboids = CuboidList.from_feather(LogFolder(root / "val" / log).annotations).cuboids
    by_time: dict[int, list] = {}
    for cuboid in cuboids:
        if cuboid.category != "EGO_VEHICLE":
            by_time.setdefault(int(cuboid.timestamp_ns), []).append(cuboid)
    found = of_log(annotated, log)
    assert [frame.time_ns for frame in found] == sorted(by_time) and len(found) > 150
    for frame in found:
        expected, boxes = by_time[frame.time_ns], frame.boxes
        assert boxes is not None and len(boxes) == len(expected)
        center = np.stack([c.dst_SE3_object.translation for c in expected])
        size = np.stack([(c.length_m, c.width_m, c.height_m) for c in expected])
        yaw = torch.tensor(
            [yaw_from_matrix(torch.tensor(c.dst_SE3_object.rotation)) for c in expected]
        )
        assert np.array_equal(boxes.center_m, center.astype(np.float32))
        assert np.array_equal(boxes.size_lwh_m, size.astype(np.float32))
        off = torch.remainder(boxes.yaw_rad - yaw + torch.pi, 2 * torch.pi) - torch.pi
        assert float(off.abs().max()) < 1e-6
        assert [AV2_CLASSES[k] for k in boxes.label.tolist()] == [c.category for c in expected]
        corners = np.stack([c.vertices_m for c in expected]).mean(axis=1)
        assert np.allclose(boxes.corners().mean(dim=1), corners, atol=1e-4)


@pytest.mark.parametrize("log", LOGS)
def test_poses_are_the_packages(root: Path, annotated: AV2Frames, log: str) -> None:
    from av2.utils.io import read_city_SE3_ego

    expected = read_city_SE3_ego(root / "val" / log)
    track = read_poses(LogFolder(root / "val" / log).poses)
    assert track.time_ns.tolist() == sorted(expected)
    for time_ns, T in zip(track.time_ns.tolist(), track.city_T_ego):
        assert np.allclose(T, expected[time_ns].transform_matrix, rtol=0, atol=1e-12)
    for frame in of_log(annotated, log):
        T = expected[frame.time_ns].transform_matrix
        assert np.allclose(frame.global_SE3_ref.matrix(), T, rtol=0, atol=1e-12)


def test_points_inside_boxes_are_counted_as_annotated(sweeps: AV2Frames) -> None:
    assert len(sweeps) == 3
    boxes_checked = 0
    for frame in (sweeps[i] for i in range(3)):
        assert frame.boxes is not None and frame.points is not None
        inside = points_in_boxes(
            frame.points.xyz_m, frame.boxes.center_m, frame.boxes.size_lwh_m, frame.boxes.yaw_rad
        )
        assert inside.sum(dim=0).tolist() == frame.boxes.num_points.tolist()
        boxes_checked += len(frame.boxes)
    assert boxes_checked == 209


def test_points_are_the_packages(root: Path, sweeps: AV2Frames) -> None:
    from av2.utils.io import read_lidar_sweep

    for number in range(len(sweeps)):
        frame = sweeps[number]
        rows = read_lidar_sweep(sweeps.log_folder(number).sweep(frame.time_ns), "xyz")
        assert frame.points is not None
        assert np.array_equal(frame.points.xyz_m, rows.astype(np.float32))


def test_two_sweeps_of_a_moving_car_agree_on_the_standing_world(root: Path) -> None:
    """Moved by ego motion, the earlier sweep's points lie on the later one's; left alone not."""
    from av2.utils.io import read_city_SE3_ego
    from scipy.spatial import cKDTree

    two = AV2Frames(root, "val", cameras=(), num_sweeps=2, missing_sweeps="drop")
    number = two.index_of(f"{FULL}:315966265360032000")
    frame, before = two[number], two[number - 1]
    assert frame.points is not None and before.points is not None
    xyz = frame.points.xyz_m.numpy()
    now, moved = xyz[frame.points.age_s == 0], xyz[frame.points.age_s > 0]
    assert len(moved) == len(before.points)
    poses = read_city_SE3_ego(root / "val" / FULL)
    motion = poses[frame.time_ns].inverse().compose(poses[before.time_ns])
    past = before.points.xyz_m.double().numpy()
    assert np.allclose(moved, motion.transform_point_cloud(past), atol=2e-5)
    assert np.linalg.norm(motion.translation) > 0.05
    tree = cKDTree(now)
    high = (np.linalg.norm(past[:, :2], axis=1) > 8) & (past[:, 2] > 0.5)
    aligned = np.median(tree.query(moved[high][::10])[0])
    left_alone = np.median(tree.query(past[high][::10])[0])
    print(f"\nnearest later point: {aligned:.3f} m, without motion {left_alone:.3f} m")
    assert aligned < 0.8 * left_alone


def test_projection_is_the_packages(root: Path, frames: AV2Frames) -> None:
    """Real calibration, points and poses; every camera at its own time. Also without motion."""
    from av2.geometry.camera.pinhole_camera import PinholeCamera
    from av2.utils.io import read_city_SE3_ego

    folder = root / "val" / FULL
    poses = read_city_SE3_ego(folder)
    largest, moved = 0.0, 0.0
    for number, token in enumerate(frames.tokens):
        if not token.startswith(FULL):
            continue
        frame = frames[number]
        assert frame.rig is not None and frame.points is not None
        assert (frame.rig.time_ns - frame.time_ns).abs().max() < 25_000_000
        xyz = frame.points.xyz_m[::5].double()
        uv, depth = frame.rig.project(xyz)
        for view, name in enumerate(AV2_CAMERAS):
            camera = PinholeCamera.from_feather(folder, name)
            assert frame.rig.image_hw[view].tolist() == [camera.height_px, camera.width_px]
            time_ns = int(frame.rig.time_ns[view])
            expected, in_camera, valid = camera.project_ego_to_img_motion_compensated(
                xyz.numpy(), poses[time_ns], poses[frame.time_ns]
            )
            assert valid.sum() > 100
            largest = max(largest, np.abs(uv[view].numpy() - expected)[valid].max())
            assert np.allclose(depth[view], in_camera[:, 2], atol=1e-9)
            still, _, seen = camera.project_ego_to_img(xyz.numpy())
            both = valid & seen
            moved = max(moved, np.abs(still - expected)[both].max())
    print(f"\nlargest difference {largest:.1e} px; ego motion moves points by up to {moved:.0f} px")
    assert largest < 1e-3
    assert moved > 1  # so times do matter here


@pytest.mark.parametrize("log", LOGS)
def test_map_is_the_packages_drivable_area(root: Path, annotated: AV2Frames, log: str) -> None:
    """At cells of 0.1 m they agree but for cells at a border."""
    import cv2
    from av2.map.map_api import ArgoverseStaticMap

    grid = BEVGrid(x_m=(-40.0, 40.0), y_m=(-40.0, 40.0), z_m=(-5.0, 3.0), cell_m=0.1)
    drawn = AV2Frames(root, "val", cameras=(), load_points=False, load_boxes=False, map_grid=grid)
    frame = drawn[[t.split(":")[0] for t in drawn.tokens].index(log) + 75]
    assert frame.map is not None
    package = ArgoverseStaticMap.from_map_dir(root / "val" / log / "map", build_raster=True)
    # The raster lies in the plane, without the vehicle's tilt.
    T = frame.global_SE3_ref.matrix()
    yaw = float(yaw_from_matrix(T[:3, :3]))
    c, s = np.cos(yaw), np.sin(yaw)
    plan = grid.centers_m().double().reshape(-1, 2).numpy() @ np.array([[c, s], [-s, c]])
    xyz = np.column_stack((plan + T[:2, 3].numpy(), np.zeros(len(plan))))
    assert package.raster_drivable_area_layer is not None
    value = package.raster_drivable_area_layer.get_raster_values_at_coords(xyz, fill_value=0)
    expected = value.astype(bool).reshape(grid.ny, grid.nx)
    ours = frame.map.mask[0].numpy()
    band = cv2.morphologyEx(expected.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((5, 5))) > 0
    assert 0.05 < expected.mean() < 0.95
    assert not ((ours != expected) & ~band).any()
    assert (ours & expected).sum() / (ours | expected).sum() > 0.98


@pytest.mark.parametrize("log", LOGS)
def test_crossings_and_dividers_are_the_packages(
    root: Path, annotated: AV2Frames, log: str
) -> None:
    import shapely
    from av2.map.map_api import ArgoverseStaticMap

    folder = root / "val" / log / "map"
    ours, package = read_log_map(folder), ArgoverseStaticMap.from_map_dir(folder)
    crossings = package.get_scenario_ped_crossings()
    drawn = ours.geometry[ours.layer == 1]
    assert len(drawn) == len(crossings) > 5
    for shape, crossing in zip(drawn, crossings):
        expected = shapely.Polygon(crossing.polygon[:, :2])
        assert shape.is_valid
        if expected.is_valid:
            assert shape.symmetric_difference(expected).area < 1e-9
        assert shape.convex_hull.symmetric_difference(expected.convex_hull).area < 1e-9
    lines = shapely.multilinestrings(ours.geometry[ours.layer == 2])
    lanes = [k for k in package.get_scenario_lane_segments() if not k.is_intersection]
    borders = [b.xyz[:, :2] for k in lanes for b in (k.left_lane_boundary, k.right_lane_boundary)]
    length = sum(np.linalg.norm(np.diff(b, axis=0), axis=1).sum() for b in borders)
    assert shapely.distance(lines, shapely.points(np.concatenate(borders))).max() < 1e-9
    assert 0.4 * length < lines.length <= length + 1e-6  # shared ones are kept once


@pytest.mark.parametrize("log", LOGS)
def test_ground_height_is_the_packages(root: Path, annotated: AV2Frames, log: str) -> None:
    from av2.map.map_api import GroundHeightLayer

    folder = root / "val" / log / "map"
    ours, package = read_ground_height(folder), GroundHeightLayer.from_file(folder)
    track = read_poses(LogFolder(root / "val" / log).poses).city_T_ego[:, :2, 3]
    rng = np.random.default_rng(0)
    xy = np.repeat(track, 4, axis=0) + rng.uniform(-80, 80, (4 * len(track), 2))
    expected = package.get_ground_height_at_xy(np.column_stack((xy, np.zeros(len(xy)))))
    assert np.array_equal(
        ours.at(xy).astype(np.float32), expected.astype(np.float32), equal_nan=True
    )
    assert np.isfinite(expected).mean() > 0.2


def test_objects_that_stand_have_no_velocity(annotated: AV2Frames) -> None:
    names = ("BOLLARD", "CONSTRUCTION_CONE", "SIGN", "STOP_SIGN")
    labels = torch.tensor([AV2_CLASSES.index(name) for name in names])
    speed = []
    for number in range(0, len(annotated), 10):
        boxes = annotated[number].boxes
        assert boxes is not None
        standing = boxes.select(torch.isin(boxes.label, labels))
        speed.append(standing.velocity_mps.norm(dim=1))
    found = torch.cat(speed)
    found = found[~found.isnan()]
    assert len(found) > 300
    assert float(found.median()) < 0.03 and float(found.quantile(0.95)) < 0.1
