"""What the Triton kernels of sparse convolution know of a kernel map: tiles of rows, and pairs.

A tile of output rows does the work of a tap if one of its rows has it. Rows are therefore taken by
the pattern of their taps, which saves 30 to 46 % of the work in the first stage of SECOND's encoder
(spconv 2 calls it a mask sort). All of this depends on the table alone; it is made when a table is
first used and lives as long as the table does.

Imported only where a CUDA tensor has arrived, or under Triton's interpreter: Triton is optional.
"""

# Arguments of kernels are pointers and numbers of Triton, which has no types for them.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

#: Rows that one program of the kernels in this file looks at.
ROWS = 256
#: Bits of a pattern; tap k is bit k modulo this, so kernels of more taps only sort less well.
PATTERN_BITS = 63
#: Patterns of fewer taps fit 32 bits, which sort twice as fast.
SHORT_PATTERN_BITS = 31


@dataclass(frozen=True)
class Tiles:
    """Tiles of sorted rows.

    Attributes:
        taps: (T, K) int32 taps that a tile needs, the first ``count`` of them.
        count: (T,) int32.
    """

    taps: Tensor
    count: Tensor


@dataclass(frozen=True)
class Pairs:
    """Input and output rows that each tap joins, by ascending output row.

    Attributes:
        source: (K, M) int32 input rows, the first ``count`` of each tap.
        target: (K, M) int32 output rows.
        count: (K,) int32.
    """

    source: Tensor
    target: Tensor
    count: Tensor


@dataclass(frozen=True)
class Schedule:
    """Facts of one table that kernels read.

    Attributes:
        order: (M,) int64 rows of the table, sorted by pattern; a stable sort, so always the same.
        table: (K, M) int32, its rows in that order.
    """

    order: Tensor
    table: Tensor
    _tiles: dict[int, Tiles] = field(default_factory=dict)
    _pairs: list[Pairs] = field(default_factory=list)

    @staticmethod
    def of(table: Tensor) -> Schedule:
        """The schedule of a table (K, M) int32 with K, M >= 1, contiguous."""
        if _is_captured(table):
            # A CUDA graph replays its kernels over new values in the same memory.
            return Schedule._make(table)
        version = 0 if table.is_inference() else table._version
        known = _known.get(table)
        if known is None or known[0] != version:
            known = _known[table] = (version, Schedule._make(table))
        schedule: Schedule = known[1]
        return schedule

    @staticmethod
    def _make(table: Tensor) -> Schedule:
        taps, rows = table.shape
        dtype = torch.int32 if taps <= SHORT_PATTERN_BITS else torch.int64
        pattern = table.new_empty(rows, dtype=dtype)
        _find_patterns[(triton.cdiv(rows, ROWS),)](table, pattern, rows, taps, PATTERN_BITS, ROWS)
        order = torch.sort(pattern, stable=True)[1]
        return Schedule(order, table.index_select(1, order))

    def tiles(self, rows: int) -> Tiles:
        """Tiles of so many rows, a power of two."""
        if rows not in self._tiles:
            taps, total = self.table.shape
            count = triton.cdiv(total, rows)
            tiles = Tiles(self.table.new_zeros(count, taps), self.table.new_empty(count))
            _find_tile_taps[(count,)](self.table, tiles.taps, tiles.count, total, taps, rows)
            self._tiles[rows] = tiles
        return self._tiles[rows]

    def pairs(self, table: Tensor) -> Pairs:
        """Pairs of the table that this schedule is of."""
        if not self._pairs:
            taps, rows = table.shape
            place = (table >= 0).cumsum(1, dtype=torch.int32)
            source, target = torch.empty_like(table), torch.empty_like(table)
            _list_pairs[(triton.cdiv(rows, ROWS), taps)](table, place, source, target, rows, ROWS)
            self._pairs.append(Pairs(source, target, place[:, -1].contiguous()))
        return self._pairs[0]


#: Version of a table when its schedule was made, and the schedule.
_known: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def _is_captured(table: Tensor) -> bool:
    return table.is_cuda and torch.cuda.is_current_stream_capturing()


@triton.jit
def _find_patterns(
    table, pattern, rows, TAPS: tl.constexpr, BITS: tl.constexpr, ROWS: tl.constexpr
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = row < rows
    bits = tl.zeros((ROWS,), tl.int64)
    at = table + row
    for tap in range(TAPS):
        source = tl.load(at, mask=inside, other=-1)
        bits |= (source >= 0).to(tl.int64) << (tap % BITS)
        at += rows
    tl.store(pattern + row, bits, mask=inside)


@triton.jit
def _find_tile_taps(table, tile_taps, tile_count, rows, TAPS: tl.constexpr, ROWS: tl.constexpr):
    tile = tl.program_id(0)
    row = tile * ROWS + tl.arange(0, ROWS)
    inside = row < rows
    at = table + row
    found = tile * 0
    for tap in range(TAPS):
        source = tl.load(at, mask=inside, other=-1)
        used = tl.max(source, axis=0) >= 0
        tl.store(tile_taps + tile * TAPS + found, tap, mask=used)
        found += used.to(tl.int32)
        at += rows
    tl.store(tile_count + tile, found)


@triton.jit
def _list_pairs(table, place, source, target, rows, ROWS: tl.constexpr):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = row < rows
    begin = tl.program_id(1).to(tl.int64) * rows
    found = tl.load(table + begin + row, mask=inside, other=-1)
    at = begin + tl.load(place + begin + row, mask=inside, other=1) - 1
    tl.store(source + at, found, mask=found >= 0)
    tl.store(target + at, row, mask=found >= 0)
