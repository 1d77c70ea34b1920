"""Which input site feeds which output site of a sparse convolution, per kernel tap.

Sites are rows (sample, z, y, x), each once, in lexicographic order everywhere: features do not
depend on the order, neighbours lie close in memory, and finding them needs no hash table. A map is
a table of K taps, K = kz ky kx with tap (kz_i ky + ky_i) kx + kx_i:

    table (K, M) int32: input row that tap k of output row m reads, or -1.

Arithmetic as of spconv 2 and torch's ``conv3d`` (cross-correlation): output o reads input
o stride - padding + tap dilation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from perception3d_ops.library import define, define_on_cuda
from perception3d_ops.voxel_keys import unravel

Triple = tuple[int, int, int]
#: Output cells of which CUDA keeps a bit each.
MOST_BITS = 1 << 30


def taps(kernel: Sequence[int]) -> list[Triple]:
    """The taps of a kernel (z, y, x), in the order of tables and weights."""
    kz, ky, kx = kernel
    return [(z, y, x) for z in range(kz) for y in range(ky) for x in range(kx)]


def site_keys(index: Tensor, shape: Sequence[int]) -> Tensor:
    """(N, 4) sites to (N,) int64 ((sample nz + z) ny + y) nx + x, ascending for sorted sites."""
    sample, z, y, x = index.long().unbind(1)
    nz, ny, nx = shape
    return ((sample * nz + z) * ny + y) * nx + x


def _moved(
    index: Tensor,
    tap: Triple,
    out_shape: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
) -> tuple[Tensor, Tensor]:
    """Output site (N, 4) int64 that each input feeds through a tap, and whether there is one."""
    site = index.long()
    step, pad = site.new_tensor(stride), site.new_tensor(padding)
    reach = site.new_tensor(tap) * site.new_tensor(dilation)
    if transposed:
        place = site[:, 1:] * step - pad + reach
        exact = torch.ones_like(place, dtype=torch.bool)
    else:
        place = site[:, 1:] + pad - reach
        exact = place % step == 0
        place = torch.div(place, step, rounding_mode="floor")
    exists = (exact & (place >= 0) & (place < site.new_tensor(out_shape))).all(dim=1)
    return torch.cat((site[:, :1], place), 1), exists


def sort_sites_twin(
    index: Tensor, shape: Sequence[int], batch_size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Sites in lexicographic order.

    Args:
        index: (N, 4) integers sample, z, y, x in any order.
        shape: cells along z, y, x.
        batch_size: samples.

    Returns:
        (N, 4) int32; the (N,) int64 rows they were, or (0,) where they were sorted already; (4,)
        int64 how many lie outside, the first such row, how many occur again (counted where none
        lies outside), and a row of these.
    """
    outside = ((index < 0) | (index >= index.new_tensor((batch_size, *shape)))).any(dim=1)
    sorted_key, order = torch.sort(torch.where(outside, 0, site_keys(index, shape)), stable=True)
    num_outside, first_outside = _count_and_first(outside)
    again, first_again = _count_and_first(sorted_key[1:] == sorted_key[:-1])
    again = torch.where(num_outside == 0, again, 0)
    row_again = pad(order, (0, 2)).index_select(0, first_again + 1)
    row_again = torch.where(again > 0, row_again, 0)
    facts = torch.cat((num_outside, first_outside, again, row_again))
    if bool((order[1:] > order[:-1]).all()):
        return index.int().clone(memory_format=torch.contiguous_format), order[:0].clone(), facts
    return index[order].int(), order, facts


def _count_and_first(mask: Tensor) -> tuple[Tensor, Tensor]:
    """(1,) how many hold and (1,) the first that does, or 0; a GPU need not be waited for."""
    return mask.sum(0, keepdim=True), pad(mask.int(), (0, 1)).argmax(0, keepdim=True)


