"""What was read of a results file, or of a shard of one: the boxes that count, and what to check.

Shards merge exactly: boxes are matched only when all parts are together, in the order in which one
file would have listed them.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from perception3d.evaluation.detection_boxes import Array, BoxColumns
from perception3d.evaluation.detection_filter import FilterCounts
from perception3d.evaluation.hidden_file import HiddenFile

_ROWS = ("score", "listed", "turn", "place", "unreadable")


@dataclass(frozen=True)
class DetectionPart:
    """Predicted boxes that count, of some samples of a split.

    Attributes:
        boxes: N boxes; `sample` is the one each box names itself, where it is matched.
        score: (N,) float64.
        listed: (N,) int32 sample under which each stands in the file.
        turn: (N,) int64 place of that sample in the file; place: (N,) int32 of the box in its list.
        unreadable: (N,) the velocity held no numbers: a fault if the box is matched.
        samples: (T,) samples of the file, in its order; also those without boxes.
        num_samples: samples of the split; split_digest: tells it from others.
        counts: boxes left after each filter.
        near_origin: boxes within 75 m of the origin, by which a wrong frame is suspected.
        meta: the file's.
    """

    boxes: BoxColumns
    score: Array
    listed: Array
    turn: Array
    place: Array
    unreadable: Array
    samples: Array
    num_samples: int
    split_digest: str
    counts: FilterCounts
    near_origin: int
    meta: Any

    def in_order(self, by_table: bool) -> DetectionPart:
        """Boxes in the order that decides equal scores.

        Args:
            by_table: by the sample table, as for splits of splits.json; else by the file.
        """
        key = self.listed if by_table else self.turn
        step = np.diff(key)
        if ((step > 0) | ((step == 0) & (np.diff(self.place) > 0))).all():
            return self
        return self._rows(np.lexsort((self.place, key)))

    def _rows(self, rows: Array) -> DetectionPart:
        changed = {name: getattr(self, name)[rows] for name in _ROWS}
        return replace(self, boxes=self.boxes.select(rows), **changed)

    def save(self, path: str | Path) -> None:
        """Writes a .npz without pickles, whole or not at all.

        Raises:
            OSError: the file cannot be written.
        """
        about = {
            "num_samples": self.num_samples,
            "split_digest": self.split_digest,
            "counts": asdict(self.counts),
            "near_origin": self.near_origin,
            "meta": self.meta,
        }
        arrays = {f"box_{f.name}": getattr(self.boxes, f.name) for f in fields(BoxColumns)}
        arrays |= {name: getattr(self, name) for name in (*_ROWS, "samples")}
        text = np.frombuffer(json.dumps(about).encode(), np.uint8)
        buffer = io.BytesIO()
        np.savez(buffer, about=text, **arrays)
        file = HiddenFile(Path(path))
        with file.guarded():
            file.stream.write(buffer.getbuffer())
        file.complete()

    @staticmethod
    def load(path: str | Path) -> DetectionPart:
        """The inverse of `save`.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is no part of an evaluation.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                about = json.loads(file["about"].tobytes())
                boxes = BoxColumns(*(file[f"box_{f.name}"] for f in fields(BoxColumns)))
                rows = {name: file[name] for name in (*_ROWS, "samples")}
            counts = FilterCounts(**about.pop("counts"))
            return DetectionPart(boxes=boxes, **rows, counts=counts, **about)
        except (KeyError, TypeError, ValueError, zipfile.BadZipFile, EOFError) as error:
            raise ValueError(
                f"{path} is no part of an evaluation ({error}); read it anew"
            ) from None


def merge_parts(parts: Sequence[DetectionPart], *, interleaved: bool = False) -> DetectionPart:
    """Parts as one, exactly as if one file had held their samples.

    Args:
        parts: of the same split, each sample in one of them.
        interleaved: the file's order is first sample of each part, second of each part and so on,
            as when process r of R predicts samples r, r + R, ...; else one part after the other.
            It decides between equal scores in official splits, nothing else.

    Raises:
        ValueError: no parts, parts of different splits, or a sample that is in two.
    """
    if not parts:
        raise ValueError("there is no part to merge")
    if len({(part.num_samples, part.split_digest) for part in parts}) > 1:
        sizes = [part.num_samples for part in parts]
        raise ValueError(f"the parts are of splits of {sizes} samples; merge parts of one split")
    samples = np.concatenate([part.samples for part in parts])
    values, count = np.unique(samples, return_counts=True)
    if (count > 1).any():
        raise ValueError(
            f"{int((count > 1).sum())} samples are in more than one part, first number "
            f"{values[count > 1][0]}; give each sample once"
        )
    turned, new_turn = [], []
    passed = 0
    for number, part in enumerate(parts):
        places = np.arange(len(part.samples), dtype=np.int64)
        places = places * len(parts) + number if interleaved else places + passed
        passed += len(part.samples)
        new_turn.append(places)
        turned.append(replace(part, turn=places[part.turn] if len(part.turn) else part.turn))
    rows = {name: np.concatenate([getattr(part, name) for part in turned]) for name in _ROWS}
    merged = DetectionPart(
        boxes=BoxColumns.concatenate([part.boxes for part in turned]),
        **rows,
        samples=samples[np.argsort(np.concatenate(new_turn), kind="stable")],
        num_samples=parts[0].num_samples,
        split_digest=parts[0].split_digest,
        counts=sum((part.counts for part in parts), FilterCounts()),
        near_origin=sum(part.near_origin for part in parts),
        meta=parts[0].meta,
    )
    return merged.in_order(by_table=False)
