"""Shards of a results file merge into exactly what the whole file gives."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nuscenes")  # its tables make the cases

from perception3d.evaluation.detection import evaluate_part
from perception3d.evaluation.detection_file import read_results
from perception3d.evaluation.detection_part import DetectionPart, merge_parts
from perception3d.evaluation.detection_truth import DetectionTruth, load_truth
from tests.evaluation import detection_cases as cases

World = tuple[Path, dict[str, Any]]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("shards")
    root = cases.build(folder / "data", 77)
    return root, cases.predictions(cases.load(root, cases.VERSION), 77)


def outcome(part: DetectionPart, truth: DetectionTruth) -> str:
    result = evaluate_part(part, truth)
    return json.dumps([{**result.summary(), "eval_time": 0}, result.details()])


def read(document: dict[str, Any], tokens: list[str], truth: DetectionTruth, path: Path) -> (
    DetectionPart
):  # fmt: skip
    results = {token: document["results"][token] for token in tokens}
    path.write_text(json.dumps({**document, "results": results}))
    return read_results(path, truth)


@pytest.mark.parametrize("split", [cases.CUSTOM, cases.PREDEFINED])
@pytest.mark.parametrize("shards", [1, 2, 3, 8])
def test_shards_merge_exactly(world: World, tmp_path: Path, split: str, shards: int) -> None:
    root, document = world
    truth = load_truth(root, cases.VERSION, split)
    tokens = list(document["results"])
    whole = outcome(read(document, tokens, truth, tmp_path / "all.json"), truth)
    block = -(-len(tokens) // shards)
    for interleaved in (False, True):
        parts = []
        for rank in range(shards):
            mine = tokens[rank::shards] if interleaved else tokens[rank * block :][:block]
            part = read(document, mine, truth, tmp_path / "part.json")
            part.save(tmp_path / f"{rank}.npz")
            parts.append(DetectionPart.load(tmp_path / f"{rank}.npz"))
        merged = merge_parts(parts, interleaved=interleaved)
        assert outcome(merged, truth) == whole
        if split == cases.CUSTOM:  # the sample table orders equal scores, not the parts
            assert outcome(merge_parts(parts[::-1]), truth) == whole


def test_what_does_not_merge(world: World, tmp_path: Path) -> None:
    root, document = world
    truth = load_truth(root, cases.VERSION, cases.CUSTOM)
    tokens = list(document["results"])
    part = read(document, tokens[:3], truth, tmp_path / "part.json")
    with pytest.raises(ValueError, match=r"lack 5 samples \(split mine: 8\)"):
        evaluate_part(part, truth)
    with pytest.raises(ValueError, match="3 samples are in more than one part"):
        merge_parts([part, part])
    other = replace(part, split_digest="0" * 16)  # as many samples of another split
    with pytest.raises(ValueError, match=r"of a split of 8 samples, not of mine with its 8"):
        evaluate_part(other, truth)
    with pytest.raises(ValueError, match="merge parts of one split"):
        merge_parts([part, other])
    with pytest.raises(ValueError, match="no part to merge"):
        merge_parts([])
    (tmp_path / "bad.npz").write_bytes(b"no zip")
    with pytest.raises(ValueError, match="no part of an evaluation"):
        DetectionPart.load(tmp_path / "bad.npz")
