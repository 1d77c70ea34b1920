"""Parts of the evaluator by hand-worked numbers, and against their readable twins."""

from __future__ import annotations

import math

import numpy as np
import pytest

from perception3d.evaluation.detection_boxes import BoxColumns
from perception3d.evaluation.detection_config import (
    ATTRIBUTES,
    CATEGORY_CLASS,
    OFFICIAL,
    UNDEFINED_ERRORS,
)
from perception3d.evaluation.detection_curves import curve_of, running_mean, scores_of
from perception3d.evaluation.detection_match import match, match_one_by_one
from perception3d.evaluation.detection_rotation import headings_rad
from perception3d.evaluation.rules import CLASS_ATTRIBUTES, MAX_BOXES_PER_SAMPLE
from perception3d.structures import taxonomy

CLASSES = OFFICIAL.classes


def boxes(x: list[float], label: int = 0, sample: int = 0) -> BoxColumns:
    n = len(x)
    return BoxColumns(
        sample=np.full(n, sample, np.int32),
        label=np.full(n, label, np.int8),
        attribute=np.full(n, -1, np.int8),
        center_m=np.stack([np.array(x, float), np.zeros(n), np.zeros(n)], axis=1),
        size_wlh_m=np.ones((n, 3)),
        rotation_wxyz=np.tile([1.0, 0, 0, 0], (n, 1)),
        velocity_mps=np.zeros((n, 2)),
    )


def test_configuration_agrees_with_the_taxonomy() -> None:
    assert dict(OFFICIAL.class_range_m) == taxonomy.NUSCENES_CLASS_RANGE_M
    assert CATEGORY_CLASS == taxonomy.NUSCENES_RAW_TO_DETECTION
    assert ATTRIBUTES == taxonomy.NUSCENES_ATTRIBUTES
    assert set(CLASSES) == set(CLASS_ATTRIBUTES)
    assert OFFICIAL.max_boxes == MAX_BOXES_PER_SAMPLE
    without = {name for name, attributes in CLASS_ATTRIBUTES.items() if not attributes}
    assert without == set(UNDEFINED_ERRORS)


def test_configuration_is_the_official_one() -> None:
    pytest.importorskip("nuscenes")
    from tests.evaluation.mini_nuscenes import quiet

    with quiet():
        from nuscenes.eval.common.config import config_factory

        expected = config_factory("detection_cvpr_2019").serialize()
    assert OFFICIAL.official() == expected
    assert list(OFFICIAL.official()["class_range"]) == list(expected["class_range"])


def test_matching_by_hand() -> None:
    truth = boxes([0.0, 1.0])
    # Of equal scores the later one goes first and takes its nearest, 1.0; the other falls back to
    # 0.0, 0.6 m away. A distance of exactly the threshold is none.
    predicted = boxes([0.6, 0.6])
    found = match(predicted, np.array([0.5, 0.5]), truth, (0.5, 0.7), len(CLASSES))
    assert found.order.tolist() == [1, 0]
    assert found.truth.tolist() == [[-1, 1], [0, 1]]
    found = match(boxes([0.5]), np.ones(1), truth, (0.5, 0.6), len(CLASSES))
    assert found.truth.tolist() == [[-1], [0]]  # equally far from both: the first listed


@pytest.mark.parametrize("seed", range(5))
def test_rounds_equal_one_by_one(seed: int) -> None:
    rng = np.random.default_rng(seed)

    def draw(n: int, samples: list[int]) -> BoxColumns:
        drawn = boxes(np.round(rng.uniform(0, 12, n) * 2).tolist())
        drawn.sample[:] = np.sort(rng.choice(samples, n))
        drawn.label[:] = rng.integers(0, 3, n)
        return drawn

    truth, predicted = draw(40, [0, 1, 2]), draw(200, [-1, 0, 1, 2])
    score = np.round(rng.random(200), 1)
    found = match(predicted, score, truth, OFFICIAL.thresholds_m, len(CLASSES))
    for threshold, row in zip(OFFICIAL.thresholds_m, found.truth):
        assert (row == match_one_by_one(predicted, score, truth, threshold)).all()
        hit = row[row >= 0]
        assert len(hit) == len(set(hit.tolist())) > 5


def test_headings_equal_pyquaternion() -> None:
    pyquaternion = pytest.importorskip("pyquaternion")
    rng = np.random.default_rng(0)
    q = rng.normal(size=(400, 4))
    q[:100, 1:3] = 0.0
    q[:200] /= np.linalg.norm(q[:200], axis=1, keepdims=True)
    q[0], q[1], q[2], q[3] = [0, 0, 0, 0], [1, 0, 0, -0.0], [0, 0, 0, 1], [-0.0, 0, 0, -1]
    for row, heading in zip(q, headings_rad(q)):
        axis = pyquaternion.Quaternion(row).rotation_matrix @ [1, 0, 0]
        assert np.arctan2(axis[1], axis[0]) == heading


def test_curve_by_hand() -> None:
    # 4 boxes; hits, miss, hit: recall .25 .5 .5 .75, precision 1 1 2/3 3/4.
    hit, score = np.array([True, True, False, True]), np.array([0.9, 0.8, 0.7, 0.6])
    errors = np.tile([0.1, 0.3, 0.2], (5, 1))
    curve = curve_of(hit, score, errors, 4)
    assert curve.precision[25] == 1.0 and curve.precision[76] == 0.0
    assert curve.precision[75] == 0.75
    assert curve.confidence[[25, 75, 76]].tolist() == [0.9, 0.6, 0.0]
    assert curve.last_bin == 75
    assert curve.errors[0][[25, 75]] == pytest.approx([0.1, 0.2])
    curves = {(name, t): curve for name in CLASSES for t in OFFICIAL.thresholds_m}
    scores = scores_of(curves, OFFICIAL)
    expected = (curve.precision[11:76] - 0.1).clip(0).sum() / 90 / 0.9
    assert scores.mean_ap == pytest.approx(expected)
    assert math.isnan(scores.label_tp_errors[CLASSES.index("traffic_cone")][2])
    total = 5 * scores.mean_ap + sum(1 - value for value in scores.tp_errors.values())
    assert scores.nds == pytest.approx(total / 10)


def test_quirks_of_curves() -> None:
    assert running_mean(np.array([math.nan, 2.0, math.nan, 4.0])).tolist() == [0, 2, 2, 3]
    assert running_mean(np.full(3, math.nan)).tolist() == [1, 1, 1]
    zero = curve_of(np.ones(3, bool), np.zeros(3), np.zeros((5, 3)), 3)
    assert zero.last_bin == 0 and zero.precision.min() == 1.0
    with pytest.raises(ValueError, match="do not descend"):
        curve_of(np.array([True]), np.array([-1.0]), np.zeros((5, 1)), 2)
