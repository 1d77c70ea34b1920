"""Sparse convolution on CUDA: implicit GEMM over the neighbour table, written in Triton.

One program sums a tile of output rows and channels over the taps that the tile needs, reading input
rows through the table; nothing is gathered to memory first. The gradient of the inputs is the same
kernel with transposed weights; that of the weights adds outer products over the pairs of each tap,
in a fixed number of parts that are then added in their order. No result depends on timing: the
order of every sum follows from shapes alone, also where block sizes are tuned.

Half precision is added in float32. float32 is multiplied as such, or as tf32 where
``torch.backends.cuda.matmul`` allows it (``torch.set_float32_matmul_precision`` sets that too).
float64, and tensors without elements, are left to the PyTorch twins.
"""

# Arguments of kernels are pointers and numbers of Triton, which has no types for them.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import triton
import triton.language as tl
from torch import Tensor

from perception3d_ops import sparse_conv as twins
from perception3d_ops.sparse_tiles_triton import Schedule

TYPES = (torch.float16, torch.bfloat16, torch.float32)
#: Least size of a block along an axis of a matrix product in Triton.
LEAST_BLOCK = 16
#: Convolutions of fewer output rows run with the first block sizes; trying others would not pay.
TUNED_FROM_ROWS = 16384
#: Pairs that one program of the weight gradient adds, unless that makes more than MOST_PARTS.
PAIRS_OF_PART = 4096
MOST_PARTS = 32


@dataclass(frozen=True)
class Blocks:
    """How a kernel is cut. Only what leaves the order of sums alone may be tuned.

    Attributes:
        columns: output channels of a program.
        warps: of a program.
        stages: iterations whose loads are in flight.
    """

    columns: int
    warps: int
    stages: int


def sparse_conv(
    features: Tensor, weight: Tensor, table: Tensor, back: Tensor | None, mirrored: bool
) -> Tensor:
    """:func:`perception3d_ops.sparse_conv.sparse_conv_twin` on CUDA."""
    if not _fits(features, weight, table):
        return twins.sparse_conv_twin(features, weight, table, back, mirrored)
    return _convolve(features, weight, table, mirrored, None, None, False)


def sparse_conv_affine(
    features: Tensor,
    weight: Tensor,
    table: Tensor,
    shift: Tensor,
    residual: Tensor | None,
    rectify: bool,
) -> Tensor:
    """:func:`perception3d_ops.sparse_conv.sparse_conv_affine_twin` on CUDA."""
    if not _fits(features, weight, table):
        return twins.sparse_conv_affine_twin(features, weight, table, shift, residual, rectify)
    return _convolve(features, weight, table, False, shift, residual, rectify)


def sparse_conv_weight_gradient(features: Tensor, gradient: Tensor, table: Tensor) -> Tensor:
    """:func:`perception3d_ops.sparse_conv.sparse_conv_weight_gradient_twin` on CUDA."""
    if not _fits(features, gradient, table):
        return twins.sparse_conv_weight_gradient_twin(features, gradient, table)
    features, table = features.contiguous(), table.contiguous()
    gradient = gradient.to(features.dtype).contiguous()
    (taps, rows), inputs, outputs = table.shape, features.shape[1], gradient.shape[1]
    precision, exact = _precision(features)
    block_in, block_out = (min(32 if exact else 64, _block(size)) for size in (inputs, outputs))
    block_pairs = 32 if features.dtype == torch.float32 else 64
    of_part = max(PAIRS_OF_PART, triton.cdiv(rows, MOST_PARTS))
    parts = triton.cdiv(rows, of_part)
    with _on(features):
        pairs = Schedule.of(table).pairs(table)
        sums = features.new_empty((parts, taps, inputs, outputs), dtype=torch.float32)
        grid = (parts * taps, triton.cdiv(inputs, block_in), triton.cdiv(outputs, block_out))
        _add_outer_products[grid](
            features, gradient, pairs.source, pairs.target, pairs.count, sums, rows, of_part,
            inputs, outputs, taps, block_in, block_out, block_pairs, precision, num_warps=4,
            num_stages=3,
        )  # fmt: skip
        return sums.sum(0).to(features.dtype)


def _fits(first: Tensor, second: Tensor, table: Tensor) -> bool:
    """Whether the kernels take these tensors."""
    return first.dtype in TYPES and min(first.numel(), second.numel(), table.numel()) > 0


