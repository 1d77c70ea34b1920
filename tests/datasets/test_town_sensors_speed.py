from __future__ import annotations

from perception3d.datasets.town.speed import measure


def test_the_timing_street_is_measured():
    speed = measure(image_scales=(0.25,), repeats=1)
    assert speed.rows > 500
    assert speed.rays_per_s > 2e5  # far below the usual 5 million: only a broken build is slower
    assert set(speed.camera_ms) == {0.25}
