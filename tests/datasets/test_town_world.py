"""The town's world: settings, streets, ground, traffic, people, standing things."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from perception3d.datasets.town import catalogue
from perception3d.datasets.town.agents import overlapping_pairs
from perception3d.datasets.town.ground import draw_ground
from perception3d.datasets.town.layout import build_layout, district_origin
from perception3d.datasets.town.planar import (
    Occupancy,
    Warp,
    arc_lengths,
    corners_of,
    densify,
    is_inside,
    rectangle,
    rectangles_overlap,
)
from perception3d.datasets.town.plots import build_lots
from perception3d.datasets.town.population import populate
from perception3d.datasets.town.primitives import Material, place
from perception3d.datasets.town.settings import (
    MAX_DISTRICTS,
    TRAIN_SPLIT,
    VAL_SPLIT,
    ClassQuotas,
    TownSettings,
    plan_scenes,
    stream,
)
from perception3d.datasets.town.signals import GREEN, Signals
from perception3d.datasets.town.streets import CROSSING_M, District
from perception3d.datasets.town.tracks import Track
from perception3d.datasets.town.traffic import WARM_UP_S, simulate
from perception3d.datasets.town.walkers import walkers
from perception3d.datasets.town.world import place_many

SETTINGS = TownSettings(seed=5)
CANVAS_M = (2979.5, 2118.1)


@pytest.fixture(scope="module")
def district() -> District:
    return build_layout(SETTINGS, 1)


# --- settings -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("knob", "value"),
    [
        ("seed", -1),
        ("scene_length_s", 0.2),
        ("density", 9.0),
        ("night_share", 1.5),
        ("image_scale", 0.0),
        ("image_scale", 0.3333),
        ("keep_sweep_every", 0),
        ("train_districts", 0),
        ("val_districts", MAX_DISTRICTS),
        ("quotas", ClassQuotas(bus=-1.0)),
    ],
)
def test_settings_name_the_bad_knob(knob: str, value: object) -> None:
    with pytest.raises(ValueError, match="town setting"):
        dataclasses.replace(SETTINGS, **{knob: value})


def test_held_out_scenes_drive_through_other_districts() -> None:
    plans = plan_scenes(TownSettings(train_scenes=9, val_scenes=5))
    assert [p.name for p in plans] == [f"scene-{k:04d}" for k in range(1, 15)]
    train = {p.district for p in plans if p.split == TRAIN_SPLIT}
    val = {p.district for p in plans if p.split == VAL_SPLIT}
    assert train == {0, 1, 2, 3}
    assert val == {4, 5}


def test_night_and_fog_follow_their_shares() -> None:
    plans = plan_scenes(TownSettings(train_scenes=20, night_share=0.25, fog_share=0.1))
    train = [p for p in plans if p.split == TRAIN_SPLIT]
    assert sum(p.night for p in train) == 5
    assert sum(p.fog > 0 for p in train) == 2


def test_streams_depend_on_seed_and_name_only() -> None:
    a = stream(SETTINGS, "scene", 3).random(4)
    assert np.array_equal(a, stream(SETTINGS, "scene", 3).random(4))
    assert not np.array_equal(a, stream(SETTINGS, "scene", 4).random(4))
    assert not np.array_equal(a, stream(TownSettings(seed=6), "scene", 3).random(4))


# --- plane geometry -----------------------------------------------------------------------------


def test_densify_keeps_corners_and_bounds_steps() -> None:
    ring = rectangle(0, 0, 5, 3)
    dense = densify(ring, 2.0, closed=True)
    steps = np.linalg.norm(np.roll(dense, -1, axis=0) - dense, axis=1)
    assert steps.max() <= 2.0
    assert all((dense == corner).all(1).any() for corner in ring)


def test_warp_pose_follows_the_bent_street() -> None:
    warp = Warp(phase=0.4, origin_m=(340.0, 0.0))
    x, y, yaw = warp.pose((100.0, 60.0), (1.0, 0.0))
    a, b = warp(np.array([[99.0, 60.0], [101.0, 60.0]]))
    assert np.allclose([x, y], (a + b) / 2, atol=0.01)
    assert yaw == pytest.approx(np.arctan2(*(b - a)[::-1]), abs=1e-3)


def test_rectangles_overlap_agrees_with_sampling() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        pose = [(*rng.uniform(-3, 3, 2), rng.uniform(-3, 3)) for _ in range(2)]
        a, b = (corners_of(p, *rng.uniform(1, 4, 2)) for p in pose)
        inner = rng.uniform(0, 1, (400, 2))
        points = a[0] + inner[:, :1] * (a[1] - a[0]) + inner[:, 1:] * (a[3] - a[0])
        if any(is_inside(b, (float(p[0]), float(p[1]))) for p in points):
            assert rectangles_overlap(a, b)
    far = corners_of((9.0, 9.0, 0.3), 2, 2)
    assert not rectangles_overlap(corners_of((0.0, 0.0, 0.0), 2, 2), far)


def test_occupancy_marks_and_frees() -> None:
    ground = Occupancy((340.0, 0.0), 20.0)
    ground.mark(corners_of((350.0, 10.0, 0.5), 4, 2))
    assert not ground.is_free(corners_of((351.0, 10.0, 0.0), 2, 2))
    assert ground.is_free(corners_of((345.0, 15.0, 0.0), 2, 2))
    assert not ground.is_free(corners_of((340.2, 10.0, 0.0), 2, 2)), "partly outside the raster"


# --- streets ------------------------------------------------------------------------------------


def test_lanes_lead_on_without_gaps(district: District) -> None:
    for lane in district.lanes:
        assert lane.exits
        for k in lane.exits:
            following = district.lanes[k]
            assert np.allclose(lane.centre_m[-1], following.centre_m[0], atol=1e-6)
            assert lane.index in following.entries


def test_district_lies_on_the_canvas() -> None:
    x, y = district_origin(MAX_DISTRICTS - 1)
    assert x + 340 <= CANVAS_M[0]
    assert y + 340 <= CANVAS_M[1]


def test_crossings_lie_between_junction_and_stop_line(district: District) -> None:
    assert district.crossings
    assert len(district.crossings) == len(district.stop_lines)
    for crossing in district.crossings:
        assert len(crossing.lines) == 4
        width = arc_lengths(crossing.lines[0])[-1]
        section = district.streets[crossing.street].section
        assert width == pytest.approx(2 * section.half_width_m + 1.7, rel=0.05)
    assert max(s.half_width_m for s in (*district.rows, *district.columns)) < CROSSING_M[0]


def test_right_hand_traffic(district: District) -> None:
    for street in district.streets:
        for lane in (k for k in district.lanes if k.street == street.index):
            middle = lane.centre_m[len(lane.centre_m) // 2]
            ahead = lane.centre_m[-1] - lane.centre_m[0]
            nearest = street.centre_line[
                np.argmin(np.linalg.norm(street.centre_line - middle, axis=1))
            ]
            to_centre = nearest - middle
            assert ahead[0] * to_centre[1] - ahead[1] * to_centre[0] > 0, "centre line on the left"


def test_signals_never_show_green_to_conflicting_arms(district: District) -> None:
    signals = Signals.draw(district.junctions, np.random.default_rng(1))
    for junction in (j for j in district.junctions if j.phases):
        for t in np.arange(0, signals.cycle_s(junction.index), 0.5):
            green = [
                arm
                for arm in junction.streets
                if signals.state(junction.index, arm, float(t)) == GREEN
            ]
            for arm in green:
                assert not signals.conflicting(junction.index, arm) & set(green)
            if signals.walk_start(junction.index, float(t)) is not None:
                assert not green


def test_plots_overlap_no_street_and_no_other_plot(district: District) -> None:
    lots = build_lots(SETTINGS, district)
    assert {"house", "car_park", "yard"} <= {plot.kind for plot in lots.plots}
    houses = [corners_of(p.pose, p.length_m, p.depth_m) for p in lots.plots if "house" in p.kind]
    for k, house in enumerate(houses):
        assert not any(rectangles_overlap(house, other) for other in houses[:k])
        for street in district.streets:
            middle = house.mean(0)
            assert not is_inside(street.polygon, (float(middle[0]), float(middle[1])))


def test_ground_has_all_materials_and_repeats(district: District) -> None:
    lots = build_lots(SETTINGS, district)
    ground = draw_ground(SETTINGS, district, lots)
    share = np.bincount(ground.material.ravel(), minlength=8) / ground.material.size
    for material in (Material.GRASS, Material.WALKWAY, Material.CAR_PARK, Material.ASPHALT):
        assert share[material] > 0.01
    assert share[Material.PAINT] > 0.001
    middle = district.streets[0].polygon.mean(0)
    column, row = ((middle - ground.origin_xy_m) / ground.cell_m).astype(int)
    assert ground.material[row, column] in (Material.ASPHALT, Material.PAINT)


# --- things that move ---------------------------------------------------------------------------


def test_track_passes_through_its_knots() -> None:
    path = np.array([[0.0, 0.0], [100.0, 0.0]])
    times = np.array([0.0, 1.0, 2.0])
    track = Track(
        path_m=path,
        arc_m=arc_lengths(path),
        times_s=times,
        distance_m=np.array([10.0, 15.0, 16.0]),
        speed_mps=np.array([6.0, 3.0, 0.0]),
    )
    assert np.allclose(track.poses(times)[:, 0], [10, 15, 16])
    assert track.speed(1.0) == pytest.approx(3.0, abs=0.05)
    assert np.allclose(track.poses(np.array([1.5]))[0, 1:], 0)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_vehicles_drive_turn_and_stop_without_touching(district: District, seed: int) -> None:
    rng = np.random.default_rng(seed)
    signals = Signals.draw(district.junctions, rng)
    vehicles = simulate(district, signals, rng, count=40, scene_length_s=10.0)
    times = WARM_UP_S + np.arange(0, 10, 0.5)
    # The scene builder drops the rare touching pair; the simulation itself leaves almost none.
    assert len(overlapping_pairs(vehicles, times)) <= 1
    driven = [v.distance_m for v in vehicles]
    assert max(driven) > 50
    slowest = min(v.track.speed(float(t)) for v in vehicles for t in times)
    assert slowest < 0.2, "somebody waits at a light"
    yaw = np.stack([v.track.poses(times)[:, 2] for v in vehicles])
    turned = np.abs(np.unwrap(yaw, axis=1)[:, -1] - np.unwrap(yaw, axis=1)[:, 0])
    assert turned.max() > 1.0, "somebody turns"


def test_people_walk_and_cross_without_touching(district: District) -> None:
    rng = np.random.default_rng(4)
    signals = Signals.draw(district.junctions, rng)
    people = walkers(district, signals, rng, density=1.0, end_s=40.0, ignored=1.0)
    times = np.arange(WARM_UP_S, 40.0, 1.0)
    assert len(people) > 60
    assert len(overlapping_pairs(people, times)) <= 2
    speeds = [p.track.speed(25.0) for p in people]
    assert max(speeds) < 2.6
    assert np.median(speeds) > 0.4
    kinds = {p.kind for p in people}
    assert "pedestrian" in kinds


def test_standing_things_do_not_touch_and_quotas_count(district: District) -> None:
    lots = build_lots(SETTINGS, district)
    route = district.lanes[0].centre_m
    found = populate(SETTINGS, lots, route, np.random.default_rng(2))
    assert not overlapping_pairs(found.agents, np.zeros(1))
    kinds = [agent.kind for agent in found.agents]
    for kind in ("car", "truck", "bus", "trailer", "construction_vehicle", "barrier"):
        assert kinds.count(kind) >= 1, kind
    assert found.things, "distractors"
    no_bus = dataclasses.replace(SETTINGS, quotas=ClassQuotas(bus=0.0))
    again = populate(no_bus, lots, route, np.random.default_rng(2))
    assert "bus" not in {agent.kind for agent in again.agents}


def test_many_are_placed_like_one_by_one() -> None:
    rng = np.random.default_rng(0)
    parts = [catalogue.parts(kind, catalogue.size_of(kind, rng), 3) for kind in ("car", "bus")]
    poses, speeds = rng.uniform(-2, 2, (2, 3)), rng.uniform(-5, 5, (2, 2))
    rows = place_many(parts, poses, speeds, np.array([4, 9]))
    single = [
        place(p, pose[:2], pose[2], speed, owner)
        for p, pose, speed, owner in zip(parts, poses, speeds, (4, 9), strict=True)
    ]
    assert np.allclose(rows, np.concatenate(single), atol=1e-6)


def test_bicycles_in_racks_lie_inside_the_rack(district: District) -> None:
    lots = build_lots(SETTINGS, district)
    for seed in range(6):
        found = populate(SETTINGS, lots, district.lanes[0].centre_m, np.random.default_rng(seed))
        racks = [a for a in found.agents if a.kind == "bicycle_rack"]
        if racks:
            break
    assert racks
    outlines = [rack.outline(rack.track.poses(np.zeros(1))[0]) for rack in racks]
    inside = 0
    for agent in found.agents:
        if agent.kind == "bicycle":
            x, y = agent.track.path_m[0]
            inside += any(is_inside(outline, (float(x), float(y))) for outline in outlines)
    assert inside
