"""Damaged feathers end in an error, never in a crash."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import feather

from perception3d.datasets.av2.feather import read_columns


@pytest.mark.parametrize("compression", ["lz4", "uncompressed"])
def test_a_file_with_changed_bytes_is_refused_or_read(tmp_path: Path, compression: str) -> None:
    """Never a crash of the process: pyarrow follows wrong offsets of strings."""
    names = pa.array([f"object {i}" for i in range(600)])
    path = tmp_path / "annotations.feather"
    feather.write_feather(pa.table({"category": names}), path, compression=compression)
    whole = path.read_bytes()
    refused = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        changed = bytearray(whole)
        for place in rng.integers(0, len(whole), 8):
            changed[place] = rng.integers(256)
        path.write_bytes(changed)
        try:
            read_columns(path, {"category": "text"})
        except ValueError:
            refused += 1
    assert refused > 20
