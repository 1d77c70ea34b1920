"""Reading a results file sample by sample, so that 736 MB of JSON need a few MB of memory.

The two outer levels (the document, and `results` inside it) are walked here; each value below them
is decoded as a whole by the standard library, with duplicate keys and the non-JSON words NaN and
Infinity noticed on the way.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

_CHUNK = 1 << 20
_MAX_VALUE = 64 << 20  # characters; 500 boxes are about 0.2 M
_MAX_STRING = 1 << 20
_WHITESPACE = " \t\n\r"
# Text cut inside a number, a word or an escape is reported this close to the cut.
_CUT_MARGIN = 16


class MalformedJsonError(ValueError):
    """The text is not JSON, or not JSON that may be read here; `offset` counts characters."""

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(message)
        self.offset = offset


class RepeatedKeys(dict[str, Any]):
    """A JSON object in which a key stood more than once (the last value counts)."""

    repeated: tuple[str, ...] = ()


def _collect(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    plain = dict(pairs)
    if len(plain) == len(pairs):
        return plain
    keys = [key for key, _ in pairs]
    marked = RepeatedKeys(plain)
    marked.repeated = tuple(key for key in plain if keys.count(key) > 1)
    return marked


class JsonStream:
    """A cursor over a JSON document.

    `constants` holds the words NaN, Infinity and -Infinity met in the value read last: the
    official reader lets them through, strict JSON does not know them.
    """

    def __init__(self, path: str | Path) -> None:
        """Opens the file.

        Raises:
            OSError: it cannot be opened.
        """
        self.constants: list[str] = []
        # Closed by __exit__.
        self._file: IO[str] = Path(path).open(encoding="utf-8", newline="")  # noqa: SIM115
        self._text = ""
        self._at = 0
        self._passed = 0
        self._finished = False
        self._decoder = json.JSONDecoder(
            object_pairs_hook=_collect, parse_constant=self._note_constant
        )

    def __enter__(self) -> JsonStream:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    @property
    def offset(self) -> int:
        """Characters read so far."""
        return self._passed + self._at

    def peek(self) -> str:
        """The next character that is not white space, "" at the end of the file."""
        while True:
            while self._at < len(self._text):
                if self._text[self._at] not in _WHITESPACE:
                    return self._text[self._at]
                self._at += 1
            if not self._fill():
                return ""

    def expect(self, character: str, place: str) -> None:
        """Steps over `character`.

        Raises:
            MalformedJsonError: something else stands there.
        """
        found = self.peek()
        if found != character:
            what = f"{found!a}" if found else "the end of the file"
            raise MalformedJsonError(f"expected {character!r} {place}, found {what}", self.offset)
        self._at += 1

    def members(self, place: str) -> Iterator[str]:
        """Walks the object that begins here and yields its keys.

        The caller reads each value (`value` or `members`) before asking for the next key.
        """
        self.expect("{", f"to open {place}")
        if self.peek() == "}":
            self._at += 1
            return
        while True:
            if self.peek() != '"':
                raise MalformedJsonError(f"expected a key in {place}", self.offset)
            key = self.value()
            self.expect(":", f"after the key {key!a}")
            yield key
            if self.peek() == "}":
                self._at += 1
                return
            self.expect(",", f"between the members of {place}")

    def value(self) -> Any:
        """Decodes the value that begins here, whole.

        Raises:
            MalformedJsonError: it is broken, cut short, nested too deeply or longer than 64 M
                characters.
        """
        self.peek()
        while True:
            self.constants.clear()
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                offset = self._passed + error.pos  # reading on moves both
                if self._cut_short(error) and self._fill():
                    continue
                raise MalformedJsonError(error.msg, offset) from None
            except RecursionError:
                raise MalformedJsonError("nested too deeply", self.offset) from None
            except ValueError as error:  # an integer with thousands of digits
                raise MalformedJsonError(str(error), self.offset) from None
            # A bare number close to the end of the text may go on: "1" of "1.5", "2" of "2e+3".
            if len(self._text) - end > _CUT_MARGIN or not self._fill():
                self._at = end
                return value

    def _cut_short(self, error: json.JSONDecodeError) -> bool:
        if error.msg.startswith("Unterminated string"):
            return len(self._text) - error.pos < _MAX_STRING
        return error.pos >= len(self._text) - _CUT_MARGIN

    def _note_constant(self, word: str) -> float:
        self.constants.append(word)
        return float(word)

    def _fill(self) -> bool:
        """Reads on; doubles the text so that retries stay linear. False at the end."""
        if self._finished:
            return False
        pending = len(self._text) - self._at
        if pending > _MAX_VALUE:
            raise MalformedJsonError(
                f"a single value is longer than {_MAX_VALUE:,} characters", self.offset
            )
        try:
            chunk = self._file.read(max(_CHUNK, pending))
        except UnicodeDecodeError as error:
            raise MalformedJsonError(f"not UTF-8: {error.reason}", self.offset) from None
        if not chunk:
            self._finished = True
            return False
        self._passed += self._at
        self._text = self._text[self._at :] + chunk
        self._at = 0
        return True
