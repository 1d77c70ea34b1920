"""PETR and PETRv2 as whole models of a few thousand weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from perception3d.backbones.image_input import GridMask, ImageNormalize
from perception3d.backbones.image_resnet import ResNet
from perception3d.fusion.petr_position import RayPointCode
from perception3d.fusion.petr_tokens import PETRTokens
from perception3d.geometry.temporal import shift_reference
from perception3d.heads.petr import PETRHead, petr_denoising
from perception3d.heads.queries import LearnedQueries
from perception3d.heads.query_decoder import QueryDecoder
from perception3d.heads.segmentation import SegmentationHead
from perception3d.models.image_branch import ImageBranch
from perception3d.models.petr import PETR
from perception3d.nn.fpn import CPFPN
from perception3d.structures import Batch, BEVGrid, CameraRig
from tests.models.small_cmt import small_batch

CHANNELS = 16
RANGE_M = (-16.0, -16.0, -5.0, 16.0, 16.0, 3.0)
MAP_GRID = BEVGrid((-16.0, 16.0), (-16.0, 16.0), (-5.0, 3.0), 2.0)


def small_petr(
    *,
    frames: int = 2,
    detection: bool = True,
    segmentation: bool = False,
    queries: int = 12,
    multiple: int = 16,
    seed: int = 0,
) -> PETR:
    torch.manual_seed(seed)
    resnet = ResNet(depth=18, width=8)

    def decoder() -> QueryDecoder:
        return QueryDecoder(
            channels=CHANNELS, layers=2, heads=2, hidden=32, dropout_everywhere=True
        )

    return PETR(
        image=ImageBranch(
            backbone=resnet,
            neck=CPFPN(resnet.channels, CHANNELS),
            normalize=ImageNormalize(multiple=multiple),
            grid_mask=GridMask(),
        ),
        tokens=PETRTokens(
            in_channels=CHANNELS,
            channels=CHANNELS,
            rays=RayPointCode(CHANNELS, hidden=32, range_m=RANGE_M, num_depths=8),
            gated=frames == 2,
            view_feats=8,
            view_hidden=32,
        ),
        queries=LearnedQueries(queries) if detection else None,
        head=PETRHead(decoder=decoder(), num_classes=10, range_m=RANGE_M, split=frames == 2)
        if detection
        else None,
        segmentation=SegmentationHead(decoder=decoder(), side=4, widths=(8, 8))
        if segmentation
        else None,
        map_grid=MAP_GRID if segmentation else None,
        frames=frames,
        denoising=petr_denoising(10, range_m=RANGE_M, groups=3) if detection else None,
    )


def paired(now: Batch, then: Batch) -> Batch:
    """What the data side hands to a model of two frames."""
    assert now.images is not None and then.images is not None and now.rig and then.rig
    poses = [
        torch.stack([pose.matrix() for pose in batch.global_SE3_ref])[:, None]
        for batch in (then, now)
    ]
    moved = replace(then.rig, cam_SE3_ref=shift_reference(then.rig.cam_SE3_ref, *poses))
    images = torch.cat((now.images, then.images), dim=1)
    return replace(now, images=images, rig=now.rig.beside(moved, " earlier"))


def at_time(batch: Batch, time_s: float) -> Batch:
    assert batch.rig is not None
    time_ns = torch.full((batch.batch_size,), round(time_s * 1e9), dtype=torch.int64)
    rig = replace(batch.rig, time_ns=time_ns[:, None].expand(-1, len(batch.rig)) - 20_000_000)
    return replace(batch, time_ns=time_ns, rig=rig)


def two_frames(batch: int = 2, gap_s: float = 1.25) -> Batch:
    now = at_time(small_batch(points=None, boxes=(4, 2)[:batch], batch=batch, seed=1), 10.0)
    then = at_time(small_batch(points=None, batch=batch, boxes=None, seed=2), 10.0 - gap_s)
    return replace(paired(now, then), map=torch.rand(batch, 3, 16, 16) < 0.3)


def total(terms: dict[str, dict[str, Tensor]]) -> Tensor:
    return torch.stack([value for task in terms.values() for value in task.values()]).sum()


@pytest.mark.parametrize(
    ("frames", "detection", "segmentation"),
    [(1, True, False), (2, True, False), (2, False, True), (2, True, True)],
)
def test_every_weight_learns(frames: int, detection: bool, segmentation: bool) -> None:
    model = small_petr(frames=frames, detection=detection, segmentation=segmentation)
    if segmentation:
        # Their first layer is fed with zeros where ReLUs of few channels die: leave that out.
        for parameter in model.segmentation.maps.parameters():  # type: ignore[union-attr]
            torch.nn.init.normal_(parameter, 0.1, 0.1)
    model.train()
    batch = two_frames()
    if frames == 1:
        batch = replace(small_batch(points=None, seed=1), map=batch.map)
    outputs = model(batch, model.denoising(batch))
    terms = model.loss(outputs, batch)
    assert terms.keys() == (
        ({"detection"} if detection else set()) | ({"segmentation"} if segmentation else set())
    )
    total(terms).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert not without
    assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters() if p.grad is not None)


@pytest.mark.slow
def test_loss_falls() -> None:
    model, batch = small_petr(segmentation=True), two_frames()
    torch.manual_seed(0)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(40):
        terms = model.loss(model(batch, model.denoising(batch)), batch)
        loss = total(terms)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-5:]) < 0.75 * sum(losses[:5])


def test_predictions_are_in_the_sample() -> None:
    model, batch = small_petr(segmentation=True).eval(), two_frames()
    with torch.no_grad():
        predictions = model.predict(model(batch), batch)
    assert [p.token for p in predictions] == list(batch.tokens)
    for prediction in predictions:
        assert len(prediction.boxes) == len(prediction.score) > 0
        assert prediction.map_prob is not None and prediction.map_prob.shape == (3, 16, 16)
        assert bool((prediction.score.diff() <= 0).all())


def test_maps_alone_predict_no_boxes() -> None:
    model, batch = small_petr(detection=False, segmentation=True).eval(), two_frames()
    with torch.no_grad():
        prediction = model.predict(model(batch), batch)[0]
    assert len(prediction.boxes) == 0 and prediction.grid == MAP_GRID


def test_samples_do_not_mix() -> None:
    model, batch = small_petr().eval(), two_frames()
    assert batch.rig is not None and batch.images is not None
    with torch.no_grad():
        both = model(batch).detection
        for i in range(2):
            one = replace(
                batch,
                tokens=batch.tokens[i : i + 1],
                time_ns=batch.time_ns[i : i + 1],
                global_SE3_ref=batch.global_SE3_ref[i : i + 1],
                ego_SE3_ref=batch.ego_SE3_ref[i : i + 1],
                sensor_present=batch.sensor_present[i : i + 1],
                images=batch.images[i : i + 1],
                rig=CameraRig(
                    batch.rig.names,
                    *(
                        getattr(batch.rig, part)[i : i + 1]
                        for part in ("K", "cam_SE3_ref", "image_hw", "image_aug", "time_ns")
                    ),
                ),
                boxes=None,
                map=None,
            )
            alone = model(one).detection
            torch.testing.assert_close(alone.box[:, 0], both.box[:, i], rtol=1e-4, atol=1e-4)


def test_velocity_is_displacement_over_the_gap() -> None:
    model = small_petr().eval()
    near, far = two_frames(gap_s=0.5), two_frames(gap_s=2.0)
    with torch.no_grad():
        a, b = model(near).detection.box, model(far).detection.box
    torch.testing.assert_close(a[..., :8], b[..., :8])
    torch.testing.assert_close(a[..., 8:], 4 * b[..., 8:])


def test_order_of_frames_matters() -> None:
    model, batch = small_petr().eval(), two_frames()
    assert batch.images is not None
    swapped = replace(batch, images=batch.images.roll(3, dims=1))
    with torch.no_grad():
        a, b = model(batch).detection.logits, model(swapped).detection.logits
    assert not torch.allclose(a, b, atol=1e-4)


@pytest.mark.parametrize("detection", [True, False])
def test_views_of_one_moment_are_not_taken_for_two(detection: bool) -> None:
    """Other cameras of the same frame where the earlier ones should be: 20 ms are no gap."""
    model, batch = small_petr(detection=detection, segmentation=not detection), two_frames()
    assert batch.rig is not None
    half = len(batch.rig) // 2
    times = batch.rig.time_ns.clone()
    times[:, half:] = times[:, :half] - 20_000_000
    with pytest.raises(ValueError, match=r"earlier by more than 0\.05 s; found gaps of \[0\.02"):
        model(replace(batch, rig=replace(batch.rig, time_ns=times)))


def test_padding_is_not_seen() -> None:
    # 32 x 48 images in inputs of 64 x 64: the image branch pads at the lower and right edge.
    model, batch = small_petr(multiple=64).eval(), two_frames()
    assert batch.images is not None and batch.rig is not None
    with torch.no_grad():
        maps, image_hw = model.image(batch.images)
        features = model.tokens.features(maps.data)
        code = model.tokens.rig_code(batch.rig.ref_to_image(), batch.rig.image_hw, image_hw, (4, 4))
        assert code.padded is not None and image_hw == (64, 64)
        assert code.padded[0, 0].tolist() == [[False] * 3 + [True]] * 2 + [[True] * 4] * 2
        changed = torch.where(code.padded.unsqueeze(2), features + 100.0, features)
        ones = torch.ones(2)
        a = model.answer(features, code, batch, gap_s=ones).detection
        b = model.answer(changed, code, batch, gap_s=ones).detection
        assert a is not None and b is not None
        torch.testing.assert_close(a.box, b.box)
        whole = model(batch).detection
        assert whole is not None
        torch.testing.assert_close(whole.logits, a.logits)


def test_grid_mask_is_one_for_all_views(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = small_petr(), two_frames()
    seen: list[tuple[int, ...]] = []
    monkeypatch.setattr(
        model.image.grid_mask, "forward", lambda x: seen.append(tuple(x.shape)) or x
    )
    model.train()(batch)
    assert seen == [(12, 3, 32, 48)]


def test_what_does_not_fit_is_refused() -> None:
    model, batch = small_petr(), two_frames()
    with pytest.raises(ValueError, match="neither"):
        PETR(image=model.image, tokens=model.tokens)
    with pytest.raises(ValueError, match="belong together"):
        PETR(image=model.image, tokens=model.tokens, head=model.head)
    with pytest.raises(ValueError, match="1 frame"):
        small_petr(frames=3)
    with pytest.raises(ValueError, match="cameras of every sample"):
        model(replace(batch, images=None))
    with pytest.raises(ValueError, match="sample1"):
        model(replace(batch, sensor_present=torch.tensor([[False, True], [False, False]])))
    with pytest.raises(ValueError, match="as many views"):
        model(small_batch(points=None))
    with pytest.raises(ValueError, match="earlier"):
        model(two_frames(gap_s=-1.0))
    with pytest.raises(ValueError, match="ground truth"):
        model.loss(model(batch), replace(batch, boxes=None))
    maps = small_petr(detection=False, segmentation=True)
    with pytest.raises(ValueError, match="no map"):
        maps.loss(maps(batch), replace(batch, map=None))
    with pytest.raises(ValueError, match="target"):
        maps.loss(maps(batch), replace(batch, map=torch.zeros(2, 3, 8, 8, dtype=torch.bool)))