def _on(tensor: Tensor) -> torch.cuda.device:
    """Makes the tensor's GPU the current one, as Triton launches there; nothing for the CPU's."""
    return torch.cuda.device(tensor.device.index if tensor.is_cuda else -1)


def _precision(tensor: Tensor) -> tuple[str, bool]:
    """How products are made, and whether they are made of whole float32, without tensor cores."""
    if tensor.dtype != torch.float32:
        return "tf32", False  # which says nothing to half precision
    # The one that also knows of allow_tf32 and set_float32_matmul_precision.
    allowed = torch.backends.cuda.matmul.fp32_precision == "tf32"
    return ("tf32", False) if allowed else ("ieee", True)


def _block(size: int) -> int:
    return max(LEAST_BLOCK, triton.next_power_of_2(size))


def _convolve(
    features: Tensor,
    weight: Tensor,
    table: Tensor,
    mirrored: bool,
    shift: Tensor | None,
    residual: Tensor | None,
    rectify: bool,
) -> Tensor:
    features, table = features.contiguous(), table.contiguous()
    (taps, rows), (_, inputs, outputs) = table.shape, weight.shape
    precision, exact = _precision(features)
    tile = 128 if rows >= TUNED_FROM_ROWS and not exact else 64
    # Block sizes along summed axes decide about rounding: these are never tuned.
    block_in = min(32 if features.dtype == torch.float32 else 64, _block(inputs))
    out = features.new_empty((rows, outputs))
    # Pointers that are never followed where there is nothing to add.
    added_shift = out if shift is None else shift.contiguous()
    added_residual = out if residual is None else residual.contiguous()
    with _on(features):
        schedule = Schedule.of(table)
        tiles = schedule.tiles(tile)

        def run(blocks: Blocks) -> None:
            grid = (triton.cdiv(rows, tile), triton.cdiv(outputs, blocks.columns))
            _add_taps[grid](
                features, weight, schedule.table, schedule.order, tiles.taps, tiles.count,
                added_shift, added_residual, out, rows, *weight.stride(), inputs, outputs, taps,
                tile, blocks.columns, block_in, precision, mirrored, shift is not None,
                residual is not None, rectify, num_warps=blocks.warps, num_stages=blocks.stages,
            )  # fmt: skip

        choices = _choices(outputs, exact)
        key = (inputs, outputs, taps, features.dtype, precision, features.device)
        tunes = features.is_cuda and rows >= TUNED_FROM_ROWS
        run(fastest(key, choices, run) if tunes else choices[0])
    return out


def _choices(outputs: int, exact: bool) -> list[Blocks]:
    """Blocks to try, the safest first."""
    wide = min(64 if exact else 128, _block(outputs))
    narrow = min(64, wide)
    tried = [Blocks(narrow, 4, 3), Blocks(narrow, 4, 5), Blocks(wide, 8, 3), Blocks(wide, 8, 5)]
    return list(dict.fromkeys(tried))


_fastest: dict[tuple[object, ...], Blocks] = {}


def fastest(
    key: tuple[object, ...],
    choices: Sequence[Blocks],
    run: Callable[[Blocks], None],
    time_ms: Callable[[Callable[[], None]], float] | None = None,
) -> Blocks:
    """The choice that takes the least time, tried once for each key.

    Args:
        key: problems of one key share a choice.
        choices: at least one; those that ask for more memory than a GPU has are passed over.
        run: does the work; it writes the same results for every choice.
        time_ms: measures a call; by default with CUDA's clock.
    """
    if key in _fastest:
        return _fastest[key]
    if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
        return choices[0]
    if time_ms is None:
        from triton.testing import do_bench

        def time_ms(call: Callable[[], None]) -> float:
            return float(do_bench(call, warmup=5, rep=20, return_mode="median"))

    taken: dict[Blocks, float] = {}
    for choice in choices:
        try:
            taken[choice] = time_ms(partial(run, choice))
        except triton.runtime.errors.OutOfResources:
            continue
    _fastest[key] = min(taken, key=taken.__getitem__) if taken else choices[0]
    return _fastest[key]


