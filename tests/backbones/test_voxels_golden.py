"""The published voxel branch of CMT against ours: mean features, sparse encoder, SECOND, neck."""

from __future__ import annotations

import pytest
import torch
from perception3d_ops.hard_voxels import hard_voxels
from perception3d_ops.sparse_sites import SparseSites

from perception3d.backbones.second import SECOND
from perception3d.backbones.voxels import SparseEncoder, VoxelEncoder
from perception3d.engine.checkpoints import load_published
from perception3d.nn.fpn import UpsampleConcatNeck
from perception3d.structures import BEVGrid, SparseVoxels
from tests.golden_cases import GoldenCase, golden, load_case

ENCODER = "pts_middle_encoder."


def encoder_of(case: GoldenCase, cells_z: int) -> SparseEncoder:
    """Sizes from the shapes of the weights."""
    shapes = case.weight_shapes
    first = shapes[f"{ENCODER}conv_input.0.weight"]
    stages = f"{ENCODER}encoder_layers.encoder_layer"
    count = len({name.removeprefix(stages)[0] for name in shapes if name.startswith(stages)})
    widths = [shapes[f"{stages}{i + 1}.0.conv1.weight"][0] for i in range(count)]
    return SparseEncoder(
        cells_z=cells_z,
        in_channels=first[4],
        widths=widths,
        blocks=sum(f"{stages}{count}.{i}.conv1.weight" in shapes for i in range(9)),
        out_channels=shapes[f"{ENCODER}conv_out.0.weight"][0],
    )


@pytest.mark.parametrize("layout", ["spconv2", "spconv1"])
@pytest.mark.parametrize("name", golden("sparse_encoder"))
@torch.no_grad()
def test_golden_sparse_encoder(name: str, layout: str) -> None:
    case = load_case(name)
    inputs, weights = case.inputs(), case.weights()
    nz, ny, nx = (int(n) for n in inputs["sparse_shape"])
    if layout == "spconv1":
        weights = {
            k: v.permute(1, 2, 3, 4, 0).contiguous() if v.dim() == 5 else v
            for k, v in weights.items()
        }
    encoder = encoder_of(case, nz).eval()
    load_published(encoder, weights, prefix="lidar.middle.")
    sites, order = SparseSites.of(inputs["coords"], (nz, ny, nx), int(inputs["batch_size"]))
    features = inputs["voxel_features"]
    grid = BEVGrid((0.0, 0.1 * nx), (0.0, 0.1 * ny), (-5.0, 3.0), 0.1)
    voxels = SparseVoxels(features if order is None else features[order], sites, grid)
    for i, out in enumerate(encoder.stage_outputs(voxels), start=1):
        case.check(f"stage{i}.coords", out.sites.index)
        case.check(f"stage{i}.features", out.features)
    bev = encoder(voxels)
    case.check("bev", bev.data)
    assert bev.grid == grid.stride(encoder.stride)
    assert bev.data.shape[1] == encoder.channels
    case.finish()


@pytest.mark.parametrize("name", golden("second_fpn"))
@torch.no_grad()
def test_golden_second_fpn(name: str) -> None:
    case = load_case(name)
    weights, bev = case.weights(), case.inputs()["bev"]
    stages = sorted({key.split(".")[2] for key in weights if key.startswith("pts_backbone.")})
    convs = [
        [v for k, v in weights.items() if k.startswith(f"pts_backbone.blocks.{i}.") and v.dim() > 1]
        for i in stages
    ]
    sizes = [case.shape(f"stage{i}")[2] for i in stages]
    backbone = SECOND(
        in_channels=bev.shape[1],
        widths=[conv[0].shape[0] for conv in convs],
        layers=[len(conv) - 1 for conv in convs],
        steps=[-(-before // after) for before, after in zip([bev.shape[2], *sizes], sizes)],
    )
    factors = [case.shape("neck")[2] // size for size in sizes]
    out = [
        weights[f"pts_neck.deblocks.{i}.0.weight"].shape[0 if factor == 1 else 1]
        for i, factor in enumerate(factors)
    ]
    neck = UpsampleConcatNeck(backbone.channels, out, factors)
    for part, published, ours in (
        (backbone, "pts_backbone.", "lidar.backbone."),
        (neck, "pts_neck.", "lidar.neck."),
    ):
        own = {k: v for k, v in weights.items() if k.startswith(published)}
        load_published(part.eval(), own, prefix=ours)
    maps = backbone(bev)
    for i, value in zip(stages, maps):
        case.check(f"stage{i}", value)
    case.check("neck", neck(maps))
    case.finish()


@pytest.mark.parametrize("name", golden("voxelize_hard"))
def test_golden_voxel_means(name: str) -> None:
    """The mean features of ``voxelize_hard``; its integers are checked beside the pillars."""
    case = load_case(name)
    inputs = case.inputs()
    clouds = sorted({key.split(".")[0] for key in inputs})
    for cloud in clouds:
        points = inputs[f"{cloud}.points"]
        range_m = inputs[f"{cloud}.point_cloud_range"].tolist()
        cell_m = inputs[f"{cloud}.voxel_size"].tolist()
        settings = {
            "max_points": int(inputs[f"{cloud}.max_num_points"]),
            "max_voxels": int(inputs[f"{cloud}.max_voxels"]),
        }
        offsets = torch.tensor([0, len(points)])
        found = hard_voxels(points[:, :3], offsets, range_m=range_m, cell_m=cell_m, **settings)
        means = found.mean(points[found.point])
        case.check(f"{cloud}.mean", means)
        low, high = range_m[:3], range_m[3:]
        grid = BEVGrid((low[0], high[0]), (low[1], high[1]), (low[2], high[2]), cell_m[0])
        encoder = VoxelEncoder(
            grid=grid, height_m=cell_m[2], max_points=settings["max_points"],
            max_voxels=(settings["max_voxels"],) * 2,
        )  # fmt: skip
        voxels = encoder(points, offsets)
        _, order = SparseSites.of(found.index, voxels.sites.shape, 1)
        order = torch.arange(len(means)) if order is None else order
        assert torch.equal(voxels.sites.index, found.index[order].int())
        assert torch.equal(voxels.features, means[order])
    assert case.errors.keys() == {f"{cloud}.mean" for cloud in clouds}
