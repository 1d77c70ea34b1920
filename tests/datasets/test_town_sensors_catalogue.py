"""Every kind of the town's catalogue: inside its box, repeatable, several looks."""

from __future__ import annotations

import numpy as np
import pytest

from perception3d.datasets.town import catalogue
from perception3d.datasets.town import primitives as p

KINDS = sorted(catalogue.SIZES_LWH_M)
RIDDEN = ("bicycle", "motorcycle", "wheelchair")


@pytest.mark.parametrize("kind", KINDS)
def test_parts_stay_inside_the_box(kind):
    margin = 0.05 if kind in catalogue.ANNOTATED_KINDS else -1.5
    rng = np.random.default_rng(0)
    for seed in range(40):
        size = catalogue.size_of(kind, rng)
        ridden = kind in RIDDEN and seed % 2 == 1
        if ridden and kind != "wheelchair":
            size = (size[0], size[1], 1.75)
        rows = catalogue.parts(kind, size, seed, rider=ridden, phase=0.3 * seed)
        assert rows.dtype == np.float32 and rows.shape[1] == p.NUM_COLUMNS and len(rows) >= 1
        assert np.isfinite(rows).all() and (rows[:, p.HX : p.HZ + 1] > 0).all()
        if kind in catalogue.ANNOTATED_KINDS:
            lower, upper = p.bounds(rows)
            room = np.array([size[0] / 2, size[1] / 2]) - margin + 1e-3
            assert (np.abs(lower[:, :2]).max(0) <= room).all(), (seed, lower.min(0), room)
            assert (upper[:, :2].max(0) <= room).all(), (seed, upper.max(0), room)
            assert upper[:, 2].max() <= size[2] - margin + 1e-3, seed
            assert lower[:, 2].min() >= -1e-3
            # The box is not much larger than its content either.
            assert ridden or kind == "wheelchair" or upper[:, 2].max() >= 0.6 * size[2]
            assert upper[:, 0].max() - lower[:, 0].min() >= 0.3 * size[0]


@pytest.mark.parametrize("kind", KINDS)
def test_seed_decides_the_look(kind):
    size = catalogue.size_of(kind, np.random.default_rng(1))
    same = [catalogue.parts(kind, size, 5) for _ in range(2)]
    assert np.array_equal(*same)
    looks = {catalogue.parts(kind, size, seed).tobytes() for seed in range(12)}
    assert len(looks) > 1 or kind in ("pole", "street_light", "kerb")


def test_walkers_move_their_legs():
    size = (0.73, 0.67, 1.77)
    still = catalogue.parts("pedestrian", size, 3)
    step = catalogue.parts("pedestrian", size, 3, phase=1.5)
    assert still.shape == step.shape and not np.array_equal(still, step)


def test_sizes_scatter_within_a_kind():
    rng = np.random.default_rng(0)
    lengths = [catalogue.size_of("truck", rng)[0] for _ in range(50)]
    assert 5.0 < min(lengths) < 6.3 < 7.5 < max(lengths) < 8.8


def test_unknown_kind_and_bad_size_are_refused():
    with pytest.raises(ValueError, match="known kinds"):
        catalogue.parts("spaceship", (1, 1, 1), 0)
    with pytest.raises(ValueError, match="known kinds"):
        catalogue.size_of("spaceship", np.random.default_rng(0))
    with pytest.raises(ValueError, match="positive"):
        catalogue.parts("car", (4.0, -1.0, 1.5), 0)
