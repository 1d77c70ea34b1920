"""What a made town holds: facts read back from its tables and files."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import orjson
import pytest

from perception3d.datasets.town.build import VERSION, build_town
from perception3d.datasets.town.planar import corners_of, is_inside, rectangles_overlap
from tests.town_fixture import SMALL, TINY, quiet

# Exposure minus the LiDAR file's time [ms], measured on real data.
CAMERA_OFFSETS_MS = {
    "CAM_FRONT_LEFT": -43.1,
    "CAM_FRONT": -35.5,
    "CAM_FRONT_RIGHT": -27.6,
    "CAM_BACK_RIGHT": -20.1,
    "CAM_BACK": -10.4,
    "CAM_BACK_LEFT": -0.5,
}


def table(root: Path, name: str) -> list[dict]:
    return orjson.loads((root / VERSION / f"{name}.json").read_bytes())


def boxes_by_sample(root: Path) -> dict[str, list[tuple[str, np.ndarray]]]:
    """sample token -> (category, (4, 2) outline on the ground [m]) of its boxes."""
    names = {row["token"]: row["name"] for row in table(root, "category")}
    category = {row["token"]: names[row["category_token"]] for row in table(root, "instance")}
    boxes: dict[str, list[tuple[str, np.ndarray]]] = {}
    for row in table(root, "sample_annotation"):
        x, y, _ = row["translation"]
        w, _, _, z = row["rotation"]
        outline = corners_of((x, y, 2 * np.arctan2(z, w)), row["size"][1], row["size"][0])
        boxes.setdefault(row["sample_token"], []).append((category[row["instance_token"]], outline))
    return boxes


def channel_of(row: dict) -> str:
    return row["filename"].split("/")[1]


def test_no_two_boxes_overlap(tiny_town: Path) -> None:
    """Vehicles and all others; a rack holds its bicycles, so those pairs do not count."""
    pairs: Counter[str] = Counter()
    racked = 0
    for boxes in boxes_by_sample(tiny_town).values():
        racks = [outline for name, outline in boxes if name == "static_object.bicycle_rack"]
        free = []
        for name, outline in boxes:
            x, y = outline.mean(0)
            if name == "vehicle.bicycle" and any(is_inside(r, (x, y)) for r in racks):
                racked += 1
            elif name != "static_object.bicycle_rack":
                free.append((name, outline))
        for (a, first), (b, second) in itertools.combinations(free, 2):
            kind = "vehicles" if a.startswith("vehicle") and b.startswith("vehicle") else "others"
            pairs[kind] += 1
            assert not rectangles_overlap(first, second), (a, b, first, second)
    assert min(pairs["vehicles"], pairs["others"]) > 1000
    assert racked


def test_every_level_of_visibility_occurs(tiny_town: Path) -> None:
    levels = Counter(row["visibility_token"] for row in table(tiny_town, "sample_annotation"))
    assert levels.keys() == {"1", "2", "3", "4"}
    assert min(levels.values()) >= 10, levels


def test_cameras_look_when_the_turning_lidar_passes_them(tiny_town: Path) -> None:
    rows = [row for row in table(tiny_town, "sample_data") if row["is_key_frame"]]
    end_us = {r["sample_token"]: r["timestamp"] for r in rows if channel_of(r) == "LIDAR_TOP"}
    times = {row["token"]: row["timestamp"] for row in table(tiny_town, "sample")}
    assert end_us == times, "a sample bears the time of its LiDAR file"
    seen: Counter[str] = Counter()
    for row in (r for r in rows if channel_of(r) != "LIDAR_TOP"):
        offset_ms = (row["timestamp"] - end_us[row["sample_token"]]) / 1000
        assert offset_ms == pytest.approx(CAMERA_OFFSETS_MS[channel_of(row)], abs=0.05)
        seen[channel_of(row)] += 1
    assert seen == dict.fromkeys(CAMERA_OFFSETS_MS, len(end_us))


@pytest.fixture(scope="module")
def empty_and_full(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """One scene of two key frames without density and sweeps, and one with both."""
    folder = tmp_path_factory.mktemp("density")
    one = dataclasses.replace(SMALL, val_scenes=0, val_districts=0, camera_sweeps=False)
    for density, every in ((0.0, 10), (1.0, 2)):
        settings = dataclasses.replace(one, density=density, keep_sweep_every=every)
        build_town(folder / f"{density:.0f}", settings, processes=1, report=quiet)
    return folder / "0", folder / "1"


@pytest.mark.slow
def test_density_gives_boxes(empty_and_full: tuple[Path, Path]) -> None:
    empty, full = (len(table(root, "sample_annotation")) for root in empty_and_full)
    assert 0 < empty < full


@pytest.mark.slow
def test_sweeps_kept_between_key_frames(empty_and_full: tuple[Path, Path], tiny_town: Path) -> None:
    """20 Hz makes nine sweeps between two key frames, of which every n-th is kept."""
    per_gap = {10: empty_and_full[0], 2: empty_and_full[1], TINY.keep_sweep_every: tiny_town}
    for every, root in per_gap.items():
        gaps = len(table(root, "sample")) - len(table(root, "scene"))
        rows = [r for r in table(root, "sample_data") if channel_of(r) == "LIDAR_TOP"]
        between = [row for row in rows if not row["is_key_frame"]]
        assert len(between) == gaps * (10 // every - 1)
        files = {path.name for path in root.glob("sweeps/LIDAR_TOP/*")}
        assert files == {Path(row["filename"]).name for row in between}
