"""Keys, groups and reductions of points: kernels against twins and loops, borders, bad input."""

from __future__ import annotations

import importlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from perception3d_ops.dynamic_voxels import dynamic_voxels
from perception3d_ops.group_rows import group_rows, group_rows_twin
from perception3d_ops.hard_voxels import hard_voxels, hard_voxels_twin
from perception3d_ops.pad_rows import pad_rows, pad_rows_twin
from perception3d_ops.reduce_rows import MAX, REDUCTIONS, reduce_rows, reduce_rows_twin
from perception3d_ops.voxel_keys import (
    NOT_FINITE,
    OUTSIDE,
    CellGrid,
    voxel_keys,
    voxel_keys_twin,
)

from tests.golden_cases import golden, load_case
from tests.ops.op_inputs import assert_same_bits, cloud, seeded

RANGE_M = (-8.0, -6.0, -2.0, 8.0, 6.0, 3.0)
GRIDS = {
    "voxels": (0.25, 0.25, 0.5),
    "pillars": (0.5, 0.5, 5.0),
    "not integral": (0.3, 0.7, 0.9),
    "one cell": (16.0, 12.0, 5.0),
}
COUNTS = st.lists(st.integers(0, 200), min_size=1, max_size=4)


@settings(max_examples=40, deadline=None)
@given(counts=COUNTS, cell=st.sampled_from(sorted(GRIDS)), seed=st.integers(0, 10_000))
def test_kernels_equal_twins(counts: list[int], cell: str, seed: int) -> None:
    xyz, offsets = cloud(counts, seed)
    grid = CellGrid.of(RANGE_M, GRIDS[cell])
    key = voxel_keys(xyz, offsets, grid)
    assert torch.equal(key, voxel_keys_twin(xyz, offsets, grid.low, grid.size, grid.cells))
    groups = group_rows(key)
    for got, want in zip((groups.key, groups.order, groups.start), group_rows_twin(key)):
        assert torch.equal(got, want)
    assert int(groups.count.sum()) == int((key >= 0).sum())
    for caps in ((1, 1), (3, 10), (20, 1000)):
        got = hard_voxels(
            xyz, offsets, range_m=RANGE_M, cell_m=GRIDS[cell], max_points=caps[0],
            max_voxels=caps[1],
        )  # fmt: skip
        want = hard_voxels_twin(key, offsets, grid.cells, *caps)
        assert torch.equal(got.index, want[0])
        assert torch.equal(got.count, want[1])
        assert torch.equal(got.point, want[2])
        assert torch.equal(got.voxel, want[3])
    rows = torch.randn(len(xyz), 3, generator=seeded(seed))
    rows[rows < -0.5] = -0.5  # ties
    for number, reduction in enumerate(REDUCTIONS):
        got_rows = reduce_rows(rows, groups, reduction)
        want_rows, source = reduce_rows_twin(rows, groups.order, groups.start, number, True)
        torch.testing.assert_close(got_rows, want_rows)
        if number == MAX:
            raw = torch.ops.perception3d.reduce_rows(rows, groups.order, groups.start, MAX, True)
            assert torch.equal(raw[1], source)


@settings(max_examples=30, deadline=None)
@given(counts=st.lists(st.integers(1, 5), max_size=8), channels=st.integers(1, 6))
def test_padding_equals_the_twin(counts: list[int], channels: int) -> None:
    order = torch.randperm(sum(counts) + 3, generator=seeded(channels))[: sum(counts)]
    start = torch.tensor([0, *counts]).cumsum(0)
    rows = torch.randn(sum(counts) + 3, channels, generator=seeded(len(counts)))
    for dtype in (torch.float32, torch.float64, torch.float16):
        got = pad_rows(rows.to(dtype), order, start, 5)
        assert torch.equal(got, pad_rows_twin(rows.to(dtype), order, start, 5))
    assert torch.equal(pad_rows(rows, order, start, 2), pad_rows(rows, order, start, 5)[:, :2])
    wide = rows.double().requires_grad_()
    for slots in (2, 5):
        assert torch.autograd.gradcheck(lambda r, n=slots: pad_rows(r, order, start, n), (wide,))


@pytest.mark.parametrize("channels", [3, 70])
def test_many_rows_are_reduced_alike_on_any_threads(channels: int) -> None:
    generator = seeded(channels)
    key = torch.randint(-1, 4000, (9000,), generator=generator)
    rows = torch.randn(9000, channels, generator=generator)
    groups = group_rows(key)
    for number, reduction in enumerate(REDUCTIONS):
        rows.requires_grad_(reduction == "max")
        want, _ = reduce_rows_twin(rows.detach(), groups.order, groups.start, number, True)
        torch.testing.assert_close(reduce_rows(rows, groups, reduction), want)
        assert_same_bits(lambda way=reduction: reduce_rows(rows.detach(), groups, way))


