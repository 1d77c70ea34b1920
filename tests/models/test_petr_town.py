"""From files to PETRv2's loss and boxes: earlier cameras, augmentation, stream."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from perception3d.datasets import collate
from perception3d.datasets.augment import GlobalAugment, ImageAugment
from perception3d.datasets.nuscenes import EarlierCameras, NuScenesFrames
from perception3d.geometry.temporal import camera_ages_s, frame_gap_s
from perception3d.models.petr_stream import FrameRing, PETRStream
from perception3d.structures import Batch
from tests.models.test_petr import small_petr, total

pytestmark = pytest.mark.slow

HW = (64, 128)


@torch.no_grad()
def test_stream_over_a_scene_is_the_model_on_its_pairs(tiny_town: Path) -> None:
    frames = NuScenesFrames(tiny_town, "town_val", load_points=False)
    pairs, crop = EarlierCameras(frames, "gap", gap_s=1.0), ImageAugment.test(HW)
    model, rng = small_petr(segmentation=True).eval(), np.random.default_rng(0)
    # Key frames at 2 Hz: the second one back is a second old.
    stream = PETRStream(model, ring=FrameRing(wanted=1))
    assert len(frames) >= 4
    for number in range(len(frames)):
        frame = frames[number]
        single = collate([crop(frame, rng)])
        got = stream.step(single, frame.log).detection
        if number == 1:  # the gap's rule takes the nearest frame: the one before, as the ring does
            assert len(stream.ring) == 2
        pair = collate([crop(pairs(frame, rng), rng)])
        want = model(pair).detection
        assert got is not None and want is not None
        torch.testing.assert_close(got.box, want.box, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(got.logits, want.logits, rtol=1e-4, atol=1e-4)


def test_augmented_pairs_train(tiny_town: Path) -> None:
    frames = NuScenesFrames(tiny_town, "town_train", load_points=False)
    pairs, crop = EarlierCameras(frames, "gap"), ImageAugment(HW, resize=(0.3, 0.4))
    scene = GlobalAugment(rotation_rad=0.3925, scale=(0.95, 1.05), translation_std_m=(0.0,) * 3,
                          flip_x_probability=0.0, flip_y_probability=0.0)  # fmt: skip
    rng = np.random.default_rng(0)
    batch: Batch = collate([scene(crop(pairs(frames[i], rng), rng), rng) for i in (0, 3)])
    assert batch.rig is not None and batch.images is not None and len(batch.rig) == 12
    gap = frame_gap_s(camera_ages_s(batch.time_ns, batch.rig.time_ns))
    assert gap[0].item() == pytest.approx(1.245) and 0.9 < gap[1].item() < 1.6
    model = small_petr().train()
    terms = model.loss(model(batch, model.denoising(batch)), batch)
    loss = total(terms)
    loss.backward()
    assert bool(torch.isfinite(loss)) and model.image.backbone.conv1.weight.grad is not None
    model.eval()
    with torch.no_grad():
        predictions = model.predict(model(batch), batch)
    assert [p.token for p in predictions] == list(batch.tokens)
