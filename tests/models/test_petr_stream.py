"""Kept features of earlier frames: the same answer as from all views, and the choice of frames."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from perception3d.geometry.temporal import repeated_times_ns
from perception3d.models.petr import PETR
from perception3d.models.petr_stream import CameraFrame, FrameRing, PETRStream
from perception3d.structures import SE3, Batch
from tests.models.small_cmt import small_batch
from tests.models.test_petr import at_time, paired, small_petr


def frame(step: int, *, period_s: float = 1 / 12) -> Batch:
    """One camera frame of a drive along a curve."""
    yaw = 0.03 * step
    pose = SE3.from_quaternion(
        [math.cos(yaw / 2), 0.0, 0.0, math.sin(yaw / 2)], [600.0 + 0.8 * step, 1200.0, 1.0]
    )
    batch = small_batch(points=None, boxes=None, batch=1, seed=step)
    return replace(at_time(batch, 100 + step * period_s), global_SE3_ref=(pose,))


def repeated(now: Batch) -> Batch:
    """A first frame beside itself."""
    assert now.images is not None and now.rig is not None
    then = replace(now.rig, time_ns=repeated_times_ns(now.rig.time_ns))
    images = torch.cat((now.images, now.images), dim=1)
    return replace(now, images=images, rig=now.rig.beside(then, " earlier"))


def whole(model: PETR, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    outputs = model(batch)
    assert outputs.detection is not None and outputs.map is not None
    return outputs.detection.box, outputs.detection.logits, outputs.map.logits[-1:]


@pytest.mark.parametrize("multiple", [16, 64], ids=["unpadded", "padded"])
@torch.no_grad()
def test_stream_is_the_forward_pass_of_all_views(multiple: int) -> None:
    model = small_petr(segmentation=True, multiple=multiple).eval()
    stream = PETRStream(model, ring=FrameRing(wanted=2))
    frames = [frame(step) for step in range(6)]
    for step, now in enumerate(frames):
        got = stream.step(now, "drive")
        earlier = [None, 0, 0, 0, 1, 2][step]
        batch = repeated(now) if earlier is None else paired(now, frames[earlier])
        assert got.detection is not None and got.map is not None
        answers = (got.detection.box, got.detection.logits, got.map.logits)
        for a, b in zip(answers, whole(model, batch)):
            assert torch.equal(a, b), f"step {step}: {float((a - b).abs().max())}"


@torch.no_grad()
def test_codes_of_a_rig_that_stays_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_petr().eval()
    counts = {"rays": 0, "views": 0}
    assert model.tokens.views is not None
    rays, views = model.tokens.rays.forward, model.tokens.views.forward

    def counted_rays(*arguments: object) -> torch.Tensor:
        counts["rays"] += 1
        return rays(*arguments)

    def counted_views(code: torch.Tensor) -> torch.Tensor:
        counts["views"] += 1
        return views(code)

    monkeypatch.setattr(model.tokens.rays, "forward", counted_rays)
    monkeypatch.setattr(model.tokens.views, "forward", counted_views)
    stream = PETRStream(model)
    for step in range(4):
        stream.step(frame(step), "drive")
    assert counts == {"rays": 1 + 4, "views": 1}  # current cameras once, earlier ones every step
    stream.reset()  # of frames: the cameras are the same
    stream.step(frame(4), "drive")
    assert counts == {"rays": 1 + 4 + 1, "views": 1}
    model.tokens.views[2].bias.add_(1.0)  # other weights, another code
    stream.step(frame(5), "drive")
    assert counts == {"rays": 1 + 4 + 2, "views": 2}


def served(ring: FrameRing, steps: list[tuple[str, float]]) -> list[float | None]:
    """Times of the frames that serve those at some (drive, second)."""
    batch = frame(0)
    assert batch.rig is not None
    answers: list[float | None] = []
    for log, time_s in steps:
        time_ns = round(time_s * 1e9)
        chosen = ring.earlier(log, time_ns)
        answers.append(None if chosen is None else round(chosen.time_ns * 1e-9, 6))
        ring.push(log, CameraFrame(torch.zeros(1), None, batch.rig, torch.eye(4), time_ns))
    return answers


def test_ring_serves_the_fifteenth_frame_back() -> None:
    period = 0.0833
    steps = [("a", 5 + i * period) for i in range(40)]
    answers = served(FrameRing(), steps)
    assert answers[0] is None
    assert answers[1:16] == [5.0] * 15  # the oldest one until there are fifteen
    assert answers[16:] == [pytest.approx(5 + i * period) for i in range(1, 25)]


def test_ring_starts_anew() -> None:
    ring = FrameRing(wanted=1, max_gap_s=0.75)
    steps = [("a", 1.0), ("a", 1.5), ("a", 2.0), ("b", 2.5), ("b", 3.0), ("b", 3.76), ("b", 3.0)]
    assert served(ring, steps) == [None, 1.0, 1.0, None, 2.5, None, None]
    ring.reset()
    assert len(ring) == 0 and ring.earlier("b", 4_000_000_000) is None


def test_ring_starts_anew_after_a_frame_twice() -> None:
    assert served(FrameRing(), [("a", 1.0), ("a", 1.0)]) == [None, None]


@torch.no_grad()
def test_stream_starts_anew_with_another_drive() -> None:
    model = small_petr(segmentation=True).eval()
    stream = PETRStream(model)
    stream.step(frame(0), "one")
    got = stream.step(frame(1), "two").detection
    assert got is not None and torch.equal(got.box, whole(model, repeated(frame(1)))[0])


def test_what_a_stream_refuses() -> None:
    with pytest.raises(ValueError, match="2 frames"):
        PETRStream(small_petr(frames=1))
    stream = PETRStream(small_petr())
    with pytest.raises(ValueError, match="eval mode"):
        stream.step(frame(0), "drive")
    with pytest.raises(ValueError, match="max_gap_s"):
        FrameRing(max_gap_s=0.0)