def submanifold_table_twin(
    index: Tensor, shape: Sequence[int], kernel: Sequence[int], dilation: Sequence[int]
) -> Tensor:
    """Table of a convolution whose outputs are its inputs' sites: (K, N) int32.

    Args:
        index: (N, 4) int32 sorted sites.
        shape: cells along z, y, x.
        kernel: odd sizes along z, y, x; centred on the site.
        dilation: cells between taps.
    """
    keys = site_keys(index, shape)
    # The table of output o reads o + tap: the input that feeds o moved by minus that.
    padding = [(k - 1) // 2 * d for k, d in zip(kernel, dilation)]
    rows = []
    for tap in taps(kernel):
        site, exists = _moved(index, tap, shape, (1, 1, 1), padding, dilation, transposed=True)
        rows.append(_find(keys, site_keys(site, shape), exists))
    return torch.stack(rows) if rows else index.new_empty((0, len(index)))


def _find(keys: Tensor, wanted: Tensor, exists: Tensor) -> Tensor:
    """(N,) int32 rows of ``keys`` (ascending) that equal ``wanted``, else -1."""
    if len(keys) == 0:
        return wanted.new_full((len(wanted),), -1, dtype=torch.int32)
    row = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
    return torch.where(exists & (keys[row] == wanted), row, -1).int()


def strided_map_twin(
    index: Tensor,
    batch_size: int,
    in_shape: Sequence[int],
    out_shape: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
) -> tuple[Tensor, Tensor]:
    """Map of a convolution whose outputs are all sites that some input touches.

    Args:
        index: (N, 4) int32 sorted sites.
        batch_size: samples.
        in_shape: cells along z, y, x.
        out_shape: output cells along z, y, x.
        kernel, stride, padding, dilation: along z, y, x.
        transposed: input i feeds i stride - padding + tap dilation instead.

    Returns:
        Output sites (M, 4) int32 sorted; table (K, M) int32.
    """
    moved = [
        _moved(index, tap, out_shape, stride, padding, dilation, transposed) for tap in taps(kernel)
    ]
    key = [site_keys(site, out_shape) for site, _ in moved]
    touched = torch.unique(torch.cat([k[exists] for k, (_, exists) in zip(key, moved)]))
    table = index.new_full((len(moved), len(touched)), -1)
    for tap, (k, (_, exists)) in enumerate(zip(key, moved)):
        row = _find(touched, k, exists)
        fed = (row >= 0).nonzero().squeeze(1)
        table[tap, row[fed].long()] = fed.int()
    nz, ny, nx = out_shape
    return unravel(touched, (nx, ny, nz)).int(), table


def turn_table_twin(table: Tensor, inputs: int) -> Tensor:
    """The counterpart of a table, where outputs and inputs have changed roles.

    Args:
        table: (K, M) int32 input rows, or -1; each input at most once in a row.
        inputs: N.

    Returns:
        (K, N) int32, the output row that input row n feeds through tap k, or -1.
    """
    turned = table.new_full((len(table), inputs + 1), -1)
    rows = torch.arange(table.shape[1], dtype=torch.int32, device=table.device)
    # What is no input goes into a column of its own, behind the others.
    return turned.scatter_(1, torch.where(table < 0, inputs, table).long(), rows.expand_as(table))[
        :, :inputs
    ].contiguous()


def _fake_submanifold(
    index: Tensor, shape: Sequence[int], kernel: Sequence[int], dilation: Sequence[int]
) -> Tensor:
    return index.new_empty(kernel[0] * kernel[1] * kernel[2], index.shape[0])


def _fake_sort(index: Tensor, *_: object) -> tuple[Tensor, Tensor, Tensor]:
    rows = torch.library.get_ctx().new_dynamic_size()
    return (
        index.new_empty(index.shape, dtype=torch.int32),
        index.new_empty(rows, dtype=torch.int64),
        index.new_empty(4, dtype=torch.int64),
    )


def _fake_strided(
    index: Tensor,
    batch_size: int,
    in_shape: Sequence[int],
    out_shape: Sequence[int],
    kernel: Sequence[int],
    *_: object,
) -> tuple[Tensor, Tensor]:
    sites = torch.library.get_ctx().new_dynamic_size()
    count = kernel[0] * kernel[1] * kernel[2]
    return index.new_empty(sites, 4), index.new_empty(count, sites)


sort_sites = define(
    "sort_sites(Tensor index, int[] shape, int batch_size) -> (Tensor, Tensor, Tensor)",
    sort_sites_twin,
    _fake_sort,
)
submanifold_table = define(
    "submanifold_table(Tensor index, int[] shape, int[] kernel, int[] dilation) -> Tensor",
    submanifold_table_twin,
    _fake_submanifold,
)
SCHEMA = (
    "(Tensor index, int batch_size, int[] in_shape, int[] out_shape, int[] kernel, "
    "int[] stride, int[] padding, int[] dilation, bool transposed) -> (Tensor, Tensor)"
)
turn_table = define(
    "turn_table(Tensor table, SymInt inputs) -> Tensor",
    turn_table_twin,
    lambda table, inputs: table.new_empty(table.shape[0], inputs),
)
strided_map = define(f"strided_map{SCHEMA}", strided_map_twin, _fake_strided)
#: The same by one bit for each output cell, which is how CUDA does it.
strided_map_bits = define(f"strided_map_bits{SCHEMA}", strided_map_twin, _fake_strided)


def _strided_map_on_cuda(
    index: Tensor,
    batch_size: int,
    in_shape: Sequence[int],
    out_shape: Sequence[int],
    *rest: Any,
) -> tuple[Tensor, Tensor]:
    """Bits where their memory is small (128 MB and half of that for counts), else sorting."""
    by_bits = batch_size * math.prod(out_shape) <= MOST_BITS
    way: Any = strided_map_bits if by_bits else strided_map_twin
    found: tuple[Tensor, Tensor] = way(index, batch_size, in_shape, out_shape, *rest)
    return found


define_on_cuda(strided_map, _strided_map_on_cuda)
