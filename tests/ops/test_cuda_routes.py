"""The ways that CUDA tensors take, as far as the CPU can tell: maps by bits, and lazy Triton."""

from __future__ import annotations

import importlib
import warnings
from typing import NoReturn

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from perception3d_ops import library, sparse_conv, sparse_maps
from perception3d_ops.sparse_maps import strided_map_twin

from tests.ops.op_inputs import sites

OP = torch.ops.perception3d.strided_map_bits
SIZES = st.tuples(*[st.integers(1, 3)] * 3)


@pytest.mark.skipif(not library.COMPILED, reason="kernels were not built: the twin serves")
@settings(max_examples=60, deadline=None)
@given(
    share=st.sampled_from((0.0, 0.1, 1.0)), kernel=SIZES, stride=SIZES,
    padding=st.tuples(*[st.integers(0, 2)] * 3), transposed=st.booleans(),
    out_shape=st.tuples(*[st.integers(1, 9)] * 3), seed=st.integers(0, 1000),
    empty=st.sampled_from((None, 0, 2)),
)  # fmt: skip
def test_bits_equal_the_twin(
    share: float, kernel: tuple[int, ...], stride: tuple[int, ...], padding: tuple[int, ...],
    transposed: bool, out_shape: tuple[int, ...], seed: int, empty: int | None,
) -> None:  # fmt: skip
    """Grids of up to 2187 cells: words end inside of rows, planes and samples."""
    places = sites((5, 6, 7), share, 3, seed, empty=empty)
    arguments = (places.index, 3, places.shape, out_shape, kernel, stride, padding, (1, 2, 1))
    found = OP(*arguments, transposed)
    assert found[1].shape == (kernel[0] * kernel[1] * kernel[2], len(found[0]))
    for got, want in zip(found, strided_map_twin(*arguments, transposed)):
        assert got.dtype == want.dtype == torch.int32 and torch.equal(got, want)


def test_the_ends_of_a_large_grid() -> None:
    """The last cells of 892 million, and the first."""
    index = torch.tensor([[0, 0, 0, 0], [80, 40, 1439, 1438], [81, 40, 1439, 1439]]).int()
    shape, steps = (21, 720, 720), [(3, 3, 3), (2, 2, 2), (1, 1, 1), (1, 1, 1)]
    outputs, table = OP(index, 82, (41, 1440, 1440), shape, *steps, False)
    assert outputs.tolist() == [[0, 0, 0, 0], [80, 20, 719, 719], [81, 20, 719, 719]]
    assert sorted(table[table >= 0].tolist()) == [0, 1, 2]


def test_cuda_takes_bits_or_sorts(monkeypatch: pytest.MonkeyPatch) -> None:
    places = sites((5, 6, 7), 0.3, 2, 0)
    steps = [(3, 3, 3), (2, 2, 2), (1, 1, 1), (1, 1, 1)]
    want = strided_map_twin(places.index, 2, places.shape, (3, 3, 4), *steps, False)
    for most in (2 * 3 * 3 * 4, 2 * 3 * 3 * 4 - 1):
        monkeypatch.setattr(sparse_maps, "MOST_BITS", most)
        got = sparse_maps._strided_map_on_cuda(
            places.index, 2, places.shape, (3, 3, 4), *steps, False
        )
        assert all(torch.equal(a, b) for a, b in zip(got, want))


def test_ops_have_python_kernels_of_cuda() -> None:
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    for name in ("sparse_conv", "sparse_conv_affine", "sparse_conv_weight_gradient", "strided_map"):
        assert has_kernel(f"perception3d::{name}", "CUDA")


def test_twins_serve_where_triton_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one warning; what else goes wrong on import is not hidden."""

    def absent(name: str) -> NoReturn:
        raise ModuleNotFoundError("No module named 'triton'", name="triton")

    def broken(name: str) -> NoReturn:
        raise ModuleNotFoundError("No module named 'nothing'", name="nothing")

    monkeypatch.delenv(library.KERNELS_VARIABLE, raising=False)
    monkeypatch.setattr(importlib, "import_module", absent)
    kernel = library.triton_kernel(
        "sparse_conv_triton", "sparse_conv", sparse_conv.sparse_conv_twin
    )
    table = torch.tensor([[1, -1, 0]], dtype=torch.int32)
    features, weight = torch.tensor([[1.0], [2.0]]), torch.tensor([[[3.0]]])
    library._triton_module.cache_clear()
    try:
        with pytest.warns(UserWarning, match="Triton is not installed"):
            out = kernel(features, weight, table, None, False)
        assert out.tolist() == [[6.0], [0.0], [3.0]]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert torch.equal(kernel(features, weight, table, None, False), out)
        library._triton_module.cache_clear()
        monkeypatch.setattr(importlib, "import_module", broken)
        with pytest.raises(ModuleNotFoundError, match="nothing"):
            kernel(features, weight, table, None, False)
    finally:
        library._triton_module.cache_clear()
