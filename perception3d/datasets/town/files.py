"""Writing files so that a name never holds half a file."""

from __future__ import annotations

import os
from pathlib import Path


class BlobWriter:
    """Writes into a data set's folder through a folder of temporary files on the same disk.

    Args:
        root: folder of the data set.
        temporary: folder for unfinished files, in `root`; removed with everything in it when the
            town is complete.
    """

    def __init__(self, root: Path, temporary: Path) -> None:
        self.root = root
        self.temporary = temporary / str(os.getpid())
        self.folders: set[Path] = set()

    def write(self, name: str, data: bytes) -> None:
        """Write a file, whole or not at all.

        Args:
            name: path below the root.
            data: its content.

        Raises:
            OSError: e.g. when the disk is full.
        """
        target = self.root / name
        for folder in (target.parent, self.temporary):
            if folder not in self.folders:
                folder.mkdir(parents=True, exist_ok=True)
                self.folders.add(folder)
        unfinished = self.temporary / "unfinished"
        try:
            unfinished.write_bytes(data)
        except OSError:
            unfinished.unlink(missing_ok=True)
            raise
        unfinished.replace(target)
