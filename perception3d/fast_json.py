"""JSON by orjson, several times as fast on large tables, or by the standard library.

orjson is a dependency and normally there; a machine that cannot install it still reads and writes.
"""

from __future__ import annotations

import json
from typing import Any

try:
    import orjson
except ModuleNotFoundError:
    orjson = None  # type: ignore[assignment]

#: What :func:`loads` raises on text that is no JSON (orjson's error is one of these).
JSONDecodeError = json.JSONDecodeError


def loads(text: bytes | str) -> Any:
    """Parse.

    Raises:
        JSONDecodeError: not JSON.
    """
    return json.loads(text) if orjson is None else orjson.loads(text)


def dumps(value: Any) -> bytes:
    """UTF-8 without spaces."""
    if orjson is None:
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
    return orjson.dumps(value)
