"""The official nuScenes detection evaluator (nuscenes-devkit, unmodified), fed by this library.

mAP, the five true-positive errors and NDS are exactly what the leaderboard's code computes with its
configuration detection_cvpr_2019. What is added: token checks that the devkit lacks for custom
splits, silence, tables loaded once a process, and a defined score when nothing was predicted.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from perception3d.evaluation.metrics import DetectionMetrics, metrics_without_boxes
from perception3d.evaluation.results import read_samples
from perception3d.evaluation.rules import Modalities
from perception3d.evaluation.submission import SubmissionWriter
from perception3d.structures import Prediction

_CONFIGURATION = "detection_cvpr_2019"
_INSTALL = "pip install 'nuscenes-devkit==1.2.0'"


class NuScenesEvaluator:
    """Collects predictions into a results file and runs the official evaluator on it.

        evaluator = NuScenesEvaluator(root, "v1.0-town", "town_val", "work_dirs/run/eval")
        evaluator.reset()
        for batch in loader:
            evaluator.process(model.predict(model(batch), batch))
        print(evaluator.evaluate().table())

    Several processes: gather the predictions and let one of them evaluate; each sample once.

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
    ) -> None:
        """Checks what can be checked at once; tables are loaded by the first `reset`.

        Args:
            root: folder of the data set (that holds `version`).
            version: folder of the tables, e.g. "v1.0-trainval".
            split: predefined ("val", "mini_val") or one of `root`/`version`/splits.json.
            out_dir: where results and metrics go.
            meta: what the model uses.

        Raises:
            ModuleNotFoundError: the devkit is not installed.
            FileNotFoundError: there are no tables.
        """
        if importlib.util.find_spec("nuscenes") is None:
            raise ModuleNotFoundError(
                "the official evaluator needs nuscenes-devkit, which is not installed; run: "
                + _INSTALL
            )
        self.root = Path(root)
        self.version = version
        self.split = split
        self.results_path = Path(out_dir) / "results.json"
        self.metrics_path = Path(out_dir) / "metrics.json"
        self._meta = meta or Modalities()
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
        return _split_tokens(self._tables(), self.split)

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
        metrics = self._official(self.results_path) if writer.num_boxes else self._nothing()
        metrics.save(self.metrics_path)
        return metrics

    def evaluate_file(self, path: str | Path) -> DetectionMetrics:
        """Evaluates a results file from anywhere; nothing is saved.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: samples are missing or foreign, or the official code refuses the file.
        """
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
        return self._official(Path(path)) if num_boxes else self._nothing()

    def _begun(self) -> SubmissionWriter:
        if self._writer is None:
            raise ValueError("nothing was begun; call reset() before process() and evaluate()")
        return self._writer

    def _tables(self) -> Any:
        folder = self.root / self.version
        files = sorted(folder.glob("*.json"))
        stamp = tuple((file.name, file.stat().st_mtime_ns, file.stat().st_size) for file in files)
        return _load_tables(self.root, self.version, stamp)

    def _about(self) -> dict[str, Any]:
        return {
            "split": self.split,
            "version": self.version,
            "num_samples": len(self.tokens),
        }

    def _nothing(self) -> DetectionMetrics:
        config = _configuration()
        return metrics_without_boxes(config.class_range, tuple(config.dist_ths), **self._about())

    def _official(self, path: Path) -> DetectionMetrics:
        tables = self._tables()
        config = _configuration()
        with _quiet(), tempfile.TemporaryDirectory() as scratch:
            from nuscenes.eval.detection.evaluate import DetectionEval

            try:
                official = DetectionEval(tables, config, str(path), self.split, scratch, False)
                metrics, _ = official.evaluate()
                content = metrics.serialize()
            except Exception as error:  # the devkit raises bare assertions, KeyError, Exception
                raise ValueError(
                    f"the official evaluator refused {path} on split {self.split}: "
                    f"{type(error).__name__}: {error}; validate_submission names every fault "
                    "of the file (a split without annotated boxes is refused, too)"
                ) from error
        return DetectionMetrics(
            mean_ap=float(content["mean_ap"]),
            nds=float(content["nd_score"]),
            tp_errors=_floats(content["tp_errors"]),
            label_aps={
                name: {float(threshold): float(ap) for threshold, ap in aps.items()}
                for name, aps in content["label_aps"].items()
            },
            label_tp_errors={
                name: _floats(row) for name, row in content["label_tp_errors"].items()
            },
            eval_time_s=float(content["eval_time"]),
            **self._about(),
        )


def _floats(values: dict[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items()}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The devkit prints, draws progress bars and warns; none of it is for our callers."""
    sink = io.StringIO()
    with (
        contextlib.redirect_stdout(sink),
        contextlib.redirect_stderr(sink),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield


def _configuration() -> Any:
    with _quiet():
        from nuscenes.eval.common.config import config_factory

        return config_factory(_CONFIGURATION)


@lru_cache(maxsize=1)
def _load_tables(root: Path, version: str, stamp: tuple[Any, ...]) -> Any:
    """The devkit's data set object; `stamp` makes changed tables load anew."""
    with _quiet():
        from nuscenes import NuScenes

        return NuScenes(version=version, dataroot=str(root), verbose=False)


def _split_tokens(tables: Any, split: str) -> tuple[str, ...]:
    with _quiet():
        from nuscenes.utils.splits import create_splits_scenes, get_scenes_of_custom_split

        predefined = create_splits_scenes()
    if split in predefined:
        scenes = set(predefined[split])
    else:
        try:
            scenes = set(get_scenes_of_custom_split(split, tables))
        except ValueError as error:
            raise ValueError(f"{error} Use one of its splits, or a predefined one.") from error
    wanted = {scene["token"] for scene in tables.scene if scene["name"] in scenes}
    tokens = tuple(row["token"] for row in tables.sample if row["scene_token"] in wanted)
    if not tokens:
        raise ValueError(
            f"split {split!r} holds no sample of {tables.version}; choose another split or version"
        )
    return tokens
