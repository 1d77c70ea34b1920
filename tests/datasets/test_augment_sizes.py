"""Cameras whose images differ in size come to one, and the rig keeps saying where things are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from perception3d.datasets import ImageAugment, collate
from perception3d.structures import SE3, CameraRig, Frame

# Height, width and centre of a landscape and an upright camera, an eighth of real ones.
SIZES = ((194, 256), (256, 194))
OUTPUT = (96, 128)


def frame_of(points_m: torch.Tensor | None = None) -> Frame:
    """Two cameras that look along +x; black, with a white square of 5 pixels at the points."""
    looks_ahead = torch.tensor(
        [[0.0, -1.0, 0.0, 0.0], [0.0, 0.0, -1.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]],
        dtype=torch.float64,
    )
    K = torch.zeros(2, 3, 3, dtype=torch.float64)
    for view, (height, width) in enumerate(SIZES):
        K[view] = torch.tensor([[222, 0, width / 2 + 0.25], [0, 222, height / 2 - 1.5], [0, 0, 1]])
    rig = CameraRig(
        names=("across", "upright"),
        K=K,
        cam_SE3_ref=looks_ahead.expand(2, 4, 4).clone(),
        image_hw=torch.tensor(SIZES),
        image_aug=torch.eye(3, dtype=torch.float64).expand(2, 3, 3).clone(),
        time_ns=torch.zeros(2, dtype=torch.int64),
    )
    images = [torch.zeros(*hw, 3, dtype=torch.uint8) for hw in SIZES]
    if points_m is not None:
        for image, uv in zip(images, rig.project(points_m)[0]):
            for u, v in uv.tolist():
                image[int(v) - 2 : int(v) + 3, int(u) - 2 : int(u) + 3] = 255
    pose = SE3.identity()
    return Frame("token", "log", 0, pose, pose, images=tuple(images), rig=rig)


def test_the_horizon_of_every_camera_comes_to_its_row() -> None:
    done = ImageAugment.test(OUTPUT, horizon=0.4)(frame_of(), np.random.default_rng(0))
    assert done.rig is not None and done.images is not None
    assert [tuple(i.shape) for i in done.images] == [(96, 128, 3)] * 2
    # Across: factor 0.5, 97 rows, so one row of freedom: 95.5 / 2 - 38.4 = 9.35, at most 1.
    # Upright: factor 128 / 194, 168 rows; 126.5 * 168 / 256 - 38.4 = 44.6, so 45.
    top = (-done.rig.image_aug[:, 1, 2]).tolist()
    assert top == [1.0, 45.0]
    row = (done.rig.image_aug @ done.rig.K)[:, 1, 2].tolist()
    assert row == pytest.approx([95.5 * 97 / 194 - 1, 126.5 * 168 / 256 - 45])
    at_lower_edge = ImageAugment.test(OUTPUT)(frame_of(), np.random.default_rng(0))
    assert at_lower_edge.rig is not None
    assert (-at_lower_edge.rig.image_aug[:, 1, 2]).tolist() == [1.0, 72.0]


def test_factors_count_from_what_fills_the_output() -> None:
    step = ImageAugment(OUTPUT, resize=(1.25, 1.25), flip_probability=0.0, relative=True)
    done = step(frame_of(), np.random.default_rng(0))
    assert done.rig is not None
    scale = done.rig.image_aug[:, 0, 0].tolist()
    assert scale == pytest.approx([160 / 256, 160 / 194])  # 1.25 * 128 wide, both


@pytest.mark.parametrize("seed", range(6))
def test_pixels_stay_where_the_rig_says(seed: int) -> None:
    point = torch.tensor([[20.0, 1.0, -0.6]])
    before = frame_of(point)
    step = ImageAugment(OUTPUT, resize=(1.0, 1.2), relative=True, horizon=0.36)
    after = step(before, np.random.default_rng(seed))
    assert before.rig is not None and after.rig is not None and after.images is not None
    uv = before.rig.project(point)[0][:, 0]
    homogeneous = torch.cat((uv, torch.ones(2, 1)), dim=1).double()
    expected = (after.rig.image_aug @ homogeneous[:, :, None])[:, :2, 0]
    found, _ = after.rig.project(point)
    assert torch.allclose(found[:, 0], expected, atol=1e-9)
    for image, (u, v) in zip(after.images, found[:, 0].tolist()):
        weight = image[..., 0].double()
        assert float(weight.sum()) > 0
        rows, columns = (torch.arange(n).double() + 0.5 for n in weight.shape)
        middle = (
            float((weight.sum(0) * columns).sum() / weight.sum()),
            float((weight.sum(1) * rows).sum() / weight.sum()),
        )
        assert middle == pytest.approx((u, v), abs=1.0)


def test_frames_of_such_cameras_make_a_batch() -> None:
    step = ImageAugment(OUTPUT, resize=(1.0, 1.2), relative=True, horizon=0.36)
    rng = np.random.default_rng(0)
    frames = [frame_of(), replace(frame_of(), token="other")]
    batch = collate([step(frame, rng) for frame in frames])
    assert batch.images is not None and tuple(batch.images.shape) == (2, 2, 3, 96, 128)
    with pytest.raises(ValueError, match="images of one batch must have one size"):
        collate(frames)


def test_small_images_get_black_above() -> None:
    step = ImageAugment((300, 128), resize=(0.5, 0.5), flip_probability=0.0, horizon=0.36)
    frame = frame_of()
    assert frame.images is not None
    white = replace(frame, images=tuple(image + 255 for image in frame.images))
    done = step(white, np.random.default_rng(0))
    assert done.images is not None
    assert [int((image[:, 0, 0] == 0).sum()) for image in done.images] == [300 - 97, 300 - 128]


def test_a_horizon_outside_the_image_is_refused() -> None:
    with pytest.raises(ValueError, match="share of the height"):
        ImageAugment(OUTPUT, horizon=36)
