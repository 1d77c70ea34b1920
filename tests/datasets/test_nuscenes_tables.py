from __future__ import annotations

from pathlib import Path

import numpy as np
import orjson
import pytest

from perception3d.datasets.arrays import open_arrays, save_arrays
from perception3d.datasets.nuscenes.tables import TokenIndex, column, iterate_table, tokens


@pytest.mark.parametrize("piece_bytes", [64, 500, 1 << 20])
@pytest.mark.parametrize(
    "extra",
    [{"name": "plain"}, {"name": "a }, { inside text"}, {"parts": [{"a": 1}, {"a": 2}]}],
    ids=["flat", "border in a string", "nested"],
)
def test_pieces_hold_every_row_once(tmp_path: Path, piece_bytes: int, extra: dict) -> None:
    rows = [{"token": f"{i}", **extra} for i in range(50)]
    for text in (orjson.dumps(rows), orjson.dumps(rows, option=orjson.OPT_INDENT_2)):
        (tmp_path / "log.json").write_bytes(text)
        pieces = list(iterate_table(tmp_path, "log", piece_bytes=piece_bytes))
        assert [row for piece in pieces for row in piece] == rows
    assert len(pieces) > 1 or piece_bytes > 1000 or extra != {"name": "plain"}


def test_missing_and_broken_tables_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"log\.json is missing"):
        list(iterate_table(tmp_path, "log"))
    (tmp_path / "log.json").write_text('[{"token": 1}, ')
    with pytest.raises(ValueError, match="not valid JSON"):
        list(iterate_table(tmp_path, "log"))
    (tmp_path / "log.json").write_text('{"token": 1}')
    with pytest.raises(ValueError, match="must hold a list"):
        list(iterate_table(tmp_path, "log"))


def test_missing_field_names_the_row() -> None:
    with pytest.raises(ValueError, match=r"log\.json: row b has no field 'location'"):
        column([{"token": "a", "location": "x"}, {"token": "b"}], "log", "location")


def test_token_index() -> None:
    index = TokenIndex("log", tokens(["c", "a", "bb"]))
    assert index.find(tokens(["a", "bb", "c", "a"]), "scene.log_token").tolist() == [1, 2, 0, 1]
    assert index.find(tokens(["", "a"]), "scene.log_token", optional=True).tolist() == [-1, 1]
    for optional in (False, True):
        with pytest.raises(ValueError, match=r"scene.log_token names 'zz'.*log\.json"):
            index.find(tokens(["zz"]), "scene.log_token", optional=optional)


def test_arrays_round_trip(tmp_path: Path) -> None:
    arrays = {
        "numbers": np.arange(10.0).reshape(2, 5),
        "names": np.array([b"abc", b"d"]),
        "none": np.zeros((0, 3), np.float32),
    }
    path = tmp_path / "deep" / "a.npz"
    save_arrays(path, {"kind": "test"}, arrays)
    header, mapped = open_arrays(path)
    assert header == {"kind": "test"} and set(mapped) == set(arrays)
    with np.load(path, allow_pickle=False) as plain:
        for name, array in arrays.items():
            assert np.array_equal(mapped[name], array) and np.array_equal(plain[name], array)
            assert mapped[name].ctypes.data % 64 == 0 and not mapped[name].flags.writeable
    assert [p.name for p in path.parent.iterdir()] == ["a.npz"]


def test_damaged_array_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    save_arrays(path, {}, {"x": np.arange(1000)})
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ValueError, match="cut short"):
        open_arrays(path)


def test_full_disk_is_an_error_that_names_the_file(tmp_path: Path, monkeypatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array", full)
    with pytest.raises(OSError, match=r"cannot write .*a\.npz: No space left"):
        save_arrays(tmp_path / "a.npz", {}, {"x": np.arange(3)})
    assert list(tmp_path.iterdir()) == []
