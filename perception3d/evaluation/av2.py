"""The Argoverse 2 detection evaluator: the official scores (av2 0.3.6, `evaluation/detection`),
equal to the last bit in the same environment, from feathers, poses and maps alone.

Logs are taken one after another, so one map is in memory at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from perception3d.evaluation.av2_match import Matches, Region, Rows, match_log
from perception3d.evaluation.av2_metrics import AV2Metrics, Tally
from perception3d.evaluation.av2_roi import RegionOfInterest
from perception3d.evaluation.av2_rules import AV2_CATEGORIES, MAX_RANGE_M
from perception3d.evaluation.av2_tables import (
    DetectionFile,
    has_poses,
    read_poses,
    read_sweeps,
    read_truth,
    require_fine,
)

if TYPE_CHECKING:  # a file is scored without PyTorch, which takes as long to import as some logs
    from perception3d.evaluation.av2_submission import AV2SubmissionWriter
    from perception3d.structures import Prediction

Array = NDArray[Any]


class AV2Evaluator:
    """Collects predictions into a submission and evaluates it.

        evaluator = AV2Evaluator("data/av2/sensor/val", "work_dirs/run/eval")
        evaluator.reset()
        for batch in loader:
            evaluator.process(model.predict(model(batch), batch))
        print(evaluator.evaluate().table())

    Tokens of predictions are "<log id>:<timestamp_ns>".

    Attributes:
        root: folder of the split, with a folder a log.
        log_ids: the logs evaluated, sorted.
        results_path: the submission, `out_dir`/detections.feather, complete after `evaluate`.
        metrics_path: the metrics, `out_dir`/metrics.json.
    """

    def __init__(
        self,
        root: str | Path,
        out_dir: str | Path,
        *,
        log_ids: Sequence[str] | None = None,
        classes: Sequence[str] = AV2_CATEGORIES,
        only_roi: bool = True,
    ) -> None:
        """Looks which logs there are.

        Args:
            root: folder of the split, such as sensor/val.
            out_dir: where submission and metrics go.
            log_ids: logs to evaluate; all that have annotations by default.
            classes: category of each label.
            only_roi: leave out boxes off the region of interest, as the leaderboard does.

        Raises:
            FileNotFoundError: there is no annotated log, or one of `log_ids` is none.
        """
        self.root = Path(root)
        found = sorted(file.parent.name for file in self.root.glob("*/annotations.feather"))
        self.log_ids = tuple(sorted(found if log_ids is None else set(log_ids)))
        missing = sorted(set(self.log_ids) - set(found))
        if missing or not self.log_ids:
            which = f"log {missing[0]!r} ({len(missing)} such)" if missing else "any log"
            raise FileNotFoundError(
                f"{self.root} holds no annotations.feather of {which}; give the folder of the "
                "split (.../sensor/val, not .../sensor)"
            )
        self.only_roi = only_roi
        self.results_path = Path(out_dir) / "detections.feather"
        self.metrics_path = Path(out_dir) / "metrics.json"
        self._classes = tuple(classes)
        self._writer: AV2SubmissionWriter | None = None

    def reset(self) -> None:
        """Begins a new submission (and gives up one that was begun)."""
        from perception3d.evaluation.av2_submission import AV2SubmissionWriter

        found = read_sweeps(self.root)
        # A log without a sweep or an annotated box has nothing to be submitted for.
        sweeps = {log_id: found[log_id].tolist() for log_id in self.log_ids if log_id in found}
        if self._writer is not None:
            self._writer.abort()
        self._writer = AV2SubmissionWriter(self.results_path, sweeps=sweeps, classes=self._classes)

    def process(self, predictions: Sequence[Prediction]) -> None:
        """Adds the predictions of some sweeps.

        Raises:
            ValueError: `reset` was not called, or as `AV2SubmissionWriter.add`.
        """
        writer = self._begun()
        for prediction in predictions:
            writer.add(prediction)

    def evaluate(self) -> AV2Metrics:
        """Completes the submission, evaluates it and saves the metrics beside it.

        Raises:
            ValueError: `reset` was not called, sweeps are missing, or as `evaluate_file`.
        """
        writer = self._begun()
        self._writer = None
        writer.close()
        metrics = self.evaluate_file(self.results_path)
        metrics.save(self.metrics_path)
        return metrics

    def evaluate_file(self, path: str | Path) -> AV2Metrics:
        """Evaluates a submission from anywhere; nothing is saved.

        Logs and sweeps without rows count as missed.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: as `tally`.
        """
        return self.tally(path).metrics()

    def tally(self, path: str | Path, log_ids: Sequence[str] | None = None) -> Tally:
        """What the scores need of some logs; tallies of several processes merge exactly.

        Args:
            path: a submission.
            log_ids: all of the evaluator's by default.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it holds foreign logs or sweeps, columns or boxes that break a rule, boxes
                in the city frame; a log has no map, no pose of a sweep, or faulty annotations.
        """
        tally = Tally()
        with DetectionFile(path) as file:
            foreign = sorted(set(file.log_ids) - set(self.log_ids))
            if foreign:
                raise ValueError(
                    f"{path} holds {len(foreign)} logs that are not among the {len(self.log_ids)} "
                    f"evaluated, first {foreign[0]!r}; is it of another split?"
                )
            for log_id in self.log_ids if log_ids is None else log_ids:
                detections = file.rows(log_id) if log_id in file.log_ids else _NONE
                self._add_log(tally, log_id, detections, f"{path}, log {log_id}")
        return tally

    def _add_log(self, tally: Tally, log_id: str, detections: Rows, where: str) -> None:
        truth, sweeps = read_truth(self.root / log_id)
        require_fine(detections, where, scored=True)
        detections = detections.select(detections.category >= 0)
        foreign = ~np.isin(detections.time_ns, sweeps)
        if foreign.any():
            raise ValueError(
                f"{where}: {int(foreign.sum())} boxes of times that are no sweep, first "
                f"{detections.time_ns[foreign][0]}; timestamp_ns must be a LiDAR sweep's"
            )
        tally.add(log_id, detections, truth, self.match(log_id, detections, truth), len(sweeps))

    def match(self, log_id: str, detections: Rows, truth: Rows) -> Matches:
        """What becomes of every box of one log.

        Raises:
            ValueError, FileNotFoundError: as `tally`, of this log.
        """
        folder = self.root / log_id
        if not self.only_roi and not has_poses(folder):
            return match_log(detections, truth)
        time_ns, R, t = read_poses(folder)
        far = np.square(detections.box[:, :3]).sum(axis=1) >= MAX_RANGE_M**2
        if 2 * far.sum() > len(far):
            pose = _poses_of(detections, time_ns, folder)
            near = np.square(detections.box[:, :3] - t[pose]).sum(axis=1) < MAX_RANGE_M**2
            if 2 * near.sum() > len(near):
                raise ValueError(
                    f"log {log_id}: {int(far.sum())} of {len(far)} boxes lie {MAX_RANGE_M:.0f} m "
                    f"and more from the ego frame's origin, yet {int(near.sum())} near the "
                    "vehicle's place in the city: they seem to be in the city frame; a submission "
                    "is in the ego frame of its sweep"
                )
        if not self.only_roi:
            return match_log(detections, truth)
        return match_log(
            detections, truth, _region(RegionOfInterest.of_log(folder), folder, time_ns, R, t)
        )

    def _begun(self) -> AV2SubmissionWriter:
        if self._writer is None:
            raise ValueError("nothing was begun; call reset() before process() and evaluate()")
        return self._writer


_NONE = Rows(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 10)), np.zeros(0))


def _region(roi: RegionOfInterest, folder: Path, time_ns: Array, R: Array, t: Array) -> Region:
    def inside(rows: Rows, asked: Array) -> Array:
        return roi.touches(rows.box, asked, _poses_of(rows, time_ns, folder), R, t)

    return inside


def _poses_of(rows: Rows, time_ns: Array, folder: Path) -> Array:
    """(N,) index of each row's pose."""
    index = np.minimum(np.searchsorted(time_ns, rows.time_ns), len(time_ns) - 1)
    missing = time_ns[index] != rows.time_ns if len(time_ns) else np.ones(len(rows), bool)
    if missing.any():
        raise ValueError(
            f"{folder}/city_SE3_egovehicle.feather has no pose at {rows.time_ns[missing][0]} "
            f"({len(np.unique(rows.time_ns[missing]))} sweeps lack one); complete the log"
        )
    return index
