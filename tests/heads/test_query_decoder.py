"""Decoder and packed task branches against plain torch modules."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from perception3d.heads.queries import QuerySet
from perception3d.heads.query import QueryHead
from perception3d.heads.query_decoder import QueryDecoder
from perception3d.heads.query_denoising import DenoisingBuilder
from perception3d.heads.query_tasks import PackedTaskHeads
from perception3d.structures import Boxes3D

RANGE_M = (-54.0, -54.0, -5.0, 54.0, 54.0, 3.0)


class GroupedReference(nn.Module):
    """The published layout: a grouped convolution over the query axis, one group a layer."""

    def __init__(self, branch: nn.Module, layers: int, kernel: int) -> None:
        super().__init__()
        self.branch, self.layers, self.kernel = branch, layers, kernel

    def forward(self, features: Tensor) -> Tensor:
        layers, batch, queries, channels = features.shape
        x = features.permute(1, 0, 3, 2).reshape(batch, layers * channels, queries)
        reach = self.kernel // 2
        x = nn.functional.conv1d(x, self.branch.hidden_weight, padding=reach, groups=layers)
        x = x.view(batch, layers, -1, queries)
        mean = x.mean(dim=2, keepdim=True)
        variance = (x - mean).square().mean(dim=2, keepdim=True)
        x = (x - mean) / torch.sqrt(variance + 1e-6)
        x = x.flatten(1, 2) * self.branch.norm_weight[:, None] + self.branch.norm_bias[:, None]
        x = nn.functional.conv1d(
            x.relu(),
            self.branch.output_weight,
            self.branch.output_bias,
            padding=reach,
            groups=layers,
        )
        return x.view(batch, layers, -1, queries).permute(1, 0, 3, 2)


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("scale", [1.0, 1e-3])  # small inputs show the 1e-6 inside the norm
def test_packed_branches_are_grouped_convolutions(kernel: int, scale: float) -> None:
    torch.manual_seed(0)
    tasks = PackedTaskHeads(8, {"a": 2, "b": 5}, layers=3, hidden=6, kernel=kernel)
    for branch in tasks.branches.values():
        nn.init.normal_(branch.norm_weight, 1.0, 0.1)
        nn.init.normal_(branch.norm_bias, 0.0, 0.1)
    features = torch.randn(3, 2, 7, 8) * scale
    outputs = tasks(features)
    for name, branch in tasks.branches.items():
        want = GroupedReference(branch, 3, kernel)(features)
        torch.testing.assert_close(outputs[name], want, rtol=1e-4, atol=1e-5)


def test_even_kernels_are_refused() -> None:
    with pytest.raises(ValueError, match="odd"):
        PackedTaskHeads(8, {"a": 2}, layers=1, kernel=2)


def plain_decoder_layer(
    layer: nn.Module, q: Tensor, p: Tensor, memory: Tensor, mp: Tensor
) -> Tensor:
    def attend(module: nn.Module, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        reference = nn.MultiheadAttention(q.shape[-1], module.heads, batch_first=True)
        reference.load_state_dict(module.state_dict())
        return reference(query, key, value, need_weights=False)[0]

    q = layer.norms[0](q + attend(layer.self_attention, q + p, q + p, q))
    q = layer.norms[1](q + attend(layer.cross_attention, q + p, memory + mp, memory))
    return layer.norms[2](q + layer.reduce(layer.expand(q).relu()))


def test_decoder_is_the_plain_one() -> None:
    torch.manual_seed(0)
    decoder = QueryDecoder(channels=8, layers=2, heads=2, hidden=16).eval()
    position, memory, memory_position = (
        torch.randn(2, 5, 8),
        torch.randn(2, 9, 8),
        torch.randn(2, 9, 8),
    )
    with torch.no_grad():
        got = decoder(None, position, memory, memory_position)
        q, want = torch.zeros(2, 5, 8), []
        for layer in decoder.layers:
            q = plain_decoder_layer(layer, q, position, memory, memory_position)
            want.append(decoder.post_norm(q))
        torch.testing.assert_close(got, torch.stack(want), rtol=1e-4, atol=1e-5)


def test_content_is_where_queries_start() -> None:
    torch.manual_seed(0)
    decoder = QueryDecoder(channels=8, layers=1, heads=2, hidden=16).eval()
    position, memory = torch.randn(1, 5, 8), torch.randn(1, 9, 8)
    zeros = decoder(torch.zeros(1, 5, 8), position, memory, memory)
    assert torch.equal(decoder(None, position, memory, memory), zeros)
    assert not torch.equal(decoder(torch.ones(1, 5, 8), position, memory, memory), zeros)


def test_nan_is_shown_unless_asked_to_be_hidden() -> None:
    position, memory = torch.randn(1, 3, 8), torch.full((1, 4, 8), torch.nan)
    for replace_nan in (False, True):
        decoder = QueryDecoder(
            channels=8, layers=1, heads=2, hidden=8, replace_nan=replace_nan
        ).eval()
        out = decoder(None, position, memory, torch.zeros(1, 4, 8))
        assert bool(torch.isfinite(out).all()) == replace_nan


@pytest.mark.parametrize(("kernel", "independent"), [(1, True), (3, False)])
def test_denoising_leaves_ordinary_queries_alone_but_for_wide_kernels(
    kernel: int, independent: bool
) -> None:
    torch.manual_seed(0)
    decoder = QueryDecoder(channels=8, layers=2, heads=2, hidden=16)
    head = QueryHead(
        decoder=decoder, num_classes=3, range_m=RANGE_M, task_hidden=4, task_kernel=kernel
    )
    head.eval()
    boxes = Boxes3D.build(
        torch.randn(2, 3), torch.rand(2, 3) + 1, torch.zeros(2), torch.tensor([0, 1])
    )
    build = DenoisingBuilder(range_m=RANGE_M, num_classes=3, query_budget=6)
    denoising = build([boxes])
    assert denoising is not None
    queries = QuerySet(torch.rand(1, 6, 3), content=torch.randn(1, 6, 8))
    code, memory = nn.Linear(3, 8), torch.randn(1, 10, 8)
    with torch.no_grad():
        alone = head(memory, memory, queries, code)
        accompanied = head(memory, memory, queries, code, denoising)
    assert alone.denoising_box is None and accompanied.denoising_box is not None
    assert accompanied.denoising_box.shape[2] == denoising.num_slots == 6
    assert torch.allclose(alone.box, accompanied.box, atol=1e-4) == independent
