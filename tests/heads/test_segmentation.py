"""Segmentation from above: layout, losses, metric."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from perception3d.evaluation.map_iou import THRESHOLD, intersection_union
from perception3d.heads.query_decoder import QueryDecoder
from perception3d.heads.segmentation import (
    MapDecoder,
    MapOutputs,
    SegmentationHead,
    UpsampleBlock,
    query_grid,
    turned,
)
from perception3d.structures import BEVGrid


def small_head(side: int = 3) -> SegmentationHead:
    torch.manual_seed(0)
    decoder = QueryDecoder(channels=8, layers=2, heads=2, hidden=16)
    return SegmentationHead(decoder=decoder, side=side, widths=(8, 4))


def test_published_layout() -> None:
    # A car 20 m ahead and one 10 m to the right, cells of 0.5 m.
    grid = BEVGrid((-50.0, 50.0), (-50.0, 50.0), (-5.0, 3.0), 0.5)
    ahead, right = torch.tensor([[0.1, 20.1]]), torch.tensor([[10.1, 0.1]])
    for place, want in ((ahead, (99, 59)), (right, (79, 99))):
        (cell,), inside = grid.index(place)
        assert bool(inside.all())
        raster = torch.zeros(grid.ny, grid.nx)
        raster[cell[0], cell[1]] = 1
        assert tuple(turned(raster).nonzero()[0].tolist()) == want
    raster = torch.rand(2, 5, 5)
    assert torch.equal(turned(turned(raster)), raster)


def test_query_grid_by_hand() -> None:
    grid = query_grid(25)
    assert grid.shape == (625, 2)
    torch.testing.assert_close(grid[25 * 3 + 7], torch.tensor([3.5 / 25, 7.5 / 25]))


def test_each_query_draws_where_it_stands() -> None:
    head = small_head(side=4).eval()
    features = torch.zeros(1, 1, 16, 8)
    with torch.no_grad():
        before = head.draw(features)
        features[0, 0, 4 * 0 + 3] = 5.0  # query (0, 3): right and behind in the published layout
        after = head.draw(features)
    changed = (after - before).abs().sum(dim=2)[0, 0]
    assert head.cells == 16 and changed.shape == (16, 16)
    # Rows y and columns x from their minima: behind = first rows, right = last columns.
    quarters = changed.unflatten(0, (2, 8)).unflatten(2, (2, 8)).sum(dim=(1, 3))
    assert quarters.argmax() == 1  # row 0, column 1


def test_upsampling_lays_corners_on_corners() -> None:
    block = UpsampleBlock(1, 2, skip_channels=1)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.zero_()
        block.wide.weight[:, :, 1, 1] = 1
        block.narrow.weight.fill_(1)
        x = torch.tensor([[[[0.0, 3.0], [6.0, 9.0]]]])
        out = block(x, torch.zeros(1, 1, 2, 2))
        torch.testing.assert_close(out[0, 0, 0], torch.tensor([0.0, 1.0, 2.0, 3.0]))
        block.wide.weight.zero_()
        block.skip.weight.fill_(1)
        skip = block(x, x)
    assert skip[0, 0].tolist() == [[0, 0, 3, 3], [0, 0, 3, 3], [6, 6, 9, 9], [6, 6, 9, 9]]


def test_decoders_have_no_norm_and_few_biases() -> None:
    decoder = MapDecoder(256)
    names = [name for name, _ in decoder.named_parameters() if name.endswith("bias")]
    assert names == [f"blocks.{i}.skip.bias" for i in range(3)] + ["logits.2.bias"]


def test_losses_by_hand() -> None:
    head = small_head()
    logits = torch.zeros(2, 1, 3, 12, 12)
    target = torch.zeros(1, 3, 12, 12, dtype=torch.bool)
    target[:, 0] = True
    terms = head.loss(MapOutputs(logits), target)
    each = 0.5 * 0.25 * math.log(2)  # present or not: alpha is one half
    for prefix in ("", "d0."):
        for name, weight in (("dri", 2), ("lan", 4), ("veh", 8)):
            assert float(terms[f"{prefix}loss_{name}"]) == pytest.approx(weight * each, rel=1e-5)
    assert len(terms) == 6
    sure = torch.where(target, 20.0, -20.0).expand(2, 1, 3, 12, 12)
    assert sum(float(v) for v in head.loss(MapOutputs(sure), target).values()) < 1e-6
    with pytest.raises(ValueError, match=r"\(1, 3, 12, 12\)"):
        head.loss(MapOutputs(logits), target[:, :, :6])


def test_samples_of_a_batch_do_not_mix() -> None:
    head = small_head().eval()
    memory, position = torch.randn(3, 5, 8), torch.randn(3, 5, 8)
    with torch.no_grad():
        both = head(memory, position).logits
        for i in range(3):
            alone = head(memory[i : i + 1], position[i : i + 1]).logits
            torch.testing.assert_close(both[:, i : i + 1], alone, atol=1e-5, rtol=1e-4)
        last = head(memory, position, every_layer=False)
    torch.testing.assert_close(last.logits, both[-1:])
    assert head.decode(last).shape == (3, 3, 12, 12)


def test_threshold_is_the_same_for_all_classes() -> None:
    assert THRESHOLD == 0.43
    probability = torch.tensor([0.42, 0.43, 0.44]).view(1, 1, 1, 3).repeat(1, 3, 1, 1)
    inter, union = intersection_union(probability, torch.ones(1, 3, 1, 3).bool())
    assert inter.tolist() == [2, 2, 2] and union.tolist() == [3, 3, 3]


def test_counts_by_hand_and_summed_over_samples() -> None:
    probability = torch.tensor([[0.9, 0.9, 0.1, 0.1]]).view(1, 1, 2, 2).repeat(2, 2, 1, 1)
    target = torch.tensor([True, False, True, False]).view(1, 1, 2, 2).repeat(2, 2, 1, 1)
    target[1, 1] = False
    inter, union = intersection_union(probability, target)
    assert inter.tolist() == [2, 1] and union.tolist() == [6, 5]
    with pytest.raises(ValueError, match="one shape"):
        intersection_union(probability, target[:1])


def test_memory_of_padding_is_not_seen() -> None:
    head = small_head().eval()
    memory: Tensor = torch.randn(1, 6, 8)
    blocked = torch.tensor([[False] * 4 + [True] * 2])
    with torch.no_grad():
        a = head(memory, memory, memory_blocked=blocked).logits
        b = head(memory[:, :4], memory[:, :4]).logits
    torch.testing.assert_close(a, b)


def head_from_a_map() -> SegmentationHead:
    torch.manual_seed(0)
    decoder = QueryDecoder(channels=8, layers=1, heads=2, hidden=16)
    return SegmentationHead(decoder=decoder, side=4, widths=(8, 4), bev_channels=3).eval()


def test_a_query_starts_from_the_part_that_it_draws() -> None:
    """Rows from behind to ahead, columns from left to right; query (i, j) counts from the ends."""
    head = head_from_a_map()
    nothing = torch.zeros(1, 3, 16, 16)
    something = nothing.clone()
    something[0, 1, 14, 2] = 1.0  # nearly ahead, at the left
    with torch.no_grad():
        changed = (head._content(something) != head._content(nothing)).any(dim=2)[0]  # type: ignore[operator, union-attr]
    # x falls with i: column 2 of 16 is the last quarter; y falls with j: row 14 is the first.
    assert changed.nonzero().flatten().tolist() == [4 * 3 + 0]
    features = torch.zeros(1, 1, 16, 8)
    features[0, 0, 12] = 1.0
    with torch.no_grad():
        drawn = head.draw(features) - head.draw(torch.zeros_like(features))
    row, column = divmod(int(drawn[0, 0, 0].abs().argmax()), 16)
    assert row >= 12 and column < 4


def test_maps_belong_to_heads_that_draw_from_them() -> None:
    memory = torch.zeros(1, 5, 8)
    head = head_from_a_map()
    with pytest.raises(ValueError, match="found no map and such channels"):
        head(memory, memory)
    assert head(memory, memory, bev=torch.zeros(1, 3, 32, 32)).logits.shape == (1, 1, 3, 16, 16)
    published = SegmentationHead(decoder=head.decoder, side=4, widths=(8, 4))
    with pytest.raises(ValueError, match="found a map and no channels"):
        published(memory, memory, bev=torch.zeros(1, 3, 16, 16))
