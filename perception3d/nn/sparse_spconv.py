"""Sparse convolutions by the package spconv 2, with the weights and voxels of this package.

    pip install perception3d[spconv]        the CPU build
    pip install spconv-cu120                or a CUDA build, beside the torch of that CUDA

What its CPU build (2.3.8) cannot do: it has no working backward pass, so it is for inference; and
with two OpenMP threads or more it returns wrong rows now and then, because workers share pointers
while they add up rows. So it is made to run on one thread here, whatever the rest of the model has.
"""

from __future__ import annotations

import os
import sys
import warnings
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from perception3d_ops.sparse_sites import SparseSites
from torch import Tensor, nn

from perception3d.nn.sparse_convolve import ONE, Reach, check_same_sites, convolve
from perception3d.structures import SparseVoxels

#: Where a :class:`SparseVoxels` keeps spconv's maps.
PAIRS = "spconv"
THREADS = "OMP_NUM_THREADS"


class Outputs(NamedTuple):
    """Sites that a strided convolution led to.

    Attributes:
        sites: sorted.
        order: rows of spconv's output in that order.
        stored: of the voxels there.
    """

    sites: SparseSites
    order: Tensor
    stored: dict[Any, Any]


@lru_cache(maxsize=1)
def load_spconv() -> Any:
    """The module ``spconv.pytorch``, on one OpenMP thread.

    Raises:
        ImportError: it is not installed.
        RuntimeError: it was imported before with several threads.
    """
    before = os.environ.get(THREADS)
    if "spconv.core_cc" in sys.modules and before != "1":
        raise RuntimeError(
            f"spconv was imported with {THREADS}={before or 'unset'}; its CPU kernels return wrong "
            f"rows on several threads: set {THREADS}=1 before it is imported"
        )
    # Where it finds an OpenMP library of its own, that reads the variable once, while it is loaded;
    # where torch's serves both, it does as torch is told (_call).
    os.environ[THREADS] = "1"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is deprecated in its build tools
            import spconv.pytorch
    except ImportError as error:
        raise ImportError(
            "the sparse backend spconv needs the package spconv: pip install perception3d[spconv], "
            f"or a CUDA build such as spconv-cu120 ({error})"
        ) from error
    finally:
        if before is None:
            del os.environ[THREADS]
        else:
            os.environ[THREADS] = before
    return spconv.pytorch


def allow_cpu_backward() -> None:
    """Make the backward pass of spconv's CPU build run, for comparisons on one thread of torch.

    It fails only because it asks for a CUDA stream, which its CPU kernels do not use.
    """
    ops = load_spconv().ops
    asked = ops.get_current_stream
    ops.get_current_stream = lambda: asked() if torch.cuda.is_available() else 0


def convolve_with_spconv(
    voxels: SparseVoxels,
    weight: Tensor,
    bias: Tensor | None,
    reach: Reach,
    undone: SparseVoxels | None = None,
) -> SparseVoxels:
    """A convolution, see :class:`perception3d.nn.sparse_convolve.Convolve`.

    Its maps are spconv's as well, made once for all layers that ask for the same at the same sites.
    Not spconv's are convolutions without any site, where it fails, and kernels of one cell, which
    need no map: it takes their weights for (in, out).

    Raises:
        ValueError: ``undone`` was not convolved with this reach before, or ``output_padding``,
            which spconv does not have.
    """
    if any(reach.output_padding):
        raise ValueError(f"spconv has no output padding; found {reach.output_padding}")
    if reach.kernel == ONE or len(voxels.sites) == 0:
        return convolve(voxels, weight, bias, reach, undone)
    if undone is not None:
        out = _inverse(voxels, weight, reach, undone)
    else:
        pairs = voxels.stored.get(PAIRS, {})
        if not reach.submanifold:
            # A map made before may not be used again, says an assertion of spconv's.
            pairs = {key: value for key, value in pairs.items() if key != str(reach)}
        found = _call(reach, weight, voxels.features, voxels.sites.index, voxels.sites, pairs)
        voxels.stored[PAIRS] = found.indice_dict
        if reach.submanifold:
            out = voxels.with_features(found.features)
        else:
            out = _sorted(voxels, found, reach)
    if bias is None:
        return out
    return out.with_features(out.features + bias.to(out.features.dtype))


def _inverse(
    voxels: SparseVoxels, weight: Tensor, reach: Reach, undone: SparseVoxels
) -> SparseVoxels:
    known = undone.stored.get(reach)
    if known is None:
        raise ValueError("with spconv, run the convolution before the inverse that undoes it")
    check_same_sites("an inverse convolution", voxels.sites, known.sites)
    rows = torch.empty_like(voxels.features).index_copy(0, known.order, voxels.features)
    index = torch.empty_like(voxels.sites.index).index_copy(0, known.order, voxels.sites.index)
    # spconv looks for the map in the tensor that it is given.
    pairs = undone.stored[PAIRS]
    found = _call(reach, weight, rows, index, voxels.sites, pairs, inverse=True)
    return undone.with_features(found.features)


def _sorted(voxels: SparseVoxels, out: Any, reach: Reach) -> SparseVoxels:
    """spconv's output, whose sites come in the order of a hash table, in ours."""
    sites, order = SparseSites.of(out.indices, out.spatial_shape, voxels.sites.batch_size)
    if order is None:
        order = torch.arange(len(sites), device=out.features.device)
    known = voxels.stored.get(reach)
    if known is not None:  # once more: the sites are the same, spconv's order need not be
        sites, stored = known.sites, known.stored
    else:
        stored = {}
    voxels.stored[reach] = Outputs(sites, order, stored)
    rows = out.features.index_select(0, order)
    return SparseVoxels(rows, sites, reach.grid(voxels.grid, sites.shape), stored)


def _call(
    reach: Reach,
    weight: Tensor,
    rows: Tensor,
    index: Tensor,
    sites: SparseSites,
    pairs: dict[str, Any],
    *,
    inverse: bool = False,
) -> Any:
    """spconv's layer on (N, Cin) rows at (N, 4) ``index``: its SparseConvTensor."""
    layer = _layer(reach, weight.shape[4], weight.shape[0], torch.is_grad_enabled(), inverse)
    tensor = load_spconv().SparseConvTensor(rows, index, list(sites.shape), sites.batch_size)
    tensor.indice_dict = pairs
    threads = torch.get_num_threads()
    if rows.device.type == "cpu":
        torch.set_num_threads(1)
    try:
        return torch.func.functional_call(layer, {"weight": weight}, (tensor,))
    finally:
        torch.set_num_threads(threads)


@lru_cache(maxsize=256)
def _layer(reach: Reach, cin: int, cout: int, training: bool, inverse: bool) -> nn.Module:
    """spconv's layer without weights of its own: they are lent to it for each call."""
    spconv = load_spconv()
    kernel, place = list(reach.kernel), {"indice_key": str(reach), "bias": False}
    steps = {
        "stride": list(reach.stride),
        "padding": [k // 2 for k in kernel] if reach.submanifold else list(reach.padding),
        "dilation": list(reach.dilation),
    }
    with torch.device("meta"):
        if inverse:
            layer = spconv.SparseInverseConv3d(cin, cout, kernel, **place)
        elif reach.submanifold:
            layer = spconv.SubMConv3d(cin, cout, kernel, **steps, **place)
        elif reach.transposed:
            layer = spconv.SparseConvTranspose3d(cin, cout, kernel, **steps, **place)
        else:
            layer = spconv.SparseConv3d(cin, cout, kernel, **steps, **place)
    return layer.train(training)
