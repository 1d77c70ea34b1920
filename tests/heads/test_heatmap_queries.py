"""Heat-map queries: the peaks that a perfect heat map shows become the boxes' centres."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn

from perception3d.heads.heatmap import REFERENCE_FOCAL_PX, HeatmapQueries, _guess_loss
from perception3d.heads.heatmap_targets import BevTargets, bev_targets, image_targets
from perception3d.losses.gaussian import draw_gaussians, gaussian_radius
from perception3d.structures import (
    SE3,
    Batch,
    BEVFeatures,
    BEVGrid,
    Boxes3D,
    CameraRig,
    ImageFeatures,
)

GRID = BEVGrid((-32.0, 32.0), (-32.0, 32.0), (-5.0, 3.0), 2.0)
CAR, PEDESTRIAN = 0, 8


class Fixed(nn.Module):
    """Stands for a branch that has learned to return just these maps."""

    def __init__(self, heat: Tensor, guess: Tensor) -> None:
        super().__init__()
        self.maps = logits_of(heat), guess

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return self.maps


def two_boxes() -> Boxes3D:
    """A car 15 m ahead and a pedestrian 8 m ahead to the left, in a frame with y forward."""
    return Boxes3D.build(
        torch.tensor([[1.0, 15.0, -1.0], [-3.0, 8.0, -0.8]]),
        torch.tensor([[4.5, 1.9, 1.6], [0.7, 0.7, 1.8]]),
        torch.tensor([math.pi / 2, 0.0]),
        torch.tensor([CAR, PEDESTRIAN]),
    )


def batch(points: Tensor | None = None) -> Batch:
    """One sample with a camera that looks along +y and one that looks along -y."""
    K = torch.tensor([[300.0, 0, 200], [0, 300, 112], [0, 0, 1]], dtype=torch.float64)
    forward = torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]], dtype=torch.float64)
    backward = torch.diag(torch.tensor([-1.0, 1, -1], dtype=torch.float64)) @ forward
    pose = torch.eye(4, dtype=torch.float64).repeat(2, 1, 1)
    pose[0, :3, :3], pose[1, :3, :3] = forward, backward
    rig = CameraRig(
        ("CAM_FRONT", "CAM_BACK"),
        K.repeat(1, 2, 1, 1),
        pose[None],
        torch.tensor([[[224, 400], [224, 400]]]),
        torch.eye(3, dtype=torch.float64).repeat(1, 2, 1, 1),
        torch.zeros(1, 2, dtype=torch.int64),
    )
    return Batch(
        tokens=("a",),
        time_ns=torch.zeros(1, dtype=torch.int64),
        global_SE3_ref=(SE3.identity(),),
        ego_SE3_ref=(SE3.identity(),),
        sensor_present=torch.ones(1, 2, dtype=torch.bool),
        points=points,
        offsets=None if points is None else torch.tensor([0, len(points)]),
        images=torch.zeros(1, 2, 3, 224, 400, dtype=torch.uint8),
        rig=rig,
        boxes=(two_boxes(),),
    )


def logits_of(heat: Tensor) -> Tensor:
    return torch.logit(heat.clamp(1e-4, 1 - 1e-4))


def test_bev_peaks_are_the_box_centres() -> None:
    source = HeatmapQueries(channels=8, grid=GRID, bev_queries=2).eval()
    targets = bev_targets((two_boxes(),), GRID, (10, 32, 32), min_radius=1)
    assert targets.heat.shape == (1, 10, 32, 32)
    assert int((targets.heat == 1).sum()) == 2
    guess = torch.zeros(1, 10, 32 * 32)
    guess[targets.sample, :, targets.cell] = torch.nan_to_num(targets.guess)
    source.bev = Fixed(targets.heat, guess.view(1, 10, 32, 32))
    features = torch.randn(1, 8, 32, 32)
    queries = source(BEVFeatures(features, GRID), None, batch())
    low, high = torch.tensor(GRID.range_m[:3]), torch.tensor(GRID.range_m[3:])
    xyz = queries.reference[0].detach() * (high - low) + low
    order = xyz[:, 1].argsort(descending=True)
    assert torch.allclose(xyz[order], two_boxes().center_m, atol=1e-4)
    assert queries.content is not None
    own = targets.guess[(targets.cell == 23 * 32 + 16)][0]
    expected = source.bev_content(features[0, :, 23, 16]) + source.class_content.weight[CAR]
    expected = expected + source.box_content(torch.nan_to_num(own))
    assert torch.allclose(queries.content[0, order[0]], expected, atol=1e-5)


def test_image_peaks_are_lifted_to_the_box_centres() -> None:
    source = HeatmapQueries(channels=8, grid=GRID, bev_queries=0, image_queries=2).eval()
    one = batch()
    targets = image_targets(one, (10, 14, 25))
    assert targets.is_center[0, 1].sum() == 0, "nothing is behind the car"
    assert targets.is_center[0, 0].sum() == 2
    log_depth = targets.center_log_depth[0] - math.log(300.0 / REFERENCE_FOCAL_PX)
    source.image = Fixed(
        targets.heat[0], torch.cat((targets.center_shift[0], log_depth[:, None]), dim=1)
    )
    queries = source(None, ImageFeatures(torch.randn(1, 2, 8, 14, 25), 16), one)
    low, high = torch.tensor(GRID.range_m[:3]), torch.tensor(GRID.range_m[3:])
    xyz = queries.reference[0] * (high - low) + low
    xyz = xyz[xyz[:, 1].argsort(descending=True)]
    assert torch.allclose(xyz, two_boxes().center_m, atol=1e-3)


def test_lidar_points_supervise_depth_where_no_centre_is() -> None:
    points = torch.tensor([[5.0, 12.0, 0.0, 9.0, 0.0], [5.0, 20.0, 0.0, 9.0, 0.3]])
    targets = image_targets(batch(points), (10, 14, 25))
    assert int(targets.has_point.sum()) == 1, "old sweeps are left out"
    assert float(targets.point_log_depth.max()) == pytest.approx(math.log(12.0))


def test_union_of_sensors_loss_and_gradients() -> None:
    source = HeatmapQueries(channels=8, grid=GRID, bev_queries=20, image_queries=10)
    one = batch(torch.rand(50, 5) * torch.tensor([5.0, 10.0, 1.0, 9.0, 0.0]))
    features = torch.randn(1, 8, 32, 32), torch.randn(1, 2, 8, 14, 25)
    queries = source(BEVFeatures(features[0], GRID), ImageFeatures(features[1], 16), one)
    assert queries.reference.shape == (1, 30, 3)
    assert bool(((queries.reference >= 0) & (queries.reference <= 1)).all())
    terms = source.loss(queries, one)
    assert set(terms) == {
        "bev_heat", "bev_guess", "image_heat", "image_depth", "image_place",
    }  # fmt: skip
    # The decoder's losses reach the logits, contents and sizes of the queries.
    assert queries.guess is not None and queries.content is not None
    decoder = queries.guess.logits.sum() + queries.guess.box.sum() + queries.content.sum()
    (sum(terms.values()) + decoder).backward()
    for name, parameter in source.named_parameters():
        assert parameter.grad is not None and bool(torch.isfinite(parameter.grad).all()), name


def test_images_add_what_the_lidar_has_not_seen() -> None:
    """An object that is a BEV peak already is no image peak of its class, whatever its depth."""
    source = HeatmapQueries(channels=8, grid=GRID, bev_queries=1, image_queries=1).eval()
    one = batch()
    car, pedestrian = (two_boxes().select(two_boxes().label == k) for k in (CAR, PEDESTRIAN))
    seen = bev_targets((car,), GRID, (10, 32, 32), min_radius=1)
    guess = torch.zeros(1, 10, 32 * 32)
    guess[seen.sample, :, seen.cell] = torch.nan_to_num(seen.guess)
    source.bev = Fixed(seen.heat, guess.view(1, 10, 32, 32))
    targets = image_targets(one, (10, 14, 25))
    # The car is the stronger peak of the images, but 10 % too far.
    heat = targets.heat[0].clone()
    heat[:, PEDESTRIAN] *= 0.8
    log_depth = targets.center_log_depth[0] - math.log(300.0 / REFERENCE_FOCAL_PX) + 0.1
    source.image = Fixed(heat, torch.cat((targets.center_shift[0], log_depth[:, None]), dim=1))
    features = BEVFeatures(torch.randn(1, 8, 32, 32), GRID)
    images = ImageFeatures(torch.randn(1, 2, 8, 14, 25), 16)
    together = source(features, images, one)
    assert together.guess is not None
    assert together.guess.logits[0].argmax(dim=1).tolist() == [CAR, PEDESTRIAN]
    alone = source(None, images, one)
    assert alone.guess is not None and int(alone.guess.logits[0].argmax()) == CAR
    assert len(pedestrian) == 1


def test_one_object_is_one_peak() -> None:
    fine = BEVGrid((-32.0, 32.0), (-32.0, 32.0), (-5.0, 3.0), 0.8)
    source = HeatmapQueries(channels=8, grid=fine, bev_queries=6).eval()
    heat = torch.zeros(1, 10, 80, 80)
    heat[0, CAR, 40, 40:46] = torch.tensor([0.9, 0.7, 0.8, 0.0, 0.0, 0.6])
    heat[0, PEDESTRIAN, 10, 10:12] = torch.tensor([0.5, 0.4])
    source.bev = Fixed(heat, torch.zeros(1, 10, 80, 80))
    queries = source(BEVFeatures(torch.zeros(1, 8, 80, 80), fine), None, batch())
    assert queries.guess is not None
    best = queries.guess.logits[0].max(dim=1)
    found = sorted((int(k), round(float(s), 1)) for s, k in zip(best[0].sigmoid(), best[1]))
    # 1.6 m from the best car peak the next is the same car; 4 m away stands another one.
    assert [pair for pair in found if pair[1] > 0.1] == [
        (CAR, 0.6), (CAR, 0.9), (PEDESTRIAN, 0.4), (PEDESTRIAN, 0.5),
    ]  # fmt: skip
    with pytest.raises(ValueError, match="10 numbers; found 2"):
        HeatmapQueries(channels=8, grid=GRID, clearance_m=(1.0, 2.0))


def test_more_image_peaks_where_there_is_no_lidar() -> None:
    source = HeatmapQueries(
        channels=8, grid=GRID, bev_queries=5, image_queries=3, image_queries_alone=9
    )
    features = BEVFeatures(torch.randn(1, 8, 32, 32), GRID)
    images = ImageFeatures(torch.randn(1, 2, 8, 14, 25), 16)
    assert source(features, images, batch()).reference.shape[1] == 8
    assert source(None, images, batch()).reference.shape[1] == 9
    assert source(features, None, batch()).reference.shape[1] == 5


def test_sizes_start_at_what_is_typical_of_the_class() -> None:
    sizes = [(1.0 + k, 2.0, 3.0) for k in range(10)]
    source = HeatmapQueries(channels=8, grid=GRID, bev_queries=4, typical_size_lwh_m=sizes).eval()
    queries = source(BEVFeatures(torch.zeros(1, 8, 32, 32), GRID), None, batch())
    assert queries.guess is not None
    label = queries.guess.logits[0].argmax(dim=1)
    length = queries.guess.box[0, :, 2].exp()
    assert torch.allclose(length, torch.tensor(sizes)[label, 0], rtol=0.2)
    with pytest.raises(ValueError, match="must be 10 x 3"):
        HeatmapQueries(channels=8, grid=GRID, typical_size_lwh_m=sizes[:4])


def test_a_batch_without_boxes_has_a_finite_loss() -> None:
    source = HeatmapQueries(channels=8, grid=GRID, bev_queries=5, image_queries=5)
    empty = dataclasses.replace(batch(), boxes=(Boxes3D.empty(),))
    queries = source(
        BEVFeatures(torch.randn(1, 8, 32, 32), GRID),
        ImageFeatures(torch.randn(1, 2, 8, 14, 25), 16),
        empty,
    )
    assert all(bool(torch.isfinite(term)) for term in source.loss(queries, empty).values())


def test_missing_sensor_is_named() -> None:
    source = HeatmapQueries(channels=8, grid=GRID, bev_queries=5)
    with pytest.raises(ValueError, match="5 BEV and 0 image peaks, but this batch has camera"):
        source(None, ImageFeatures(torch.randn(1, 2, 8, 14, 25), 16), batch())


def test_gaussians_by_hand() -> None:
    heat = draw_gaussians(
        torch.tensor([[2, 3], [2, 4]]), torch.tensor([1, 1]), torch.tensor([0, 0]), shape=(2, 5, 8)
    )
    side = math.exp(-1 / (2 * 0.5**2))
    assert heat[0, 2, 3:5].tolist() == [1.0, 1.0]
    assert float(heat[0, 2, 2]) == pytest.approx(side)
    assert float(heat[0, 1, 3]) == pytest.approx(side), "merged by maximum, not by sum"
    assert float(heat[0, 2, 1]) == 0, "outside the square of the radius"
    assert float(heat[1].sum()) == 0


def test_radius_keeps_the_overlap() -> None:
    loose = gaussian_radius(torch.tensor([[8.0, 4.0]]), min_overlap=0.1)
    tight = gaussian_radius(torch.tensor([[8.0, 4.0]]), min_overlap=0.7)
    assert float(tight) < float(loose)


def test_velocities_of_moving_boxes_may_count_more() -> None:
    """One box creeps at 0.25 m/s, one drives at 4 m/s; both are guessed to stand."""
    targets = BevTargets(
        heat=torch.zeros(1, 10, 4, 4),
        sample=torch.tensor([0, 0]),
        cell=torch.tensor([1, 2]),
        label=torch.tensor([0, 0]),
        guess=torch.tensor([[0.0] * 9 + [0.25], [0.0] * 8 + [4.0, 0.0]]),
    )
    guess, sizes = torch.zeros(1, 10, 4, 4), torch.zeros(10, 3)
    alike = _guess_loss(guess, targets, sizes, (0.2, 1.0))
    assert alike.item() == pytest.approx(0.2 * (0.25 + 4.0) / 2)
    uneven = _guess_loss(guess, targets, sizes, (0.2, 8.0))
    assert uneven.item() == pytest.approx(0.2 * (0.25 + 8 * 4.0) / 2)
