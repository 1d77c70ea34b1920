"""The streaming reader agrees with the standard library, wherever the text is cut into chunks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perception3d.evaluation import json_stream
from perception3d.evaluation.json_stream import JsonStream, MalformedJsonError, RepeatedKeys

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False)
    | st.text(max_size=12),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def shared_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stream") / "f.json"


def read(path: Path) -> dict[str, Any]:
    with JsonStream(path) as stream:
        content = {key: stream.value() for key in stream.members("the document")}
        assert stream.peek() == ""
        return content


@settings(max_examples=150, deadline=None)
@given(
    content=st.dictionaries(st.text(max_size=6), VALUES, max_size=4),
    chunk=st.integers(1, 40),
    indent=st.sampled_from([None, 1, 7]),
    escaped=st.booleans(),
)
def test_same_as_the_standard_library(
    content: dict[str, Any],
    chunk: int,
    indent: int | None,
    escaped: bool,
    shared_file: Path,
) -> None:
    path = shared_file
    text = json.dumps(content, indent=indent, ensure_ascii=escaped)
    path.write_text(text, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "_CHUNK", chunk)
        assert read(path) == json.loads(text)
        # Any proper prefix is refused, never half believed.
        cut = len(text) * chunk // 41
        path.write_text(text[:cut], encoding="utf-8")
        with pytest.raises(MalformedJsonError):
            read(path)


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1 "b": 2}',
        '{"a": tru}',
        '{"a": 01}',
        '{"a": [1,]}',
        '{"a": "\t"}',
        '{"a": "\\u12"}',
        "{a: 1}",
        '{"a": 1,}',
        '{"a"}',
        '{"a": 1}}',
        '\ufeff{"a": 1}',
        '{"a": ' + "[" * 100_000,
        '{"a": ' + "9" * 5000 + "}",
        '{"a": "' + "x" * 3_000_000,
        "",
        "   ",
    ],
)
def test_malformed_text(tmp_path: Path, text: str) -> None:
    path = tmp_path / "f.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises((MalformedJsonError, AssertionError)):
        read(path)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    path.write_bytes(b'{"a": "\xff\xfe"}')
    with pytest.raises(MalformedJsonError, match="not UTF-8"):
        read(path)


def test_constants_and_repeated_keys_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    path.write_text('{"a": [NaN, -Infinity], "b": {"x": 1, "y": 2, "x": 3}, "c": 1}')
    with JsonStream(path) as stream:
        members = stream.members("the document")
        next(members)
        stream.value()
        assert stream.constants == ["NaN", "-Infinity"]
        next(members)
        value = stream.value()
        assert isinstance(value, RepeatedKeys)
        assert value.repeated == ("x",)
        assert value == {"x": 3, "y": 2}
        assert stream.constants == []
        next(members)
        assert stream.value() == 1


def test_endless_values_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "_MAX_VALUE", 1000)
    monkeypatch.setattr(json_stream, "_CHUNK", 100)
    path = tmp_path / "f.json"
    path.write_text('{"a": [' + "1, " * 2000 + "1]}")
    with pytest.raises(MalformedJsonError, match="longer than 1,000 characters"):
        read(path)


def test_offset_points_at_the_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "_CHUNK", 16)
    path = tmp_path / "f.json"
    text = '{"a": [1, 2, 3], "b": [4, 5, 6, ?, 7]}'
    path.write_text(text)
    with pytest.raises(MalformedJsonError) as error:
        read(path)
    assert error.value.offset == text.index("?")
