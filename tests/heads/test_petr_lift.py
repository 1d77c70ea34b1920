"""Images lifted with their depths: hints of flat ground, places in the map, both frames alike."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from perception3d.heads.heatmap_targets import ImageTargets
from perception3d.heads.petr_depth import (
    DepthBranch,
    Seen,
    depth_bins,
    depth_edges,
    ground_hints,
    image_losses,
)
from perception3d.heads.petr_lift import DepthLift, TemporalLift
from perception3d.structures import BEVGrid, CameraRig, ImageFeatures
from tests.models.small_cmt import small_batch

GRID = BEVGrid((-8.0, 8.0), (-8.0, 8.0), (-5.0, 3.0), 1.0)
HW = (64, 96)


def level_rig(height_m: float = 2.0, yaw_rad: float = 0.0) -> CameraRig:
    """A camera that looks along y of ``ref`` (turned by yaw about z), ``height_m`` above nothing.

    Its axes: x to the right, y down, z ahead; focal length 48, principal point in the middle.
    """
    K = torch.tensor([[48.0, 0.0, 48.0], [0.0, 48.0, 32.0], [0.0, 0.0, 1.0]]).double()
    c, s = math.cos(yaw_rad), math.sin(yaw_rad)
    cam_R_ref = torch.tensor([[c, s, 0.0], [0.0, 0.0, -1.0], [-s, c, 0.0]]).double()
    cam_T_ref = torch.eye(4).double()
    cam_T_ref[:3, :3] = cam_R_ref
    return CameraRig(
        ("CAM_FRONT",),
        K[None, None],
        cam_T_ref[None, None],
        torch.tensor([[HW]]),
        torch.eye(3).double()[None, None],
        torch.zeros(1, 1, dtype=torch.int64),
    )


def test_bins_grow_from_near_to_far() -> None:
    edges = depth_edges(1.0, 7.0, 3)  # delta = 6 / (3 4) = 0.5: 1, 1 + 1, 1 + 3, 1 + 6
    assert edges.tolist() == [1.0, 2.0, 4.0, 7.0]


@pytest.mark.parametrize("yaw", [0.0, 0.6, math.pi])
def test_hints_are_the_depth_of_flat_ground(yaw: float) -> None:
    hints = ground_hints(level_rig(yaw_rad=yaw), HW, (8, 12), 1.5)[0, 0]
    # The cell of row 5 spans pixels 40 to 48: its middle is 12 below the horizon, a slope of 1 / 4.
    assert hints[1, 5, 3].item() == pytest.approx(0.25)
    assert 1.5 / hints[0, 5, 3].item() == pytest.approx(6.0)  # 1.5 m above the ground: 6 m away
    assert (hints[0, :4] == 0).all()  # above the horizon
    assert hints[2].unique().item() == pytest.approx(math.log(48 / 300))


def test_hints_do_not_depend_on_how_the_scene_was_turned_or_scaled() -> None:
    rig = level_rig()
    turned = level_rig(yaw_rad=0.4)
    scaled = replace(
        rig, cam_SE3_ref=rig.cam_SE3_ref @ torch.diag(torch.tensor([2.0, 2, 2, 1])).double()
    )
    for other in (turned, scaled):
        torch.testing.assert_close(
            ground_hints(other, HW, (8, 12), 1.5), ground_hints(rig, HW, (8, 12), 1.5)
        )


class Certain(DepthBranch):
    """Every pixel shows 1 at one depth."""

    def __init__(self, metres: float) -> None:
        super().__init__(
            channels=1, hidden=1, lifted=1, num_classes=1, edges_m=depth_edges(1.0, 9.0, 7)
        )
        self.metres = metres

    def forward(self, features: Tensor, rig: CameraRig, image_hw: tuple[int, int]) -> Seen:
        samples, views, _, h, w = features.shape
        bin_ = int(torch.bucketize(torch.tensor(self.metres), self.edges_m)) - 1
        depth = torch.full((samples, views, self.bins, h, w), -50.0)
        depth[:, :, bin_] = 50.0
        ones = torch.ones(samples, views, 2, h, w)
        return Seen(depth, ones, ones)


def test_a_certain_depth_fills_the_cells_of_that_depth_alone() -> None:
    lift = DepthLift(depth=Certain(5.0), grid=GRID, heights_m=(0.0,))
    edges = lift.depth.edges_m.tolist()  # steps of 2 / 7 (k + 1): the bin of 5 m is 3.86 to 5.29 m
    assert edges[4] == pytest.approx(1 + 20 / 7) and edges[5] == pytest.approx(1 + 30 / 7)
    images = ImageFeatures(torch.zeros(1, 1, 1, 8, 12), 8)
    found, _ = lift(images, level_rig(), HW)
    ahead = found[0, 0, :, 8]  # the column at x = 0.5; rows are y = -7.5 ... 7.5
    width = edges[5] - edges[4]
    # Cells of depths 3.5, 4.5, 5.5 hold what of the bin lies within half a metre of them.
    for row, share in ((11, 4 - edges[4]), (12, 1.0), (13, edges[5] - 5)):
        assert ahead[row].item() == pytest.approx(share / width, abs=1e-4)
    assert ahead[:11].abs().max().item() < 1e-6 and ahead[14:].abs().max().item() < 1e-6
    # To the side of the image, 45 degrees, nothing is seen.
    assert found[0, 0, 12, 14].item() == 0.0


def temporal(frames: int, maps: int, *, earlier_gradient: bool = True) -> TemporalLift:
    torch.manual_seed(0)
    depth = DepthBranch(
        channels=6, hidden=8, lifted=4, num_classes=3, edges_m=depth_edges(1.0, 12.0, 6)
    )
    return TemporalLift(
        lift=DepthLift(depth=depth, grid=GRID),
        frames=frames,
        maps=maps,
        channels=8,
        earlier_gradient=earlier_gradient,
    )


def rigs_of(*rigs: CameraRig) -> CameraRig:
    """One rig of several; names do not matter here."""
    whole = rigs[0]
    for number, rig in enumerate(rigs[1:]):
        whole = whole.beside(rig, f" {number}")
    return whole


def test_a_repeated_frame_is_the_model_without_an_earlier_one() -> None:
    one, two = temporal(1, 2).eval(), temporal(2, 2).eval()
    two.load_state_dict(one.state_dict())
    features = torch.randn(1, 1, 6, 8, 12)
    single = one(ImageFeatures(features, 8), level_rig(), HW)
    pair = two(
        ImageFeatures(features.repeat(1, 2, 1, 1, 1), 8), rigs_of(level_rig(), level_rig()), HW
    )
    assert torch.equal(single.map.data, pair.map.data)


@pytest.mark.parametrize("learned", [True, False])
def test_gradient_of_the_earlier_frame(learned: bool) -> None:
    model = temporal(2, 2, earlier_gradient=learned)
    features = torch.randn(1, 2, 6, 8, 12, requires_grad=True)
    model(
        ImageFeatures(features, 8), rigs_of(level_rig(), level_rig(1.0)), HW
    ).map.data.sum().backward()
    assert features.grad is not None and features.grad[:, 0].abs().sum() > 0
    assert bool(features.grad[:, 1].abs().sum() > 0) == learned


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="2 frames make as many maps to join; found 1"):
        temporal(2, 1)
    with pytest.raises(ValueError, match="3 views are not those of 2 frames"):
        temporal(2, 2)(
            ImageFeatures(torch.zeros(1, 3, 6, 8, 12), 8), rigs_of(*[level_rig()] * 3), HW
        )


def test_a_centre_decides_before_a_point() -> None:
    shape = (1, 1, 1, 4)
    targets = ImageTargets(
        heat=torch.zeros(1, 1, 2, 1, 4),
        is_center=torch.tensor([True, False, False, False]).view(shape),
        center_log_depth=torch.tensor([5.0, 1.0, 1.0, 1.0]).log().view(shape),
        center_shift=torch.zeros(1, 1, 2, 1, 4),
        has_point=torch.tensor([True, True, True, False]).view(shape),
        point_log_depth=torch.tensor([1.5, 1.5, 90.0, 1.0]).log().view(shape),
    )
    # Bins 1-2, 2-4, 4-7 m: the centre's, the point's, beyond the last, unknown.
    assert depth_bins(targets, depth_edges(1.0, 7.0, 3)).flatten().tolist() == [2, 0, -1, -1]


def test_losses_are_those_of_the_current_views() -> None:
    batch = small_batch(points=(300,), boxes=(3,), batch=1)
    assert batch.images is not None and batch.rig is not None
    views, edges = len(batch.rig), depth_edges(1.0, 20.0, 5)
    h, w = batch.images.shape[-2] // 16, batch.images.shape[-1] // 16
    seen = Seen(
        torch.zeros(1, views, 5, h, w),
        torch.zeros(1, views, 10, h, w),
        torch.zeros(1, views, 1, h, w),
    )
    doubled = replace(
        batch,
        images=batch.images.repeat(1, 2, 1, 1, 1),
        rig=batch.rig.beside(batch.rig, " earlier"),
    )
    terms, of_pair = image_losses(seen, batch, edges), image_losses(seen, doubled, edges)
    assert terms == of_pair
    # Equal scores for five bins: the cross-entropy is ln 5.
    assert terms["image_depth"].item() == pytest.approx(math.log(5), abs=1e-5)
