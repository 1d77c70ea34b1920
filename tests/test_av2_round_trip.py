"""Argoverse 2, in and out: frames of a log, taken as predictions, get full marks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from perception3d.datasets.av2 import AV2Frames
from perception3d.evaluation.av2 import AV2Evaluator
from perception3d.structures import Prediction
from perception3d.structures.taxonomy_av2 import AV2_CLASSES
from tests.datasets.av2_fixture import make_log


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # raised inside av2
def test_the_truth_as_prediction_gets_full_marks(tmp_path: Path) -> None:
    make_log(tmp_path / "val" / "log-a", sweeps=3, images=False)
    frames = AV2Frames(tmp_path, "val", cameras=())
    evaluator = AV2Evaluator(tmp_path / "val", tmp_path / "out", classes=AV2_CLASSES)
    evaluator.reset()
    for frame in (frames[i] for i in range(len(frames))):
        assert frame.boxes is not None
        boxes = frame.boxes.select((frame.boxes.label >= 0) & (frame.boxes.num_points > 0))
        score = torch.full((len(boxes),), 0.9)
        prediction = Prediction(frame.token, boxes, score, frame.global_SE3_ref, frame.ego_SE3_ref)
        evaluator.process([prediction])
    evaluator.evaluate()
    scores = official_scores(tmp_path / "val", tmp_path / "out" / "detections.feather")
    found = scores[scores["AP"] > 0].drop(index="AVERAGE_METRICS")
    assert len(found) > 20
    assert (found["AP"] == 1).all() and (found[["ATE", "ASE", "AOE"]] < 1e-3).all(axis=None)


def official_scores(split: Path, detections: Path):  # type: ignore[no-untyped-def]
    """Table of the av2 package."""
    pytest.importorskip("av2.evaluation.detection.eval")
    import pandas
    from av2.evaluation.detection.eval import evaluate
    from av2.evaluation.detection.utils import DetectionCfg
    from av2.utils.io import read_all_annotations

    truth = read_all_annotations(split.parent, split.name)
    truth = truth[truth["category"] != "EGO_VEHICLE"]
    cfg = DetectionCfg(dataset_dir=split)
    return evaluate(pandas.read_feather(detections), truth, cfg, n_jobs=1)[2]
