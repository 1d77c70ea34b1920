"""Offline check of an Argoverse 2 submission, before anybody waits for a leaderboard.

The official evaluator (av2 0.3.6) checks next to nothing: boxes of unknown categories, NaN in
centres and scores, or of no annotated sweep pass in silence and score nothing, or worse. All of
that is rejected here, and whatever the official code fails on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from perception3d.evaluation.av2_match import Rows
from perception3d.evaluation.av2_rules import (
    AV2_CATEGORIES,
    DETECTION_COLUMNS,
    MAX_PER_CATEGORY,
    MAX_RANGE_M,
)
from perception3d.evaluation.av2_tables import (
    UNEVALUATED,
    DetectionFile,
    open_feather,
    read_poses,
    read_sweeps,
    row_faults,
    schema_faults,
)
from perception3d.evaluation.findings import FindingList, Report, shown

Array = NDArray[Any]


def validate_av2_submission(
    path: str | Path,
    root: str | Path | None = None,
    *,
    allow_empty_sweeps: bool = False,
    findings_per_code: int = 20,
) -> Report:
    """Checks a submission, log by log.

    Args:
        path: the feather.
        root: folder of the split that it answers (.../sensor/val or test); with it, missing and
            foreign logs and sweeps are found, and boxes in the city frame are told from mere
            distant ones. None leaves this unchecked and says so.
        allow_empty_sweeps: a sweep without any box is only warned of (a feather cannot say "none").
        findings_per_code: of each kind of finding so many (1 or more) are listed; all are counted.

    Returns:
        The report; `report.accepted` is the verdict. Its samples are sweeps with boxes. Bad files
        never raise.

    Raises:
        ValueError: findings_per_code below 1, or `root` is no folder of a split.
    """
    if findings_per_code < 1:
        raise ValueError(f"findings_per_code must be 1 or more, found {findings_per_code}")
    sweeps = None if root is None else read_sweeps(root)
    check = _FileCheck(FindingList(findings_per_code), root, sweeps, allow_empty_sweeps)
    try:
        if check.columns(open_feather(path).schema):
            with DetectionFile(path) as file:
                check.rows(file)
    except FileNotFoundError as error:
        check.findings.error("file-missing", str(error))
    except (ValueError, OSError, pa.ArrowException) as error:
        message = f"{shown(str(error), 300)}; the rest was not checked"
        check.findings.error("feather-malformed", message)
    path = Path(path)
    return Report(
        tuple(check.findings.kept),
        dict(check.findings.counts),
        check.num_sweeps,
        check.num_boxes,
        path.stat().st_size if path.is_file() else 0,
    )


class _FileCheck:
    """The rules, and what they must remember from log to log."""

    def __init__(
        self,
        findings: FindingList,
        root: str | Path | None,
        sweeps: dict[str, Array] | None,
        allow_empty_sweeps: bool,
    ) -> None:
        self.findings = findings
        self.num_sweeps = 0
        self.num_boxes = 0
        self._root = None if root is None else Path(root)
        self._sweeps = sweeps
        self._allow_empty_sweeps = allow_empty_sweeps
        self._far = 0
        self._near_in_city = 0
        self._tied = 0
        self._unevaluated = 0

    def columns(self, schema: pa.Schema) -> bool:
        """Whether the rows can be read."""
        fine = True
        for code, name, what in schema_faults(schema, DETECTION_COLUMNS):
            self.findings.error(code, what, name)
            fine = False
        for name in schema.names:
            if name not in DETECTION_COLUMNS:
                message = f"{shown(name)} is no column of the format; it is passed over"
                self.findings.warning("column-unknown", message)
        return fine

    def rows(self, file: DetectionFile) -> None:
        """Everything below the columns."""
        if self._sweeps is None:
            message = "no folder of the split was given: missing and foreign sweeps go unnoticed"
            self.findings.warning("sweeps-unchecked", message)
        for log_id in file.log_ids:
            if self._sweeps is not None and log_id not in self._sweeps:
                message = f"{shown(log_id)} is no log of the split; remove its boxes"
                self.findings.error("log-foreign", message)
            self._log(log_id, file.rows(log_id))
        for log_id in sorted((self._sweeps or {}).keys() - set(file.log_ids)):
            message = f"no box of log {log_id} ({len((self._sweeps or {})[log_id])} sweeps)"
            self.findings.error("log-missing", message)
        self._whole_file()

    def _log(self, log_id: str, rows: Rows) -> None:
        times = np.unique(rows.time_ns)
        self.num_boxes += len(rows)
        self.num_sweeps += len(times)
        broken = np.zeros(len(rows), bool)
        for code, column, bad, what in row_faults(rows, scored=True):
            broken |= bad
            value = rows.value if column == "score" else None
            self._boxes("error", code, log_id, rows, bad, what, column, value)
        outside = np.isfinite(rows.value) & ((rows.value < 0) | (rows.value > 1))
        what = "scores are expected in [0, 1]"
        self._boxes("warning", "score-range", log_id, rows, outside, what, "score", rows.value)
        self._unevaluated += int((rows.category == UNEVALUATED).sum())
        self._check_sweeps(log_id, times)
        fine = rows.select(~broken & (rows.category >= 0))
        self._check_duplicates(log_id, fine)
        self._check_groups(log_id, fine)
        self._check_range(log_id, fine)

    def _boxes(
        self,
        severity: str,
        code: str,
        log_id: str,
        rows: Rows,
        bad: Array,
        what: str,
        column: str,
        value: Array | None = None,
    ) -> None:
        for row in np.flatnonzero(bad).tolist():
            self.findings.token = f"{log_id}:{rows.time_ns[row]}"
            message = what if value is None else f"{what}, found {value[row]:.6g}"
            note = self.findings.error if severity == "error" else self.findings.warning
            note(code, message, f"[{row}].{column}")
        self.findings.token = None

    def _check_sweeps(self, log_id: str, times: Array) -> None:
        if self._sweeps is None or log_id not in self._sweeps:
            return
        wanted = self._sweeps[log_id]
        for time_ns in np.setdiff1d(times, wanted).tolist():
            self.findings.token = f"{log_id}:{time_ns}"
            self.findings.error("sweep-foreign", "no LiDAR sweep of the log has this timestamp_ns")
        for time_ns in np.setdiff1d(wanted, times).tolist():
            self.findings.token = f"{log_id}:{time_ns}"
            if self._allow_empty_sweeps:
                self.findings.warning("sweep-missing", "no box: all its objects count as missed")
            else:
                message = "no box; run the model on every sweep (or allow empty sweeps)"
                self.findings.error("sweep-missing", message)
        self.findings.token = None

    def _check_duplicates(self, log_id: str, rows: Rows) -> None:
        """The same box twice: some are a model's fault, all of a sweep's were written twice."""
        content = np.column_stack((rows.box, rows.value))
        order = np.lexsort((*content.T, rows.category, rows.time_ns))
        content, category, time_ns = content[order], rows.category[order], rows.time_ns[order]
        again = np.zeros(len(rows), bool)
        again[1:] = (content[1:] == content[:-1]).all(axis=1)
        again[1:] &= (category[1:] == category[:-1]) & (time_ns[1:] == time_ns[:-1])
        for sweep in np.unique(time_ns[again]).tolist():
            copies, boxes = int(again[time_ns == sweep].sum()), int((time_ns == sweep).sum())
            self.findings.token = f"{log_id}:{sweep}"
            if boxes > 2 and 2 * copies >= boxes:
                message = f"{copies} of {boxes} boxes are copies; write each sweep once"
                self.findings.error("sweep-duplicate", message)
            else:
                message = f"{copies} of {boxes} boxes are copies; the second is a false positive"
                self.findings.warning("box-duplicate", message)
        self.findings.token = None

    def _check_groups(self, log_id: str, rows: Rows) -> None:
        order = np.lexsort((rows.value, rows.category, rows.time_ns))
        time_ns, category, score = (
            values[order] for values in (rows.time_ns, rows.category, rows.value)
        )
        same = (time_ns[1:] == time_ns[:-1]) & (category[1:] == category[:-1])
        self._tied += int((same & (score[1:] == score[:-1])).sum())
        begins = np.flatnonzero(np.append(True, ~same)) if len(order) else np.zeros(0, np.int64)
        sizes = np.diff(np.append(begins, len(order)))
        for begin, size in zip(begins[sizes > MAX_PER_CATEGORY], sizes[sizes > MAX_PER_CATEGORY]):
            self.findings.token = f"{log_id}:{time_ns[begin]}"
            message = (
                f"{size} boxes of {AV2_CATEGORIES[category[begin]]}; the evaluator passes over all "
                f"but the best {MAX_PER_CATEGORY} in range"
            )
            self.findings.warning("too-many-boxes", message)
        self.findings.token = None

    def _check_range(self, log_id: str, rows: Rows) -> None:
        far = np.square(rows.box[:, :3]).sum(axis=1) >= MAX_RANGE_M**2
        self._far += int(far.sum())
        if not far.any() or self._root is None or log_id not in (self._sweeps or {}):
            return
        try:
            pose_ns, _, t = read_poses(self._root / log_id)
        except (ValueError, OSError):  # the data set's fault, not the submission's
            return
        index = np.minimum(np.searchsorted(pose_ns, rows.time_ns[far]), len(pose_ns) - 1)
        away = np.square(rows.box[far, :3] - t[index]).sum(axis=1)
        self._near_in_city += int((away < MAX_RANGE_M**2).sum())

    def _whole_file(self) -> None:
        if self.num_boxes == 0:
            self.findings.error(
                "all-empty", "there is no box at all; every score would be the worst"
            )
        if 2 * self._near_in_city > self.num_boxes:
            message = (
                f"{self._near_in_city:,} of {self.num_boxes:,} boxes lie beyond "
                f"{MAX_RANGE_M:.0f} m of the origin, but near the vehicle's place in the city: "
                "they are in the city frame, and must be in the ego frame of their sweep"
            )
            self.findings.error("frame-city", message)
        elif 2 * self._far > self.num_boxes:
            message = (
                f"{self._far:,} of {self.num_boxes:,} boxes lie {MAX_RANGE_M:.0f} m and more from "
                "the origin: are they in the city frame? They must be in the ego frame"
            )
            self.findings.error("mostly-out-of-range", message)
        elif self._far:
            message = (
                f"{self._far:,} boxes lie {MAX_RANGE_M:.0f} m and more away; they do not count"
            )
            self.findings.warning("box-out-of-range", message)
        if self._tied:
            message = (
                f"{self._tied:,} boxes share their score with another of their sweep and category; "
                "an unstable sort then decides, which differs between machines"
            )
            self.findings.warning("scores-equal", message)
        if self._unevaluated:
            message = f"{self._unevaluated:,} boxes are of categories that are not evaluated"
            self.findings.warning("category-not-evaluated", message)
