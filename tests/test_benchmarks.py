"""The measurements of the ops run, on a small cloud, and write what they print."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from benchmarks import model as model_bench
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


class Nap(nn.Module):
    """Takes as long as it is told, and then as long as what is in it."""

    def __init__(self, seconds: float, inner: nn.Module | None = None) -> None:
        super().__init__()
        self.seconds, self.inner = seconds, inner

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(self.seconds)
        return x if self.inner is None else self.inner(x)


def test_parts_are_timed_without_the_parts_inside_of_them() -> None:
    inner = Nap(0.03)
    outer = Nap(0.01, inner)
    clock = model_bench.Clock(torch.device("cpu"))
    with clock.watching({"outer": outer, "inner": inner}):
        clock.begin("rest")
        outer(torch.zeros(1))
        clock.end()
    assert clock.seconds["inner"] >= 0.03 and 0.01 <= clock.seconds["outer"] < 0.03
    assert clock.seconds["rest"] < 0.01
    outer(torch.zeros(1))
    assert len(clock.seconds) == 3 and clock.seconds["outer"] < 0.03, "hooks are gone"


@pytest.mark.slow
def test_a_model_is_measured_by_parts(
    tiny_town: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "model.json"
    flags = ["--data", str(tiny_town), "--runs", "2", "--samples", "1", "--out", str(out)]
    model_bench.main(["configs/cmt_fusion.py", *flags])
    parts = json.loads(out.read_text())["parts"]
    assert {"lidar.encoder", "lidar.backbone", "image.backbone", "head", "decode"} <= parts.keys()
    inside = sum(part["median_ms"] for name, part in parts.items() if name != "all")
    assert 0 < parts["head"]["median_ms"] <= parts["head"]["p95_ms"]
    assert inside == pytest.approx(parts["all"]["median_ms"], rel=0.8)
    assert "image.backbone" in capsys.readouterr().out
