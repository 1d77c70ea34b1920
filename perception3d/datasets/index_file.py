"""An index that a data set builds once and every process maps: its place, its format, its refusals.

An index that is not this data set's, or not of this code's format, is refused with what was found,
what was expected and what to do: the file may be somebody's, so it is not overwritten.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from perception3d.datasets.arrays import open_arrays

if TYPE_CHECKING:
    from typing_extensions import Self  # typing has it from Python 3.11 on

Array = NDArray[Any]


class StaleIndexError(ValueError):
    """The index is this data set's, but its files changed since; building it again is safe."""


class ForeignIndexError(ValueError):
    """The file is no index of this data set in this code's format; it is left alone."""


class IndexFile:
    """Columns of a built index, mapped.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no file of arrays.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.header, self.arrays = open_arrays(path)

    def __reduce__(self) -> tuple[Any, ...]:
        # Workers that are spawned map the file again instead of receiving its contents.
        return type(self), (self.path,)

    def __getitem__(self, name: str) -> Array:
        return self.arrays[name]

    @property
    def fingerprint(self) -> str:
        """Hash of the contents; the same for a copy of the data set elsewhere."""
        return str(self.header["content"])

    @property
    def has_boxes(self) -> bool:
        """Whether anything is annotated at all; test sets are not."""
        return len(self.arrays["box_label"]) > 0

    @classmethod
    def opened(cls, path: Path, folder: Path, expected: Mapping[str, Any], advice: str) -> Self:
        """The index, after checking that this code made it.

        Args:
            path: of the index.
            folder: that it should be of, for errors.
            expected: entries of its header.
            advice: what to do with another file.

        Raises:
            FileNotFoundError: there is no such file.
            ForeignIndexError: it is no index, is cut short, or has another header.
        """
        try:
            index = cls(path)
        except ValueError as error:
            raise ForeignIndexError(f"{error}; expected the index of {folder}; {advice}") from None
        for name, wanted in expected.items():
            found = index.header.get(name)
            if found != wanted:
                raise ForeignIndexError(
                    f"{path} is no index of {folder} that this code can read: its {name} is "
                    f"{found!r}, expected {wanted!r}; {advice}"
                )
        return index


def advice_on(path: Path) -> str:
    """What to do with a file that is no index of this data set."""
    return f"delete {path} to have it built again, or name another cache_dir"


def index_path(root: Path, name: str, cache_dir: Path | None = None) -> Path:
    """Where the index of a version or split lies; the folder need not exist."""
    place = hashlib.blake2b(str(root.resolve()).encode(), digest_size=6).hexdigest()
    if cache_dir is not None:
        return cache_dir / f"{name}-{place}.npz"
    beside = root / "index" / f"{name}.npz"
    writable = os.access(beside.parent if beside.parent.exists() else root, os.W_OK)
    if beside.exists() or writable:
        return beside
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return cache / "perception3d" / f"{name}-{place}.npz"
