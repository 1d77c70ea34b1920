"""The one way out: `Prediction` in the frame `ref` -> nuScenes results JSON, and back for viewers.

Format: nuscenes.org/object-detection; each box global, size as width, length, height, rotation as a
quaternion w, x, y, z. The conversion follows mmdetection3d's
`mmdet3d/evaluation/metrics/nuscenes_metric.py`: the full rotation of the vehicle is applied to the
box, boxes beyond the range of their class are left out.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from perception3d import fast_json
from perception3d.evaluation.hidden_file import HiddenFile
from perception3d.evaluation.outgoing import as_array, check_labels_and_scores, turned
from perception3d.evaluation.rules import (
    CLASS_ATTRIBUTES,
    MAX_BOXES_PER_SAMPLE,
    Modalities,
    attribute_by_speed,
)
from perception3d.geometry import quaternion_from_matrix
from perception3d.structures import Prediction
from perception3d.structures.taxonomy import (
    NUSCENES_ATTRIBUTES,
    NUSCENES_CLASS_RANGE_M,
    NUSCENES_CLASSES,
)


class SubmissionWriter:
    """Writes a results file sample by sample, in the order in which they are added.

    The text grows in a hidden file beside the target, which takes its name only when complete: a
    full disk, an exception or Ctrl-C leaves no half file (and an older complete file untouched).

        with SubmissionWriter("results.json", Modalities(lidar=True), tokens=tokens) as writer:
            writer.add(prediction)
    """

    def __init__(
        self,
        path: str | Path,
        meta: Modalities,
        *,
        tokens: Collection[str] | None = None,
        classes: Sequence[str] = NUSCENES_CLASSES,
    ) -> None:
        """Opens the hidden file; folders are made.

        Args:
            path: target, replaced when it exists.
            meta: what the model used.
            tokens: the split's sample tokens; `close` wants each, `add` no other. None: no check.
            classes: detection class of each label.

        Raises:
            OSError: the folder cannot be written.
            ValueError: a class the format does not know.
        """
        unknown = [name for name in classes if name not in CLASS_ATTRIBUTES]
        if unknown:
            raise ValueError(
                f"no nuScenes detection classes: {', '.join(unknown)}; "
                f"use some of {', '.join(CLASS_ATTRIBUTES)}"
            )
        self.path = Path(path)
        self.num_boxes = 0
        self._classes = tuple(classes)
        self._expected = None if tokens is None else frozenset(tokens)
        self._added: set[str] = set()
        self._file = HiddenFile(self.path, buffering=1 << 20)
        self._write(b'{"meta":' + fast_json.dumps(meta.to_meta()) + b',"results":{')

    @property
    def added(self) -> frozenset[str]:
        """Tokens written so far."""
        return frozenset(self._added)

    def add(self, prediction: Prediction) -> None:
        """Converts and writes one sample.

        Raises:
            ValueError: the token was added before or is not expected; a label without a class; a
                score outside [0, 1]; an infinite velocity.
            OSError: the text cannot be written (disk full); the hidden file is gone.
        """
        token = prediction.token
        self._file.require_open()
        if token in self._added:
            raise ValueError(f"sample {token!r} was added before; add each sample once")
        if self._expected is not None and token not in self._expected:
            raise ValueError(
                f"sample {token!r} is not among the {len(self._expected)} expected; "
                "write the split that the model was run on"
            )
        boxes = official_boxes(prediction, self._classes)
        comma = b",\n" if self._added else b"\n"
        self._write(comma + fast_json.dumps(token) + b":" + fast_json.dumps(boxes))
        self._added.add(token)
        self.num_boxes += len(boxes)

    def close(self) -> None:
        """Completes the file and gives it its name; a second call does nothing.

        Raises:
            ValueError: expected samples were not added (nothing is left on the disk).
            OSError: as in `add`.
        """
        if not self._file.open:
            return
        missing = sorted((self._expected or frozenset()) - self._added)
        if missing:
            self.abort()
            raise ValueError(
                f"{self.path}: {len(missing)} of {len(self._expected or ())} samples were not "
                f"added, first {missing[0]!r}; run the model over the whole split (a sample "
                "without boxes is added with none)"
            )
        self._write(b"\n}}\n")
        self._file.complete()

    def abort(self) -> None:
        """Gives up: removes the hidden file."""
        self._file.abort()

    def __enter__(self) -> SubmissionWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def _write(self, text: bytes) -> None:
        with self._file.guarded():
            self._file.stream.write(text)


def official_boxes(
    prediction: Prediction, classes: Sequence[str] = NUSCENES_CLASSES
) -> list[dict[str, Any]]:
    """The boxes of one sample as the format wants them, best score first.

    Left out: boxes not strictly within their class's range of the ego vehicle (horizontal distance
    between global positions, as the evaluator measures), boxes with score 0 (they would spoil the
    errors of their class), and all but the best 500. An unknown (NaN) velocity becomes 0, because
    the evaluator skips NaN instead of punishing it. The attribute is the box's own if it goes with
    the class, else follows the speed (`attribute_by_speed`).

    Args:
        prediction: N boxes in `ref`.
        classes: detection class of each label.

    Returns:
        Up to 500 dictionaries with the eight fields of the format.

    Raises:
        ValueError: a label without a class, a score outside [0, 1], an infinite velocity.
    """
    boxes, score = prediction.boxes, as_array(prediction.score)
    label, speed_mps = as_array(boxes.label).astype(np.int64), as_array(boxes.velocity_mps)
    where = f"sample {prediction.token!r}"
    check_labels_and_scores(where, label, score, len(classes))
    if np.isinf(speed_mps).any():
        raise ValueError(f"{where}: an infinite velocity; unknown ones are NaN")
    global_SE3_ref = prediction.global_SE3_ref.to("cpu")
    ego_m = as_array((global_SE3_ref @ prediction.ego_SE3_ref.to("cpu").inverse()).translation_m)
    R = as_array(global_SE3_ref.rotation)
    center_m = as_array(boxes.center_m) @ R.T + as_array(global_SE3_ref.translation_m)
    range_m = np.array([NUSCENES_CLASS_RANGE_M[name] for name in classes])
    distance_m = np.sqrt(np.square(center_m[:, :2] - ego_m[:2]).sum(axis=1))
    keep = np.flatnonzero((distance_m < range_m[label]) & (score > 0))
    keep = keep[np.argsort(-score[keep], kind="stable")[:MAX_BOXES_PER_SAMPLE]]

    wxyz = as_array(quaternion_from_matrix(global_SE3_ref.rotation))
    speed_mps = np.where(np.isnan(speed_mps).any(axis=1, keepdims=True), 0.0, speed_mps)[keep]
    velocity_mps = speed_mps @ R[:2, :2].T
    rows = zip(
        center_m[keep].tolist(),
        as_array(boxes.size_lwh_m)[keep][:, [1, 0, 2]].tolist(),
        turned(wxyz, as_array(boxes.yaw_rad)[keep]).tolist(),
        velocity_mps.tolist(),
        [classes[index] for index in label[keep]],
        score[keep].tolist(),
        as_array(boxes.attribute).astype(np.int64)[keep].tolist(),
        np.linalg.norm(velocity_mps, axis=1).tolist(),
        strict=True,
    )
    return [
        {
            "sample_token": prediction.token,
            "translation": translation,
            "size": size,
            "rotation": quaternion,
            "velocity": velocity,
            "detection_name": name,
            "detection_score": value,
            "attribute_name": _attribute(name, attribute, speed),
        }
        for translation, size, quaternion, velocity, name, value, attribute, speed in rows
    ]


def _attribute(class_name: str, index: int, speed_mps: float) -> str:
    if index >= 0 and NUSCENES_ATTRIBUTES[index] in CLASS_ATTRIBUTES[class_name]:
        return NUSCENES_ATTRIBUTES[index]
    return attribute_by_speed(class_name, speed_mps)
