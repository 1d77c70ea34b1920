"""The nuScenes detection evaluator: collects predictions, writes the results file, scores it.

mAP, the five true-positive errors and NDS are what the leaderboard's code (nuscenes-devkit 1.2.0)
computes with its configuration detection_cvpr_2019, to the last digit, without the devkit and
dozens of times as fast (`detection`). `devkit=True` runs the devkit itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from perception3d.evaluation.detection import DetectionResult, evaluate_part
from perception3d.evaluation.detection_config import OFFICIAL
from perception3d.evaluation.detection_file import read_results
from perception3d.evaluation.detection_part import DetectionPart
from perception3d.evaluation.detection_split import SplitSamples, samples_of_split
from perception3d.evaluation.detection_truth import DetectionTruth, load_truth
from perception3d.evaluation.devkit import devkit_metrics, require_devkit, table_stamp
from perception3d.evaluation.metrics import DetectionMetrics, metrics_without_boxes
from perception3d.evaluation.results import read_samples
from perception3d.evaluation.rules import Modalities
from perception3d.evaluation.submission import SubmissionWriter
from perception3d.structures import Prediction


class NuScenesEvaluator:
    """Collects predictions into a results file and scores it.

        evaluator = NuScenesEvaluator(root, "v1.0-town", "town_val", "work_dirs/run/eval")
        evaluator.reset()
        for batch in loader:
            evaluator.process(model.predict(model(batch), batch))
        print(evaluator.evaluate().table())

    Several processes: gather the predictions and let one of them evaluate, each sample once; or let
    each write a file of its own samples, and score `merge_parts` of what `read_results` makes of
    them by `metrics_of`.

    Attributes:
        results_path: the results file, `out_dir`/results.json, complete after `evaluate`.
        metrics_path: the metrics, `out_dir`/metrics.json.
    """

    def __init__(
        self,
        root: str | Path,
        version: str,
        split: str,
        out_dir: str | Path,
        *,
        meta: Modalities | None = None,
        devkit: bool = False,
    ) -> None:
        """Checks what can be checked at once; tables are read when they are needed.

        Args:
            root: folder of the data set (that holds `version`).
            version: folder of the tables, e.g. "v1.0-trainval".
            split: predefined ("val", "mini_val") or one of `root`/`version`/splits.json.
            out_dir: where results and metrics go.
            meta: what the model uses.
            devkit: score with the official code itself.

        Raises:
            ModuleNotFoundError: the devkit is asked for and not installed.
            FileNotFoundError: there are no tables.
        """
        if devkit:
            require_devkit()
        self.root = Path(root)
        self.version = version
        self.split = split
        self.results_path = Path(out_dir) / "results.json"
        self.metrics_path = Path(out_dir) / "metrics.json"
        self._meta = meta or Modalities()
        self._devkit = devkit
        self._writer: SubmissionWriter | None = None
        if not (self.root / version / "sample.json").is_file():
            raise FileNotFoundError(
                f"no nuScenes tables in {self.root / version}; check the data folder and version"
            )

    @property
    def tokens(self) -> tuple[str, ...]:
        """Sample tokens of the split, in the order of the sample table.

        Raises:
            ValueError: the version has no such split, or it holds no sample.
        """
        return _samples(self.root, self.version, self.split, self._stamp()).tokens

    @property
    def truth(self) -> DetectionTruth:
        """Ground truth of the split, read once a process.

        Raises:
            ValueError: as `load_truth`.
        """
        return _truth(self.root, self.version, self.split, self._stamp())

    def reset(self) -> None:
        """Begins a new results file (and gives up one that was begun)."""
        tokens = self.tokens
        if self._writer is not None:
            self._writer.abort()
        self._writer = SubmissionWriter(self.results_path, self._meta, tokens=tokens)

    def process(self, predictions: Sequence[Prediction]) -> None:
        """Adds the predictions of some samples.

        Raises:
            ValueError: `reset` was not called, or as `SubmissionWriter.add`.
        """
        writer = self._begun()
        for prediction in predictions:
            writer.add(prediction)

    def evaluate(self) -> DetectionMetrics:
        """Completes the results file, evaluates it and saves the metrics beside it.

        Raises:
            ValueError: `reset` was not called, or samples of the split are missing.
        """
        writer = self._begun()
        self._writer = None
        writer.close()
        metrics = self.evaluate_file(self.results_path)
        metrics.save(self.metrics_path)
        return metrics

    def evaluate_file(self, path: str | Path) -> DetectionMetrics:
        """Evaluates a results file from anywhere; nothing is saved.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: samples are missing or foreign, or the official code refuses the file.
        """
        if self._devkit:
            return self._by_devkit(path)
        return self.metrics_of(read_results(path, self.truth))

    def metrics_of(self, part: DetectionPart) -> DetectionMetrics:
        """Scores of predictions that are read: of `read_results`, or of `merge_parts`.

        Raises:
            ValueError: as `evaluate_part`.
        """
        result = evaluate_part(part, self.truth)
        if part.counts.listed == 0:
            return self._nothing(result.notes)
        return metrics_of(result, self.split, self.version, len(self.tokens))

    def _by_devkit(self, path: str | Path) -> DetectionMetrics:
        found, num_boxes = set(), 0
        for token, boxes in read_samples(path):
            found.add(token)
            num_boxes += len(boxes) if isinstance(boxes, list) else 1
        expected = set(self.tokens)
        for name, tokens in (("lacks", expected - found), ("has foreign", found - expected)):
            if tokens:
                raise ValueError(
                    f"{path} {name} {len(tokens)} samples (split {self.split}: {len(expected)}), "
                    f"first {min(tokens)!r}; validate_submission lists them"
                )
        if num_boxes == 0:
            return self._nothing(())
        return devkit_metrics(path, self.root, self.version, self.split)

    def _nothing(self, notes: tuple[str, ...]) -> DetectionMetrics:
        about = {"split": self.split, "version": self.version, "num_samples": len(self.tokens)}
        return metrics_without_boxes(
            dict(OFFICIAL.class_range_m), OFFICIAL.thresholds_m, notes=notes, **about
        )

    def _begun(self) -> SubmissionWriter:
        if self._writer is None:
            raise ValueError("nothing was begun; call reset() before process() and evaluate()")
        return self._writer

    def _stamp(self) -> tuple[Any, ...]:
        return table_stamp(self.root / self.version)


def metrics_of(
    result: DetectionResult, split: str, version: str, num_samples: int
) -> DetectionMetrics:
    """The figures of an evaluation as the noun that tables and files are made of."""
    return DetectionMetrics.of_official(
        result.summary(),
        split=split,
        version=version,
        num_samples=num_samples,
        notes=result.notes,
    )


# Every epoch of a training evaluates on the same tables; a changed stamp reads them anew.
@lru_cache(maxsize=4)
def _samples(root: Path, version: str, split: str, stamp: tuple[Any, ...]) -> SplitSamples:
    return samples_of_split(root, version, split)


@lru_cache(maxsize=2)
def _truth(root: Path, version: str, split: str, stamp: tuple[Any, ...]) -> DetectionTruth:
    return load_truth(root, version, split)
