"""The offline validator: every rule by name, and against the official code on mutated files."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perception3d.evaluation import Report, validate_submission
from tests.evaluation import mini_nuscenes as mini
from tests.evaluation import mutations

Document = dict[str, Any]


class World:
    """A tiny data set, a valid results document for it, and the official verdict on any file."""

    def __init__(self, folder: Path) -> None:
        from nuscenes.eval.common.config import config_factory

        self.root = mini.build(folder / "data")
        self.tables = mini.load(self.root)
        self.tokens = [row["token"] for row in self.tables.sample]
        self.config = config_factory("detection_cvpr_2019")
        self.path = folder / "file.json"
        self.scratch = folder / "official"
        self.document = self._valid_document()

    def _valid_document(self) -> Document:
        from perception3d.evaluation import official_boxes

        results: Document = {}
        score = 0.9
        for item in mini.perfect_predictions(self.tables, self.tokens):
            boxes = official_boxes(item)
            for box in boxes:
                box["detection_score"], score = score, round(score * 0.98, 6)
            results[item.token] = boxes
        first = results[self.tokens[0]][0]
        assert first["detection_name"] == "car" and first["size"][0] == 1.9
        assert first["attribute_name"] == "vehicle.moving"
        meta = {
            "use_camera": False,
            "use_lidar": True,
            "use_radar": False,
            "use_map": False,
            "use_external": False,
        }
        return {"meta": meta, "results": results}

    def write(self, text: bytes) -> Path:
        self.path.write_bytes(text)
        return self.path

    def ours(self) -> Report:
        return validate_submission(self.path, tokens=self.tokens)

    def official_refusal(self) -> str | None:
        """Why the official evaluator refuses the file on a custom or a predefined split."""
        from nuscenes.eval.detection.evaluate import DetectionEval

        for split in (mini.PREDEFINED, mini.CUSTOM):
            try:
                with mini.quiet():
                    official = DetectionEval(
                        self.tables, self.config, str(self.path), split, str(self.scratch), False
                    )
                    metrics, _ = official.evaluate()
                    metrics.serialize()
                    official.meta.copy()  # main() does so before it writes the summary
            except Exception as error:
                return f"{type(error).__name__}: {error}"
        return None


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    pytest.importorskip("nuscenes")
    return World(tmp_path_factory.mktemp("validator"))


def test_valid_file_has_no_finding(world: World) -> None:
    world.write(json.dumps(world.document).encode())
    report = world.ours()
    assert report.findings == ()
    assert report.accepted and str(report).startswith("accepted: 3 samples, 39 boxes")
    assert world.official_refusal() is None


@pytest.mark.parametrize("name", mutations.ERRORS)
def test_error_is_named(world: World, name: str) -> None:
    code, change = mutations.ERRORS[name]
    world.write(mutations.apply(change, world.document))
    report = world.ours()
    assert code in {finding.code for finding in report.errors}, str(report)
    assert not report.accepted
    str(report).encode("ascii")  # findings can be printed anywhere


@pytest.mark.parametrize("name", mutations.WARNINGS)
def test_warning_is_named(world: World, name: str) -> None:
    code, change = mutations.WARNINGS[name]
    world.write(mutations.apply(change, world.document))
    report = world.ours()
    assert [finding.code for finding in report.warnings] == [code], str(report)
    assert report.accepted, str(report)
    assert world.official_refusal() is None


@pytest.mark.slow
def test_we_refuse_what_the_official_code_refuses_by_name(world: World) -> None:
    stricter = set()
    for name, (_, change) in mutations.ERRORS.items():
        world.write(mutations.apply(change, world.document))
        if world.official_refusal() is None:
            stricter.add(name)
    # Faults that the official code lets through, of those named in the data sheet.
    assert stricter >= {
        "velocity NaN",
        "score zero",
        "score true",
        "score text",
        "translation inf",
        "rotation zero",
        "sample an object",
        "sample twice",
        "score twice",
        "num_pts 0",
        "token of another sample",
        "attribute of a cycle",
        "meta empty",
        "no detection_score",
    }


def _compare(world: World, seed: int, count: int) -> Counter[str]:
    """Mutates and judges `count` files; returns how often each verdict fell."""
    rng = np.random.default_rng(seed)
    verdicts: Counter[str] = Counter()
    for index in range(count):
        text = mutations.random_fault(world.document, rng)
        world.write(text)
        report = world.ours()
        refusal = world.official_refusal()
        assert refusal is None or not report.accepted, (
            f"mutation {index} of seed {seed}: official code: {refusal}; ours:\n{report}"
        )
        if refusal is not None:
            verdicts["both refuse"] += 1
        else:
            verdicts["both accept" if report.accepted else "only ours refuses"] += 1
            verdicts.update(f"only ours: {finding.code}" for finding in report.errors)
    return verdicts


@pytest.mark.slow
def test_mutated_files(world: World) -> None:
    verdicts = _compare(world, seed=1, count=150)
    for verdict in ("both refuse", "both accept", "only ours refuses"):
        assert verdicts[verdict] > 0, verdicts


@pytest.mark.slow
def test_many_mutated_files(world: World) -> None:
    count = int(os.environ.get("PERCEPTION3D_MUTATIONS", "2000"))
    verdicts = _compare(world, seed=2, count=count)
    for verdict in ("both refuse", "both accept", "only ours refuses"):
        assert verdicts[verdict] > 0, verdicts
    for verdict, number in verdicts.most_common():
        print(f"{number:6d}  {verdict}")


def test_range_check_needs_the_ego_position(world: World) -> None:
    ego = {
        token: tuple(world.tables.get("ego_pose", token)["translation"]) for token in world.tokens
    }
    world.write(json.dumps(world.document).encode())
    report = validate_submission(world.path, tokens=world.tokens, ego_position_m=ego)
    assert report.findings == ()
    away = {token: (x + 45.0, y, z) for token, (x, y, z) in ego.items()}
    report = validate_submission(world.path, tokens=world.tokens, ego_position_m=away)
    assert {finding.code for finding in report.errors} == {"mostly-out-of-range"}
    assert "global frame" in str(report)
    assert report.counts["box-out-of-range"] == 20


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path, tmp_path / ("x" * 300), "a\0b"):
        report = validate_submission(path, tokens=[])
        assert [finding.code for finding in report.errors] == ["file-unreadable"], str(report)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    assert not validate_submission(fifo).accepted


def test_size_limit_and_missing_token_list(world: World) -> None:
    world.write(json.dumps(world.document).encode())
    report = validate_submission(world.path, max_bytes=1000)
    assert [finding.code for finding in report.findings] == ["file-too-large", "tokens-unchecked"]
    with pytest.raises(ValueError, match="must be 1 or more, found 0"):
        validate_submission(world.path, findings_per_code=0)


def test_hopeless_file_gives_a_short_report(world: World) -> None:
    document = json.loads(json.dumps(world.document))
    for boxes in document["results"].values():
        for box in boxes:
            box["velocity"] = [0, 0, 0]
    world.write(json.dumps(document).encode())
    report = validate_submission(world.path, tokens=world.tokens, findings_per_code=3)
    assert report.counts == {"list-length": 39}
    assert len(report.findings) == 3
    assert "list-length: 36 more of these" in str(report)
    first = report.findings[0]
    assert (first.token, first.place) == (world.tokens[0], "[0].velocity")
    assert "must hold 2 numbers, found 3" in first.message


def test_lone_surrogates_can_be_reported(world: World) -> None:
    world.write(json.dumps({"meta": {}, "results": {"\ud800": [{"\udfff": 1}]}}).encode())
    report = world.ours()
    str(report).encode("ascii")
    assert "token-extra" in report.counts


@pytest.mark.slow
def test_memory_stays_small_on_large_files(tmp_path: Path) -> None:
    import tracemalloc

    box = {
        "translation": [601.12345678, 1200.12345678, 1.12345678],
        "size": [1.912345678, 4.612345678, 1.712345678],
        "rotation": [1.0, 0.0, 0.0, 0.0],
        "velocity": [0.12345678, 0.12345678],
        "detection_name": "car",
        "attribute_name": "vehicle.parked",
    }
    path = tmp_path / "large.json"
    tokens = [f"{index:032d}" for index in range(200)]
    with path.open("w") as file:
        file.write('{"meta": {}, "results": {')
        for index, token in enumerate(tokens):
            rows = [
                {**box, "sample_token": token, "detection_score": (500 * index + row + 1) / 2e5}
                for row in range(500)
            ]
            file.write(("," if index else "") + json.dumps(token) + ":" + json.dumps(rows))
        file.write("}}")
    tracemalloc.start()
    report = validate_submission(path, tokens=tokens)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert report.num_boxes == 100_000
    assert set(report.counts) == {"meta-field-missing", "meta-no-sensor"}
    assert path.stat().st_size > 25_000_000
    assert peak < 14_000_000, f"{peak / 1e6:.1f} MB for {path.stat().st_size / 1e6:.1f} MB"
