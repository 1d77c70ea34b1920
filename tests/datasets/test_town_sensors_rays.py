"""Rays against each solid, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from perception3d.datasets.town import primitives as p
from perception3d.datasets.town.raycast import MISS, cast, normal_at, to_part, to_world

SHAPE, METAL = p.Shape, p.Material.METAL


def one(shape: p.Shape, centre, half, **options) -> p.Rows:
    material = options.pop("material", METAL)
    return p.rows_of([p.part(shape, centre, half, (0.5, 0.5, 0.5), material, **options)])


@pytest.mark.parametrize(
    ("shape", "options", "expected"),
    [
        (SHAPE.BOX, {}, 9.0),
        (SHAPE.ELLIPSOID, {}, 9.0),
        (SHAPE.CYLINDER, {}, 9.0),
        (SHAPE.LATERAL, {}, 9.0),
        # Half of the taper is lost at half the height: the front face has moved by 0.5 * 0.5 * 1 m.
        (SHAPE.TAPERED, {"taper": (0.5, 0.5, 0.0)}, 9.25),
        (SHAPE.CYLINDER, {"taper": (0.0, 0.0, 0.5)}, 9.25),
        (SHAPE.BOX, {"yaw": math.pi / 2}, 8.0),  # now its long half size of 2 m lies along the ray
        (SHAPE.BOX, {"pitch": math.pi / 2}, 9.5),  # and now its half height of 0.5 m
    ],
)
def test_ray_through_the_middle(shape, options, expected):
    rows = one(shape, (10, 0, 1), (1, 2, 0.5), **options)
    assert cast(rows, 0, (0.0, 0.0, 1.0), (1.0, 0.0, 0.0), 0.0) == pytest.approx(expected, abs=1e-5)
    assert cast(rows, 0, (0.0, 5.0, 1.0), (1.0, 0.0, 0.0), 0.0) == MISS
    assert cast(rows, 0, (0.0, 0.0, 1.0), (-1.0, 0.0, 0.0), 0.0) == MISS


def test_sphere_off_centre_is_analytic():
    rows = one(SHAPE.ELLIPSOID, (10, 0, 0), (2, 2, 2))
    # |o + t d| = 2 with o at lateral offset 1: t = 10 - sqrt(4 - 1).
    t = cast(rows, 0, (0.0, 1.0, 0.0), (1.0, 0.0, 0.0), 0.0)
    assert t == pytest.approx(10 - math.sqrt(3), abs=1e-5)


def test_t_counts_lengths_of_the_given_direction():
    rows = one(SHAPE.BOX, (10, 0, 0), (1, 1, 1))
    assert cast(rows, 0, (0.0, 0.0, 0.0), (2.0, 0.0, 0.0), 0.0) == pytest.approx(4.5)


def test_cone_slants():
    rows = one(SHAPE.CYLINDER, (10, 0, 1), (1, 1, 1), taper=(0, 0, 1.0))
    for z in (0.2, 1.0, 1.8):
        t = cast(rows, 0, (0.0, 0.0, z), (1.0, 0.0, 0.0), 0.0)
        assert t == pytest.approx(10 - (1 - z / 2), abs=1e-4)


def test_wheel_has_holes_and_a_rim():
    rows = one(SHAPE.LATERAL, (0, 5, 1), (0.5, 0.02, 0.5), material=p.Material.SPOKES)
    rays = [((x, 0.0, 1.0), (0.0, 1.0, 0.0)) for x in np.linspace(-0.49, 0.49, 99)]
    hit = np.array([cast(rows, 0, o, d, 0.0) < MISS for o, d in rays])
    assert hit[0] and hit[-1] and hit[49]  # rim, rim, hub
    assert 0.1 < hit.mean() < 0.7


def test_foliage_lets_some_rays_through():
    rows = one(SHAPE.ELLIPSOID, (10, 0, 0), (1, 2, 2), material=p.Material.LEAVES)
    rng = np.random.default_rng(0)
    near = rng.uniform(-1.9, 1.9, (500, 2))
    through = [cast(rows, 0, (0.0, y, z), (1.0, 0.0, 0.0), 0.02) == MISS for y, z in near]
    assert 0.1 < np.mean(through) < 0.8


def test_random_rays_agree_with_a_fine_march():
    rng = np.random.default_rng(1)
    for shape in (SHAPE.BOX, SHAPE.TAPERED, SHAPE.ELLIPSOID, SHAPE.CYLINDER, SHAPE.LATERAL):
        for _ in range(20):
            half = rng.uniform(0.4, 1.5, 3)
            taper = tuple(rng.uniform(0, 0.5, 3))
            rows = one(
                shape,
                (5, 0, 0),
                half,
                yaw=rng.uniform(-3, 3),
                pitch=rng.uniform(-1, 1),
                taper=taper,
            )
            d = np.array([1.0, *rng.uniform(-0.2, 0.2, 2)])
            t = cast(rows, 0, (0.0, 0.0, 0.0), tuple(d), 0.0)
            steps = np.arange(0, 9, 0.004)
            inside = np.array([_inside(rows, shape, taper, s * d) for s in steps])
            expected = steps[inside][0] if inside.any() else MISS
            if inside.sum() > 3:
                assert t == pytest.approx(expected, abs=0.006)
            elif not inside.any():
                assert t == MISS or t < 9  # a grazing hit between two steps


def _inside(rows, shape, taper, xyz) -> bool:
    x, y, z = to_part(rows, 0, *(np.asarray(xyz) - rows[0, :3]))
    up = (z + 1) / 2
    if shape == SHAPE.ELLIPSOID:
        return x * x + y * y + z * z <= 1
    if shape == SHAPE.LATERAL:
        return x * x + z * z <= 1 and abs(y) <= 1
    if shape == SHAPE.CYLINDER:
        return math.hypot(x, y) <= 1 - taper[2] * up and abs(z) <= 1
    f, r, s = taper if shape == SHAPE.TAPERED else (0, 0, 0)
    return -1 + r * up <= x <= 1 - f * up and abs(y) <= 1 - s * up and abs(z) <= 1


def test_normals_point_outwards_and_have_unit_length():
    rng = np.random.default_rng(2)
    for shape in SHAPE:
        rows = one(shape, (6, 0, 0), (1, 0.7, 1.2), taper=(0.3, 0.2, 0.1), yaw=0.4, pitch=0.2)
        for _ in range(50):
            d = (1.0, *rng.uniform(-0.15, 0.15, 2))
            t = cast(rows, 0, (0.0, 0.0, 0.0), d, 0.0)
            if t == MISS:
                continue
            hit = to_part(rows, 0, *(np.multiply(t, d) - rows[0, :3].astype(float)))
            n = to_world(rows, 0, *normal_at(rows, 0, *hit))
            assert np.linalg.norm(n) == pytest.approx(1.0, abs=1e-5)
            assert np.dot(n, d) < 1e-6


def test_place_and_advance():
    rows = one(SHAPE.BOX, (1, 0, 0.5), (0.5, 0.5, 0.5))
    placed = p.place(rows, (10, 20), math.pi / 2, (2.0, 0.0), owner=7)
    assert placed[0, :3] == pytest.approx([10, 21, 0.5], abs=1e-6)
    assert placed[0, p.OWNER] == 7
    assert p.advance(placed, -0.5)[0, p.X] == pytest.approx(9.0)
    lower, upper = p.bounds(placed)
    assert lower[0] == pytest.approx([9.5, 20.5, 0], abs=1e-5)
    assert upper[0] == pytest.approx([10.5, 21.5, 1], abs=1e-5)
