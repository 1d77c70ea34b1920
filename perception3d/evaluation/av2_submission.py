"""The way out to Argoverse 2: `Prediction` in `ref` -> the leaderboard's feather.

Format: av2 0.3.6, `evaluation/detection/SUBMISSION_FORMAT.md`: fourteen columns, boxes in the ego
frame of their sweep, one feather for the whole split. The leaderboard takes the feather itself,
no zip.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from perception3d.evaluation.av2_match import Rows
from perception3d.evaluation.av2_rules import (
    AV2_CATEGORIES,
    AV2_UNEVALUATED,
    BOX_COLUMNS,
    DETECTION_COLUMNS,
    MAX_PER_CATEGORY,
    MAX_RANGE_M,
    split_token,
)
from perception3d.evaluation.hidden_file import HiddenFile
from perception3d.evaluation.outgoing import as_array, check_labels_and_scores, turned
from perception3d.geometry import quaternion_from_matrix
from perception3d.structures import Prediction

Array = NDArray[Any]

SCHEMA = pa.schema(
    [(name, pa.float64()) for name in (*BOX_COLUMNS, "score")]
    + [("log_id", pa.string()), ("timestamp_ns", pa.int64()), ("category", pa.string())]
)
assert tuple(SCHEMA.names) == DETECTION_COLUMNS
_ROWS_PER_BATCH = 1 << 16


class AV2SubmissionWriter:
    """Writes a submission sweep by sweep, in the order in which they are added.

    The feather grows in a hidden file beside the target, which takes its name only when complete.

        with AV2SubmissionWriter("detections.feather", sweeps=sweeps) as writer:
            writer.add(prediction)
    """

    def __init__(
        self,
        path: str | Path,
        *,
        sweeps: Mapping[str, Collection[int]] | None = None,
        classes: Sequence[str] = AV2_CATEGORIES,
    ) -> None:
        """Opens the hidden file; folders are made.

        Args:
            path: target, replaced when it exists.
            sweeps: times (ns) of every log's sweeps; `close` wants each, `add` no other. None: no
                check.
            classes: category of each label.

        Raises:
            OSError: the folder cannot be written.
            ValueError: a category that Argoverse 2 does not know.
        """
        unknown = [name for name in classes if name not in (*AV2_CATEGORIES, *AV2_UNEVALUATED)]
        if unknown:
            raise ValueError(
                f"no categories of Argoverse 2: {', '.join(unknown)}; "
                f"use some of {', '.join(AV2_CATEGORIES)}"
            )
        self.path = Path(path)
        self.num_boxes = 0
        self._classes = tuple(classes)
        self._expected = None
        if sweeps is not None:
            self._expected = {(log, int(time)) for log, times in sweeps.items() for time in times}
        self._added: set[tuple[str, int]] = set()
        self._waiting: list[pa.RecordBatch] = []
        self._num_waiting = 0
        self._file = HiddenFile(self.path)
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        self._arrow = pa.ipc.new_file(self._file.stream, SCHEMA, options=options)

    def add(self, prediction: Prediction) -> None:
        """Converts and writes one sweep; its token is "<log id>:<timestamp_ns>".

        Raises:
            ValueError: a token of another form, added before or not expected; a label without a
                category; a score outside [0, 1].
            OSError: it cannot be written (disk full); the hidden file is gone.
        """
        self._file.require_open()
        log_id, time_ns = split_token(prediction.token)
        if (log_id, time_ns) in self._added:
            raise ValueError(f"sweep {prediction.token!r} was added before; add each sweep once")
        if self._expected is not None and (log_id, time_ns) not in self._expected:
            raise ValueError(
                f"sweep {prediction.token!r} is not among the {len(self._expected)} expected; "
                "write the split that the model was run on"
            )
        rows = official_rows(prediction, self._classes)
        self._added.add((log_id, time_ns))
        self.num_boxes += len(rows)
        columns = [*rows.box.T, rows.value]
        arrays: list[Any] = [pa.array(np.ascontiguousarray(column)) for column in columns]
        names = [self._classes[label] for label in rows.category]
        arrays += [pa.array([log_id] * len(rows), pa.string()), pa.array(rows.time_ns)]
        arrays.append(pa.array(names, pa.string()))
        self._waiting.append(pa.record_batch(arrays, schema=SCHEMA))
        self._num_waiting += len(rows)
        if self._num_waiting >= _ROWS_PER_BATCH:
            self._flush()

    def close(self) -> None:
        """Completes the file and gives it its name; a second call does nothing.

        Raises:
            ValueError: expected sweeps were not added (nothing is left on the disk).
            OSError: as in `add`.
        """
        if not self._file.open:
            return
        missing = sorted((self._expected or set()) - self._added)
        if missing:
            self.abort()
            raise ValueError(
                f"{self.path}: {len(missing)} of {len(self._expected or ())} sweeps were not "
                f"added, first {missing[0][0]}:{missing[0][1]}; run the model over the whole "
                "split (a sweep without boxes is added with none)"
            )
        self._flush()
        with self._file.guarded():
            self._arrow.close()
        self._file.complete()

    def abort(self) -> None:
        """Gives up: removes the hidden file."""
        self._file.abort()

    def __enter__(self) -> AV2SubmissionWriter:
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

    def _flush(self) -> None:
        if not self._waiting:
            return
        table = pa.Table.from_batches(self._waiting).combine_chunks()
        self._waiting, self._num_waiting = [], 0
        with self._file.guarded():
            self._arrow.write_table(table)


def official_rows(prediction: Prediction, classes: Sequence[str] = AV2_CATEGORIES) -> Rows:
    """The boxes of one sweep as the format wants them, best score first.

    Left out is what cannot count: boxes 150 m and more from the ego frame's origin, and of each
    category all but the best 100.

    Args:
        prediction: N boxes in `ref`; the token is "<log id>:<timestamp_ns>".
        classes: category of each label.

    Returns:
        Rows in the ego frame; `category` indexes `classes`, `value` is the score.

    Raises:
        ValueError: a label without a category, a score outside [0, 1], a token of another form.
    """
    boxes, score = prediction.boxes, as_array(prediction.score)
    label = as_array(boxes.label).astype(np.int64)
    where = f"sweep {prediction.token!r}"
    check_labels_and_scores(where, label, score, len(classes), noun="category")
    ego_SE3_ref = prediction.ego_SE3_ref.to("cpu")
    center_m = as_array(boxes.center_m) @ as_array(ego_SE3_ref.rotation).T
    center_m += as_array(ego_SE3_ref.translation_m)
    keep = np.flatnonzero(np.sqrt(np.square(center_m).sum(axis=1)) < MAX_RANGE_M)
    keep = keep[np.argsort(-score[keep], kind="stable")]
    keep = keep[_rank(label[keep]) < MAX_PER_CATEGORY]
    wxyz = as_array(quaternion_from_matrix(ego_SE3_ref.rotation))
    box = np.column_stack(
        (
            center_m[keep],
            as_array(boxes.size_lwh_m)[keep],
            turned(wxyz, as_array(boxes.yaw_rad)[keep]),
        )
    )
    time_ns = np.full(len(keep), split_token(prediction.token)[1], np.int64)
    return Rows(time_ns, label[keep], box, score[keep])


def _rank(label: Array) -> Array:
    """(N,) how many of the same label come before."""
    order = np.argsort(label, kind="stable")
    sorted_label = label[order]
    rank = np.empty(len(label), np.int64)
    rank[order] = np.arange(len(label)) - np.searchsorted(sorted_label, sorted_label)
    return rank
