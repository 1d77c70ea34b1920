"""Sparse convolution's Triton kernels under Triton's interpreter, on tensors of the CPU.

Not collected by name: the interpreter must be chosen before Triton is imported, so
``test_sparse_conv_triton.py`` runs this file in a process of its own. By hand:
``TRITON_INTERPRET=1 python -m pytest tests/ops/triton_interpreter_cases.py``.
"""

from __future__ import annotations

import gc

import pytest
import torch
from perception3d_ops import sparse_conv as twins
from perception3d_ops import sparse_conv_triton as kernels
from perception3d_ops import sparse_tiles_triton as tiling
from perception3d_ops.sparse_sites import KernelMap
from torch import Tensor

from tests.ops.conv_inputs import MAPS, tensors_for
from tests.ops.op_inputs import seeded, sites

# Of Triton 3.6 with NumPy from 1.25 on.
pytestmark = pytest.mark.filterwarnings("ignore:Conversion of an array with ndim > 0")

# The interpreter multiplies bfloat16 wrongly: that is left to GPUs.
TOLERANCES = {torch.float32: 1e-5, torch.float16: 2e-3}


def small_map(kind: str, share: float = 0.4) -> KernelMap:
    """Some 80 sites, more than a tile, in three samples, one of them empty."""
    return MAPS[kind](sites((3, 6, 6), share, 3, 0, empty=1))


def assert_close(got: Tensor, want: Tensor) -> None:
    tolerance = TOLERANCES[got.dtype]
    assert got.dtype == want.dtype and float(want.abs().max()) > 0.1
    torch.testing.assert_close(got, want, rtol=tolerance, atol=5 * tolerance)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize(
    ("kind", "channels", "dtype"),
    [
        ("submanifold 3", (5, 20), torch.float32),
        ("strided 3 2 1", (16, 16), torch.float16),
        ("inverse", (35, 1), torch.float16),
        ("strided 311", (1, 70), torch.float32),
        ("submanifold 1", (7, 3), torch.float16),
    ],
    ids=str,
)
def test_forward(kind: str, channels: tuple[int, int], dtype: torch.dtype, mirrored: bool) -> None:
    found = small_map(kind)
    features, weight, _ = tensors_for(found, channels, dtype)
    arguments = features, weight, found.table, None, mirrored
    got = kernels.sparse_conv(*arguments)
    assert_close(got, twins.sparse_conv_twin(*arguments))
    assert torch.equal(got, kernels.sparse_conv(*arguments))


