"""PETR whose queries start from what is lifted: what fits together, and what does not."""

from __future__ import annotations

import pytest
import torch

from perception3d.heads.petr_depth import DepthBranch, depth_edges
from perception3d.heads.petr_lift import DepthLift, TemporalLift
from perception3d.models.image_branch import resnet_branch
from perception3d.models.petr import PETR
from perception3d.models.petr_stream import FrameRing, PETRStream
from perception3d.models.petr_town import CHANNELS, GRID, IMAGE_CHANNELS, petr_town
from perception3d.structures import BEVGrid
from tests.models.test_petr import paired, small_petr
from tests.models.test_petr_stream import frame, repeated


def town(*, frames: int = 2, second: bool = True, segmentation: bool = False) -> PETR:
    with torch.device("meta"):
        image = resnet_branch(IMAGE_CHANNELS, depth=18, width=8, stages=(1, 2, 3))
        return petr_town(
            image,
            second=second,
            frames=frames,
            detection=not segmentation,
            segmentation=segmentation,
        )


def lift(frames: int = 2, grid: BEVGrid = GRID) -> TemporalLift:
    depth = DepthBranch(
        channels=16, hidden=8, lifted=4, num_classes=10, edges_m=depth_edges(1.0, 12.0, 6)
    )
    return TemporalLift(lift=DepthLift(depth=depth, grid=grid), frames=frames, channels=8)


def parts(model: PETR) -> dict[str, object]:
    return {
        "image": model.image, "tokens": model.tokens, "queries": model.queries,
        "head": model.head, "segmentation": model.segmentation, "map_grid": model.map_grid,
        "frames": model.frames,
    }  # fmt: skip


def test_sizes_of_the_town() -> None:
    two, one = town(), town(frames=1)
    shapes = {name: value.shape for name, value in two.state_dict().items()}
    assert shapes == {name: value.shape for name, value in one.state_dict().items()}
    assert 1.0 < sum(p.numel() for p in two.parameters()) / 1e6 < 2.5
    assert two.tokens.channels == CHANNELS and two.tokens.stride == 2  # of 8: as published, 16
    assert two.head is not None and two.head.range_m == GRID.range_m
    maps = town(segmentation=True)
    assert maps.head is None and maps.segmentation is not None
    assert maps.segmentation.cells == GRID.nx == 80


def test_petr_has_one_map_and_shared_branches() -> None:
    first = town(frames=1, second=False)
    assert first.lift is not None and first.lift.maps == 1
    assert first.head is not None and len(first.head.boxes.copies) == 1
    assert first.tokens.gate is None


def test_parts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="a model of 2 frames needs a lift of as many; found 1"):
        PETR(**parts(small_petr()), lift=lift(frames=1))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"maps lie on .* give both one area"):
        PETR(**parts(small_petr(segmentation=True)), lift=lift())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="only_images needs a lift"):
        PETR(**parts(small_petr()), only_images=True)  # type: ignore[arg-type]


@torch.no_grad()
def test_a_stream_lifts_kept_frames_as_pairs_of_frames_are() -> None:
    torch.manual_seed(0)
    image = resnet_branch(IMAGE_CHANNELS, depth=18, width=8, stages=(1, 2, 3))
    model = petr_town(image, queries=20).eval()
    stream = PETRStream(model, ring=FrameRing(wanted=1))
    frames = [frame(step) for step in range(4)]
    for step, now in enumerate(frames):
        got = stream.step(now, "drive").detection
        batch = repeated(now) if step == 0 else paired(now, frames[max(0, step - 2)])
        want = model(batch).detection
        assert got is not None and want is not None
        assert torch.equal(got.box, want.box), f"step {step}"
        assert torch.equal(got.logits, want.logits)
