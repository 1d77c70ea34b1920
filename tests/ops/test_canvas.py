"""Rows to a dense map and back."""

from __future__ import annotations

import pytest
import torch
from perception3d_ops.canvas import from_canvas, to_canvas

from perception3d.structures import BEVGrid, Pillars
from tests.ops.op_inputs import seeded


def test_there_and_back_with_gradients() -> None:
    rows = torch.randn(6, 3, generator=seeded(0), dtype=torch.float64, requires_grad=True)
    cell = torch.tensor([7, 0, 3, 9, 1, 4])
    canvas = to_canvas(rows, cell, 10)
    assert torch.equal(from_canvas(canvas, cell), rows)
    assert canvas.detach()[[2, 5, 6, 8]].eq(0).all()
    assert torch.autograd.gradcheck(lambda r: to_canvas(r, cell, 10), (rows,))
    twice = torch.tensor([2, 2, 0])
    assert torch.autograd.gradcheck(
        lambda c: from_canvas(c, twice), (canvas.detach().requires_grad_(),)
    )
    assert to_canvas(rows[:0], cell[:0], 4).shape == (4, 3)


def test_pillars_stand_at_their_row_and_column() -> None:
    grid = BEVGrid((0.0, 4.0), (0.0, 2.0), (-1.0, 1.0), 1.0)
    index = torch.tensor([[0, 1, 3], [1, 0, 2]])
    pillars = Pillars(index, torch.tensor([[1.0, 2.0], [3.0, 4.0]]), grid, 2)
    dense = pillars.dense()
    assert dense.shape == (2, 2, 2, 4) and dense.count_nonzero() == 4
    assert dense[0, :, 1, 3].tolist() == [1, 2] and dense[1, :, 0, 2].tolist() == [3, 4]
    assert torch.equal(pillars.read(dense * 2).features, pillars.features * 2)


def test_bad_cells_are_named() -> None:
    rows, cell = torch.zeros(2, 3), torch.tensor([0, 5])
    with pytest.raises(IndexError):
        to_canvas(rows, cell, 5)
    with pytest.raises(IndexError):
        from_canvas(rows, cell)
    with pytest.raises(ValueError, match=r"cell must have shape \(2\); found \(1,\)"):
        to_canvas(rows, cell[:1], 6)
    with pytest.raises(ValueError, match=r"cell must be torch\.int64; found torch\.int32"):
        from_canvas(rows, cell.int())
