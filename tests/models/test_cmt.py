"""CMT as a whole: sets of sensors, missing sensors, no boxes, gradients, determinism."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from perception3d.engine.checkpoints import load_state
from perception3d.heads.box_code import BOX_BRANCHES
from perception3d.heads.query_tasks import PackedTaskHeads
from perception3d.models.cmt import CMT
from perception3d.structures import Batch, BEVGrid, CameraRig
from tests.models.small_cmt import GRID, random_boxes, small_batch, small_cmt


def total_loss(model: CMT, batch: Batch) -> Tensor:
    outputs = model(batch, model.denoising(batch))
    terms = model.loss(outputs, batch)["detection"]
    assert all(torch.isfinite(value) for value in terms.values())
    return torch.stack(list(terms.values())).sum()


@pytest.mark.parametrize("voxels", [False, True], ids=["pillars", "voxels"])
@pytest.mark.parametrize(("lidar", "image"), [(True, True), (True, False), (False, True)])
def test_a_step_gives_every_weight_a_gradient(lidar: bool, image: bool, voxels: bool) -> None:
    model = small_cmt(lidar=lidar, image=image, voxels=voxels).train()
    total_loss(model, small_batch(points=(300, 200) if lidar else None, images=image)).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("voxels", [False, True], ids=["pillars", "voxels"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "batch",
    [
        small_batch(points=None),
        small_batch(images=False),
        small_batch(points=(0, 200)),
        small_batch(points=(0, 0)),
        small_batch(points=(1, 0)),
    ],
    ids=["no LiDAR", "no cameras", "one empty cloud", "empty clouds", "one point"],
)
def test_a_sensor_may_be_missing_at_run_time(batch: Batch, training: bool, voxels: bool) -> None:
    model = small_cmt(voxels=voxels).train(training)
    outputs = model(batch, model.denoising(batch) if training else None)
    assert torch.isfinite(outputs.box).all() and torch.isfinite(outputs.logits).all()
    if training:
        torch.stack(list(model.loss(outputs, batch)["detection"].values())).sum().backward()
    else:
        assert len(model.predict(outputs, batch)) == 2


def test_a_batch_without_any_sensor_is_refused() -> None:
    with pytest.raises(ValueError, match="found neither"):
        small_cmt()(small_batch(points=None, images=False))


@pytest.mark.parametrize("column", [0, 1], ids=["LiDAR", "cameras"])
def test_a_sensor_that_only_some_samples_have_is_refused(column: int) -> None:
    batch = small_batch()
    present = batch.sensor_present.clone()
    present[1, column] = False
    with pytest.raises(ValueError, match=f"samples {batch.tokens[1]} have no"):
        small_cmt()(replace(batch, sensor_present=present))


def test_a_model_for_one_sensor_ignores_the_other() -> None:
    batch = small_batch()
    model = small_cmt(image=False).eval()
    alone = replace(batch, images=None, rig=None)
    assert torch.equal(model(batch).box, model(alone).box)


@pytest.mark.parametrize("boxes", [(0, 0), (0, 3)])
def test_samples_without_boxes_train(boxes: tuple[int, int]) -> None:
    model = small_cmt().train()
    batch = small_batch(boxes=boxes)
    assert (model.denoising(batch) is None) == (sum(boxes) == 0)
    total_loss(model, batch).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_ignored_classes_and_unknown_velocities_are_no_obstacle() -> None:
    model = small_cmt().train()
    batch = small_batch()
    assert batch.boxes is not None
    boxes = []
    for sample in batch.boxes:
        label, velocity = sample.label.clone(), sample.velocity_mps.clone()
        label[0], velocity[1] = -1, float("nan")
        boxes.append(replace(sample, label=label, velocity_mps=velocity))
    batch = replace(batch, boxes=tuple(boxes))
    denoising = model.denoising(batch)
    assert denoising is not None and (denoising.true_label >= 0).all()
    total_loss(model, batch).backward()


def test_loss_without_ground_truth_says_so() -> None:
    model, batch = small_cmt(), small_batch(boxes=None)
    assert model.denoising(batch) is None
    with pytest.raises(ValueError, match="no ground truth"):
        model.loss(model(batch), batch)


def test_predictions_carry_the_sample_and_fall_in_score() -> None:
    model, batch = small_cmt().eval(), small_batch()
    predictions = model.predict(model(batch), batch)
    assert [p.token for p in predictions] == list(batch.tokens)
    for prediction in predictions:
        assert len(prediction.boxes) == 12 * 10  # all pairs: fewer than 300, all near
        assert (prediction.score.diff() <= 0).all()
        assert not prediction.score.requires_grad


def test_samples_of_a_batch_do_not_mix() -> None:
    model = small_cmt().eval()
    both = small_batch(points=(300, 200))
    assert both.points is not None and both.images is not None and both.rig is not None
    second = replace(
        small_batch(points=(200,), boxes=(2,), batch=1),
        points=both.points[300:],
        images=both.images[1:],
    )
    torch.testing.assert_close(model(both).box[:, 1:], model(second).box, rtol=1e-4, atol=1e-4)


def test_the_same_seed_gives_the_same_step() -> None:
    grads = []
    for _ in range(2):
        model = small_cmt().train()
        torch.manual_seed(3)
        total_loss(model, small_batch()).backward()
        grads.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*grads) if a is not None and b is not None)


def test_autocast_keeps_geometry_in_float32() -> None:
    model, batch = small_cmt().eval(), small_batch()
    with torch.no_grad():
        exact = model(batch)
        with torch.autocast("cpu", torch.bfloat16):
            mixed = model(batch)
            terms = model.loss(mixed, batch)["detection"]
    assert mixed.box.dtype == mixed.logits.dtype == torch.float32
    assert all(value.dtype == torch.float32 for value in terms.values())
    # Position codes and reference points carry the metres: with bfloat16 there, errors would be
    # tenths of them.
    assert float((mixed.box[..., :2] - exact.box[..., :2]).abs().max()) < 0.3
    position = model.tokens.query_position(exact.queries.reference, None)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model.tokens.query_position(exact.queries.reference, None), position)


@pytest.mark.slow
def test_training_overfits_one_batch() -> None:
    model = small_cmt().train()
    batch = small_batch()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = total_loss(model, batch)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])


def test_parts_that_do_not_fit_are_refused() -> None:
    model = small_cmt()
    with pytest.raises(ValueError, match="found neither"):
        CMT(lidar=None, image=None, tokens=model.tokens, queries=model.queries, head=model.head)
    with pytest.raises(ValueError, match="same sensors"):
        CMT(
            lidar=model.lidar,
            image=None,
            tokens=model.tokens,
            queries=model.queries,
            head=model.head,
        )
    wider = small_cmt().lidar
    assert wider is not None
    wider.grid = BEVGrid((-20.0, 20.0), (-20.0, 20.0), (-5.0, 3.0), 2.0)
    with pytest.raises(ValueError, match="BEV cells would be placed wrongly"):
        CMT(
            lidar=wider,
            image=model.image,
            tokens=model.tokens,
            queries=model.queries,
            head=model.head,
        )
    other = small_cmt()
    other.head.range_m = (0.0, 0.0, 0.0, 1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="must agree"):
        CMT(
            lidar=model.lidar,
            image=model.image,
            tokens=model.tokens,
            queries=model.queries,
            head=other.head,
        )


def test_more_boxes_than_queries_are_matched_as_far_as_queries_go() -> None:
    model = small_cmt(queries=3).train()
    generator = torch.Generator().manual_seed(0)
    crowd = tuple(random_boxes(n, generator) for n in (9, 1))
    batch = replace(small_batch(), boxes=crowd)
    assert model.denoising(batch) is None  # 3 // 9 groups
    total_loss(model, batch).backward()


def test_grid_of_the_features_is_the_grid_of_the_tokens() -> None:
    model, batch = small_cmt(image=False).eval(), small_batch(images=False)
    assert model.lidar is not None and batch.points is not None and batch.offsets is not None
    features = model.lidar(batch.points, batch.offsets)
    assert features.grid == GRID.stride(2)


def test_images_of_no_whole_number_of_cells_are_padded() -> None:
    """Rays are those of the padded image; rows and columns that are added shift nothing."""
    model, batch = small_cmt(lidar=False).eval(), small_batch(points=None)
    assert batch.images is not None and batch.rig is not None and model.image is not None
    # Cells of 16 pixels: 30 x 40 becomes 32 x 48.
    cut = replace(batch, images=batch.images[..., :30, :40])
    features, image_hw = model.image(cut.images)
    assert image_hw == (32, 48) and features.data.shape[-2:] == (2, 3)
    with torch.no_grad():
        outputs = model(cut)
        assert outputs.box.isfinite().all()
        assert [p.token for p in model.predict(outputs, cut)] == list(cut.tokens)
        # The same pixels in an image that ends in the colours that are normalised to zero.
        model.image.normalize.mean.round_()
        blank = model.image.normalize.mean.flip(0).to(torch.uint8)
        filled = blank.expand(2, 3, 3, 1, 1).expand_as(batch.images).clone()
        filled[..., :30, :40] = cut.images
        whole = model(replace(batch, images=filled))
        torch.testing.assert_close(model(cut).box, whole.box, rtol=1e-4, atol=1e-4)


def test_cameras_may_be_fewer_but_must_be_those_of_the_rig() -> None:
    model, batch = small_cmt().eval(), small_batch()
    assert batch.images is not None and batch.rig is not None
    with pytest.raises(ValueError, match=r"Batch\.images must have shape \(2, 3, 3, H, W\)"):
        replace(batch, images=batch.images[:, :2])
    rig = batch.rig
    two = CameraRig(
        rig.names[:2], rig.K[:, :2], rig.cam_SE3_ref[:, :2], rig.image_hw[:, :2],
        rig.image_aug[:, :2], rig.time_ns[:, :2],
    )  # fmt: skip
    with torch.no_grad():
        outputs = model(replace(batch, images=batch.images[:, :2], rig=two))
    assert outputs.box.isfinite().all()


@pytest.mark.parametrize("name", ["K", "cam_SE3_ref", "image_aug"])
def test_a_camera_that_sees_no_rays_is_named(name: str) -> None:
    rig = small_batch().rig
    assert rig is not None
    matrices = getattr(rig, name).clone()
    matrices[1, 2, 1] = 0.0  # second sample, third camera: a row of zeros
    with pytest.raises(ValueError, match=rf"CameraRig\.{name} of camera2 has no inverse: .* leave"):
        replace(rig, **{name: matrices})
    # Nearly singular is not singular: a lens of a thousandth of a pixel is odd and can be inverted.
    matrices[1, 2, 1, 1] = 1e-3
    if name == "K":
        replace(rig, K=matrices)


def test_weights_for_another_number_of_classes_are_refused() -> None:
    model, other = small_cmt(), small_cmt()
    seven = PackedTaskHeads(16, {**BOX_BRANCHES, "cls_logits": 7}, layers=2, hidden=8)
    other.head.tasks = seven
    with pytest.raises(ValueError, match=r"2 of another shape: .*cls_logits\.output_bias \(14,\)"):
        load_state(model, other.state_dict())
