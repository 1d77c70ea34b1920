from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from perception3d.datasets import collate
from perception3d.structures import BEVGrid, Boxes3D, Frame, MapRaster, PointCloud
from tests.datasets.test_augment import made_frame, made_rig


def frame(token: str, num_points: int = 5, hw: tuple[int, int] = (8, 12)) -> Frame:
    generator = torch.Generator().manual_seed(num_points)
    cloud = PointCloud(
        torch.randn(num_points, 3, generator=generator),
        torch.rand(num_points, generator=generator),
        torch.rand(num_points, generator=generator),
    )
    images = tuple(
        torch.randint(0, 255, (*hw, 3), dtype=torch.uint8, generator=generator) for _ in range(3)
    )
    return replace(made_frame(), token=token, points=cloud, rig=made_rig(hw), images=images)


def test_batch() -> None:
    frames = [frame("a", 5), frame("b", 0), frame("c", 7)]
    batch = collate(frames)
    assert batch.tokens == ("a", "b", "c") and batch.batch_size == 3
    assert batch.offsets.tolist() == [0, 5, 5, 12] and batch.points.dtype == torch.float32
    for i, f in enumerate(frames):
        own = batch.points[batch.offsets[i] : batch.offsets[i + 1]]
        assert torch.equal(own, f.points.features())
        for view, image in enumerate(f.images):
            assert torch.equal(batch.images[i, view], image.permute(2, 0, 1))
    assert batch.images.shape == (3, 3, 3, 8, 12) and batch.images.dtype == torch.uint8
    assert batch.rig.K.shape == (3, 3, 3, 3) and batch.rig.names == ("A", "B", "C")
    assert batch.sensor_present.tolist() == [[True, True]] * 3
    assert [len(b) for b in batch.boxes] == [24] * 3 and batch.map is None


def test_missing_sensors() -> None:
    blind, deaf = replace(frame("a"), images=None), replace(frame("b"), points=None)
    batch = collate([blind, deaf, frame("c")])
    assert batch.sensor_present.tolist() == [[True, False], [False, True], [True, True]]
    assert not batch.images[0].any() and batch.images[1].any()
    assert batch.offsets.tolist() == [0, 5, 5, 10]
    lidar_only = collate([blind, replace(blind, token="d")])
    assert lidar_only.images is None and lidar_only.rig is not None
    assert collate([deaf]).points is None and collate([deaf]).offsets is None


def test_frames_without_boxes() -> None:
    empty = replace(frame("a"), boxes=Boxes3D.empty())
    assert [len(b) for b in collate([empty, frame("b")]).boxes] == [0, 24]
    unknown = replace(frame("t1"), boxes=None)
    assert collate([unknown]).boxes is None
    with pytest.raises(ValueError, match=r"boxes are known for some frames .* not for t1"):
        collate([frame("b"), unknown])


def test_maps() -> None:
    grid = BEVGrid((-4, 4), (-2, 2), (-5, 3), 0.5)
    raster = MapRaster(torch.rand(2, 8, 16) > 0.5, ("drivable_area", "walkway"), grid)
    batch = collate([replace(frame(t), map=raster) for t in "ab"])
    assert batch.map.shape == (2, 2, 8, 16) and batch.map.dtype == torch.bool
    other = replace(raster, classes=("walkway", "drivable_area"))
    with pytest.raises(ValueError, match="map of sample b has another grid or other classes"):
        collate([replace(frame("a"), map=raster), replace(frame("b"), map=other)])


def test_image_sizes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"A of sample tok is \(16, 12\).*ImageAugment"):
        collate([frame("a"), frame("tok", hw=(16, 12))])


def test_cameras_must_agree() -> None:
    rig = replace(made_rig((8, 12)), names=("A", "B", "D"))
    with pytest.raises(ValueError, match=r"sample b has cameras \('A', 'B', 'D'\)"):
        collate([frame("a"), replace(frame("b"), rig=rig)])


def test_no_frames() -> None:
    with pytest.raises(ValueError, match="at least one frame"):
        collate([])
