"""A results file read into columns of the boxes that count, in one process or in several.

Boxes out of range are dropped while reading, so memory grows with those that count.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from perception3d.evaluation.detection_config import OFFICIAL, DetectionConfig
from perception3d.evaluation.detection_part import DetectionPart, merge_parts
from perception3d.evaluation.detection_pieces import (
    IrregularFileError,
    Piece,
    ResultsText,
    no_garbage_collection,
    whole_file,
)
from perception3d.evaluation.detection_reader import ReadCarefullyError, ResultsReader
from perception3d.evaluation.detection_truth import DetectionTruth

_LEAST_BYTES = 1 << 24  # a smaller part is not worth a process


def read_results(
    path: str | Path,
    truth: DetectionTruth,
    *,
    config: DetectionConfig = OFFICIAL,
    allow_foreign: bool = False,
    workers: int = 1,
) -> DetectionPart:
    """Reads a results file, whole or a shard of one.

    Args:
        path: the JSON file.
        truth: of the split.
        config: ranges and the largest number of boxes a sample.
        allow_foreign: pass over samples that are not in the split, as the official code does for
            splits of splits.json; by default they are refused.
        workers: processes that read large files; with the same result. They are forked, so leave it
            at 1 where threads or a GPU are in use.

    Returns:
        The boxes that count, of the samples the file holds; missing samples are noticed when the
        parts are put together.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the official code would refuse it; names sample, box and field.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no results file; check the path")
    job = _Job(path, truth, config, allow_foreign)
    try:
        parts = max(1, min(workers, path.stat().st_size // _LEAST_BYTES))
        return job.in_parts(ResultsText.find(path, parts))
    except (IrregularFileError, ReadCarefullyError):
        careful = replace(job, careful=True)
        return careful.read(iter([whole_file(path)]), last=True)


@dataclass(frozen=True)
class _Job:
    path: Path
    truth: DetectionTruth
    config: DetectionConfig
    allow_foreign: bool
    careful: bool = False

    def in_parts(self, text: ResultsText) -> DetectionPart:
        numbers = range(len(text.ranges))
        if len(numbers) == 1 or not hasattr(os, "fork"):
            parts = [self.read_range(text, number) for number in numbers]
        else:
            context = multiprocessing.get_context("fork")
            with ProcessPoolExecutor(len(numbers), mp_context=context) as pool:
                parts = list(pool.map(self.read_range, [text] * len(numbers), numbers))
        if len(parts) == 1:
            return parts[0]
        if sum(len(part.samples) for part in parts) > len(
            {int(sample) for part in parts for sample in part.samples}
        ):
            raise ReadCarefullyError
        return replace(merge_parts(parts), meta=parts[-1].meta)  # it may stand behind the results

    def read_range(self, text: ResultsText, number: int) -> DetectionPart:
        with no_garbage_collection():
            return self.read(text.pieces(number), last=number == len(text.ranges) - 1)

    def read(self, pieces: Iterator[Piece], *, last: bool) -> DetectionPart:
        reader = ResultsReader(
            self.path, self.truth, self.config, self.allow_foreign, careful=self.careful
        )
        document: dict[str, Any] = {}
        for piece in pieces:
            for token, boxes in piece.samples.items():
                reader.add(token, boxes)
            if piece.document is not None:
                document = piece.document
        if last and "meta" not in document:
            raise ValueError(f"{self.path} has no field meta; add it: what the model used")
        return reader.part(document.get("meta"))
