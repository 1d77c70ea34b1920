"""Published backbones, pillar encoder and voxeliser against ours."""

from __future__ import annotations

import pytest
import torch
from perception3d_ops.hard_voxels import HardVoxels, hard_voxels
from torch import Tensor

from perception3d.backbones.bev_convnext import BEVConvNeXt
from perception3d.backbones.image_resnet import ResNet
from perception3d.backbones.pillars import (
    PillarEncoder,
    decorate,
    dense_pillar_features,
    pillar_centers,
)
from perception3d.engine.checkpoints import load_published
from perception3d.structures import BEVGrid
from tests.golden_cases import GoldenCase, golden, load_case


@pytest.mark.parametrize("name", golden("resnet50"))
@torch.no_grad()
def test_golden_resnet50(name: str) -> None:
    case = load_case(name)
    backbone = ResNet(depth=50, out_stages=(2, 3), norm_eval=True)
    load_published(backbone, case.weights(), prefix="image.backbone.")
    backbone.train()  # norm_eval: nothing may change
    for output, value in zip(("c4", "c5"), backbone(case.inputs()["img"])):
        case.check(output, value)
    case.finish()


@pytest.mark.parametrize(
    "name", golden(*(f"pillarnest_backbone_{size}" for size in ("tiny", "small", "base", "large")))
)
@torch.no_grad()
def test_golden_pillarnest_backbone(name: str) -> None:
    case = load_case(name)
    backbone = BEVConvNeXt.pillarnest(name.removesuffix("_b").rpartition("_")[2])
    load_published(backbone, case.weights(), prefix="lidar.backbone.")
    for stage, value in zip((2, 3, 4), backbone.eval()(case.inputs()["canvas"])):
        case.check(f"stage{stage}", value)
    case.finish()


class PillarCase:
    """Inputs of a pillar_encoder case, ragged and dense, with a loaded encoder."""

    def __init__(self, case: GoldenCase) -> None:
        inputs = case.inputs()
        self.slots, self.count = inputs["voxels"], inputs["num_points"].long()
        coors = inputs["coors"].long()
        self.probe = inputs["probe"]
        x0, y0, z0, x1, y1, z1 = case.stated(r"range \[([^]]+)\]")
        cell_x, cell_y, cell_z = case.stated(r"voxel \(([^)]+)\)")
        assert cell_x == cell_y and cell_z == z1 - z0
        self.grid = BEVGrid((x0, x1), (y0, y1), (z0, z1), cell_x)
        self.encoder = PillarEncoder(
            grid=self.grid, channels=self.probe.shape[1], max_points=self.slots.shape[1]
        )
        load_published(self.encoder, case.weights(), prefix="lidar.encoder.")
        valid = torch.arange(self.slots.shape[1]) < self.count[:, None]
        pillar = valid.nonzero()[:, 0]
        rows = torch.arange(len(pillar))
        self.voxels = HardVoxels(coors, self.count, rows, pillar, key=pillar)
        self.points = self.slots[valid]

    def ragged(self) -> Tensor:
        decorated = decorate(self.points, self.voxels, self.grid)
        return self.encoder.pool(decorated, self.voxels.voxel, self.count)

    def dense(self) -> Tensor:
        center = pillar_centers(self.voxels.index, self.grid)
        return dense_pillar_features(self.encoder, self.slots, self.count, center)


@pytest.mark.parametrize("way", ["ragged", "dense"])
@pytest.mark.parametrize("name", golden("pillar_encoder"))
def test_golden_pillar_encoder(name: str, way: str) -> None:
    case = load_case(name)
    pillars = PillarCase(case)
    encoder = pillars.encoder
    with torch.no_grad():
        encoder.eval()
        for encoder.pooling in ("max", "avg", "maxavg"):
            case.check(f"features_{encoder.pooling}", getattr(pillars, way)())
    encoder.train()
    features = getattr(pillars, way)()
    case.check("train_features_maxavg", features)
    case.check("train_running_mean", encoder.norm.running_mean)
    case.check("train_running_var", encoder.norm.running_var)
    (features * pillars.probe).sum().backward()
    case.check("train_grad_norm_weight", encoder.norm.weight.grad)
    case.check("train_grad_norm_bias", encoder.norm.bias.grad)
    gradient = encoder.linear.weight.grad
    assert gradient is not None
    case.check("train_grad_linear_weight", gradient)
    case.finish()
    # Column by column: intensity's gradient dwarfs the others in the comparison of the whole.
    want = torch.from_numpy(case.arrays["out/train_grad_linear_weight"]).view_as(gradient)
    for column, expected in zip(gradient.T, want.T):
        torch.testing.assert_close(
            column, expected, rtol=1e-4, atol=1e-5 + 1e-4 * float(expected.abs().max())
        )


@pytest.mark.parametrize("name", golden("voxelize_hard"))
def test_golden_voxelize_hard(name: str) -> None:
    case = load_case(name)
    inputs = case.inputs()
    for cloud in sorted({key.split(".")[0] for key in inputs}):
        points = inputs[f"{cloud}.points"]
        cap = int(inputs[f"{cloud}.max_num_points"])
        found = hard_voxels(
            points[:, :3],
            torch.tensor([0, len(points)]),
            range_m=inputs[f"{cloud}.point_cloud_range"].tolist(),
            cell_m=inputs[f"{cloud}.voxel_size"].tolist(),
            max_points=cap,
            max_voxels=int(inputs[f"{cloud}.max_voxels"]),
        )
        case.check(f"{cloud}.coords", found.index[:, 1:])
        case.check(f"{cloud}.num_points", found.count)
        slots = torch.zeros(len(found.count), cap, points.shape[1])
        slots[found.voxel, found.slots()] = points[found.point]
        case.check(f"{cloud}.voxels", slots)
        case.check(f"{cloud}.mean", slots.sum(dim=1) / found.count[:, None])
    case.finish()
