"""Kernel maps against loops over all cells: submanifold, strided, transposed, edges, bad input."""

from __future__ import annotations

import gc
import itertools
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from perception3d_ops.sparse_maps import (
    sort_sites_twin,
    strided_map_twin,
    submanifold_table_twin,
    taps,
    turn_table_twin,
)
from perception3d_ops.sparse_sites import SparseSites

from tests.ops.op_inputs import assert_same_bits, seeded, sites

Triple = tuple[int, int, int]
SIZES = st.tuples(*[st.integers(1, 3)] * 3)
ODD = st.tuples(*[st.sampled_from((1, 3, 5))] * 3)


def rows_of(places: SparseSites) -> dict[tuple[int, ...], int]:
    return {tuple(cell): row for row, cell in enumerate(places.index.tolist())}


@settings(max_examples=40, deadline=None)
@given(
    share=st.sampled_from((0.0, 0.3, 1.0)), kernel=ODD, dilation=SIZES, seed=st.integers(0, 1000),
    empty=st.sampled_from((None, 0, 1, 2)),
)  # fmt: skip
def test_submanifold_tables(
    share: float, kernel: Triple, dilation: Triple, seed: int, empty: int | None
) -> None:
    places = sites((5, 6, 7), share, 3, seed, empty=empty)
    rows = rows_of(places)
    table = places.submanifold(kernel, dilation).table
    for number, tap in enumerate(taps(kernel)):
        for row, (sample, *cell) in enumerate(places.index.tolist()):
            moved = [c + (t - k // 2) * d for c, t, k, d in zip(cell, tap, kernel, dilation)]
            assert int(table[number, row]) == rows.get((sample, *moved), -1)
    twin = submanifold_table_twin(places.index, places.shape, kernel, dilation)
    assert table.dtype == torch.int32 and torch.equal(table, twin)
    assert places.submanifold(kernel, dilation).table is table


@settings(max_examples=60, deadline=None)
@given(
    share=st.sampled_from((0.0, 0.3, 1.0)), kernel=SIZES, stride=SIZES,
    padding=st.tuples(*[st.integers(0, 2)] * 3), dilation=st.sampled_from(((1, 1, 1), (2, 1, 1))),
    transposed=st.booleans(), seed=st.integers(0, 1000), empty=st.sampled_from((None, 0, 1)),
)  # fmt: skip
def test_strided_maps(
    share: float, kernel: Triple, stride: Triple, padding: Triple, dilation: Triple,
    transposed: bool, seed: int, empty: int | None,
) -> None:  # fmt: skip
    places = sites((5, 6, 7), share, 2, seed, empty=empty)
    try:
        found = places.strided(kernel, stride, padding, dilation, transposed=transposed)
    except ValueError as error:
        assert "has no output" in str(error)
        return
    fed: dict[tuple[int, ...], dict[int, int]] = {}
    for number, tap in enumerate(taps(kernel)):
        for row, (sample, *cell) in enumerate(places.index.tolist()):
            to = []
            for c, t, s, p, d, n in zip(cell, tap, stride, padding, dilation, found.target.shape):
                if transposed:
                    o, rest = c * s - p + t * d, 0
                else:
                    o, rest = divmod(c + p - t * d, s)
                to.append(o if rest == 0 and 0 <= o < n else -1)
            if min(to) >= 0:
                fed.setdefault((sample, *to), {})[number] = row
    assert [tuple(cell) for cell in found.target.index.tolist()] == sorted(fed)
    count = len(taps(kernel))
    want = [[fed[cell].get(tap, -1) for cell in sorted(fed)] for tap in range(count)]
    assert found.table.tolist() == want
    assert found.back is not None and found.back.shape == (count, len(places))
    for tap, row in itertools.product(range(count), range(len(places))):
        to = int(found.back[tap, row])
        assert to == -1 or int(found.table[tap, to]) == row
    assert int((found.back >= 0).sum()) == int((found.table >= 0).sum())
    assert torch.equal(found.back, turn_table_twin(found.table, len(places)))
    twin = strided_map_twin(
        places.index,
        2,
        places.shape,
        found.target.shape,
        kernel,
        stride,
        padding,
        dilation,
        transposed,
    )
    assert all(torch.equal(a, b) for a, b in zip((found.target.index, found.table), twin))


def test_maps_are_made_once_and_go_with_their_sites() -> None:
    """At once, without Python's collector of circles: a step's maps take a hundred megabytes."""
    places = sites((5, 9, 9), 0.3, 2, 1)
    found = places.strided((3, 3, 3), (2, 2, 2), (1, 1, 1))
    again = places.strided((3, 3, 3), (2, 2, 2), (1, 1, 1))
    assert again.table is found.table and again.target is found.target
    assert found.back is not None and again.back is found.back
    gone = [weakref.ref(t) for t in (found.table, found.back, found.target.index)]
    gone.append(weakref.ref(places.submanifold((3, 3, 3)).table))
    gc.disable()
    try:
        del places, found, again
        assert [ref() for ref in gone] == [None] * 4
    finally:
        gc.enable()


def test_an_inverse_knows_its_counterpart() -> None:
    found = sites((5, 9, 9), 0.3, 2, 1).strided((3, 3, 3), (2, 2, 2), (1, 1, 1))
    assert found.inverse().back is found.table


def test_a_table_that_names_more_inputs_than_there_are() -> None:
    table = torch.tensor([[0, -1, 2], [1, 5, -1]], dtype=torch.int32)
    with pytest.raises(RuntimeError, match="a table of 3 inputs names 5"):
        torch.ops.perception3d.turn_table(table, 3)
    assert torch.ops.perception3d.turn_table(table, 6)[1].tolist() == [-1, 0, -1, -1, -1, 1]


def test_a_submanifold_table_mirrors_itself() -> None:
    table = sites((4, 9, 9), 0.4, 2, 3).submanifold((3, 3, 3)).table
    pairs = {(k, i, j) for k, row in enumerate(table.tolist()) for j, i in enumerate(row) if i >= 0}
    assert pairs == {(26 - k, j, i) for k, i, j in pairs}


def test_neighbours_do_not_wrap() -> None:
    """The last cell of a row, plane and sample beside the first of the next."""
    for pair in (
        [[0, 0, 0, 6], [0, 0, 1, 0]],
        [[0, 0, 5, 6], [0, 1, 0, 0]],
        [[0, 4, 5, 6], [1, 0, 0, 0]],
    ):
        places, _ = SparseSites.of(torch.tensor(pair), (5, 6, 7), 2)
        for kernel in ((3, 3, 3), (5, 5, 5)):
            assert int((places.submanifold(kernel).table >= 0).sum()) == 2


def test_sites_beyond_31_bits() -> None:
    """Sample 26 of a grid of 85 million cells: its keys exceed 2^31."""
    shape = (41, 1440, 1440)
    index = torch.tensor([[0, 0, 0, 0], [26, 40, 1439, 1438], [26, 40, 1439, 1439]])
    places, order = SparseSites.of(index, shape, 27)
    assert order is None
    table = places.submanifold((3, 3, 3)).table
    assert table[13].tolist() == [0, 1, 2] and table[14].tolist() == [-1, 2, -1]
    assert table[12].tolist() == [-1, -1, 1] and int((table >= 0).sum()) == 5
    found = places.strided((3, 3, 3), (2, 2, 2), (1, 1, 1))
    assert found.target.shape == (21, 720, 720)
    assert found.target.index.tolist() == [[0, 0, 0, 0], [26, 20, 719, 719]]


def test_large_grids_cost_no_more_than_their_sites() -> None:
    """2^34 output cells: nothing is made for each of them."""
    generator = seeded(4)
    index = torch.stack(
        [torch.randint(n, (50,), generator=generator) for n in (7, 41, 9000, 9000)], 1
    )
    places, _ = SparseSites.of(torch.unique(index, dim=0), (41, 9000, 9000), 7)
    found = places.strided((3, 3, 3), (1, 1, 1), (1, 1, 1))
    assert 7 * 41 * 9000 * 9000 > 1 << 34 and len(found.target) > 1000
    twin = strided_map_twin(
        places.index,
        7,
        places.shape,
        found.target.shape,
        (3, 3, 3),
        (1, 1, 1),
        (1, 1, 1),
        (1, 1, 1),
        False,
    )
    assert torch.equal(found.target.index, twin[0]) and torch.equal(found.table, twin[1])


def test_sites_in_any_order() -> None:
    sorted_sites = sites((4, 5, 6), 0.5, 2, 1)
    shuffle = torch.randperm(len(sorted_sites), generator=seeded(0))
    again, order = SparseSites.of(sorted_sites.index[shuffle], (4, 5, 6), 2)
    assert torch.equal(again.index, sorted_sites.index)
    assert order is not None and torch.equal(shuffle[order], torch.arange(len(sorted_sites)))


@settings(max_examples=40, deadline=None)
@given(count=st.integers(0, 40), high=st.integers(2, 9), seed=st.integers(0, 1000))
def test_sorting_equals_the_twin(count: int, high: int, seed: int) -> None:
    """Cells outside and cells that occur again among them."""
    index = torch.randint(-1 if high == 2 else 0, high, (count, 4), generator=seeded(seed))
    op = torch.ops.perception3d.sort_sites
    for got, want in zip(op(index, (9, 8, 8), 7), sort_sites_twin(index, (9, 8, 8), 7)):
        assert got.dtype == want.dtype and torch.equal(got, want)


def test_maps_have_the_same_bits_on_any_threads() -> None:
    places = sites((10, 60, 60), 0.3, 2, 9)
    op = torch.ops.perception3d
    assert_same_bits(lambda: op.submanifold_table(places.index, places.shape, (3,) * 3, (1,) * 3))
    assert_same_bits(
        lambda: op.strided_map(
            places.index, 2, places.shape, (5, 30, 30), *[(2,) * 3] * 2, (0,) * 3, (1,) * 3, False
        )
    )


def test_bad_sites_are_named() -> None:
    good = torch.tensor([[0, 0, 0, 0], [0, 1, 2, 3]])
    with pytest.raises(ValueError, match=r"1 sites occur more than once, such as \[0, 1, 2, 3\]"):
        SparseSites.of(torch.cat((good, good[1:])), (2, 3, 4), 1)
    with pytest.raises(ValueError, match=r"1 of 2 sites lie outside .* \[0, 1, 2, 3\]"):
        SparseSites.of(good, (2, 3, 3), 1)
    with pytest.raises(ValueError, match="outside of batch"):
        SparseSites.of(torch.tensor([[1, 0, 0, 0]]), (2, 3, 3), 1)
    with pytest.raises(ValueError, match=r"outside of batch x grid .*4294967297"):
        SparseSites.of(torch.tensor([[0, 0, 0, 2**32 + 1]]), (4, 4, 4), 1)
    with pytest.raises(ValueError, match=r"index must have shape \(N, 4\); found \(2, 3\)"):
        SparseSites.of(good[:, 1:], (2, 3, 4), 1)
    with pytest.raises(ValueError, match=r"index must be torch.int32 or torch.int64"):
        SparseSites.of(good.float(), (2, 3, 4), 1)
    with pytest.raises(ValueError, match="three positive sizes"):
        SparseSites.of(good, (2, 3, 0), 1)
    places, _ = SparseSites.of(good, (2, 3, 4), 1)
    with pytest.raises(ValueError, match=r"odd sizes; found \(3, 2, 3\)"):
        places.submanifold((3, 2, 3))
    for bad in ({"kernel": (-1, 1, 1)}, {"stride": (0, 1, 1)}, {"dilation": (1, 1, -1)}):
        settings_ = {"kernel": (3, 3, 3), "stride": (1, 1, 1), "padding": (1, 1, 1)} | bad
        with pytest.raises(ValueError, match=f"{next(iter(bad))} must be three numbers"):
            places.strided(**settings_, transposed=True)
    with pytest.raises(ValueError, match="dilation must be three numbers of 1 or more"):
        places.submanifold((3, 3, 3), (1, 1, -1))
    far = SparseSites(torch.tensor([[0, 1, 1, 10_000_000]], dtype=torch.int32), (4, 4, 4), 1)
    with pytest.raises((RuntimeError, IndexError), match=r"outside of batch x grid|out of"):
        far.strided((3, 3, 3), (2, 2, 2), (1, 1, 1))
    with pytest.raises(ValueError, match="has no output with kernel"):
        places.strided((3, 3, 3), (1, 1, 1), (0, 0, 0))
