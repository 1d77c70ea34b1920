"""Published sparse convolutions, layer by layer, against ours."""

from __future__ import annotations

import pytest
import torch
from perception3d_ops.sparse_sites import SparseSites
from torch import Tensor

from perception3d.nn.sparse import (
    SparseConv3d,
    SparseInverseConv3d,
    SubMConv3d,
    as_kernel,
    read_kernels,
)
from perception3d.structures import SparseVoxels
from tests.golden_cases import GoldenCase, golden, load_case

LAYERS = {
    "SubMConv3d": SubMConv3d,
    "SparseConv3d": SparseConv3d,
    "SparseInverseConv3d": SparseInverseConv3d,
}
#: Which layer an inverse convolution undoes.
UNDONE = {"inverse_k3": "conv_k3s2p1"}


def build(case: GoldenCase, name: str) -> SubMConv3d | SparseConv3d | SparseInverseConv3d:
    about = case.about["layers"][name]
    steps = {} if about["type"] == "SubMConv3d" else {"stride": about["stride"]}
    return LAYERS[about["type"]](
        about["in_channels"], about["out_channels"], about["kernel"], padding=about["padding"],
        **steps,
    )  # fmt: skip


@pytest.mark.parametrize("layout", ["spconv2", "spconv1"])
@pytest.mark.parametrize("name", golden("sparse_conv_layers"))
def test_golden_sparse_layers(name: str, layout: str) -> None:
    case = load_case(name)
    inputs, weights = case.inputs(), case.weights()
    shape = [int(n) for n in inputs["spatial_shape"]]
    sites, order = SparseSites.of(inputs["coords"], shape, int(inputs["batch_size"]))
    given = torch.arange(len(sites)) if order is None else order
    start = SparseVoxels(inputs["features"][given].requires_grad_(), sites)
    outputs: dict[str, SparseVoxels] = {}
    for layer in case.about["layers"]:
        conv = build(case, layer)
        old = weights[f"{layer}.weight"].permute(1, 2, 3, 4, 0).contiguous()
        case.check(f"{layer}.weight_spconv1", old)
        held = old if layout == "spconv1" else weights[f"{layer}.weight"]
        conv.load_state_dict(read_kernels(conv, {"weight": held}))
        if layer in UNDONE:
            before = outputs[UNDONE[layer]].features.detach().requires_grad_()
            out = conv(outputs[UNDONE[layer]].with_features(before), start)
        else:
            before = start.features
            before.grad = None
            out = conv(start)
        out.features.backward(inputs[f"{layer}.grad_output"])
        outputs[layer] = out
        case.check(f"{layer}.out_shape", out.sites.shape)
        case.check(f"{layer}.out_coords", out.sites.index)
        case.check(f"{layer}.out_features", out.features)
        case.check(f"{layer}.grad_weight", conv.weight.grad)
        gradient = before.grad
        assert isinstance(gradient, Tensor)
        if layer not in UNDONE:  # rows as the case gave them
            gradient = torch.empty_like(gradient).index_copy(0, given, gradient)
        case.check(f"{layer}.grad_features", gradient)
    case.finish()


@pytest.mark.parametrize("name", golden("sparse_conv_layers"))
def test_golden_sparse_layouts_are_told_apart(name: str) -> None:
    case = load_case(name)
    for layer, weight in case.weights().items():
        stored = torch.from_numpy(case.arrays[f"out/{layer}_spconv1"])
        old = stored.view(case.shape(f"{layer}_spconv1"))
        assert torch.equal(as_kernel(old, weight.shape), weight)
        assert as_kernel(weight, weight.shape) is weight
