from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from perception3d.datasets.nuscenes import (
    NuScenesFrames,
)
from perception3d.datasets.nuscenes.splits import OFFICIAL_SPLITS, choose_version, official_scenes
from perception3d.structures import BEVGrid
from tests.datasets.nuscenes_fixture import SCENES, VERSION, edit, make_dataset, token


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("reader"))


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    """A data set that a test may damage; without an index."""
    root = tmp_path / "data"
    shutil.copytree(made, root, ignore=shutil.ignore_patterns("index"))
    return root


def test_frames(made: Path) -> None:
    frames = NuScenesFrames(made, "made_train", num_sweeps=3, ring=True)
    assert len(frames) == 18 and frames.version == VERSION
    assert frames.tokens[0] == token(SCENES[0], "sample", 0)
    assert frames.index_of(frames.tokens[7]) == 7
    frame = frames[7]
    assert frame.log == f"log-{SCENES[0]}" and frame.points is not None and frame.rig is not None
    assert frame.points.ring is not None and int(frame.points.ring.max()) == 31
    assert frame.points.age_s.unique().numpy() == pytest.approx([0, 0.05, 0.1], abs=1e-6)
    assert [tuple(i.shape) for i in frame.images or ()] == [(90, 160, 3)] * 6
    assert frame.time_ns > int(frame.rig.time_ns.max())
    assert frames[-1].token == frames.tokens[-1]
    assert frames.location(0) == "boston-seaport"
    with pytest.raises(IndexError):
        frames[18]
    with pytest.raises(KeyError, match="made_train"):
        frames.index_of("nobody")


def test_parts_can_be_left_out(made: Path) -> None:
    bare = NuScenesFrames(made, "made_val", load_points=False, load_images=False, load_boxes=False)[
        0
    ]
    assert bare.points is None and bare.images is None and bare.boxes is None
    assert bare.rig is not None and NuScenesFrames(made, "made_val", cameras=())[0].rig is None
    half = NuScenesFrames(made, "made_val", cameras=("CAM_BACK", "CAM_FRONT"), image_reduce=2)[0]
    assert half.rig is not None and half.rig.names == ("CAM_BACK", "CAM_FRONT")
    assert half.rig.image_hw.tolist() == [[45, 80]] * 2 and half.images is not None
    xyz = torch.tensor([[1.0, 20.0, 0.0]])
    whole_uv, _ = bare.rig.project(xyz)
    assert torch.allclose(half.rig.project(xyz)[0][1], whole_uv[0] / 2)


def test_sent_to_a_worker_it_maps_the_same_index(made: Path) -> None:
    frames = NuScenesFrames(made, "made_val")
    sent = pickle.dumps(frames)
    assert len(sent) < 10_000
    again = pickle.loads(sent)
    assert again.fingerprint == frames.fingerprint
    assert torch.equal(again[1].points.xyz_m, frames[1].points.xyz_m)


def test_class_counts_leave_out_boxes_without_points(made: Path) -> None:
    frames = NuScenesFrames(made, "made_train", load_points=False, load_images=False)
    annotations = json.loads((made / VERSION / "sample_annotation.json").read_text())
    radar = {a["sample_token"]: 0 for a in annotations}
    for a in annotations:
        radar[a["sample_token"]] += a["num_lidar_pts"] == 0 and a["num_radar_pts"] > 0
    counts = frames.class_counts()
    assert counts.shape == (18, 10)
    for i in range(len(frames)):
        boxes = frames[i].boxes
        assert boxes is not None
        seen = int(((boxes.label >= 0) & (boxes.num_points > 0)).sum())
        assert seen <= counts[i].sum() <= seen + radar.get(frames.tokens[i], 0)


def test_sweeps_that_were_fast_have_no_rows_without_return(tmp_path: Path) -> None:
    root = make_dataset(tmp_path, speed_mps=32.0)
    frames = NuScenesFrames(root, "made_val", num_sweeps=1, drop_close="none")
    before = len(frames[4].points or ())
    index = frames.index
    row = int(index["sample_lidar"][frames._rows[4]])
    path = root / index.text("lidar_file", row)
    rays = np.zeros((1084, 5), np.float32)
    turned = np.linspace(1, 0, 1084, dtype=np.float32)[:, None]
    rays[:, :3] = -index["lidar_velocity_mps"][row] * turned * 0.05
    assert np.abs(rays[:, :3]).max() > 1.4
    np.concatenate((np.fromfile(path, np.float32).reshape(-1, 5), rays)).tofile(path)
    assert len(frames[4].points or ()) == before


def test_test_versions_have_no_boxes(tmp_path: Path) -> None:
    frames = NuScenesFrames(make_dataset(tmp_path, annotated=False), "made_val")
    assert frames[0].boxes is None
    assert frames.class_counts().sum() == 0


def test_frame_without_boxes_in_an_annotated_version(copy: Path) -> None:
    alone = token(SCENES[2], "sample", 2)

    def drop(rows: list[dict[str, Any]]) -> None:
        rows[:] = [row for row in rows if row["sample_token"] != alone]
        held = {row["token"] for row in rows}
        for row in rows:
            row.update({k: row[k] if row[k] in held else "" for k in ("prev", "next")})

    edit(copy, "sample_annotation", drop)
    frames = NuScenesFrames(copy, "made_val")
    boxes = frames[frames.index_of(alone)].boxes
    assert boxes is not None and len(boxes) == 0


