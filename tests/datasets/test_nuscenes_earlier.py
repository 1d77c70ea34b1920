"""Earlier cameras behind a frame's own: which moment, where they stood, what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from perception3d.datasets.nuscenes import EarlierCameras, NuScenesFrames
from perception3d.datasets.nuscenes.earlier import published_list, rows_before
from perception3d.geometry.temporal import camera_ages_s, frame_gap_s, shift_reference
from perception3d.structures.taxonomy import CAMERA_CHANNELS
from tests.datasets.nuscenes_fixture import VERSION, make_dataset

V = len(CAMERA_CHANNELS)


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> NuScenesFrames:
    root = tmp_path_factory.mktemp("earlier")
    make_dataset(root)
    return NuScenesFrames(root, "made_train", version=VERSION, load_points=False)


def place_in_scene(frames: NuScenesFrames, number: int) -> int:
    row, place = frames.row_of(number), 0
    while (row := int(frames.index["sample_previous"][row])) >= 0:
        place += 1
    return place


def test_the_published_list(frames: NuScenesFrames) -> None:
    """Six camera frames an interval, the sixth a key frame, five intervals at most."""
    is_key, time_us = frames.index["camera_is_key"], frames.index["camera_time_us"]
    lengths = set()
    for number in range(len(frames)):
        found = published_list(frames, number)
        assert found.shape == (6 * min(5, place_in_scene(frames, number)), V)
        lengths.add(len(found))
        if len(found) == 0:
            continue
        keys = is_key[found]
        assert keys[5::6].all() and not np.delete(keys, np.s_[5::6], axis=0).any()
        now = time_us[frames.camera_rows(frames.row_of(number))]
        assert (np.diff(np.concatenate((now[None], time_us[found])), axis=0) < 0).all()
    assert {0, 6, 12} <= lengths


def test_which_moment_the_published_test_takes(frames: NuScenesFrames) -> None:
    """Sheet: a scene's first frame repeats itself, the second takes 5, the third 11, others 14."""
    attach = EarlierCameras(frames)
    wanted = {1: 5, 2: 11}
    for number in range(len(frames)):
        frame, place = frames[number], place_in_scene(frames, number)
        both = attach(frame, np.random.default_rng(0))
        assert both.rig is not None and both.images is not None and frame.rig is not None
        assert len(both.rig) == len(both.images) == 2 * V
        ages = camera_ages_s(torch.tensor(frame.time_ns), both.rig.time_ns)
        if place == 0:
            assert frame_gap_s(ages).item() == pytest.approx(1.245)
            assert all(torch.equal(a, b) for a, b in zip(both.images[:V], both.images[V:]))
            assert torch.equal(both.rig.cam_SE3_ref[:V], both.rig.cam_SE3_ref[V:])
            continue
        rows = published_list(frames, number)[wanted.get(place, 14)]
        times = torch.from_numpy(frames.index["camera_time_us"][rows] * 1000)
        assert torch.equal(both.rig.time_ns[V:], times)
        images = frames.images(rows, frame.token)
        assert all(torch.equal(a, b) for a, b in zip(both.images[V:], images))


def test_earlier_cameras_stand_where_they_stood(frames: NuScenesFrames) -> None:
    """An earlier key frame's rig, read as a frame of its own and moved by both poses."""
    attach = EarlierCameras(frames)
    seen = 0
    for number in range(len(frames)):
        if place_in_scene(frames, number) != 1:
            continue
        frame, before = frames[number], frames[number - 1]
        rig = attach(frame, np.random.default_rng(0)).rig
        assert rig is not None and before.rig is not None
        moved = shift_reference(
            before.rig.cam_SE3_ref, before.global_SE3_ref.matrix(), frame.global_SE3_ref.matrix()
        )
        torch.testing.assert_close(rig.cam_SE3_ref[V:], moved, rtol=0, atol=1e-9)
        assert torch.equal(rig.K[V:], before.rig.K) and rig.names[V] == "CAM_FRONT earlier"
        seen += 1
    assert seen >= 1


def test_training_draws_from_the_published_range(frames: NuScenesFrames) -> None:
    number = max(range(len(frames)), key=lambda n: len(published_list(frames, n)))
    found = published_list(frames, number)
    times = frames.index["camera_time_us"][found][:, 0] * 1000
    attach, frame = EarlierCameras(frames, "training"), frames[number]
    drawn = set()
    for seed in range(60):
        rig = attach(frame, np.random.default_rng(seed)).rig
        assert rig is not None
        drawn.add(int(np.flatnonzero(times == int(rig.time_ns[V]))[0]))
    last = min(26, len(found) - 1)
    assert min(drawn) == 3 and max(drawn) <= last and len(drawn) > (last - 3) // 2


@pytest.mark.parametrize("gap_s", [0.1, 0.5, 1.25, 60.0])
def test_the_nearest_moment_to_a_gap(frames: NuScenesFrames, gap_s: float) -> None:
    index = frames.index
    for number in range(len(frames)):
        rows = rows_before(frames, number, gap_s)
        if place_in_scene(frames, number) == 0:
            assert rows is None
            continue
        assert rows is not None
        for camera, row in zip(frames.camera_rows(frames.row_of(number)), rows):
            chain, at = [], int(index["camera_previous"][camera])
            while at >= 0:
                chain.append(at)
                at = int(index["camera_previous"][at])
            gaps = (index["camera_time_us"][camera] - index["camera_time_us"][chain]) * 1e-6
            assert row == chain[int(np.abs(gaps - gap_s).argmin())]


def test_a_data_set_without_camera_sweeps(tiny_town: Path) -> None:
    town = NuScenesFrames(tiny_town, "town_val", load_points=False)
    frame = town[4]
    training = EarlierCameras(town, "training")
    with pytest.raises(ValueError, match="no camera sweeps; take the rule 'gap'"):
        for seed in range(60):  # places 3 and 4 are sweeps before the frame itself
            training(town[1], np.random.default_rng(seed))
    rig = EarlierCameras(town, "gap", gap_s=1.0)(frame, np.random.default_rng(0)).rig
    assert rig is not None
    gap = frame_gap_s(camera_ages_s(torch.tensor(frame.time_ns), rig.time_ns))
    assert gap.item() == pytest.approx(1.0, abs=0.05)


def test_what_is_refused(frames: NuScenesFrames) -> None:
    with pytest.raises(ValueError, match="gap_s positive; found 'gap', 0"):
        EarlierCameras(frames, "gap", gap_s=0)
    blind = NuScenesFrames(frames.root, "made_train", version=VERSION, load_images=False)
    with pytest.raises(ValueError, match="need frames with images"):
        EarlierCameras(blind)
