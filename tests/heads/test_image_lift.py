"""Image features on the bird's-eye map: at the right cell, from the right pixel."""

from __future__ import annotations

import torch

from perception3d.heads.image_lift import ImageLift
from perception3d.structures import BEVGrid, ImageFeatures
from tests.models.small_cmt import small_batch

GRID = BEVGrid((-20.0, 20.0), (-20.0, 20.0), (-5.0, 3.0), 1.0)


def lift_of_places(lifted: int = 3) -> ImageLift:
    """Passes on three channels as they are: x and y of the pixel, and the camera, all positive."""
    lift = ImageLift(channels=3, lifted=lifted, heights_m=(-1.0,)).eval()
    with torch.no_grad():
        lift.reduce.weight.copy_(torch.eye(3)[:, :, None, None])
        assert lift.reduce.bias is not None
        lift.reduce.bias.zero_()
    lift.norm.eps = 0.0
    return lift


def test_a_cell_reads_its_projection() -> None:
    batch = small_batch()
    assert batch.images is not None and batch.rig is not None
    samples, cameras, _, height, width = batch.images.shape
    stride = 4
    h, w = height // stride, width // stride
    y, x = torch.meshgrid(torch.arange(h) + 0.5, torch.arange(w) + 0.5, indexing="ij")
    maps = torch.stack((x * stride, y * stride, torch.ones_like(x)))
    data = maps.expand(samples, cameras, 3, h, w).clone()
    data[:, :, 2] *= torch.arange(1, cameras + 1)[None, :, None, None]
    images = ImageFeatures(data, stride)
    out = lift_of_places()(images, batch, GRID.stride(2))
    assert out.shape == (samples, 3, 20, 20)
    projection = batch.rig.ref_to_image().float()
    seen = 0
    for row, column in ((10, 13), (15, 10), (4, 10), (10, 2), (18, 18), (3, 4)):
        point = torch.tensor([-20 + 2 * column + 1.0, -20 + 2 * row + 1.0, -1.0, 1.0])
        uvd = projection[0] @ point
        uv, depth = uvd[:, :2] / uvd[:, 2:3], uvd[:, 2]
        inside = (depth > 0.5) & (uv >= 0).all(1) & (uv[:, 0] < width) & (uv[:, 1] < height)
        views = inside.nonzero().squeeze(1)
        value = out[0, :, row, column]
        if len(views) == 0:
            assert value.eq(0).all()
            continue
        seen += 1
        # At the edge of a map the outermost value is repeated.
        middle = uv[views].clamp(min=stride / 2)
        middle = middle.minimum(torch.tensor([width - stride / 2, height - stride / 2]))
        torch.testing.assert_close(value[:2], middle.mean(0), rtol=1e-3, atol=0.05)
        torch.testing.assert_close(value[2], (views + 1.0).mean())
    assert seen >= 2


def test_padded_images_keep_their_stride() -> None:
    """Features of an image padded to more rows: their cells are as large as before."""
    batch = small_batch()
    assert batch.images is not None
    samples, cameras, _, height, width = batch.images.shape
    data = torch.rand(samples, cameras, 3, height // 4, width // 4)
    padded = torch.nn.functional.pad(data, (0, 3, 0, 2))
    lift = lift_of_places()
    whole, more = (lift(ImageFeatures(maps, 4), batch, GRID.stride(2)) for maps in (data, padded))
    # Only what lies on the last half cell looks at the padding.
    assert float(((whole - more).abs() < 1e-5).float().mean()) > 0.95 and whole.count_nonzero() > 0


def test_gradients_reach_images_and_weights() -> None:
    batch = small_batch()
    assert batch.images is not None
    samples, cameras = batch.images.shape[:2]
    data = torch.rand(samples, cameras, 3, 6, 8, requires_grad=True)
    lift = ImageLift(channels=3, lifted=5)
    lift(ImageFeatures(data, 4), batch, GRID.stride(4)).square().sum().backward()
    assert data.grad is not None and float(data.grad.abs().sum()) > 0
    assert lift.reduce.weight.grad is not None and float(lift.reduce.weight.grad.abs().sum()) > 0
