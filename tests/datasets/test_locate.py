from __future__ import annotations

import json
import logging
import sys
import types
from pathlib import Path

import pytest

from perception3d.datasets import locate


def version(root: Path, name: str, splits: dict | None = None) -> None:
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "sample.json").write_text("[]")
    if splits is not None:
        (folder / "splits.json").write_text(json.dumps(splits))


def test_auto_takes_nuscenes_when_it_is_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    version(tmp_path / "town", "v1.0-town", {"town_train": [], "town_val": []})
    found = locate(data_folder=tmp_path)
    assert (found.kind, found.version, found.train_split) == ("town", "v1.0-town", "town_train")
    assert "no nuScenes in" in caplog.text
    version(tmp_path / "nuscenes", "v1.0-mini")
    mini = locate(data_folder=tmp_path)
    assert (mini.kind, mini.version, mini.val_split) == ("nuscenes", "v1.0-mini", "mini_val")
    version(tmp_path / "nuscenes", "v1.0-trainval")
    assert locate(data_folder=tmp_path).version == "v1.0-trainval"
    assert locate("town", data_folder=tmp_path).kind == "town"
    assert len(caplog.text.strip().splitlines()) == 4


def test_auto_makes_the_town_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def build_town(root: Path, settings: object) -> None:
        made.append(settings)
        version(root, "v1.0-town", {"town_val": [], "town_train": []})

    module = types.ModuleType("perception3d.datasets.town.build")
    module.build_town = build_town  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "perception3d.datasets.town.build", module)
    for _ in range(2):
        found = locate(data_folder=tmp_path)
    assert found.root == tmp_path / "town" and found.val_split == "town_val" and len(made) == 1
    (tmp_path / "town" / "town.json").write_text('{"complete": true}')
    locate(data_folder=tmp_path)
    assert len(made) == 1


def test_a_folder_of_ones_own(tmp_path: Path) -> None:
    version(tmp_path / "mine", "v1.0-test")
    version(tmp_path / "mine", "2024", {"north_train": [], "south_val": [], "north_val": []})
    found = locate(tmp_path / "mine")
    assert (found.version, found.train_split, found.val_split) == (
        "2024",
        "north_train",
        "north_val",
    )


def test_nothing_to_train_on(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        locate("nuscenes", data_folder=tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no nuScenes version"):
        locate(tmp_path / "empty")
    version(tmp_path / "only", "v1.0-test")
    with pytest.raises(ValueError, match=r"found v1\.0-test: test\).*splits\.json"):
        locate(tmp_path / "only")
