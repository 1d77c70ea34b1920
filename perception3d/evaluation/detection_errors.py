"""The five errors of matched pairs. Rules: nuscenes-devkit 1.2.0, `eval/common/utils.py`.

Quirks that are kept: an unknown (NaN) velocity gives NaN, which the means skip instead of
punishing; a size of zero or less is a fault only here, when its box is matched.
"""

from __future__ import annotations

import numpy as np

from perception3d.evaluation.detection_boxes import Array, BoxColumns
from perception3d.evaluation.detection_config import SYMMETRIC_CLASSES, DetectionConfig
from perception3d.evaluation.detection_match import Matches
from perception3d.evaluation.detection_rotation import headings_rad


class PairErrors:
    """Errors of pairs of one set of predictions and ground truth; headings are computed once."""

    def __init__(
        self, predicted: BoxColumns, truth: BoxColumns, matches: Matches, config: DetectionConfig
    ) -> None:
        """Takes headings of all boxes that are matched at any threshold.

        Raises:
            ValueError: a matched box has a size that is not positive.
        """
        self._predicted, self._truth = predicted, truth
        matched = matches.truth >= 0
        ours = np.flatnonzero(matched.any(axis=0))
        theirs = np.unique(matches.truth[matched])
        for boxes, rows, whose in ((predicted, ours, "predicted"), (truth, theirs, "annotated")):
            bad = np.flatnonzero(~(boxes.size_wlh_m[rows] > 0).all(axis=1))
            if len(bad):
                size = boxes.size_wlh_m[rows[bad[0]]].tolist()
                raise ValueError(
                    f"{len(bad)} {whose} boxes have sizes that are not > 0, first {size} of class "
                    f"{config.classes[boxes.label[rows[bad[0]]]]} at "
                    f"{boxes.center_m[rows[bad[0]]].tolist()}; write width, length, height"
                )
        self._symmetric = [config.classes.index(name) for name in SYMMETRIC_CLASSES]
        with np.errstate(all="ignore"):
            self._heading = _scattered(headings_rad(predicted.rotation_wxyz[ours]), ours, predicted)
            self._true_heading = _scattered(
                headings_rad(truth.rotation_wxyz[theirs]), theirs, truth
            )

    def of(self, pred: Array, box: Array) -> Array:
        """(5, M) errors of M pairs of one class, in the order of `TP_ERRORS`."""
        mine, true = self._predicted, self._truth
        with np.errstate(all="ignore"):
            return np.stack(
                [
                    _length(mine.center_m[pred, :2] - true.center_m[box, :2]),
                    1.0 - _scale_iou(true.size_wlh_m[box], mine.size_wlh_m[pred]),
                    self._turn(pred, box),
                    _length(mine.velocity_mps[pred] - true.velocity_mps[box]),
                    np.where(
                        true.attribute[box] < 0,
                        np.nan,
                        1.0 - (true.attribute[box] == mine.attribute[pred]).astype(np.float64),
                    ),
                ]
            )

    def _turn(self, pred: Array, box: Array) -> Array:
        period = np.where(np.isin(self._truth.label[box], self._symmetric), np.pi, 2 * np.pi)
        difference = self._true_heading[box] - self._heading[pred]
        difference = (difference + period / 2) % period - period / 2
        return np.abs(np.where(difference > np.pi, difference - 2 * np.pi, difference))


def _scattered(values: Array, rows: Array, boxes: BoxColumns) -> Array:
    out = np.full(len(boxes), np.nan)
    out[rows] = values
    return out


def _length(offset: Array) -> Array:
    return np.sqrt(offset[:, 0] * offset[:, 0] + offset[:, 1] * offset[:, 1])


def _scale_iou(true_wlh_m: Array, wlh_m: Array) -> Array:
    both = _volume(np.minimum(true_wlh_m, wlh_m))
    return both / (_volume(true_wlh_m) + _volume(wlh_m) - both)


def _volume(wlh_m: Array) -> Array:
    return wlh_m[:, 0] * wlh_m[:, 1] * wlh_m[:, 2]
