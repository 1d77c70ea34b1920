"""spconv's convolutions under our layers, where installed; and what is said where it is not."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from perception3d.nn import sparse_spconv
from perception3d.nn.sparse import (
    SparseConv3d,
    SparseConvTranspose3d,
    SparseInverseConv3d,
    SubMConv3d,
)
from perception3d.nn.sparse_convolve import Backend
from perception3d.structures import SparseVoxels
from tests.ops.op_inputs import sites, threads

needs_spconv = pytest.mark.skipif(
    importlib.util.find_spec("spconv") is None, reason="spconv is not installed"
)
KINDS: dict[str, Callable[[Backend], nn.Module]] = {
    "submanifold": lambda b: SubMConv3d(4, 6, (3, 1, 3), bias=True, backend=b),
    "submanifold 1": lambda b: SubMConv3d(4, 6, 1, bias=True, backend=b),
    "strided": lambda b: SparseConv3d(4, 6, 3, stride=2, padding=(0, 1, 1), backend=b),
    "strided 311": lambda b: SparseConv3d(4, 6, (3, 1, 1), stride=(2, 1, 1), bias=True, backend=b),
    "transposed": lambda b: SparseConvTranspose3d(4, 6, 3, stride=2, padding=1, backend=b),
}


def voxels(seed: int = 0, share: float = 0.2) -> SparseVoxels:
    places = sites((9, 16, 14), share, 3, seed, empty=1)
    generator = torch.Generator().manual_seed(seed)
    return SparseVoxels(torch.randn(len(places), 4, generator=generator), places)


def pair(make: Callable[[Backend], nn.Module]) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    own, other = make("own"), make("spconv")
    other.load_state_dict(own.state_dict())
    return own, other


def assert_agree(own: SparseVoxels, other: SparseVoxels) -> None:
    assert own.sites.shape == other.sites.shape
    assert torch.equal(own.sites.index, other.sites.index)
    torch.testing.assert_close(own.features, other.features, rtol=1e-4, atol=1e-5)


@needs_spconv
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_layers_agree(kind: str, count: int) -> None:
    own, other = pair(KINDS[kind])
    with threads(count):  # of torch: spconv itself keeps to one
        for seed in range(3):
            start = voxels(seed)
            assert_agree(own(start), other(start))
            assert_agree(own(start), other(start))  # with the maps that are there now


@needs_spconv
@torch.no_grad()
def test_the_inverse_agrees() -> None:
    own, other = pair(
        lambda b: nn.ModuleList(
            [
                SparseConv3d(4, 6, 3, stride=2, padding=1, backend=b),
                SubMConv3d(6, 6, backend=b),
                SparseInverseConv3d(6, 5, 3, stride=2, padding=1, backend=b),
            ]
        )
    )
    start, results = voxels(), []
    for down, inner, up in (own, other):
        results.append(up(inner(down(start)), start))
    assert_agree(*results)
    assert results[1].sites is start.sites
    with pytest.raises(ValueError, match="run the convolution before the inverse"):
        other[2](other[0](start), voxels())


@needs_spconv
def test_no_site_and_no_output_padding() -> None:
    layer = SubMConv3d(4, 6, backend="spconv")
    with torch.no_grad():
        empty = voxels(share=0.0)
        for kind in KINDS:
            assert KINDS[kind]("spconv")(empty).features.shape == (0, 6)
        assert layer(empty).sites is empty.sites
    with pytest.raises(ValueError, match="no output padding"):
        SparseConvTranspose3d(4, 6, stride=2, output_padding=1, backend="spconv")(voxels())


@needs_spconv
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_agree_once_they_are_made_to_run(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ops = sparse_spconv.load_spconv().ops
    monkeypatch.setattr(ops, "get_current_stream", ops.get_current_stream)  # undone afterwards
    sparse_spconv.allow_cpu_backward()
    results = []
    for layer in pair(KINDS[kind]):
        start = voxels()
        out = layer(start.with_features(start.features.requires_grad_()))
        slope = torch.linspace(-1, 1, out.features.numel()).view_as(out.features)
        with threads(1):
            out.features.backward(slope)
        results.append([start.features.grad, *(p.grad for p in layer.parameters())])
    for own, other in zip(*results):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-4)


class Absent:
    """A finder that hides a package."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.partition(".")[0] == "spconv":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in [n for n in sys.modules if n.partition(".")[0] == "spconv"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sparse_spconv, "load_spconv", sparse_spconv.load_spconv.__wrapped__)
    return monkeypatch


def test_an_absent_package_is_named(fresh: pytest.MonkeyPatch) -> None:
    fresh.setattr(sys, "meta_path", [Absent(), *sys.meta_path])
    with pytest.raises(ImportError, match=r"pip install perception3d\[spconv\]"):
        SubMConv3d(4, 6, backend="spconv")


def test_an_import_with_several_threads_is_refused(fresh: pytest.MonkeyPatch) -> None:
    fresh.setitem(sys.modules, "spconv.core_cc", sys)
    fresh.setenv("OMP_NUM_THREADS", "4")
    with pytest.raises(RuntimeError, match="OMP_NUM_THREADS=4; its CPU kernels return wrong rows"):
        SubMConv3d(4, 6, backend="spconv")