@pytest.mark.parametrize(
    ("kind", "channels", "dtype"),
    [
        ("submanifold 3", (5, 20), torch.float32),
        ("strided 3 2 1", (33, 16), torch.float16),
        ("strided 2", (1, 2), torch.float32),
    ],
    ids=str,
)
def test_weight_gradient(
    kind: str,
    channels: tuple[int, int],
    dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also in several parts, of which the last ones of rare taps are empty."""
    found = small_map(kind)
    features, _, slope = tensors_for(found, channels, dtype)
    want = twins.sparse_conv_weight_gradient_twin(features, slope, found.table)
    assert_close(kernels.sparse_conv_weight_gradient(features, slope, found.table), want)
    monkeypatch.setattr(kernels, "PAIRS_OF_PART", 40)
    got = kernels.sparse_conv_weight_gradient(features, slope, found.table)
    assert_close(got, want)
    assert torch.equal(got, kernels.sparse_conv_weight_gradient(features, slope, found.table))


@pytest.mark.parametrize("rectify", [False, True])
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_affine_end(dtype: torch.dtype, rectify: bool) -> None:
    found = small_map("strided 3 2 1")
    features, weight, slope = tensors_for(found, (6, 17), dtype)
    shift = torch.linspace(-1, 1, 17)
    for residual in (None, slope.float()[:, ::1]):
        arguments = features, weight, found.table, shift, residual, rectify
        got = kernels.sparse_conv_affine(*arguments)
        assert_close(got, twins.sparse_conv_affine_twin(*arguments))
        assert (float(got.min()) == 0) is rectify


def test_gradients_of_both_maps_are_the_same_kernel() -> None:
    """Transposed weights by their strides; the mirrored table or the one back."""
    for kind in ("submanifold 3", "strided 3 2 1"):
        found = small_map(kind)
        features, weight, slope = tensors_for(found, (6, 9))
        features.requires_grad_()
        twins.sparse_conv(features, weight, found).backward(slope)
        turned = weight.transpose(1, 2)
        table = found.table if found.back is None else found.back
        assert not turned.is_contiguous() and features.grad is not None
        got = kernels.sparse_conv(slope, turned, table, None, found.back is None)
        assert_close(got, features.grad)


def test_rows_without_inputs_and_empty_tensors() -> None:
    table = torch.full((3, 100), -1, dtype=torch.int32)
    features, weight = torch.ones(4, 5), torch.ones(3, 5, 6)
    assert not kernels.sparse_conv(features, weight, table, None, False).any()
    gradient = kernels.sparse_conv_weight_gradient(features, torch.ones(100, 6), table)
    assert gradient.shape == (3, 5, 6) and not gradient.any()
    shift = torch.arange(6.0)
    got = kernels.sparse_conv_affine(features, weight, table, shift, None, True)
    assert torch.equal(got, shift.expand(100, 6))
    assert kernels.sparse_conv(features, weight, table[:, :0], None, False).shape == (0, 6)
    assert not kernels.sparse_conv(features[:0], weight, table, None, False).any()
    assert kernels.sparse_conv(features.double(), weight.double(), table, None, False).sum() == 0


def test_tiles_hold_what_their_rows_need() -> None:
    table = small_map("submanifold 1 3 1").table
    schedule = tiling.Schedule.of(table)
    assert torch.equal(schedule.order.sort()[0], torch.arange(table.shape[1]))
    assert torch.equal(schedule.table, table[:, schedule.order])
    patterns = [tuple(column.tolist()) for column in (schedule.table >= 0).T]
    seen = [key for key, before in zip(patterns, [None, *patterns]) if key != before]
    assert len(seen) == len(set(seen)) < len(patterns), "rows of one pattern stand together"
    tiles = schedule.tiles(32)
    for number, rows in enumerate(schedule.table.split(32, dim=1)):
        needed = (rows >= 0).any(dim=1).nonzero().squeeze(1).tolist()
        assert tiles.taps[number, : int(tiles.count[number])].tolist() == needed
    pairs = schedule.pairs(table)
    for tap, row in enumerate(table):
        target = (row >= 0).nonzero().squeeze(1)
        count = int(pairs.count[tap])
        assert torch.equal(pairs.target[tap, :count].long(), target)
        assert torch.equal(pairs.source[tap, :count], row[target])


def test_kernels_of_more_taps_than_bits() -> None:
    found = sites((3, 6, 6), 0.5, 1, 1).submanifold((5, 5, 5))
    features, weight, _ = tensors_for(found, (3, 4))
    assert len(found.table) == 125 > tiling.PATTERN_BITS
    got = kernels.sparse_conv(features, weight, found.table, None, False)
    assert_close(got, twins.sparse_conv_twin(features, weight, found.table, None, False))


def test_a_schedule_is_made_once_and_lives_as_long_as_its_table() -> None:
    tiling._known.clear()
    table = small_map("submanifold 1").table.clone()
    first = tiling.Schedule.of(table)
    assert tiling.Schedule.of(table) is first and len(tiling._known) == 1
    table[:, 0] = -1  # which no map does, but a wrong schedule would skip work
    assert tiling.Schedule.of(table) is not first
    del table
    gc.collect()
    assert len(tiling._known) == 0
    with torch.inference_mode():
        table = torch.zeros(2, 40, dtype=torch.int32)
        assert tiling.Schedule.of(table) is tiling.Schedule.of(table)


def test_rows_sort_alike_every_time() -> None:
    table = torch.randint(-1, 1, (4, 300), generator=seeded(3), dtype=torch.int32)
    first, second = tiling.Schedule.of(table.clone()), tiling.Schedule.of(table.clone())
    assert torch.equal(first.order, second.order)
