"""Time, memory and work of models by their parts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from perception3d_ops.sparse_conv import sparse_conv
from perception3d_ops.sparse_sites import SparseSites
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks import model as bench
from benchmarks.clock import FUNCTIONS, Clock
from benchmarks.flops import counter
from benchmarks.invented import GAP_S, empty_dataset, invented_batch
from perception3d.backbones.bev_convnext import PILLARNEST_SIZES
from perception3d.datasets.locate import describe
from perception3d.engine.experiment import Experiment, Samples
from perception3d.engine.optim import AdamWSettings
from perception3d.evaluation import Modalities
from perception3d.geometry.temporal import camera_ages_s, frame_gap_s
from perception3d.heads.center import CenterHead
from perception3d.models.lidar_branch import pillar_branch
from perception3d.nn.attention import MultiHeadAttention
from perception3d.structures import BEVFeatures, BEVGrid
from tests.models.small_cmt import small_batch, small_cmt


class Work(nn.Module):
    """Takes as many ticks as it is told, and then what is in it."""

    ticks = 0

    def __init__(self, ticks: int, inner: nn.Module | None = None) -> None:
        super().__init__()
        self.own, self.inner = ticks, inner

    def forward(self, x: Tensor) -> Tensor:
        Work.ticks += self.own
        return x if self.inner is None else self.inner(x)


class Asked(nn.Module):
    """Has methods and no forward pass, as tokens have."""

    def first(self) -> int:
        Work.ticks += 2
        return self.second() + 1

    def second(self) -> int:
        Work.ticks += 3
        return 4


def test_parts_count_without_the_parts_inside_of_them() -> None:
    inner = Work(30)
    outer = Work(10, inner)
    clock = Clock(lambda: Work.ticks)
    with clock.watching({"outer": outer, "inner": inner}), clock.part("rest"):
        Work.ticks += 5
        outer(torch.zeros(1))
        inner(torch.zeros(1))
    assert clock.taken == {"outer": 10, "inner": 60, "rest": 5}
    outer(torch.zeros(1))
    assert clock.taken["outer"] == 10, "hooks are gone"


def test_modules_that_are_asked_by_methods_count() -> None:
    clock, asked = Clock(lambda: Work.ticks), Asked()
    with clock.watching({"tokens": asked}), clock.part("rest"):
        assert asked.first() == 5
    assert clock.taken == {"tokens": 5, "rest": 0}
    assert not {"first", "second"} & vars(asked).keys()


def test_voxelization_is_a_part_of_its_own() -> None:
    originals = [getattr(owner, name) for owner, name, _ in FUNCTIONS]
    model, batch = small_cmt().eval(), small_batch()
    clock = Clock.of(torch.device("cpu"))
    with torch.no_grad(), clock.watching(bench.parts_of(model)):
        model(batch)
    wanted = {"voxelize", "lidar.encoder", "lidar.backbone", "lidar.neck", "image.backbone"}
    assert wanted | {"tokens", "image.neck", "queries", "head"} <= clock.taken.keys()
    assert [getattr(owner, name) for owner, name, _ in FUNCTIONS] == originals


def test_work_by_hand() -> None:
    layer, conv = nn.Linear(3, 5), nn.Conv2d(4, 6, 3, padding=1, groups=2)
    attention = MultiHeadAttention(8, 2)
    with torch.no_grad(), counter() as counted:
        layer(torch.zeros(7, 3))
        assert counted.get_total_flops() == 2 * 7 * 3 * 5
        conv(torch.zeros(1, 4, 10, 11))
        assert counted.get_total_flops() == 210 + 2 * 110 * 6 * 9 * 2
        before = counted.get_total_flops()
        attention(torch.zeros(1, 5, 8), torch.zeros(1, 9, 8), torch.zeros(1, 9, 8))
    projections = (5 + 9 + 9 + 5) * 8 * 8
    assert counted.get_total_flops() - before == 2 * (projections + 2 * 5 * 9 * 8)


def test_sparse_convolutions_count_their_pairs() -> None:
    # Two neighbours and a lonely cell: 2 + 2 + 1 pairs, whatever the 27 taps.
    index = torch.tensor([[0, 0, 0, 0], [0, 0, 0, 1], [0, 3, 3, 3]], dtype=torch.int32)
    sites, _ = SparseSites.of(index, (4, 4, 4), 1)
    found = sites.submanifold((3, 3, 3), (1, 1, 1))
    with torch.no_grad(), counter() as counted:
        sparse_conv(torch.ones(3, 2), torch.ones(27, 2, 6), found)
    assert counted.get_total_flops() == 2 * 5 * 2 * 6


def test_parts_of_the_work_are_all_of_it() -> None:
    model, batch = small_cmt().eval(), small_batch()
    model.head.requires_grad_(False)
    work = bench.count(model, batch)
    total = work.pop(bench.ALL)
    assert sum(work.values()) == pytest.approx(total) and total > 0
    assert work["image.backbone"] > 0 and work["head"] > 0 and work["tokens"] > 0
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    assert learning and not any(name.startswith("head.") for name in learning)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "backbone", "neck_and_head", "total"),
    [
        ("tiny", 49, 58, 107),
        ("small", 185, 61, 246),
        ("base", 354, 63, 417),
        ("large", 683, 63, 746),
    ],
)
def test_work_of_pillarnest(size: str, backbone: int, neck_and_head: int, total: int) -> None:
    """In multiply-adds by 1e9, without the pillars, as worked out from the published shapes."""
    depths, widths, neck = PILLARNEST_SIZES[size]
    grid = BEVGrid((-54.0, 54.0), (-54.0, 54.0), (-5.0, 3.0), 0.15)
    with FakeTensorMode(), torch.no_grad():  # shapes alone: nothing is computed
        lidar = pillar_branch(grid, depths=depths, widths=widths, neck_channels=neck).eval()
        head = CenterHead(in_channels=lidar.channels, grid=lidar.grid).eval()
        with counter() as counted:
            maps = lidar.backbone(torch.zeros(1, widths[0], 720, 720))
            first = counted.get_total_flops() / 2e9
            head(BEVFeatures(lidar.neck(maps), lidar.grid))
    assert first == pytest.approx(backbone, abs=0.6)
    whole = counted.get_total_flops() / 2e9
    assert whole - first == pytest.approx(neck_and_head, abs=0.6)
    assert whole == pytest.approx(total, abs=1)


# -- invented frames


class TwoFrames(nn.Module):
    frames = 2


class Sized:
    image_hw = (64, 96)


def experiment_of(*sizes: object) -> Experiment:
    def samples(*_: object) -> Samples:
        raise AssertionError("no data is read")

    from functools import partial

    return Experiment(
        name="x", model=TwoFrames, train=samples, val=partial(samples, *sizes), max_steps=1,
        optimizer=AdamWSettings(lr=1.0), modalities=Modalities(camera=True, lidar=False),
    )  # fmt: skip


def test_an_invented_frame_has_the_cameras_of_the_model() -> None:
    batch = invented_batch(experiment_of(1, Sized()), TwoFrames(), None)
    assert batch.points is None and batch.images is not None and batch.rig is not None
    assert batch.images.shape == (1, 12, 3, 64, 96)
    gap = frame_gap_s(camera_ages_s(batch.time_ns, batch.rig.time_ns))
    assert gap.tolist() == pytest.approx([GAP_S])
    # 10 m ahead of the second camera, which looks along the second sixth of a turn: its middle.
    ahead = torch.tensor([[5.0, 5.0 * 3**0.5, 1.5]]) * torch.tensor([2.0, 2.0, 1.0])
    pixels, depth = batch.rig.project(ahead.double())
    torch.testing.assert_close(pixels[0, 1, 0], torch.tensor([48.0, 32.0]).double())
    assert float(depth[0, 1, 0]) == pytest.approx(20.0)
    asked = invented_batch(experiment_of(Sized()), nn.Linear(1, 1), (32, 32))
    assert asked.images is not None and asked.images.shape == (1, 6, 3, 32, 32)
    with pytest.raises(ValueError, match="does not tell the size of its images: say --image-hw"):
        invented_batch(experiment_of(1), TwoFrames(), None)


def test_an_empty_dataset_is_nuscenes(tmp_path: Path) -> None:
    found = describe(empty_dataset(tmp_path / "nuscenes"))
    assert (found.kind, found.train_split, found.val_split) == ("nuscenes", "train", "val")


def test_impossible_wishes() -> None:
    with pytest.raises(ValueError, match="runs and warm_up must be at least 0, samples 1"):
        bench.Options(samples=0)


@pytest.mark.slow
def test_a_model_is_measured_by_parts(
    tiny_town: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "model.json"
    flags = ["--data", str(tiny_town), "--runs", "2", "--samples", "1", "--out", str(out)]
    bench.main(["configs/cmt_fusion.py", *flags])
    found = json.loads(out.read_text())
    parts = found["parts"]
    assert {"voxelize", "lidar.backbone", "image.backbone", "tokens", "head", "decode"} <= set(
        parts
    )
    inside = sum(part["median_ms"] for name, part in parts.items() if name != "all")
    assert 0 < parts["head"]["median_ms"] <= parts["head"]["p95_ms"]
    assert inside == pytest.approx(parts["all"]["median_ms"], rel=0.8)
    work = sum(part["gflop"] or 0 for name, part in parts.items() if name != "all")
    assert work == pytest.approx(parts["all"]["gflop"], rel=1e-6) and work > 0.1
    assert found["peak_mb"] > 0 and "6 images of 224 x 400" in found["input"]
    assert "image.backbone" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_invented_frames_need_no_data(precision: str, tmp_path: Path) -> None:
    out = tmp_path / "model.json"
    flags = ["--invented", "--size", "town", "--runs", "1", "--warm-up", "0", "--out", str(out)]
    bench.main(["configs/pillarnest_tiny.py", *flags, "--precision", precision])
    found = json.loads(out.read_text())
    assert found["precision"] == precision and found["input"].endswith(" points, invented")
    assert found["parts"]["head"]["gflop"] > 0.1 and found["parts"]["all"]["median_ms"] > 0


@pytest.mark.slow
def test_work_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "model.json"
    flags = ["--invented", "--size", "town", "--runs", "0", "--out", str(out)]
    bench.main(["configs/pillarnest_tiny.py", *flags])
    parts = json.loads(out.read_text())["parts"]
    assert parts["all"]["gflop"] > 1 and parts["all"]["median_ms"] is None
    line = next(x for x in capsys.readouterr().out.splitlines() if x.startswith("lidar.backbone"))
    assert " ms" not in line
