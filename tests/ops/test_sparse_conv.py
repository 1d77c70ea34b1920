"""Sparse convolution against dense convolution, its twin, and itself."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from perception3d_ops.sparse_conv import (
    sparse_conv,
    sparse_conv_affine,
    sparse_conv_affine_twin,
    sparse_conv_twin,
    sparse_conv_weight_gradient_twin,
)
from perception3d_ops.sparse_sites import SparseSites
from torch import Tensor
from torch.nn.functional import conv3d

from tests.ops.conv_inputs import MAPS, all_results, tensors_for
from tests.ops.op_inputs import assert_same_bits, sites


@pytest.mark.parametrize("kind", MAPS)
@pytest.mark.parametrize("channels", [(1, 1), (5, 16), (6, 20), (64, 64), (16, 130)], ids=str)
def test_values_and_gradients_equal_the_twin(kind: str, channels: tuple[int, int]) -> None:
    found = MAPS[kind](sites((5, 12, 11), 0.3, 3, 1, empty=1))
    features, weight, slope = tensors_for(found, channels)
    got = all_results(found, features, weight, slope)
    wide = [t.double().requires_grad_() for t in (features, weight)]
    out = sparse_conv_twin(*wide, found.table, found.back, False)
    out.backward(slope.double())
    for value, want in zip(got, (out, wide[0].grad, wide[1].grad)):
        assert want is not None
        torch.testing.assert_close(value.double(), want, rtol=1e-5, atol=1e-4)
    by_weight = sparse_conv_weight_gradient_twin(features, slope, found.table)
    torch.testing.assert_close(got[2], by_weight, rtol=1e-4, atol=1e-4)


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(sorted(MAPS)), share=st.sampled_from((0.0, 0.02, 0.5, 1.0)),
    channels=st.tuples(st.integers(1, 40), st.integers(1, 40)), seed=st.integers(0, 1000),
)  # fmt: skip
def test_any_size(kind: str, share: float, channels: tuple[int, int], seed: int) -> None:
    found = MAPS[kind](sites((4, 9, 8), share, 2, seed))
    features, weight, slope = tensors_for(found, channels)
    out, by_features, by_weight = all_results(found, features, weight, slope)
    want = sparse_conv_twin(features, weight, found.table, found.back, False)
    torch.testing.assert_close(out, want, rtol=1e-4, atol=1e-4)
    assert by_features.shape == features.shape and by_weight.shape == weight.shape


def dense_of(places: SparseSites, rows: Tensor) -> Tensor:
    """(B, C, nz, ny, nx), zeros at empty cells."""
    out = rows.new_zeros(places.batch_size, *places.shape, rows.shape[1])
    out[tuple(places.index.long().T)] = rows
    return out.permute(0, 4, 1, 2, 3)


@pytest.mark.parametrize("share", [0.2, 1.0])
def test_dense_convolution_is_the_same(share: float) -> None:
    places = sites((6, 10, 9), share, 2, 5)
    for kernel, stride, padding in (
        ((3, 3, 3), (2, 2, 2), (1, 1, 1)), ((3, 3, 3), (1, 1, 1), (1, 1, 1)),
        ((3, 1, 1), (2, 1, 1), (0, 0, 0)), ((1, 3, 2), (1, 2, 3), (0, 1, 0)),
    ):  # fmt: skip
        found = places.strided(kernel, stride, padding)
        features, weight, _ = tensors_for(found, (6, 10))
        kernel5 = weight.view(*kernel, 6, 10).permute(4, 3, 0, 1, 2)
        want = conv3d(dense_of(places, features), kernel5, stride=stride, padding=padding)
        assert tuple(want.shape[2:]) == found.target.shape
        occupied = conv3d(
            dense_of(places, features.new_ones(len(places), 1)),
            features.new_ones(1, 1, *kernel), stride=stride, padding=padding,
        )[:, 0] > 0  # fmt: skip
        assert torch.equal(occupied.nonzero().int(), found.target.index)
        got = dense_of(found.target, sparse_conv(features, weight, found))
        torch.testing.assert_close(got, want * occupied[:, None], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", MAPS)
def test_gradients_in_double_precision(kind: str) -> None:
    found = MAPS[kind](sites((3, 4, 4), 0.4, 2, 2))
    features, weight, _ = tensors_for(found, (2, 3), torch.float64)
    features.requires_grad_()
    weight.requires_grad_()
    assert torch.autograd.gradcheck(lambda f, w: sparse_conv(f, w, found), (features, weight))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_adds_in_float32(dtype: torch.dtype) -> None:
    found = MAPS["submanifold 3"](sites((5, 12, 12), 1.0, 1, 0))
    features, weight, slope = tensors_for(found, (32, 16), dtype)
    for value, want in zip(
        all_results(found, features, weight, slope),
        all_results(found, features.float(), weight.float(), slope.float()),
    ):
        # Each result is rounded once; sums in half precision would be off by hundreds of units.
        assert value.dtype == dtype
        torch.testing.assert_close(value.float(), want.to(dtype).float())


def test_autocast_takes_its_type() -> None:
    found = MAPS["submanifold 3"](sites((3, 6, 6), 0.5, 1, 0))
    features, weight, _ = tensors_for(found, (4, 4))
    with torch.autocast("cpu", torch.bfloat16):
        out = sparse_conv(features, weight, found)
        double = sparse_conv(features.double(), weight.double(), found)
    assert out.dtype == torch.bfloat16
    want = sparse_conv(features.bfloat16(), weight.bfloat16(), found)
    assert torch.equal(out, want) and double.dtype == torch.float64


def test_a_second_derivative_by_the_weight_is_refused() -> None:
    found = MAPS["submanifold 3"](sites((3, 4, 4), 0.5, 1, 0))
    features, weight, _ = tensors_for(found, (2, 2))
    features.requires_grad_()
    weight.requires_grad_()
    out = sparse_conv(features, weight, found).square().sum()
    by_features, by_weight = torch.autograd.grad(out, (features, weight), create_graph=True)
    torch.autograd.grad(by_features.sum(), weight, retain_graph=True)
    with pytest.raises(NotImplementedError, match="has no derivative"):
        torch.autograd.grad(by_weight.sum(), features)


@pytest.mark.parametrize("rectify", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_affine_end(rectify: bool, dtype: torch.dtype) -> None:
    found = MAPS["strided 3 2 1"](sites((5, 12, 11), 0.3, 2, 1))
    features, weight, slope = tensors_for(found, (7, 20), dtype)
    shift = torch.linspace(-1, 1, 20)
    for residual in (None, slope.float()):
        got = sparse_conv_affine(
            features, weight, found, shift=shift, residual=residual, rectify=rectify
        )
        want = sparse_conv_affine_twin(features, weight, found.table, shift, residual, rectify)
        assert got.dtype == dtype and (not rectify or float(got.min()) == 0)
        torch.testing.assert_close(
            got, want, rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-4
        )
    with pytest.raises(ValueError, match=r"shift must have shape \(20\); found \(19,\)"):
        sparse_conv_affine(features, weight, found, shift=shift[1:])


@pytest.mark.parametrize("kind", ["submanifold 3", "strided 3 2 1"])
def test_the_same_bits_on_any_threads(kind: str) -> None:
    found = MAPS[kind](sites((8, 40, 40), 0.4, 2, 3))
    assert len(found.target) > 3000
    parts = tensors_for(found, (16, 24))
    assert_same_bits(lambda: all_results(found, *parts))


def test_samples_do_not_touch_each_other() -> None:
    places = sites((4, 8, 8), 0.4, 3, 6, empty=1)
    found = MAPS["strided 3 2 1"](places)
    features, weight, _ = tensors_for(found, (3, 5))
    together = sparse_conv(features, weight, found)
    for sample in range(3):
        own = places.index[:, 0] == sample
        index = places.index[own].clone()
        index[:, 0] = 0
        alone = MAPS["strided 3 2 1"](SparseSites.of(index, places.shape, 1)[0])
        rows = found.target.index[:, 0] == sample
        assert torch.equal(sparse_conv(features[own], weight, alone), together[rows])


def test_weights_of_any_strides_and_views() -> None:
    found = MAPS["submanifold 3"](sites((4, 6, 6), 0.5, 1, 8))
    features, weight, _ = tensors_for(found, (6, 7))
    want = sparse_conv(features, weight, found)
    published = weight.permute(2, 0, 1).contiguous()
    assert torch.equal(sparse_conv(features, published.permute(1, 2, 0), found), want)
    wide = torch.randn(len(features), 12)
    wide[:, ::2] = features
    assert torch.equal(sparse_conv(wide[:, ::2], weight, found), want)


def test_bad_input_is_named() -> None:
    found = MAPS["submanifold 3"](sites((3, 4, 4), 0.5, 1, 0))
    features, weight, _ = tensors_for(found, (4, 4))
    with pytest.raises(ValueError, match=r"features must have shape \(\d+, Cin\); found"):
        sparse_conv(features[1:], weight, found)
    with pytest.raises(ValueError, match=r"weight must have shape \(27, 4, Cout\); found"):
        sparse_conv(features, weight[:, 1:], found)
    with pytest.raises(ValueError, match=r"must have one type; found torch.float32 and"):
        sparse_conv(features, weight.double(), found)
    with pytest.raises(ValueError, match=r"features must be torch.float16 or .* found torch.int32"):
        sparse_conv(features.int(), weight, found)
    with pytest.raises(ValueError, match="weight must be on cpu; found meta"):
        sparse_conv(features, weight.to("meta"), found)
