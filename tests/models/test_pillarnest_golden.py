"""The published PillarNeSt-Tiny against ours, from pillars to boxes."""

from __future__ import annotations

import pytest
import torch
from perception3d_ops.hard_voxels import HardVoxels

from perception3d.backbones.bev_convnext import PILLARNEST_SIZES
from perception3d.backbones.pillars import decorate
from perception3d.engine.checkpoints import load_published
from perception3d.engine.key_tables import PILLARNEST_KEYS
from perception3d.models.lidar_branch import pillar_branch
from perception3d.models.pillarnest import PillarNeSt
from perception3d.structures import BEVFeatures, BEVGrid, Pillars
from tests.golden_cases import GoldenCase, golden, load_case
from tests.heads.center_cases import check_boxes, check_maps, grid_of, head_of, specs


def model_of(case: GoldenCase) -> PillarNeSt:
    """The model of the case, with its weights."""
    shapes, grid = specs(case), grid_of(case)
    stride = shapes["canvas"][-1] // grid.nx
    depths, widths, neck = PILLARNEST_SIZES[case.name.split("_")[1]]
    assert widths[0] == shapes["pillar_features"][1]
    (pillar_m,) = case.stated(r"voxel ([\d.]+) m", [0.15])
    assert pillar_m * stride == pytest.approx(grid.cell_m)
    pillars = BEVGrid(grid.x_m, grid.y_m, grid.z_m, pillar_m)
    lidar = pillar_branch(pillars, depths=depths, widths=widths, neck_channels=neck)
    model = PillarNeSt(lidar=lidar, head=head_of(case, in_channels=lidar.channels))
    load_published(model, case.weights(), table=PILLARNEST_KEYS)
    return model.eval()


@pytest.mark.parametrize("name", golden("pillarnest_tiny_e2e"))
@torch.no_grad()
def test_golden_pillarnest_tiny_e2e(name: str) -> None:
    case = load_case(name)
    inputs, model = case.inputs(), model_of(case)
    slots, count, coors = inputs["voxels"], inputs["num_points"].long(), inputs["coors"].long()
    pillar, slot = (torch.arange(slots.shape[1]) < count[:, None]).nonzero(as_tuple=True)
    points = slots[pillar, slot]
    encoder = model.lidar.encoder
    voxels = HardVoxels(coors, count, torch.arange(len(pillar)), pillar, key=pillar)
    features = encoder.pool(decorate(points, voxels, encoder.grid), pillar, count)
    case.check("pillar_features", features)
    batch = case.shape("canvas")[0]
    canvas = Pillars(coors[:, [0, 2, 3]], features, encoder.grid, batch).dense()
    case.check("canvas", canvas)
    bev = BEVFeatures(model.lidar.neck(model.lidar.backbone(canvas)), model.lidar.grid)
    case.check("neck", bev.data)
    outputs = model.head(bev)
    check_maps(case, outputs, model.head.tasks)
    check_boxes(case, "", model.head.decoder(outputs.heat, outputs.box, outputs.iou))
    case.finish()