def test_large_grids_are_hashed_alike() -> None:
    xyz, offsets = cloud([900, 0, 700], 5)
    for cell in ((0.01, 0.01, 0.01), (0.01, 0.008, 5.0)):
        grid = CellGrid.of(RANGE_M, cell)
        assert grid.cells_of_sample > 1 << 21
        key = voxel_keys(xyz, offsets, grid)
        for caps in ((2, 40), (5, 5000)):
            got = torch.ops.perception3d.hard_voxels(key, offsets, grid.cells, *caps)
            want = hard_voxels_twin(key, offsets, grid.cells, *caps)
            assert all(torch.equal(g, w) for g, w in zip(got, want))


def test_keys_beyond_31_bits() -> None:
    """Sample 26 of a grid of 85 million cells: the last cell is number 2.2 billion."""
    grid = CellGrid.of((0.0, 0.0, 0.0, 144.0, 144.0, 4.1), (0.1, 0.1, 0.1))
    assert grid.cells == (1440, 1440, 41)
    xyz = torch.tensor([[0.05, 0.05, 0.05], [143.95, 143.95, 4.05]])
    offsets = torch.tensor([0, *[1] * 26, 2])
    key = voxel_keys(xyz, offsets, grid)
    assert key.tolist() == [0, 27 * 85_017_600 - 1]
    voxels = dynamic_voxels(
        xyz, offsets, range_m=(0, 0, 0, 144.0, 144.0, 4.1), cell_m=(0.1, 0.1, 0.1)
    )
    assert voxels.index.tolist() == [[0, 0, 0, 0], [26, 40, 1439, 1439]]


def test_borders_are_those_of_float32() -> None:
    grid = CellGrid.of((-1.0, -1.0, -1.0, 1.0, 1.0, 1.0), (0.5, 0.5, 0.5))
    low, high, far = torch.tensor(-1.0), torch.tensor(1.0), torch.tensor(9.0)
    x = torch.stack(
        (low, torch.nextafter(low, -far), torch.nextafter(low, far), high,
         torch.nextafter(high, low), torch.tensor(-0.0))
    )  # fmt: skip
    xyz = torch.stack((x, torch.zeros(6), torch.zeros(6)), dim=1)
    key = voxel_keys(xyz, torch.tensor([0, 6]), grid)
    # The largest number below 1, plus 1, rounds to 2 in float32: it has no cell.
    column = torch.where(key < 0, key, key % 4)
    assert column.tolist() == [0, OUTSIDE, 0, OUTSIDE, OUTSIDE, 2]


def test_rejected_points_are_counted() -> None:
    xyz = torch.tensor(
        [[0.0, 0, 0], [torch.nan, 0, 0], [0, torch.inf, 0], [0, 0, -torch.inf], [99, 0, 0],
         [1e30, 0, 0], [99, torch.nan, 0]]
    )  # fmt: skip
    offsets = torch.tensor([0, 7])
    key = voxel_keys(xyz, offsets, CellGrid.of(RANGE_M, (1, 1, 1)))
    assert key.tolist()[1:] == [NOT_FINITE] * 3 + [OUTSIDE] * 2 + [NOT_FINITE]
    hard = hard_voxels(xyz, offsets, range_m=RANGE_M, cell_m=(1, 1, 1), max_points=5, max_voxels=5)
    assert (int(hard.outside), int(hard.not_finite), len(hard.point)) == (2, 4, 1)
    dynamic = dynamic_voxels(xyz, offsets, range_m=RANGE_M, cell_m=(1, 1, 1))
    assert (int(dynamic.outside), int(dynamic.not_finite)) == (2, 4)


