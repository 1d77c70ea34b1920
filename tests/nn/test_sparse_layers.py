"""Sparse layers: agreement with dense ones, kept maps, few sites, layouts of weights, errors."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from perception3d_ops.sparse_sites import SparseSites
from torch import Tensor, nn
from torch.nn.functional import conv_transpose3d

from perception3d.nn.sparse import (
    SPARSE_LAYERS,
    SparseConv3d,
    SparseConvTranspose3d,
    SparseInverseConv3d,
    SubMConv3d,
    as_kernel,
    read_kernels,
)
from perception3d.nn.sparse_blocks import SparseConvBlock, SparseResidualBlock, conv_norm_relu
from perception3d.nn.sparse_convolve import convolve_by
from perception3d.structures import BEVGrid, SparseVoxels
from tests.ops.op_inputs import sites

GRID = BEVGrid((-6.0, 6.0), (-5.0, 5.0), (-2.0, 2.0), 1.0)


def voxels(
    share: float = 0.3,
    *,
    channels: int = 4,
    batch: int = 2,
    empty: int | None = None,
    seed: int = 0,
) -> SparseVoxels:
    places = sites((7, 10, 12), share, batch, seed, empty=empty)
    generator = torch.Generator().manual_seed(seed)
    return SparseVoxels(torch.randn(len(places), channels, generator=generator), places, GRID)


def of_sample(whole: SparseVoxels, sample: int) -> SparseVoxels:
    own = whole.sites.index[:, 0] == sample
    index = whole.sites.index[own].clone()
    index[:, 0] = 0
    return SparseVoxels(whole.features[own], SparseSites(index, whole.sites.shape, 1), whole.grid)


def at_sites(dense: Tensor, places: SparseSites) -> Tensor:
    sample, z, y, x = places.index.long().unbind(1)
    return dense[sample, :, z, y, x]


def test_a_transposed_layer_equals_the_dense_one() -> None:
    torch.manual_seed(0)
    layer = SparseConvTranspose3d(
        4, 3, (3, 2, 3), stride=2, padding=(1, 0, 1), output_padding=(0, 0, 1), bias=True
    )
    start = voxels()
    out = layer(start)
    want = conv_transpose3d(
        start.dense(), layer.weight.permute(4, 0, 1, 2, 3), layer.bias,
        stride=2, padding=(1, 0, 1), output_padding=(0, 0, 1),
    )  # fmt: skip
    assert tuple(want.shape[2:]) == out.sites.shape
    torch.testing.assert_close(out.features, at_sites(want, out.sites))
    assert out.grid == BEVGrid(GRID.x_m, GRID.y_m, GRID.z_m, 0.5)


def test_a_submanifold_layer_ignores_padding_and_adds_its_bias() -> None:
    torch.manual_seed(0)
    start = voxels()
    one = SubMConv3d(4, 6, (3, 1, 5), padding=0, bias=True)
    other = SubMConv3d(4, 6, (3, 1, 5), padding=(7, 0, 2), bias=True)
    other.load_state_dict(one.state_dict())
    out = one(start)
    assert torch.equal(out.features, other(start).features)
    assert one.weight.shape == (6, 3, 1, 5, 4)
    assert one.bias is not None
    want = nn.functional.conv3d(
        start.dense(), one.weight.permute(0, 4, 1, 2, 3), one.bias, padding=(1, 0, 2)
    )
    torch.testing.assert_close(out.features, at_sites(want, start.sites))


def test_maps_are_made_once_and_lead_back() -> None:
    start = voxels()
    down, again = SparseConv3d(4, 8, stride=2, padding=1), SparseConv3d(4, 5, stride=2, padding=1)
    up = SparseInverseConv3d(8, 3, stride=2, padding=1)
    coarse = down(start)
    assert again(start).sites is coarse.sites
    assert SubMConv3d(4, 4)(start).sites is start.sites
    fine = up(coarse, start)
    assert fine.sites is start.sites and fine.grid is start.grid
    assert coarse.grid == GRID.stride(2)
    fine.features.square().sum().backward()
    assert all(layer.weight.grad.abs().sum() > 0 for layer in (down, up))


def test_cells_keep_their_place_only_where_the_rectangle_is_cut_evenly() -> None:
    start = voxels()
    assert SparseConv3d(4, 4, 3, stride=2, padding=1)(start).grid == GRID.stride(2)
    assert SparseConv3d(4, 4, 2, stride=2)(start).grid == GRID.stride(2)
    assert SparseConv3d(4, 4, 3)(start).grid is None  # a border is lost
    assert SparseConv3d(4, 4, (3, 1, 1), stride=(2, 1, 1))(start).grid == GRID
    assert SparseConv3d(4, 4, 3, stride=(1, 2, 1), padding=1)(start).grid is None
    assert SparseConv3d(4, 4, 3, stride=5, padding=1)(start).grid is None


def test_the_map_from_above_has_published_channels_and_gathers_its_gradient() -> None:
    start = voxels(channels=3, empty=0)
    rows = start.features.requires_grad_()
    bev = start.bev()
    assert bev.shape == (2, 3 * 7, 10, 12)
    assert torch.equal(bev, start.dense().flatten(1, 2))
    slope = torch.randn(bev.shape)
    bev.backward(slope)
    assert torch.equal(rows.grad, at_sites(slope.view(2, 3, 7, 10, 12), start.sites))
    rows.grad = None
    start.dense().backward(slope.view(2, 3, 7, 10, 12))
    assert torch.equal(rows.grad, at_sites(slope.view(2, 3, 7, 10, 12), start.sites))


def stack() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        SparseConvBlock(SubMConv3d(4, 8)), SparseResidualBlock(8),
        SparseConvBlock(SparseConv3d(8, 6, stride=2, padding=1)),
    )  # fmt: skip


def test_a_sample_is_not_changed_by_its_neighbours() -> None:
    blocks = stack().eval()
    whole = voxels(batch=3, empty=1)
    together = blocks(whole)
    for sample in range(3):
        alone = blocks(of_sample(whole, sample))
        part = of_sample(together, sample)
        assert torch.equal(alone.sites.index, part.sites.index)
        assert torch.equal(alone.features, part.features)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("count", [0, 1])
def test_hardly_any_site(count: int, training: bool) -> None:
    blocks = stack().train(training)
    before = copy.deepcopy(blocks.state_dict())
    index = torch.tensor([[1, 3, 3, 4]], dtype=torch.int32)[:count]
    start = SparseVoxels(torch.ones(count, 4), SparseSites(index, (7, 10, 12), 2), GRID)
    out = blocks(start)
    out.bev().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in blocks.parameters())
    if count == 0:
        assert out.features.shape == (0, 6) and (out.bev() == 0).all()
        assert all((p.grad == 0).all() for p in blocks.parameters())
    # One site in the first two blocks: their statistics stay, as in evaluation.
    for name, value in before.items():
        if training and count and name.startswith("2.norm"):
            continue  # a site touches eight cells of the coarser grid
        assert torch.equal(blocks.state_dict()[name], value), name
    evaluated = blocks[1](blocks[0].eval()(start)) if not training else None
    if evaluated is not None:
        assert torch.equal(blocks.train()[1](blocks[0](start)).features, evaluated.features)


def test_the_block_is_convolution_norm_sum_and_relu() -> None:
    block, start = SparseResidualBlock(4).eval(), voxels()
    nn.init.normal_(block.norm2.running_mean)
    inner = torch.relu(block.norm1(block.conv1(start).features))
    out = block.norm2(block.conv2(start.with_features(inner)).features) + start.features
    assert torch.equal(block(start).features, out.relu())
    with torch.no_grad():  # then in one pass
        torch.testing.assert_close(block(start).features, out.relu(), rtol=1e-5, atol=1e-5)
        assert block(start).features.grad_fn is None
    frozen = block.requires_grad_(False)(start.with_features(start.features.requires_grad_()))
    assert frozen.features.grad_fn is not None
    assert (block.norm1.eps, block.norm1.momentum) == (1e-3, 0.01)


def test_initial_weights() -> None:
    torch.manual_seed(0)
    layer = SubMConv3d(16, 32, 3, bias=True)
    bound = 1 / math.sqrt(27 * 16)
    assert 0.99 * bound < float(layer.weight.detach().abs().max()) <= bound
    assert layer.bias is not None and 0.8 * bound < float(layer.bias.detach().abs().max()) <= bound


@pytest.mark.parametrize("layer", SPARSE_LAYERS)
def test_both_layouts_are_read(layer: Callable[..., nn.Module]) -> None:
    source, target = layer(4, 6, (3, 1, 3), bias=True), layer(4, 6, (3, 1, 3), bias=True)
    state = nn.Sequential(source).state_dict()
    old = state | {"0.weight": state["0.weight"].permute(1, 2, 3, 4, 0)}
    for held in (state, old):
        nn.init.zeros_(target.weight)
        model = nn.Sequential(target)
        model.load_state_dict(read_kernels(model, held))
        assert torch.equal(target.weight, source.weight)
        assert torch.equal(target.bias, source.bias)


def test_an_ambiguous_kernel_needs_to_be_told() -> None:
    kernel = torch.randn(3, 3, 3, 3, 3)
    layer = SubMConv3d(3, 3, 3)
    with pytest.raises(ValueError, match=r"weight of shape \(3, 3, 3, 3, 3\) may be .* say which"):
        read_kernels(layer, {"weight": kernel})
    assert torch.equal(read_kernels(layer, {"weight": kernel}, "spconv2")["weight"], kernel)
    turned = read_kernels(layer, {"weight": kernel}, "spconv1")["weight"]
    assert torch.equal(turned, kernel.permute(4, 0, 1, 2, 3))
    assert as_kernel(torch.ones(1, 1, 1, 1, 1), (1,) * 5).shape == (1,) * 5
    other = torch.ones(2, 2)  # of no layout: left for the loader to refuse
    assert as_kernel(other, (1,) * 5) is other
    with pytest.raises(ValueError, match="found 'mmcv'"):
        as_kernel(kernel, kernel.shape, "mmcv")  # type: ignore[arg-type]


def test_bad_layers_and_inputs_are_named() -> None:
    with pytest.raises(ValueError, match=r"odd sizes; found \(3, 2, 3\)"):
        SubMConv3d(1, 1, (3, 2, 3))
    with pytest.raises(ValueError, match=r"stride must be one or three .* >= 1; found 0"):
        SparseConv3d(1, 1, stride=0)
    with pytest.raises(ValueError, match="padding must be one or three"):
        SparseConv3d(1, 1, padding=(1, 1))
    with pytest.raises(ValueError, match="found 0 in, 2 out"):
        SubMConv3d(0, 2)
    with pytest.raises(ValueError, match="must be own or spconv; found 'cumm'"):
        convolve_by("cumm")  # type: ignore[arg-type]
    start = voxels()
    with pytest.raises(ValueError, match=r"weight must have shape \(27, 4, Cout\); found"):
        SubMConv3d(5, 2)(start)
    with pytest.raises(ValueError, match="an inverse convolution needs the same sites"):
        SparseInverseConv3d(4, 2, stride=2, padding=1)(start, start)
    with pytest.raises(ValueError, match="a residual needs the same sites"):
        conv_norm_relu(SubMConv3d(4, 4), nn.BatchNorm1d(4), start, residual=voxels(seed=1))
    with pytest.raises(ValueError, match=r"10 x 12 cells, its sites \(12, 10\)"):
        SparseVoxels(torch.zeros(0, 1), sites((7, 12, 10), 0.0, 1, 0), GRID)
    with pytest.raises(ValueError, match=r"sites \d+, features 1"):
        SparseVoxels(torch.zeros(1, 1), start.sites)


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("tracked", [True, False])
def test_norms_of_any_settings_train(momentum: float | None, tracked: bool) -> None:
    torch.manual_seed(0)
    conv, start = SubMConv3d(4, 6, 3), voxels()
    norms = [nn.BatchNorm1d(6, momentum=momentum, track_running_stats=tracked) for _ in range(2)]
    want = torch.relu(norms[0](conv(start).features))
    torch.testing.assert_close(conv_norm_relu(conv, norms[1], start).features, want)
    for one, other in zip(norms[0].buffers(), norms[1].buffers(), strict=True):
        torch.testing.assert_close(one, other)
