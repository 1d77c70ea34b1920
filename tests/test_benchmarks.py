"""The measurements of the ops run, on a small cloud, and write what they print."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import ops, timing


@pytest.mark.slow
def test_convolutions_are_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generator = torch.Generator().manual_seed(0)
    cloud = (torch.rand(300, 5, generator=generator) - 0.5) * torch.tensor([90.0, 90, 6, 255, 1])
    monkeypatch.setattr(ops, "street_cloud", lambda: cloud)
    before = torch.get_num_threads()
    try:
        out = tmp_path / "ops.json"
        ops.run(parts=("layers", "encoder"), frame=None, threads=1, runs=1, device="cpu", out=out)
    finally:
        torch.set_num_threads(before)
    found = json.loads(out.read_text())
    cases = {row["case"] for row in found["rows"]}
    for words in ("SubM 64", "stride 2", "encoder, training step"):
        assert any(words in case for case in cases), words
    assert all(row["measured"]["median_ms"] > 0 for row in found["rows"])
    own = [row for row in found["rows"] if row["way"] == "own"]
    assert len(own) >= len(cases) - 1 and all(row["ratio_to_own"] == 1 for row in own)
    assert found["races_of_40"]["street"]["own"] == 0
    assert found["machine"]["threads"] == 1 and "torch" in found["machine"]["versions"]
    assert "training step" in capsys.readouterr().out


def test_ways_are_run_in_turn() -> None:
    order: list[str] = []
    ways = {name: (lambda n=name: order.append(n)) for name in ("a", "b")}
    found = timing.compare(ways, runs=3)
    assert order[-6:] == ["a", "b"] * 3
    assert found["a"].least_ms <= found["a"].median_ms


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the devkit's own
def test_maps_are_equal_to_the_devkits_and_much_faster(
    tiny_town: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("nuscenes", reason="nuscenes-devkit is not installed")
    from benchmarks import maps

    out = tmp_path / "maps.json"
    maps.run(data=str(tiny_town), split="town_val", patches=6, out=out)
    compared = json.loads(out.read_text())["compared"]
    assert compared["patches"] + compared["devkit_failed"] == 6
    assert compared["equal"] == compared["patches"] > 0
    assert compared["median_ratio"] > 5
    assert "equal pixel for pixel: " in capsys.readouterr().out
