"""A results file read as pieces of text that are JSON themselves, some samples each.

Nothing is parsed by hand: the text is cut where the list of a sample ends, and a JSON library reads
each piece. A cut at a wrong place (inside a string, say) leaves a piece that is no JSON, so it is
noticed; the file is then read whole, slowly and with the memory that takes.
"""

from __future__ import annotations

import gc
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from perception3d import fast_json

_BLOCK_BYTES = 1 << 20
_PIECE_BYTES = 1 << 15  # short-lived objects that fit the caches: half the time of 1 MB pieces
_HEAD_BYTES = 1 << 20
_MOST_BYTES = 1 << 26  # a sample longer than this has no end that the text shows
_START = re.compile(rb'"results"\s*:\s*\{')
# The end of a sample's list of boxes, its comma, and the next sample's quotation mark. It begins
# with a plain letter, which is looked for ten times as fast as a choice of letters; samples without
# boxes stay with those that follow.
_BORDER = re.compile(rb'\}\s*\]\s*(,)\s*"')


class IrregularFileError(Exception):
    """The text cannot be cut safely; read it whole."""


@dataclass(frozen=True)
class Piece:
    """Some samples, in the order of the file.

    Attributes:
        samples: decoded boxes by token.
        document: what stands around the samples, in the last piece; None in the others.
    """

    samples: dict[str, Any]
    document: dict[str, Any] | None = None


@dataclass(frozen=True)
class ResultsText:
    """Where the samples of a results file stand.

    Attributes:
        path: the file.
        head: its text up to the first sample.
        ranges: (begin, end) bytes of parts of about equal size; the last holds what follows, too.
    """

    path: Path
    head: bytes
    ranges: tuple[tuple[int, int], ...]

    @staticmethod
    def find(path: Path, parts: int = 1) -> ResultsText:
        """Finds the ranges: `parts` of them, fewer in a small file.

        Raises:
            IrregularFileError: the file does not begin as results files do.
        """
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
            start = _START.search(head)
            # Closed at once, the text before the results must be a whole document of depth 1.
            if start is None or not _is_json(head[: start.start()] + b'"results":null}'):
                raise IrregularFileError
            marks = [start.end()]
            for part in range(1, parts):
                target = start.end() + (size - start.end()) * part // parts
                mark = _next_sample(file, max(target, marks[-1]))
                if mark is not None and mark > marks[-1]:
                    marks.append(mark)
        return ResultsText(path, head[: start.end()], tuple(zip(marks, [*marks[1:], size])))

    def pieces(self, number: int) -> Iterator[Piece]:
        """Samples of one range.

        Raises:
            IrregularFileError: a piece is no JSON, or the document holds the results twice.
        """
        begin, end = self.ranges[number]
        last = number == len(self.ranges) - 1
        held: bytes | None = None
        for text in _cut(self.path, begin, end):
            if held is not None:
                yield Piece(_object(b"{" + held + b"}"))
            held = text
        held = held or b""
        if last:
            yield _last_piece(self.head + held)
        else:
            held = held.rstrip()
            yield Piece(_object(b"{" + held.removesuffix(b",") + b"}"))


def whole_file(path: Path) -> Piece:
    """The file read at once by the standard library, which accepts what the official code accepts.

    Raises:
        ValueError: it is no JSON, or holds no object under `results`.
    """
    try:
        document = _official_loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}); is it cut short?") from None
    return _piece_of(document, str(path))


def _piece_of(document: Any, name: str) -> Piece:
    if not isinstance(document, dict) or "results" not in document:
        raise ValueError(f"{name} has no field results; is it a nuScenes results file?")
    samples = document["results"]
    if not isinstance(samples, dict):
        raise ValueError(f"{name}: results must be an object with a list of boxes a sample")
    return Piece(samples, {name: value for name, value in document.items() if name != "results"})


def _last_piece(text: bytes) -> Piece:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if sum(key == "results" for key, _ in pairs) > 1:
            raise IrregularFileError
        return dict(pairs)

    try:
        return _piece_of(json.loads(text.decode(), object_pairs_hook=once), "the file")
    except (ValueError, RecursionError):
        raise IrregularFileError from None


def _object(text: bytes) -> dict[str, Any]:
    try:
        value = fast_json.loads(text)
    except fast_json.JSONDecodeError:
        try:  # the standard library reads NaN and Infinity, as the official code does
            value = _official_loads(text)
        except (ValueError, RecursionError):
            raise IrregularFileError from None
    if not isinstance(value, dict):
        raise IrregularFileError
    return value


def _official_loads(text: bytes) -> Any:
    """As the official code reads: UTF-8 without byte order mark, NaN and Infinity allowed."""
    return json.loads(text.decode())


def _is_json(text: bytes) -> bool:
    try:
        _official_loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _cut(path: Path, begin: int, end: int) -> Iterator[bytes]:
    """Texts between the borders of samples; the comma at a border belongs to none."""
    rest = b""
    with path.open("rb") as file:
        file.seek(begin)
        left = end - begin
        while left > 0 and (block := file.read(min(_BLOCK_BYTES, left))):
            left -= len(block)
            rest, at = rest + block, 0
            while border := _BORDER.search(rest, at + _PIECE_BYTES):
                yield rest[at : border.start(1)]
                at = border.end() - 1
            rest = rest[at:]
            if len(rest) > _MOST_BYTES:
                raise IrregularFileError
    yield rest


def _next_sample(file: IO[bytes], offset: int) -> int | None:
    """Where the first sample begins whose predecessor ends at or behind `offset`."""
    file.seek(offset)
    text = b""
    while len(text) <= _MOST_BYTES and (block := file.read(_BLOCK_BYTES)):
        text += block
        if border := _BORDER.search(text):
            return offset + border.end() - 1
    return None


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Millions of lists without cycles: looking for cycles among them doubles the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