@triton.jit
def _add_taps(
    features,  # (N, IN)
    weight,  # (TAPS, IN, OUT), any strides
    table,  # (TAPS, rows) int32, sorted rows
    order,  # (rows) int64
    tile_taps,  # (tiles, TAPS) int32
    tile_count,  # (tiles) int32
    shift,  # (OUT)
    residual,  # (rows, OUT)
    out,  # (rows, OUT)
    rows,
    stride_tap,
    stride_in,
    stride_out,
    IN: tl.constexpr,
    OUT: tl.constexpr,
    TAPS: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    BLOCK_IN: tl.constexpr,
    PRECISION: tl.constexpr,
    MIRRORED: tl.constexpr,
    SHIFTED: tl.constexpr,
    ADDED: tl.constexpr,
    RECTIFIED: tl.constexpr,
):
    CHUNKS: tl.constexpr = (IN + BLOCK_IN - 1) // BLOCK_IN
    tile = tl.program_id(0)
    place = tile * TILE + tl.arange(0, TILE)
    inside = place < rows
    column = tl.program_id(1) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    in_width = column < OUT
    sums = tl.zeros((TILE, BLOCK_OUT), tl.float32)
    # One loop over taps and channels without a branch, so that loads of the next steps are started
    # while this one is multiplied.
    for step in range(tl.load(tile_count + tile) * CHUNKS):
        tap = tl.load(tile_taps + tile * TAPS + step // CHUNKS)
        channel = step % CHUNKS * BLOCK_IN + tl.arange(0, BLOCK_IN)
        in_depth = channel < IN
        source = tl.load(table + tap.to(tl.int64) * rows + place, mask=inside, other=-1)
        left = tl.load(
            features + source.to(tl.int64)[:, None] * IN + channel[None, :],
            mask=(source >= 0)[:, None] & in_depth[None, :],
            other=0.0,
        )
        if MIRRORED:
            tap = TAPS - 1 - tap
        right = tl.load(
            weight
            + tap.to(tl.int64) * stride_tap
            + channel[:, None] * stride_in
            + column[None, :] * stride_out,
            mask=in_depth[:, None] & in_width[None, :],
            other=0.0,
        )
        sums = tl.dot(left, right, sums, input_precision=PRECISION)
    row = tl.load(order + place, mask=inside, other=0)
    here = row[:, None] * OUT + column[None, :]
    kept = inside[:, None] & in_width[None, :]
    if SHIFTED:
        sums += tl.load(shift + column, mask=in_width, other=0.0).to(tl.float32)[None, :]
    if ADDED:
        sums += tl.load(residual + here, mask=kept, other=0.0).to(tl.float32)
    if RECTIFIED:
        sums = tl.where(sums < 0, 0.0, sums)  # keeps NaN
    tl.store(out + here, sums.to(out.dtype.element_ty), mask=kept)


@triton.jit
def _add_outer_products(
    features,  # (N, IN)
    gradient,  # (rows, OUT)
    sources,  # (TAPS, rows) int32
    targets,  # (TAPS, rows) int32
    counts,  # (TAPS) int32
    sums_out,  # (parts, TAPS, IN, OUT) float32
    rows,
    of_part,
    IN: tl.constexpr,
    OUT: tl.constexpr,
    TAPS: tl.constexpr,
    BLOCK_IN: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    BLOCK_PAIRS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    tap = tl.program_id(0) % TAPS
    begin = tl.program_id(0) // TAPS * of_part
    end = tl.minimum(begin + of_part, tl.load(counts + tap))
    channel = tl.program_id(1) * BLOCK_IN + tl.arange(0, BLOCK_IN)
    column = tl.program_id(2) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    in_depth, in_width = channel < IN, column < OUT
    first = tap.to(tl.int64) * rows
    sums = tl.zeros((BLOCK_IN, BLOCK_OUT), tl.float32)
    for start in range(begin, end, BLOCK_PAIRS):
        pair = start + tl.arange(0, BLOCK_PAIRS)
        inside = pair < end
        source = tl.load(sources + first + pair, mask=inside, other=0).to(tl.int64)
        target = tl.load(targets + first + pair, mask=inside, other=0).to(tl.int64)
        left = tl.load(
            features + source[:, None] * IN + channel[None, :],
            mask=inside[:, None] & in_depth[None, :],
            other=0.0,
        )
        right = tl.load(
            gradient + target[:, None] * OUT + column[None, :],
            mask=inside[:, None] & in_width[None, :],
            other=0.0,
        )
        sums = tl.dot(tl.trans(left), right, sums, input_precision=PRECISION)
    row = tl.program_id(0).to(tl.int64) * IN + channel
    tl.store(
        sums_out + row[:, None] * OUT + column[None, :],
        sums,
        mask=in_depth[:, None] & in_width[None, :],
    )
