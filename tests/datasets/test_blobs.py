"""Point and image files: what is read, and what damaged ones say."""

from __future__ import annotations

import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from perception3d.datasets.images import read_image
from perception3d.datasets.points import Sweep, merge_sweeps, no_return, read_point_file
from tests.datasets.nuscenes_fixture import random_points

STILL = np.zeros(3)


def write(path: Path, rows: np.ndarray) -> Path:
    rows.astype(np.float32).tofile(path)
    return path


def test_size_must_be_a_multiple_of_five_floats(tmp_path: Path) -> None:
    path = tmp_path / "a.pcd.bin"
    path.write_bytes(bytes(4 * 5 * 7 + 3))
    with pytest.raises(ValueError, match=r"a\.pcd\.bin has 143 bytes, no multiple of 20"):
        read_point_file(path)
    with pytest.raises(FileNotFoundError, match=r"b\.pcd\.bin is missing"):
        read_point_file(tmp_path / "b.pcd.bin")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("column", [0, 2, 3, 4])
def test_a_few_non_finite_rows_are_dropped_many_are_an_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, value: float, column: int
) -> None:
    rows = random_points(np.random.default_rng(0), 400)
    rows[[3, 50, 51], column] = value
    with caplog.at_level(logging.WARNING):
        assert len(read_point_file(write(tmp_path / "a.bin", rows))) == 397
    assert "dropped 3 of 400 points" in caplog.text
    rows[:5, column] = value
    with pytest.raises(ValueError, match=r"7 of 400 points \(1\.8%\) are NaN or infinite"):
        read_point_file(write(tmp_path / "a.bin", rows))


def test_opposite_infinities_do_not_cancel(tmp_path: Path) -> None:
    rows = random_points(np.random.default_rng(0), 400)
    rows[0, 0], rows[1, 0] = np.inf, -np.inf
    assert len(read_point_file(write(tmp_path / "a.bin", rows))) == 398


def test_empty_cloud(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sweep = Sweep(write(tmp_path / "a.bin", np.zeros((0, 5))), np.eye(4), 0.0, STILL)
    with caplog.at_level(logging.WARNING):
        cloud = merge_sweeps([sweep], ring=True)
    assert len(cloud) == 0 and cloud.features().shape == (0, 5)
    assert "a.bin is empty" in caplog.text and "copy the file again" in caplog.text


@pytest.mark.parametrize("speed", [0.0, 9.0, 40.0])
def test_no_return_rows_lie_on_the_sensors_way(speed: float) -> None:
    rng = np.random.default_rng(1)
    velocity = np.array([0.1, 1.0, 0.02]) * speed
    real = random_points(rng, 3000)
    empty = np.zeros((1000, 5), np.float32)
    empty[:, :3] = -velocity * rng.uniform(0, 0.05, (1000, 1)) + rng.normal(0, 0.01, (1000, 3))
    found = no_return(np.concatenate((real, empty)), velocity)
    assert found[3000:].all() and not found[:3000].any()


def test_close_points(tmp_path: Path) -> None:
    rows = np.array(
        [[0.9, 0.9, -1, 5, 0], [0.9, 1.1, -1, 5, 1], [-1.1, 0.2, -1, 5, 2], [9, 9, 0, 5, 3]]
    )
    path = write(tmp_path / "a.bin", rows)
    shift = np.eye(4)
    shift[0, 3] = 100
    sweeps = [Sweep(path, np.eye(4), 0.0, STILL), Sweep(path, shift, 0.5, STILL)]
    kept = {rule: len(merge_sweeps(sweeps, drop_close=rule)) for rule in ("all", "past", "none")}
    assert kept == {"all": 6, "past": 7, "none": 8}
    cloud = merge_sweeps(sweeps, close_m=1.2, ring=True)
    assert cloud.features().tolist() == [[9, 9, 0, 5, 0], [109, 9, 0, 5, 0.5]]
    assert cloud.ring is not None and cloud.ring.tolist() == [3, 3]


def test_a_sweep_from_the_future_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.bin", np.ones((1, 5)))
    with pytest.raises(ValueError, match="younger than its key frame"):
        merge_sweeps([Sweep(path, np.eye(4), -0.1, STILL)])


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "a.jpg"
    rows, columns = np.mgrid[:91, :161]
    image = np.stack((rows, columns, 255 - rows), axis=-1).astype(np.uint8)
    cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, 100])
    return path


def test_image_is_rgb(picture: Path) -> None:
    image = read_image(picture, token="t", hw=(91, 161))
    assert image.dtype == torch.uint8 and image.shape == (91, 161, 3)
    # Written as BGR (row, column, 255 - row).
    assert np.allclose(image[80, 20].tolist(), [175, 20, 80], atol=4)


def test_reduced_decoding_scales_positions_exactly(tmp_path: Path) -> None:
    rows, columns = np.mgrid[:128, :192]
    blob = 255 * np.exp(-((columns - 70.5) ** 2 + (rows - 40.5) ** 2) / 60)
    path = tmp_path / "blob.png"
    cv2.imwrite(str(tmp_path / "blob.jpg"), blob.astype(np.uint8)[..., None].repeat(3, 2))
    assert not path.exists()
    for reduce in (1, 2, 4):
        image = read_image(tmp_path / "blob.jpg", token="t", hw=(128, 192), reduce=reduce)
        weight = image[..., 0].double()
        weight[weight < 8] = 0
        u = torch.arange(weight.shape[1]) + 0.5
        center = float((weight.sum(0) * u).sum() / weight.sum())
        assert center * reduce == pytest.approx(71.0, abs=0.1)


@pytest.mark.parametrize("kept", [0.3, 0.9, 0.999])
def test_truncated_jpeg(picture: Path, kept: float) -> None:
    data = picture.read_bytes()
    picture.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(ValueError, match=r"a\.jpg of sample tok is truncated"):
        read_image(picture, token="tok")


def test_other_damage(picture: Path) -> None:
    with pytest.raises(ValueError, match=r"is 91 x 161 pixels.*tables say 900 x 1600"):
        read_image(picture, token="tok", hw=(900, 1600))
    for data in (b"", b"text"):
        picture.write_bytes(data)
        with pytest.raises(ValueError, match=r"a\.jpg of sample tok cannot be decoded"):
            read_image(picture, token="tok")
    picture.unlink()
    with pytest.raises(FileNotFoundError, match=r"a\.jpg of sample tok is missing"):
        read_image(picture, token="tok")