def test_old_voxels_fill_after_the_cap() -> None:
    xyz = torch.tensor([[0.5, 0.5, 0.5], [3.5, 0.5, 0.5], [0.6, 0.5, 0.5], [0.7, 0.5, 0.5]])
    voxels = hard_voxels(
        xyz, torch.tensor([0, 4]), range_m=(0, 0, 0, 4, 4, 1), cell_m=(1, 1, 1), max_points=2,
        max_voxels=1,
    )  # fmt: skip
    assert voxels.point.tolist() == [0, 2] and voxels.count.tolist() == [2]
    padded = voxels.padded(xyz, 3)
    assert torch.equal(padded, torch.stack((xyz[0], xyz[2], torch.zeros(3)))[None])


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_reduction_of_types(reduction: str, dtype: torch.dtype) -> None:
    key = torch.tensor([4, -1, 2, 4, 2, 4, -2, 9])
    rows = torch.randn(8, 5, generator=seeded(1)).to(dtype)
    groups = group_rows(key)
    got = reduce_rows(rows, groups, reduction)
    assert got.dtype == dtype
    for group, members in enumerate(([2, 4], [0, 3, 5], [7])):
        wide = rows[members].double()
        want = {"sum": wide.sum(0), "mean": wide.mean(0), "max": wide.max(0).values}[reduction]
        torch.testing.assert_close(got[group].double(), want.to(dtype).double())


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_reduction_gradients(reduction: str) -> None:
    key = torch.tensor([0, 3, -1, 3, 3, 1, 0])
    rows = torch.randn(7, 3, generator=seeded(2), dtype=torch.float64, requires_grad=True)
    groups = group_rows(key)
    assert torch.autograd.gradcheck(lambda r: reduce_rows(r, groups, reduction), (rows,))
    assert_same_bits(lambda: reduce_rows(rows.detach(), groups, reduction))


def test_the_gradient_of_a_maximum_goes_to_the_lowest_row() -> None:
    rows = torch.tensor([[1.0], [2.0], [2.0], [-3.0]], requires_grad=True)
    reduce_rows(rows, group_rows(torch.tensor([0, 0, 0, 1])), "max").sum().backward()
    assert rows.grad is not None and rows.grad.flatten().tolist() == [0, 1, 0, 1]


def test_maximum_of_nan_is_nan() -> None:
    rows = torch.tensor([[1.0], [torch.nan], [2.0]])
    assert reduce_rows(rows, group_rows(torch.tensor([0, 0, 0])), "max").isnan().all()


def test_nothing_to_reduce() -> None:
    groups = group_rows(torch.tensor([-1, -2]))
    assert reduce_rows(torch.zeros(2, 4), groups, "mean").shape == (0, 4)
    assert groups.of_row().tolist() == [-1, -1]
    empty = group_rows(torch.zeros(0, dtype=torch.int64))
    assert reduce_rows(torch.zeros(0, 4), empty, "max").shape == (0, 4)
    assert reduce_rows(torch.zeros(1, 0), group_rows(torch.tensor([5])), "sum").shape == (1, 0)


def test_views_are_taken_as_they_are() -> None:
    xyz, offsets = cloud([300], 3)
    wide = torch.cat((torch.zeros(300, 2), xyz, torch.zeros(300, 1)), dim=1)
    grid = CellGrid.of(RANGE_M, (0.5, 0.5, 0.5))
    assert torch.equal(voxel_keys(wide[:, 2:5], offsets, grid), voxel_keys(xyz, offsets, grid))
    key = voxel_keys(xyz, offsets, grid)
    doubled = torch.stack((key, key), dim=1)[:, 0]
    assert torch.equal(group_rows(doubled).order, group_rows(key).order)
    rows = torch.randn(4, 300).T
    torch.testing.assert_close(
        reduce_rows(rows, group_rows(key), "sum"),
        reduce_rows(rows.contiguous(), group_rows(key), "sum"),
    )


def test_bad_input_is_named() -> None:
    xyz, offsets = cloud([10], 0)
    grid = CellGrid.of(RANGE_M, (1, 1, 1))
    with pytest.raises(ValueError, match=r"xyz must have shape \(P, 3\); found \(10, 2\)"):
        voxel_keys(xyz[:, :2], offsets, grid)
    with pytest.raises(ValueError, match=r"floating-point numbers; found torch.int64"):
        voxel_keys(torch.zeros(2, 3, dtype=torch.int64), offsets, grid)
    with pytest.raises(ValueError, match=r"number of rows, 10; found \[0, 9\]"):
        voxel_keys(xyz, torch.tensor([0, 9]), grid)
    with pytest.raises(ValueError, match=r"offsets must be torch.int64; found torch.int32"):
        voxel_keys(xyz, offsets.int(), grid)
    with pytest.raises(ValueError, match="must be on cpu; found meta"):
        voxel_keys(xyz, offsets.to("meta"), grid)
    with pytest.raises(ValueError, match=r"must be finite; found \(0, 0, 0, inf"):
        CellGrid.of((0, 0, 0, torch.inf, 1, 1), (1, 1, 1))
    with pytest.raises(ValueError, match="more than 16777216 along an axis, or than keys"):
        CellGrid.of((0, 0, 0, 3e6, 3e6, 3e6), (1, 1, 1))
    with pytest.raises(ValueError, match="positive sizes"):
        CellGrid.of(RANGE_M, (1, 0, 1))
    with pytest.raises(ValueError, match="holds no cell"):
        CellGrid.of((0, 0, 0, 1, -1, 1), (1, 1, 1))
    with pytest.raises(ValueError, match="must be positive; found 0, 5"):
        hard_voxels(xyz, offsets, range_m=RANGE_M, cell_m=(1, 1, 1), max_points=0, max_voxels=5)
    with pytest.raises(ValueError, match=r"rows must have shape \(2, C\)"):
        reduce_rows(torch.zeros(3, 1), group_rows(torch.tensor([0, 1])), "sum")
    with pytest.raises(ValueError, match="one of sum, mean, max; found 'median'"):
        reduce_rows(torch.zeros(2, 1), group_rows(torch.tensor([0, 1])), "median")


