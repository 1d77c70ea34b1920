"""The town's cameras: agreement with the LiDAR, visibility, determinism, weather."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from perception3d.datasets.town import camera, catalogue, lidar, rig, shadows
from perception3d.datasets.town import primitives as p
from perception3d.datasets.town.weather import Weather

CAMERAS = rig.scaled(0.25)
CLEAR = Weather(sun_azimuth_rad=2.0, sun_elevation_rad=0.8, cloud_cover=0.3)
POSE = (100.0, 100.0, 0.4)


@dataclass
class Plain:
    """A field of asphalt, 200 m wide."""

    colour: np.ndarray = field(default_factory=lambda: np.full((401, 400, 3), 110, np.uint8))
    material: np.ndarray = field(
        default_factory=lambda: np.full((401, 400), p.Material.ASPHALT, np.uint8)
    )
    origin_xy_m: tuple[float, float] = (0.0, 0.0)
    cell_m: float = 0.5


def box(ahead: float, left: float, half, owner: int) -> p.Rows:
    """A box placed in the ego frame of POSE."""
    rows = p.rows_of(
        [p.part(p.Shape.BOX, (0, 0, half[2]), half, (0.8, 0.2, 0.2), p.Material.CONCRETE)]
    )
    x, y = (rig.world_SE3_ego(POSE) @ [ahead, left, 0, 1])[:2]
    return p.place(rows, (x, y), POSE[2], owner=owner)


def shot(rows: p.Rows, weather: Weather = CLEAR, *, cam: rig.Camera = CAMERAS[0], seed: int = 3):
    ground = Plain()
    mask = shadows.static_mask(rows, ground, weather)
    prepared = camera.prepare_ground(ground)
    return camera.render_layers(rows, prepared, mask, cam, POSE, weather, seed)


def test_box_covers_the_pixels_that_projection_predicts():
    picture = shot(box(20.0, 0.0, (1.0, 2.0, 1.0), 4))
    cam = CAMERAS[0]
    v, u = np.nonzero(picture.owner == 4)
    ego_SE3_camera = cam.ego_SE3_camera
    corners = np.array([[19.0, y, z, 1.0] for y in (-2, 2) for z in (0, 2)])
    c = corners @ np.linalg.inv(ego_SE3_camera).T
    uv = c[:, :2] / c[:, 2:3] * cam.focal_px + cam.centre_px
    assert u.min() == pytest.approx(uv[:, 0].min(), abs=1.5)
    assert u.max() == pytest.approx(uv[:, 0].max(), abs=1.5)
    assert v.min() == pytest.approx(uv[:, 1].min(), abs=1.5)
    assert v.max() == pytest.approx(uv[:, 1].max(), abs=1.5)
    depth = picture.depth_m[picture.owner == 4]
    assert np.median(depth) == pytest.approx(c[:, 2].min(), abs=0.1)


def test_half_hidden_object_counts_its_pixels():
    far = box(30.0, 0.0, (0.5, 2.0, 1.0), 1)
    alone = shot(far).seen[1]
    assert alone[0] == alone[1] > 100
    # A wall nearer by, from the middle to the left: hides the left half.
    near = box(15.0, 3.0, (0.2, 3.0, 3.0), 2)
    seen, covered = shot(np.concatenate([far, near])).seen[1]
    assert covered == alone[1]
    assert seen / covered == pytest.approx(0.5, abs=0.1)


def test_parts_of_one_owner_are_counted_once_and_order_does_not_matter():
    a, b = box(20.0, 0.0, (1.0, 1.0, 1.0), 1), box(20.5, 0.2, (1.0, 1.0, 1.2), 1)
    other = box(24.0, 0.5, (1.0, 1.5, 1.5), 2)
    first = shot(np.concatenate([a, other, b]))
    second = shot(np.concatenate([b, a, other]))
    assert first.seen == second.seen
    assert first.seen[1][0] == (first.owner == 1).sum() == first.seen[1][1]


@pytest.mark.parametrize("index", range(6))
def test_lidar_points_land_on_pixels_of_their_owner(index):
    rng = np.random.default_rng(index)
    rows = [box(*rng.uniform(-25, 25, 2), rng.uniform(0.4, 2.0, 3), k) for k in range(25)]
    rows = np.concatenate([r for r in rows if np.hypot(*(r[0, :2] - POSE[:2])) > 6])
    poses = np.tile(np.array(POSE), (1084, 1))
    points, owner = lidar.sweep(rows, p.rows_of([]), Plain(), poses, CLEAR, 1)
    cam = CAMERAS[index]
    picture = shot(rows, cam=cam)
    camera_T_lidar = np.linalg.inv(cam.ego_SE3_camera) @ rig.LIDAR_TOP.ego_SE3_lidar
    xyz = points[:, :3] @ camera_T_lidar[:3, :3].T + camera_T_lidar[:3, 3]
    uv = xyz[:, :2] / xyz[:, 2:3] * cam.focal_px + cam.centre_px
    u, v = np.rint(uv).astype(int).T
    ok = (xyz[:, 2] > 3) & (u > 0) & (v > 0) & (u < cam.width - 1) & (v < cam.height - 1)
    ok &= owner >= 0
    u, v, who, depth = u[ok], v[ok], owner[ok], xyz[ok, 2]
    if index in (0, 3):
        assert len(u) > 20
    same = picture.owner[v, u] == who
    close = np.abs(picture.depth_m[v, u] - depth) < 0.05 * depth
    # The sensors sit apart, so a few points are hidden from the camera or fall beside an edge.
    assert len(u) == 0 or (same & close).mean() > 0.75
    assert not np.any(picture.depth_m[v, u][same & ~close] > depth[same & ~close] * 1.3)


def test_same_seed_same_bytes():
    rows = np.concatenate(
        [box(15, 1, (1, 1, 1), 1), p.place(catalogue.parts("tree", (5, 5, 7), 1), (110, 108), 0.0)]
    )
    first, second, other = shot(rows), shot(rows), shot(rows, seed=4)
    assert first.image.tobytes() == second.image.tobytes()
    assert first.image.tobytes() != other.image.tobytes()


@pytest.mark.parametrize(
    "weather",
    [CLEAR, Weather(night=True), Weather(fog=0.05), Weather.from_seed(5), Weather(cloud_cover=1.0)],
    ids=["clear", "night", "fog", "drawn", "overcast"],
)
def test_pictures_are_sane_in_any_weather(weather):
    kinds = ("car", "bus", "pedestrian", "house", "tree", "traffic_cone")
    rng = np.random.default_rng(0)
    rows = []
    for k, kind in enumerate(kinds):
        parts = catalogue.parts(kind, catalogue.size_of(kind, rng), k)
        x, y = (rig.world_SE3_ego(POSE) @ [14 + 5 * k, 4 * (-1) ** k, 0, 1])[:2]
        rows.append(
            p.place(parts, (x, y), 0.3 * k, owner=k if kind not in ("house", "tree") else -1)
        )
    picture = shot(np.concatenate(rows), weather)
    assert picture.image.shape == (225, 400, 3) and picture.image.dtype == np.uint8
    assert np.isfinite(picture.depth_m).all() and picture.depth_m.min() > 0
    assert set(picture.seen) <= {0, 1, 2, 5}
    mean = picture.image.mean()
    assert (5 < mean < 80) if weather.night else (70 < mean < 200)
    assert picture.image.std() > 8


def test_fog_fades_the_sky_too():
    clear, foggy = shot(p.rows_of([])), shot(p.rows_of([]), Weather(fog=0.05))
    sky = np.s_[:60]
    chroma = [np.ptp(q.image[sky].astype(float).mean((0, 1))) for q in (clear, foggy)]
    assert chroma[1] < 0.4 * chroma[0]


def test_shadow_falls_away_from_the_sun():
    weather = Weather(sun_azimuth_rad=0.0, sun_elevation_rad=np.pi / 4)
    rows = box(0.0, 0.0, (0.5, 0.5, 2.0), 1)
    rows[:, p.X : p.Y + 1] = 100.0
    mask = shadows.static_mask(rows, Plain(), weather)
    row = int(100.0 / mask.cell_m)
    at = lambda x: mask.height_cm[row, int(x / mask.cell_m)]  # noqa: E731
    assert at(98.0) == pytest.approx(
        250, abs=20
    )  # the ray that ends here passes x = 100.5 at 2.5 m
    assert at(95.0) == 0 and at(102.0) == 0
    crop = shadows.with_moving(mask, rows, weather, (100.0, 100.0), 20.0)
    assert crop.height_cm.shape[0] <= 40 / mask.cell_m + 1
    assert crop.origin_xy_m == pytest.approx((80.0, 80.0), abs=0.2)
    assert np.array_equal(mask.height_cm, shadows.static_mask(rows, Plain(), weather).height_cm)


def test_cameras_scale_with_whole_pixels():
    half = rig.scaled(0.5)
    assert [c.channel for c in half] == [c.channel for c in rig.CAMERAS]
    assert half[0].K[:2] == pytest.approx(0.5 * rig.CAMERAS[0].K[:2])
    assert (half[0].width, half[0].height) == (800, 450)
    with pytest.raises(ValueError, match="whole"):
        rig.scaled(0.3333)
    for c in rig.CAMERAS:
        R = c.ego_SE3_camera[:3, :3]
        assert pytest.approx(np.eye(3), abs=1e-12) == R @ R.T
        assert np.linalg.det(R) == pytest.approx(1.0)


def test_ground_of_unequal_sizes_is_refused():
    ground = Plain(material=np.zeros((3, 3), np.uint8))
    with pytest.raises(ValueError, match="material"):
        camera.prepare_ground(ground)
