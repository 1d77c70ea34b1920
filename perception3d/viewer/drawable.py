"""What all pictures need of boxes and frames, as numpy arrays."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from perception3d.structures import Boxes3D, Frame, Prediction
from perception3d.structures.taxonomy import NUSCENES_CLASSES
from perception3d.viewer.colors import Rgb, class_color


def to_numpy(tensor: Tensor) -> NDArray[Any]:
    """Copy a tensor of any device to a numpy array."""
    array: NDArray[Any] = tensor.detach().cpu().numpy()
    return array


@dataclass(frozen=True)
class BoxArrays:
    """Boxes ready to be drawn, in `ref`.

    Attributes:
        corners_m: (N, 8, 3) corners as :func:`perception3d.geometry.box_corners` orders them.
        center_m: (N, 3) gravity centres.
        size_lwh_m: (N, 3) length, width, height.
        yaw_rad: (N,) heading.
        velocity_mps: (N, 2), NaN = unknown.
        label: (N,) class index, -1 = ignored class.
        num_points: (N,) LiDAR points inside, -1 = unknown.
        score: (N,), or None for annotations.
        colors: N class colours.
        names: N class names.
    """

    corners_m: NDArray[np.float64]
    center_m: NDArray[np.float64]
    size_lwh_m: NDArray[np.float64]
    yaw_rad: NDArray[np.float64]
    velocity_mps: NDArray[np.float64]
    label: NDArray[np.int64]
    num_points: NDArray[np.int64]
    score: NDArray[np.float64] | None
    colors: list[Rgb]
    names: list[str]

    def __len__(self) -> int:
        return len(self.center_m)


def box_arrays(
    boxes: Boxes3D, classes: tuple[str, ...] = NUSCENES_CLASSES, score: Tensor | None = None
) -> BoxArrays:
    """Turn boxes into arrays with colours.

    Args:
        boxes: N boxes in `ref`.
        classes: Class names by label.
        score: (N,) scores of a prediction.
    """
    label = to_numpy(boxes.label).astype(np.int64)
    return BoxArrays(
        corners_m=to_numpy(boxes.corners()).astype(np.float64),
        center_m=to_numpy(boxes.center_m).astype(np.float64),
        size_lwh_m=to_numpy(boxes.size_lwh_m).astype(np.float64),
        yaw_rad=to_numpy(boxes.yaw_rad).astype(np.float64),
        velocity_mps=to_numpy(boxes.velocity_mps).astype(np.float64),
        label=label,
        num_points=to_numpy(boxes.num_points).astype(np.int64),
        score=None if score is None else to_numpy(score).astype(np.float64),
        colors=[class_color(int(value), classes) for value in label],
        names=[classes[v] if 0 <= v < len(classes) else "ignored" for v in label.tolist()],
    )


def truth_arrays(frame: Frame, classes: tuple[str, ...] = NUSCENES_CLASSES) -> BoxArrays | None:
    """Return the annotated boxes of a frame, None when it carries no annotation."""
    return None if frame.boxes is None else box_arrays(frame.boxes, classes)


def prediction_arrays(
    prediction: Prediction,
    classes: tuple[str, ...] = NUSCENES_CLASSES,
    min_score: float = 0.0,
) -> BoxArrays:
    """Return predicted boxes of at least ``min_score``, the surest last (drawn on top)."""
    order = prediction.score.argsort()
    order = order[prediction.score[order] >= min_score]
    return box_arrays(prediction.boxes.select(order), classes, prediction.score[order])


SCORE_LIMITS, SCORE_WITHOUT_TRUTH = (0.1, 0.4), 0.25
"""Bounds of :func:`balanced_score`, and its value where nothing is annotated."""


def balanced_score(truth: Sequence[BoxArrays | None], scores: Sequence[NDArray[Any]]) -> float:
    """Choose the score from which predictions are drawn when the user names none.

    A fixed threshold empties the picture of a model that is unsure of everything and floods that of
    one that is sure. This one draws as many predictions as there are annotated boxes with a LiDAR
    point inside (those that evaluators count), within :data:`SCORE_LIMITS`.

    Args:
        truth: Annotated boxes by frame; None where a frame has no annotation.
        scores: Scores of the predictions by frame.

    Returns:
        The score, rounded down to a hundredth.
    """
    known = [boxes for boxes in truth if boxes is not None]
    count = sum(int(((b.label >= 0) & (b.num_points != 0)).sum()) for b in known)
    ranked = np.sort(np.concatenate([np.zeros(0), *scores]))[::-1]
    if not count or not len(ranked):
        return SCORE_WITHOUT_TRUTH
    score = float(np.clip(ranked[min(count, len(ranked)) - 1], *SCORE_LIMITS))
    return float(np.floor(score * 100 + 1e-6) / 100)


def frame_score(
    truth: BoxArrays | None, prediction: Prediction | None, min_score: float | None
) -> float:
    """Return ``min_score``, or where it is None what :func:`balanced_score` says of one frame."""
    if min_score is not None or prediction is None:
        return SCORE_WITHOUT_TRUTH if min_score is None else min_score
    return balanced_score([truth], [to_numpy(prediction.score)])


def check_same_sample(frame: Frame, prediction: Prediction | None) -> None:
    """Refuse a prediction of another sample.

    Raises:
        ValueError: When the tokens differ.
    """
    if prediction is not None and prediction.token != frame.token:
        raise ValueError(
            f"the prediction is of sample {prediction.token} and the frame is {frame.token}; "
            "give the prediction with the frame's token"
        )


def check_tokens(wanted: Collection[str], found: Collection[str], where: str) -> None:
    """Refuse results that lack a sample, as results of another data set or split do.

    Args:
        wanted: Tokens of the samples that shall be drawn.
        found: Tokens that the results hold.
        where: The results' name for the message.

    Raises:
        ValueError: When a token is missing; lists the missing ones and those found instead.
    """
    missing = [token for token in wanted if token not in found]
    if not missing:
        return
    unknown = [token for token in found if token not in wanted]
    raise ValueError(
        f"{where} lacks {len(missing)} of {len(wanted)} samples: {_listed(missing)}. "
        f"It holds {len(unknown)} others: {_listed(unknown)}. "
        "Give the root, version and split that the results were made for"
    )


def _listed(tokens: list[str]) -> str:
    return ", ".join(tokens[:5]) + (", ..." if len(tokens) > 5 else "") if tokens else "none"


def up_rotation(frame: Frame) -> NDArray[np.float64]:
    """Turn `ref`, by quarters of a circle, so that the vehicle's front points up on the page.

    Returns:
        (2, 2) rotation: the identity for nuScenes, where `ref` has y forward; where it has x
        forward, a turn by 90 degrees.
    """
    forward = to_numpy(frame.ego_SE3_ref.rotation)[0, :2]  # The ego x axis, in `ref`.
    quarter = round((np.pi / 2 - np.arctan2(forward[1], forward[0])) / (np.pi / 2)) % 4
    cosine, sine = [(1, 0), (0, 1), (-1, 0), (0, -1)][quarter]
    return np.array([[cosine, -sine], [sine, cosine]], dtype=np.float64)


# A compact car (Renault Zoe, 4.084 x 1.730 m, which carries nuScenes' sensors) around the middle of
# the rear axle, front bumper first; drawn as a sign of place and heading.
_EGO_OUTLINE_M = np.array(
    [
        (3.42, 0.0), (3.36, 0.45), (3.05, 0.80), (2.0, 0.865), (-0.35, 0.865), (-0.62, 0.70),
        (-0.66, 0.0), (-0.62, -0.70), (-0.35, -0.865), (2.0, -0.865), (3.05, -0.80), (3.36, -0.45),
    ]
)  # fmt: skip


def ego_outline(frame: Frame) -> NDArray[np.float64]:
    """Return the own car seen from above: (12, 2) vertices in `ref`, the first at the front."""
    ref_SE3_ego = frame.ego_SE3_ref.inverse()
    R, t = to_numpy(ref_SE3_ego.rotation), to_numpy(ref_SE3_ego.translation_m)
    result: NDArray[np.float64] = _EGO_OUTLINE_M @ R[:2, :2].T + t[:2]
    return result
