"""PETR's position codes: hand numbers and properties."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from perception3d.fusion.petr_position import FeatureGate, RayPointCode, growing_depths
from perception3d.fusion.petr_sine import padded_cells, view_sine_code
from perception3d.fusion.petr_tokens import PETRTokens
from perception3d.geometry import project_points
from perception3d.nn.position import inverse_sigmoid


def cameras(batch: int, views: int) -> Tensor:
    """Looking along y of ``ref``, in different places."""
    K = torch.tensor([[50.0, 0.0, 48.0], [0.0, 50.0, 32.0], [0.0, 0.0, 1.0]])
    R = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
    T = torch.eye(4, dtype=torch.float64).repeat(batch, views, 1, 1)
    T[..., :3, :3] = (K @ R).double()
    place = torch.arange(batch * views, dtype=torch.float64).view(batch, views)
    T[..., 0, 3] = place * 10.0
    return T


def tokens(*, gated: bool = True, view_feats: int | None = 8) -> PETRTokens:
    torch.manual_seed(0)
    return PETRTokens(
        in_channels=6,
        channels=16,
        rays=RayPointCode(16, hidden=32, num_depths=8),
        gated=gated,
        view_feats=view_feats,
        view_hidden=32,
    )


def test_depths_by_hand() -> None:
    depths = growing_depths(1.0, 61.2, 64)
    want = {0: 1.0, 1: 1.0289, 31: 15.355, 63: 59.348}
    for k, depth in want.items():
        assert float(depths[k]) == pytest.approx(depth, abs=1e-3)
    steps = depths.diff()
    torch.testing.assert_close(
        steps.diff(), torch.full((62,), 2 * 60.2 / (64 * 65)), atol=1e-4, rtol=0
    )
    even = RayPointCode(4, hidden=4, growing=False).depths
    torch.testing.assert_close(even.diff(), torch.full((63,), 60.2 / 64))


def test_logits_end_at_eleven_and_a_half() -> None:
    logits = inverse_sigmoid(torch.tensor([-3.0, 0.0, 1.0, 7.0]))
    torch.testing.assert_close(logits.abs(), torch.full((4,), 11.5129), atol=2e-3, rtol=0)


def test_points_lie_behind_the_corners_of_their_cells() -> None:
    code, matrices = RayPointCode(8, hidden=8, num_depths=5), cameras(1, 2)
    points = code.coordinates(matrices, (4, 6), (64, 96))
    xyz = points.unflatten(2, (5, 3)).movedim(3, -1) * code.extent + code.low
    for view in range(2):
        uv, depth = project_points(xyz[0, view].reshape(-1, 3).double(), matrices[0, view])
        want = torch.stack(torch.meshgrid(torch.arange(4.0), torch.arange(6.0), indexing="ij"), -1)
        torch.testing.assert_close(
            uv.view(5, 4, 6, 2), (16 * want.flip(-1)).double().expand(5, -1, -1, -1),
            atol=1e-2, rtol=1e-4,
        )  # fmt: skip
        torch.testing.assert_close(
            depth.view(5, -1).float(), code.depths[:, None].expand(-1, 24), atol=1e-3, rtol=1e-4
        )


@pytest.mark.parametrize(
    ("image_hw", "cells"),
    [((320, 800), (20, 50)), ((640, 1600), (40, 100)), ((928, 1600), (58, 100)),
     ((256, 704), (16, 44))],
)  # fmt: skip
def test_sizes_of_published_inputs(image_hw: tuple[int, int], cells: tuple[int, int]) -> None:
    assert cells == (image_hw[0] // 16, image_hw[1] // 16)
    valid = torch.tensor([min(image_hw[0], 900), image_hw[1]]).expand(1, 12, 2)
    padded = padded_cells(valid, image_hw, cells)
    rows = padded[0, 0].all(dim=1).nonzero().flatten().tolist()
    assert rows == ([57] if image_hw[0] == 928 else [])
    assert int(padded.sum()) == 12 * 100 * len(rows)


def test_a_cell_is_padding_from_its_first_pixel_on() -> None:
    valid = torch.tensor([[[33, 48], [32, 16]]])
    padded = padded_cells(valid, (64, 64), (4, 4))
    assert (~padded).sum(dim=(-1, -2)).tolist() == [[9, 2]]
    assert not bool(padded[0, 0, 2, 2]) and bool(padded[0, 0, 2, 3]) and bool(padded[0, 1, 2, 0])


def test_sines_by_hand() -> None:
    code = view_sine_code(torch.zeros(1, 2, 3, 4, dtype=torch.bool), 4)
    assert code.shape == (1, 2, 12, 3, 4)
    cell = code[0, 1, :, 0, 2]  # view 2 of 2, row 1 of 3, column 3 of 4
    want = []
    for share in (1.0, 1 / 3, 3 / 4):
        angles = (share * 2 * math.pi, share * 2 * math.pi / 100)
        want += [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
    torch.testing.assert_close(cell, torch.tensor(want), atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="even"):
        view_sine_code(torch.zeros(1, 1, 1, 1, dtype=torch.bool), 3)


def test_sines_stay_finite_where_all_is_padding() -> None:
    assert bool(torch.isfinite(view_sine_code(torch.ones(1, 2, 3, 4, dtype=torch.bool), 4)).all())


def test_the_gate_looks_at_one_cell() -> None:
    torch.manual_seed(0)
    gate, features = FeatureGate(8), torch.randn(1, 2, 8, 3, 4)
    before = gate(features)
    assert bool(((before > 0) & (before < 1)).all())
    features[0, 1, :, 2, 3] += 1
    changed = (gate(features) - before).abs().amax(dim=2) > 1e-6
    assert changed.nonzero().tolist() == [[0, 1, 2, 3]]


def test_position_is_gated_rays_plus_views() -> None:
    model, data = tokens(), torch.randn(2, 3, 6, 4, 6)
    code = model.rig_code(cameras(2, 3), None, (64, 96), (4, 6))
    features = model.features(data)
    assert code.padded is None and code.views is not None and model.gate is not None
    want = code.rays * model.gate(features) + code.views
    torch.testing.assert_close(model.position(features, code), want)
    memory = model.memory(features, code)
    cell = (1 * 4 + 2) * 6 + 5  # view 1, row 2, column 5
    torch.testing.assert_close(memory.data[1, cell], features[1, 1, :, 2, 5])
    torch.testing.assert_close(memory.position[1, cell], want[1, 1, :, 2, 5])


def test_codes_of_unpadded_views_do_not_depend_on_how_that_is_said() -> None:
    model = tokens()
    whole = torch.tensor([64, 96]).expand(2, 3, 2)
    a = model.rig_code(cameras(2, 3), None, (64, 96), (4, 6))
    b = model.rig_code(cameras(2, 3), whole, (64, 96), (4, 6))
    assert b.padded is not None and not bool(b.padded.any())
    assert a.views is not None and b.views is not None
    torch.testing.assert_close(a.views, b.views)


def test_without_view_code_and_gate() -> None:
    model = tokens(gated=False, view_feats=None)
    code = model.rig_code(cameras(1, 2), None, (64, 96), (4, 6))
    assert code.views is None
    assert model.position(torch.randn(1, 2, 16, 4, 6), code) is code.rays
    assert {name.split(".")[0] for name in model.state_dict()} == {"project", "rays"}


def test_codes_of_other_views_are_refused() -> None:
    model = tokens()
    code = model.rig_code(cameras(1, 2), None, (64, 96), (4, 6))
    with pytest.raises(ValueError, match="same views"):
        model.memory(torch.randn(1, 3, 16, 4, 6), code)
