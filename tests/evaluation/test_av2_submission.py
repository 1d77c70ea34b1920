"""Argoverse 2 submissions: round trip through the official evaluator, the writer's refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from pyarrow import feather

from perception3d.evaluation.av2 import AV2Evaluator
from perception3d.evaluation.av2_metrics import METRIC_NAMES
from perception3d.evaluation.av2_rules import AV2_CATEGORIES, DETECTION_COLUMNS, split_token
from perception3d.evaluation.av2_submission import SCHEMA, AV2SubmissionWriter, official_rows
from perception3d.evaluation.av2_tables import read_sweeps
from perception3d.evaluation.av2_validator import validate_av2_submission
from perception3d.structures import SE3, Boxes3D, Prediction
from tests.evaluation.av2_cases import generated_split, official, read_columns


def prediction(
    token: str = "log/7",
    count: int = 5,
    *,
    seed: int = 0,
    ego_SE3_ref: SE3 | None = None,
    spread_m: float = 30.0,
    label: int | None = None,
) -> Prediction:
    """Random boxes with apart scores."""
    rng = torch.Generator().manual_seed(seed)
    return Prediction(
        token=token,
        boxes=Boxes3D.build(
            torch.randn(count, 3, generator=rng) * torch.tensor([spread_m, spread_m, 0.5]),
            torch.rand(count, 3, generator=rng) * 4 + 0.5,
            (torch.rand(count, generator=rng) * 2 - 1) * torch.pi,
            torch.randint(0, 26, (count,), generator=rng)
            if label is None
            else torch.full((count,), label),
        ),
        score=torch.rand(count, generator=rng),
        global_SE3_ref=SE3.identity(),
        ego_SE3_ref=ego_SE3_ref or SE3.identity(),
    )


def test_round_trip_through_the_official_evaluator(tmp_path: Path) -> None:
    pytest.importorskip("av2")
    root = tmp_path / "val"
    names = generated_split(root, 8)
    evaluator = AV2Evaluator(root, tmp_path / "out")
    evaluator.reset()
    for name in names:
        truth = read_columns(root / name / "annotations.feather")
        for time_ns in read_sweeps(root)[name].tolist():
            rows = np.flatnonzero(truth["timestamp_ns"] == time_ns)
            rows = rows[np.isin(truth["category"][rows], AV2_CATEGORIES)]
            qw, qz = (torch.tensor(truth[column][rows]) for column in ("qw", "qz"))
            columns = [torch.tensor(truth[c][rows]) for c in ("tx_m", "ty_m", "tz_m")]
            near = Prediction(
                token=f"{name}/{time_ns}",
                boxes=Boxes3D.build(
                    torch.stack(columns, 1) + 0.1,
                    torch.full((len(rows), 3), 2.0, dtype=torch.float64),
                    2 * torch.atan2(qz, qw),
                    torch.tensor([AV2_CATEGORIES.index(c) for c in truth["category"][rows]]).long(),
                ),
                score=torch.rand(len(rows), generator=torch.Generator().manual_seed(time_ns)),
                global_SE3_ref=SE3.identity(),
                ego_SE3_ref=SE3.identity(),
            )  # fmt: skip
            evaluator.process([near])
    metrics = evaluator.evaluate()
    wanted = official(root, names, read_columns(evaluator.results_path))
    for name, values in metrics.categories.items():
        assert values == tuple(wanted.exact.loc[name, list(METRIC_NAMES)]), name
    assert metrics.summary()["mAP"] > 0.05
    # Headings survive the way out: what was predicted as annotated has no error.
    found = [row for row in metrics.categories.values() if row[0] > 0]
    assert max(row[3] for row in found) < 1e-6
    report = validate_av2_submission(evaluator.results_path, root, allow_empty_sweeps=True)
    assert report.accepted, str(report)
    assert evaluator.metrics_path.is_file()


def test_the_file_is_the_format(tmp_path: Path) -> None:
    path = tmp_path / "d.feather"
    with AV2SubmissionWriter(path) as writer:
        writer.add(prediction("log/7", 5))
        writer.add(prediction("log/8", 0))
    table = feather.read_table(path)
    assert table.schema.remove_metadata() == SCHEMA
    assert tuple(table.column_names) == DETECTION_COLUMNS
    assert table["log_id"].unique().to_pylist() == ["log"]
    assert table["timestamp_ns"].unique().to_pylist() == [7]
    assert writer.num_boxes == table.num_rows == 5


def test_boxes_are_put_into_the_ego_frame() -> None:
    half = np.pi / 4  # the sensor looks to the left: its x is the ego's y
    ego_SE3_ref = SE3.from_quaternion([np.cos(half), 0, 0, np.sin(half)], [1.0, 2.0, 3.0])
    given = prediction(count=1, ego_SE3_ref=ego_SE3_ref)
    x, y, z = given.boxes.center_m[0].double().tolist()
    rows = official_rows(given)
    np.testing.assert_allclose(rows.box[0, :3], (1 - y, 2 + x, 3 + z))
    w, qx, qy, qz = rows.box[0, 6:]
    assert (qx, qy) == (0, 0)
    yaw = float(given.boxes.yaw_rad[0]) + np.pi / 2
    np.testing.assert_allclose((w * w - qz * qz, 2 * w * qz), (np.cos(yaw), np.sin(yaw)))


def test_only_what_can_count_is_written() -> None:
    rows = official_rows(prediction(count=300, label=3, spread_m=1.0))
    assert len(rows) == 100
    assert (np.diff(rows.value) <= 0).all()
    assert len(official_rows(prediction(count=300, spread_m=1.0))) == 300
    far = official_rows(prediction(count=200, spread_m=150.0))
    assert 0 < len(far) < 200
    assert (np.linalg.norm(far.box[:, :3], axis=1) < 150).all()


@pytest.mark.parametrize(
    ("token", "wanted"),
    [("a-b/12", ("a-b", 12)), ("a-b:12", ("a-b", 12)), ("7fab-1c2b_315", ("7fab-1c2b", 315))],
)
def test_tokens(token: str, wanted: tuple[str, int]) -> None:
    assert split_token(token) == wanted


def test_tokens_of_another_form_are_refused() -> None:
    with pytest.raises(ValueError, match="no token of an Argoverse 2 sweep"):
        split_token("ca9a282c9e77460f8360f564131a8af5")


def test_refusals_leave_no_file(tmp_path: Path) -> None:
    path = tmp_path / "d.feather"
    with (
        pytest.raises(ValueError, match="1 of 2 sweeps were not added, first log:8"),
        AV2SubmissionWriter(path, sweeps={"log": [7, 8]}) as writer,
    ):
        writer.add(prediction("log/7"))
        for token, message in (("log/7", "added before"), ("log/9", "not among the 2")):
            with pytest.raises(ValueError, match=message):
                writer.add(prediction(token))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="no categories of Argoverse 2: car"):
        AV2SubmissionWriter(path, classes=("car",))
    with pytest.raises(ValueError, match="label 25 has no category"):
        official_rows(prediction(label=25), AV2_CATEGORIES[:25])


def test_the_evaluator_wants_every_sweep(tmp_path: Path) -> None:
    root = tmp_path / "val"
    names = generated_split(root, 1)
    evaluator = AV2Evaluator(root, tmp_path / "out")
    with pytest.raises(ValueError, match="call reset"):
        evaluator.process([])
    evaluator.reset()
    evaluator.process([prediction(f"{names[0]}/{read_sweeps(root)[names[0]][0]}")])
    with pytest.raises(ValueError, match="sweeps were not added"):
        evaluator.evaluate()