def test_kernels_do_not_trust_offsets() -> None:
    """Compiled graphs hand over what nobody checked."""
    for module in ("box_nms", "circle_nms", "points_in_boxes"):
        importlib.import_module(f"perception3d_ops.{module}")
    key, bad = torch.zeros(5, dtype=torch.int64), torch.tensor([0, 50_000_000])
    for op, arguments in (
        ("hard_voxels", (key, bad, (4, 4, 4), 2, 2)),
        ("points_in_boxes", (torch.zeros(5, 3), torch.zeros(1, 7), bad, torch.tensor([0, 1]))),
        ("rotated_nms", (torch.zeros(5, 5), torch.zeros(5), key, bad, 0.5, 9, 9)),
        ("circle_nms", (torch.zeros(5, 2), torch.zeros(5), key, bad, 0.5, 9, 9)),
    ):
        with pytest.raises((RuntimeError, IndexError)):
            getattr(torch.ops.perception3d, op)(*arguments)


def test_voxelization_has_the_same_bits_on_any_threads() -> None:
    xyz, offsets = cloud([5000, 0, 4000], 7)
    grid = CellGrid.of(RANGE_M, (0.1, 0.1, 0.2))
    assert_same_bits(lambda: voxel_keys(xyz, offsets, grid))
    key = voxel_keys(xyz, offsets, grid)
    op = torch.ops.perception3d.hard_voxels
    groups, rows = group_rows(key), torch.randn(len(key), 5, generator=seeded(1))
    assert_same_bits(lambda: pad_rows(rows, groups.order, groups.start, 3))
    assert_same_bits(lambda: op(key, offsets, grid.cells, 4, 800))


@pytest.mark.parametrize("name", golden("voxelize_dynamic"))
def test_dynamic_voxels_golden(name: str) -> None:
    case = load_case(name)
    given_ = case.inputs()
    for cloud_name in sorted({role.split(".")[0] for role in given_} - {"batch"}):
        points = given_[f"{cloud_name}.points"]
        voxels = dynamic_voxels(
            points[:, :3], torch.tensor([0, len(points)]),
            range_m=given_[f"{cloud_name}.point_cloud_range"].tolist(),
            cell_m=given_[f"{cloud_name}.voxel_size"].tolist(),
        )  # fmt: skip
        case.check(f"{cloud_name}.coords", voxels.point_index()[:, 1:])
        case.check(f"{cloud_name}.voxel_coords", voxels.index[:, 1:])
        case.check(f"{cloud_name}.point_to_voxel", voxels.voxel_of_point())
        case.check(f"{cloud_name}.count", voxels.groups.count)
        for reduction in ("mean", "max"):
            rows = points.clone().requires_grad_()
            out = voxels.reduce(rows, reduction)
            case.check(f"{cloud_name}.{reduction}", out)
            slope = given_.get(f"{cloud_name}.grad_{reduction}_output")
            if slope is not None:
                out.backward(slope)
                case.check(f"{cloud_name}.grad_{reduction}", rows.grad)
    points, sizes = given_["batch.points"], given_["batch.sizes"]
    voxels = dynamic_voxels(
        points[:, :3], torch.cat((torch.zeros(1, dtype=torch.int64), sizes.long().cumsum(0))),
        range_m=given_["batch.point_cloud_range"].tolist(),
        cell_m=given_["batch.voxel_size"].tolist(),
    )  # fmt: skip
    coords = voxels.point_index()
    coords[:, 0] = torch.arange(len(sizes)).repeat_interleave(sizes.long())
    case.check("batch.coords", coords)
    case.check("batch.mean", voxels.reduce(points, "mean"))
    case.check("batch.voxel_coords", voxels.index)
    case.finish()
