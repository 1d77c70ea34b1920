"""Map queries on CMT's memory: each stands, reads and draws at one place."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from perception3d.heads.query_decoder import QueryDecoder
from perception3d.heads.segmentation import PLACED_CELLS, SegmentationHead
from perception3d.heads.token_maps import GROUND_Z_M, TokenMaps
from perception3d.structures import BEVFeatures, BEVGrid, ImageFeatures
from tests.models.small_cmt import small_batch

#: 24 m x 24 m: 3 x 3 queries that draw 4 x 4 cells of 2 m each.
GRID = BEVGrid((-12.0, 12.0), (-12.0, 12.0), (-5.0, 3.0), 2.0)
WIDE = BEVGrid((-16.0, 16.0), (-16.0, 16.0), (-5.0, 3.0), 1.0)
CHANNELS = 8


class Sum(nn.Module):
    """Stands for the convolutions: shows what was read, in one channel."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ny, nx) -> (B, 1, ny, nx)."""
        return x.sum(dim=1, keepdim=True)


def maps(*, bev_channels: int | None = 2, cameras: bool = False) -> TokenMaps:
    torch.manual_seed(0)
    decoder = QueryDecoder(channels=CHANNELS, layers=1, heads=2, hidden=16, dropout=0.0)
    head = SegmentationHead(
        decoder=decoder, tasks={"road": 1.0}, side=3, widths=(8, 4), bev_channels=1
    )
    made = TokenMaps(
        head=head, grid=GRID, channels=1, bev_channels=bev_channels,
        image_channels=4 if cameras else None, lifted=2,
    )  # fmt: skip
    made.join = Sum()  # type: ignore[assignment]
    return made.eval()


def no_code(places: Tensor) -> Tensor:
    return torch.zeros(*places.shape[:2], CHANNELS)


@pytest.mark.parametrize("place", [(9.0, -9.0), (-9.0, 1.0), (0.5, 9.5)])
def test_a_query_starts_from_the_place_that_it_draws(place: tuple[float, float]) -> None:
    made = maps()
    ground = made.ground[:, :2]
    query = int((ground - torch.tensor(place)).norm(dim=1).argmin())
    seen = torch.zeros(1, 2, WIDE.ny, WIDE.nx)
    cell, _ = WIDE.index(torch.tensor([place]))
    seen[0, :, cell[0, 0], cell[0, 1]] = 1.0
    nothing = torch.zeros(1, 5, CHANNELS)
    batch = small_batch(batch=1, points=(3,), boxes=(1,))
    with torch.no_grad():
        # What the queries start from changes at one of them only.
        parts = [
            made.head._content(made.join(made._read(BEVFeatures(data, WIDE))))
            for data in (torch.zeros_like(seen), seen)
        ]
        assert parts[0] is not None and parts[1] is not None
        changed = (parts[1] - parts[0]).abs().sum(dim=2)[0] > 0
        assert changed.nonzero().flatten().tolist() == [query]
        # And what that query draws lies around the same place.
        features = torch.zeros(1, 1, 9, CHANNELS)
        before = made.head.draw(features)
        features[0, 0, query] = 5.0
        drawn = (made.head.draw(features) - before).abs()[0, 0, 0]
        centers = GRID.centers_m()
        inside = ((centers - torch.tensor(place)).abs() < 8).all(dim=-1)
        assert drawn[inside].mean() > 3 * drawn[~inside].mean()
        logits = made(nothing, nothing, BEVFeatures(seen, WIDE), None, batch, no_code).logits
    assert logits.shape == (1, 1, 1, GRID.ny, GRID.nx)


def test_places_by_hand() -> None:
    made = maps()
    # PETR's layout: the first query at the highest x and y; the second one lower in y.
    want = torch.tensor([[8.0, 8.0, GROUND_Z_M], [8.0, 0.0, GROUND_Z_M], [8.0, -8.0, GROUND_Z_M]])
    torch.testing.assert_close(made.ground[:3], want)
    torch.testing.assert_close(made.ground[3], torch.tensor([0.0, 8.0, GROUND_Z_M]))
    assert (made.start.nx, made.start.cell_m) == (3 * PLACED_CELLS, 2.0)


def test_codes_of_places_are_asked_for_and_count() -> None:
    made = maps()
    asked = []

    def code(places: Tensor) -> Tensor:
        asked.append(places)
        return torch.ones(*places.shape[:2], CHANNELS)

    memory, position = torch.randn(2, 1, 7, CHANNELS).unbind(0)
    seen = BEVFeatures(torch.rand(1, 2, WIDE.ny, WIDE.nx), WIDE)
    batch = small_batch(batch=1, points=(3,), boxes=(1,))
    with torch.no_grad():
        with_code = made(memory, position, seen, None, batch, code).logits
        without = made(memory, position, seen, None, batch, no_code).logits
    assert torch.equal(asked[0], made.ground[None]) and not torch.allclose(with_code, without)


def test_an_absent_sensor_leaves_zeros() -> None:
    made = maps(cameras=True)
    batch = small_batch(batch=1, points=(3,), boxes=(1,))
    nothing = torch.zeros(1, 5, CHANNELS)
    seen = BEVFeatures(torch.zeros(1, 2, WIDE.ny, WIDE.nx), WIDE)
    dark = ImageFeatures(torch.zeros(1, 3, 4, 2, 3), 16)
    assert made.lift is not None
    nn.init.zeros_(made.lift.reduce.bias)
    with torch.no_grad():
        absent = made(nothing, nothing, None, None, batch, no_code).logits
        zeros = made(nothing, nothing, seen, dark, batch, no_code).logits
    assert torch.equal(absent, zeros)


def test_the_ground_is_what_images_are_read_at() -> None:
    """A cell ahead of a camera is found below its horizon; none behind."""
    made = maps(bev_channels=None, cameras=True)
    batch = small_batch(batch=1, points=None, boxes=(1,))
    assert made.lift is not None and made.lift.heights_m == (GROUND_Z_M,)
    nn.init.constant_(made.lift.reduce.weight, 1.0)
    nn.init.zeros_(made.lift.reduce.bias)
    data = torch.zeros(1, 3, 4, 2, 3)
    data[:, 0, :, 1] = 1.0  # the lower half of the first camera, which looks along x
    with torch.no_grad():
        lifted = made.lift(ImageFeatures(data, 16), batch, made.start).sum(dim=1)[0]
    lit = made.points[lifted > 0]
    assert len(lit) > 3 and bool((lit[:, 0] > lit[:, 1].abs()).all())
