"""Every op on CUDA: equal to the CPU and to its twin, values and gradients, and always the same.

The comparisons run on the CPU as well (kernel against twin), so that they are known to be right
where there is no GPU. Needs no package but torch, pytest and, for convolutions, Triton.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from perception3d_ops import box_nms, box_overlap, circle_nms, library, points_in_boxes
from perception3d_ops.dynamic_voxels import dynamic_voxels
from perception3d_ops.hard_voxels import hard_voxels
from perception3d_ops.reduce_rows import REDUCTIONS, reduce_rows
from perception3d_ops.sparse_conv import sparse_conv, sparse_conv_affine, sparse_conv_twin
from perception3d_ops.sparse_maps import MOST_BITS
from perception3d_ops.sparse_sites import KernelMap, SparseSites
from perception3d_ops.suppression import rank_rows
from torch import Tensor

from tests.ops.conv_inputs import MAPS, all_results, tensors_for
from tests.ops.op_inputs import cloud, seeded, sites, tensors
from tests.ops.test_registration import RANGE_M
from tests.ops.test_registration import samples as voxel_samples

on_devices = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
#: Whose ops box_samples gives arguments of; imported so that they are registered.
BOX_MODULES = (box_nms, box_overlap, circle_nms, points_in_boxes)
FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def box_samples() -> dict[str, tuple[Any, ...]]:
    """Arguments of every op on boxes: two samples and an empty one, of two labels."""
    generator = seeded(7)
    boxes = torch.rand(40, 7, generator=generator) * torch.tensor([9, 9, 2, 5, 2, 2, 6.0]) + 0.1
    flat, scores = boxes[:, [0, 1, 3, 4, 6]], torch.rand(40, generator=generator)
    scores[3], scores[30] = torch.nan, scores[29]
    labels, offsets = torch.arange(40) % 2, torch.tensor([0, 22, 22, 40])
    order, first, alive, words = rank_rows(scores, offsets, 15)
    xyz = torch.rand(90, 3, generator=generator) * 9
    xyz[5, 1], xyz[60] = torch.nan, boxes[30, :3]
    point_offsets = torch.tensor([0, 50, 55, 90])
    ops = torch.ops.perception3d
    sorted_rows = labels[order], first, alive
    bits = ops.rotated_bits(flat[order], *sorted_rows, 0.1, words)
    asked = scores, labels, offsets
    return {
        "box_overlap": (flat, flat[:30], False, False),
        "box_overlap.solid": (boxes, boxes.flip(0).double(), True, True),
        "rotated_bits": (flat[order], *sorted_rows, 0.1, words),
        "circle_bits": (flat[order, :2], *sorted_rows, 1.5, words),
        "sweep_bits": (bits, alive, offsets),
        "rotated_nms": (flat, *asked, 0.1, 15, 9),
        "circle_nms": (flat[:, :2], *asked, 1.5, -1, 9),
        "points_in_boxes": (xyz, boxes, point_offsets, offsets),
        "points_in_boxes_mask": (xyz, boxes, point_offsets, offsets),
    }


def samples() -> dict[str, tuple[Any, ...]]:
    return voxel_samples() | box_samples()


def moved(value: Any, device: str) -> Any:
    """Arguments on a device, detached: gradients have tests of their own."""
    if isinstance(value, Tensor):
        return value.detach().to(device)
    return type(value)(moved(part, device) for part in value) if type(value) is tuple else value


def assert_equal(got: Any, want: Any, tolerance: float = 1e-5) -> None:
    """Integers and flags alike; floating-point numbers but for the order of sums."""
    for a, b in zip(tensors(got), tensors(want), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        if a.is_floating_point():
            torch.testing.assert_close(
                a.cpu(), b.cpu(), rtol=tolerance, atol=10 * tolerance, equal_nan=True
            )
        else:
            assert torch.equal(a.cpu(), b.cpu())


def test_every_op_has_a_sample() -> None:
    assert {name.partition(".")[0] for name in samples()} == set(library.TWINS)


@on_devices
@pytest.mark.parametrize("name", samples())
def test_op_equals_the_cpu_and_its_twin_and_itself(name: str, device: str) -> None:
    op = getattr(torch.ops.perception3d, name.partition(".")[0])
    arguments = samples()[name]
    given = moved(arguments, device)
    got = op(*given)
    assert {t.device.type for t in tensors(got)} == {device}
    assert_equal(got, op(*moved(arguments, "cpu")))
    assert_equal(got, library.TWINS[name.partition(".")[0]](*given))
    for first, second in zip(tensors(got), tensors(op(*given))):
        assert torch.equal(first.nan_to_num(), second.nan_to_num())


@on_devices
@pytest.mark.parametrize("counts", [[0], [1], [0, 7, 0], [400, 0, 300]], ids=str)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_voxelization(counts: list[int], dtype: torch.dtype, device: str) -> None:
    """Points on borders, outside and not finite, in types and views of all kinds."""
    xyz, offsets = cloud(counts, 3)
    wide = torch.zeros(len(xyz), 7, dtype=dtype)
    wide[:, 1:7:2] = xyz.to(dtype)
    rows = torch.randn(len(xyz), 5, generator=seeded(1)).to(dtype)

    def all_of(device: str) -> tuple[Any, ...]:
        points, ends = wide.to(device)[:, 1:7:2], offsets.to(device)
        hard = hard_voxels(
            points, ends, range_m=RANGE_M, cell_m=(0.5, 0.5, 1), max_points=3, max_voxels=60
        )
        dynamic = dynamic_voxels(points, ends, range_m=RANGE_M, cell_m=(0.5, 0.5, 1))
        integers = (hard.index, hard.count, hard.point, hard.voxel, hard.outside, hard.not_finite)
        reduced = []
        for reduction in REDUCTIONS:
            leaf = rows.to(device).requires_grad_()
            out = reduce_rows(leaf, dynamic.groups, reduction)
            out.backward(torch.linspace(-1, 1, out.numel(), device=device).view_as(out).to(dtype))
            assert leaf.grad is not None
            reduced += [out.detach(), leaf.grad]
        return integers, dynamic.index, dynamic.voxel_of_point(), reduced

    assert_equal(all_of(device), all_of("cpu"), {2: 1e-2}.get(dtype.itemsize, 1e-5))


@on_devices
def test_keys_beyond_31_bits(device: str) -> None:
    shape = (41, 1440, 1440)
    index = torch.tensor([[0, 0, 0, 0], [26, 40, 1439, 1438], [26, 40, 1439, 1439]], device=device)
    places, _ = SparseSites.of(index, shape, 27)
    table = places.submanifold((3, 3, 3)).table.cpu()
    assert table[14].tolist() == [-1, 2, -1] and int((table >= 0).sum()) == 5
    found = places.strided((3, 3, 3), (2, 2, 2), (1, 1, 1))
    assert found.target.index.tolist() == [[0, 0, 0, 0], [26, 20, 719, 719]]
    xyz = torch.tensor([[0.05, 0.05, 0.05], [143.95, 143.95, 4.05]], device=device)
    voxels = dynamic_voxels(
        xyz, torch.tensor([0, *[1] * 26, 2], device=device), range_m=(0, 0, 0, 144, 144, 4.1),
        cell_m=(0.1, 0.1, 0.1),
    )  # fmt: skip
    assert voxels.index.tolist() == [[0, 0, 0, 0], [26, 40, 1439, 1439]]


@on_devices
@pytest.mark.parametrize("share", [0.0, 0.05, 1.0])
@pytest.mark.parametrize("kind", MAPS)
def test_maps(kind: str, share: float, device: str) -> None:
    places = sites((5, 12, 11), share, 3, 1, empty=1)
    got, want = MAPS[kind](places.to(device)), MAPS[kind](places)
    assert_equal((got.target.index, got.table), (want.target.index, want.table))
    if want.back is not None:
        assert_equal(got.back, want.back)


@on_devices
def test_maps_of_more_cells_than_bits(device: str) -> None:
    index = torch.stack(
        [torch.randint(n, (40,), generator=seeded(n)) for n in (7, 41, 9000, 9001)], 1
    )
    places, _ = SparseSites.of(torch.unique(index, dim=0), (41, 9000, 9001), 7)
    assert MOST_BITS < 7 * 41 * 9000 * 9001
    got = places.to(device).strided((3, 3, 3), (1, 1, 1), (1, 1, 1))
    want = places.strided((3, 3, 3), (1, 1, 1), (1, 1, 1))
    assert_equal(
        (got.target.index, got.table, got.back), (want.target.index, want.table, want.back)
    )


def on(device: str, found: KernelMap) -> KernelMap:
    """A map on another device: its tables, so that convolutions are tested apart from maps."""
    source = found.source.to(device)
    target = source if found.target is found.source else found.target.to(device)
    return KernelMap(source, target, found.table.to(device))


def check_convolution(
    found: KernelMap, channels: tuple[int, int], dtype: torch.dtype, device: str, tolerance: float
) -> None:
    """Values and both gradients against the twin in double precision, and against themselves."""
    parts = tensors_for(found, channels, dtype)
    there = on(device, found)
    got = all_results(there, *moved(parts, device))
    again = all_results(there, *moved(parts, device))
    assert all(torch.equal(a, b) for a, b in zip(got, again))
    wide = [t.double().requires_grad_() for t in parts[:2]]
    out = sparse_conv_twin(wide[0], wide[1], found.table, found.back, False)
    out.backward(parts[2].double())
    for value, want in zip(got, (out.detach(), wide[0].grad, wide[1].grad)):
        assert want is not None and value.dtype == dtype
        scale = max(1.0, float(want.abs().max())) if want.numel() else 1.0
        torch.testing.assert_close(
            value.cpu().double(), want, rtol=tolerance, atol=tolerance * scale
        )


@on_devices
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("channels", [(1, 1), (5, 16), (64, 64), (16, 130)], ids=str)
@pytest.mark.parametrize("kind", ["submanifold 3", "strided 3 2 1"])
def test_convolution_of_types(
    kind: str, channels: tuple[int, int], dtype: torch.dtype, device: str
) -> None:
    found = MAPS[kind](sites((5, 12, 11), 0.3, 3, 1, empty=1))
    tolerance = {torch.float16: 1e-3, torch.bfloat16: 8e-3}.get(dtype, 1e-5)
    check_convolution(found, channels, dtype, device, tolerance)


@on_devices
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5])
@pytest.mark.parametrize("kind", MAPS)
def test_convolution_of_maps(kind: str, share: float, device: str) -> None:
    found = MAPS[kind](sites((4, 9, 8), share, 2, 2))
    check_convolution(found, (6, 20), torch.float32, device, 1e-5)


@on_devices
def test_one_site(device: str) -> None:
    found = sites((1, 1, 1), 1.0, 1, 0).submanifold((3, 3, 3))
    check_convolution(found, (3, 4), torch.float32, device, 1e-5)


@on_devices
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_affine_end(dtype: torch.dtype, device: str) -> None:
    found = MAPS["strided 3 2 1"](sites((5, 12, 11), 0.3, 2, 1))
    features, weight, slope = tensors_for(found, (7, 20), dtype)
    shift = torch.linspace(-1, 1, 20)
    for residual, rectify in ((None, True), (slope.float(), False), (slope, True)):
        got, want = (
            sparse_conv_affine(
                *moved((features, weight), place), on(place, found), shift=shift.to(place),
                residual=None if residual is None else residual.to(place), rectify=rectify,
            )
            for place in (device, "cpu")
        )  # fmt: skip
        assert_equal(got, want, {2: 1e-2}.get(dtype.itemsize, 1e-5))


@on_devices
def test_views_and_mirrored_tables(device: str) -> None:
    found = MAPS["submanifold 3"](sites((4, 8, 8), 0.4, 2, 3))
    features, weight, _ = moved(tensors_for(found, (6, 7)), device)
    there = on(device, found)
    published = weight.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    wide = features.repeat_interleave(2, dim=1)[:, ::2]
    assert_equal(sparse_conv(wide, published, there), sparse_conv(features, weight, there))
    op = torch.ops.perception3d.sparse_conv
    assert_equal(
        op(features, weight, there.table, None, True),
        op(features, weight.flip(0), there.table, None, False),
    )


def cuda_case(share: float = 0.5) -> tuple[KernelMap, Callable[[], list[Tensor]]]:
    """Some 20,000 sites on CUDA, enough for tuning, and a convolution with its gradients."""
    found = sites((10, 64, 64), share, 1, 5).to("cuda").submanifold((3, 3, 3))
    parts = moved(tensors_for(found, (32, 48), torch.float16), "cuda")
    return found, lambda: all_results(found, *parts)


@pytest.mark.gpu
def test_tuning_changes_no_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    triton_ops = pytest.importorskip("perception3d_ops.sparse_conv_triton")
    found, run = cuda_case()
    assert len(found.target) >= triton_ops.TUNED_FROM_ROWS
    want = run()
    choices = triton_ops._choices(48, False)
    for choice in choices:
        monkeypatch.setattr(triton_ops, "fastest", lambda *_, chosen=choice: chosen)
        assert all(torch.equal(a, b) for a, b in zip(run(), want))


@pytest.mark.gpu
@pytest.mark.parametrize("allowed", [True, False])
def test_tf32_follows_the_switch(allowed: bool) -> None:
    found = MAPS["submanifold 3"](sites((5, 16, 16), 1.0, 1, 0))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    try:
        check_convolution(found, (64, 64), torch.float32, "cuda", 4e-3 if allowed else 1e-5)
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.gpu
def test_a_convolution_never_waits_for_the_device() -> None:
    _, run = cuda_case()
    run()
    _, run = cuda_case(0.6)  # another map; kernels are compiled and tuned
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")  # raises where something waits
    try:
        found = run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(torch.isfinite(part).all() for part in found)


@pytest.mark.gpu
def test_a_graph_follows_its_table() -> None:
    """A CUDA graph over a table in fixed memory takes the values that stand there at replay."""
    found, _ = cuda_case()
    features, weight, _ = moved(tensors_for(found, (8, 16)), "cuda")
    table = found.table.clone()
    op = torch.ops.perception3d.sparse_conv
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        op(features, weight, table, None, False)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = op(features, weight, table, None, False)
    table.copy_(found.table.flip(0))
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(out, op(features, weight, found.table.flip(0), None, False))