# Bad input.


def test_missing_folder() -> None:
    with pytest.raises(FileNotFoundError, match=r"/nowhere does not exist"):
        NuScenesFrames("/nowhere", "train")


def test_folder_without_version(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no nuScenes version"):
        NuScenesFrames(tmp_path, "train")


def test_version_without_the_split(made: Path) -> None:
    with pytest.raises(ValueError, match=r"'mini_val'; found v1.0-made \(made_train, made_val\)"):
        NuScenesFrames(made, "mini_val")
    with pytest.raises(FileNotFoundError, match=r"no version 'v1.0-mini'; found v1.0-made"):
        NuScenesFrames(made, "mini_val", version="v1.0-mini")


def test_split_of_two_versions_must_be_named(copy: Path) -> None:
    shutil.copytree(copy / VERSION, copy / "v2")
    with pytest.raises(ValueError, match=r"versions v1.0-made, v2"):
        choose_version(copy, "made_val")
    assert choose_version(copy, "made_val", "v2") == "v2"


def test_split_with_unknown_scenes(copy: Path) -> None:
    (copy / VERSION / "splits.json").write_text('{"made_val": ["scene-0007"]}')
    with pytest.raises(ValueError, match=r"names 1 scenes that.*first: scene-0007"):
        NuScenesFrames(copy, "made_val")
    (copy / VERSION / "splits.json").write_text('["scene-0007"]')
    with pytest.raises(ValueError, match=r"must hold \{split:"):
        NuScenesFrames(copy, "made_val")


def test_unknown_camera_and_no_sweeps(made: Path) -> None:
    with pytest.raises(ValueError, match="CAM_UP"):
        NuScenesFrames(made, "made_val", cameras=("CAM_UP",))
    with pytest.raises(ValueError, match="num_sweeps must be >= 1"):
        NuScenesFrames(made, "made_val", num_sweeps=0)


def test_missing_camera_row(copy: Path) -> None:
    edit(
        copy,
        "sample_data",
        lambda rows: rows.remove(next(r for r in rows if "CAM_BACK__" in r["filename"])),
    )
    frames = NuScenesFrames(copy, "made_train")
    with pytest.raises(ValueError, match=f"{frames.tokens[0]} has no key image of CAM_BACK"):
        frames[0]


def test_missing_lidar_key_frame(copy: Path) -> None:
    edit(copy, "sample_data", lambda rows: rows[0].update(is_key_frame=False))
    with pytest.raises(ValueError, match="has no LIDAR_TOP key frame"):
        NuScenesFrames(copy, "made_train")


def test_missing_table_and_broken_link(copy: Path) -> None:
    edit(copy, "sample_data", lambda rows: rows[3].update(ego_pose_token="gone"))
    with pytest.raises(ValueError, match=r"ego_pose_token names 'gone'.*ego_pose\.json"):
        NuScenesFrames(copy, "made_train")
    (copy / VERSION / "ego_pose.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"ego_pose\.json is missing"):
        NuScenesFrames(copy, "made_train")


@pytest.mark.parametrize("size", [[1.0, 0.0, 1.0], [1.0, -2.0, 1.0]])
def test_box_of_non_positive_size(copy: Path, size: list[float]) -> None:
    edit(copy, "sample_annotation", lambda rows: rows[5].update(size=size))
    with pytest.raises(ValueError, match=r"is no box: size \(w, l, h\).*must be > 0"):
        NuScenesFrames(copy, "made_train")


def test_unknown_class(copy: Path) -> None:
    edit(
        copy, "category",
        lambda rows: next(r for r in rows if r["name"] == "vehicle.car").update(name="a.tram"),
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"unknown class 'a.tram'; known classes are animal"):
        NuScenesFrames(copy, "made_train")


def test_two_attributes_on_a_car(copy: Path) -> None:
    def give(rows: list[dict[str, Any]]) -> None:
        row = next(r for r in rows if r["attribute_tokens"])
        row["attribute_tokens"] *= 2

    edit(copy, "sample_annotation", give)
    with pytest.raises(ValueError, match="at most one"):
        NuScenesFrames(copy, "made_train")


def test_missing_map_expansion(made: Path) -> None:
    grid = BEVGrid((-10, 10), (-10, 10), (-5, 3), 0.5)
    frames = NuScenesFrames(made, "made_val", map_grid=grid, load_images=False)
    with pytest.raises(FileNotFoundError, match=r"boston-seaport\.json is missing \(found: none\)"):
        frames[0]


# Splits.


def test_official_splits() -> None:
    scenes = {split: official_scenes(split) for split in OFFICIAL_SPLITS}
    sizes = {split: len(names) for split, names in scenes.items()}
    assert sizes == {
        "train": 700, "val": 150, "test": 150, "train_detect": 350, "train_track": 350,
        "mini_train": 8, "mini_val": 2,
    }  # fmt: skip
    assert len({*scenes["train"], *scenes["val"], *scenes["test"]}) == 1000
    assert set(scenes["train"]) == {*scenes["train_detect"], *scenes["train_track"]}


def test_official_splits_equal_the_devkit() -> None:
    splits = pytest.importorskip("nuscenes.utils.splits")
    for split, names in splits.create_splits_scenes().items():
        assert official_scenes(split) == names
