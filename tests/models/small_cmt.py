"""A CMT of a few thousand weights, and batches for it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from perception3d.backbones.bev_convnext import BEVConvNeXt
from perception3d.backbones.image_input import GridMask, ImageNormalize
from perception3d.backbones.image_resnet import ResNet
from perception3d.backbones.pillars import PillarEncoder
from perception3d.fusion.tokens import CrossModalTokens
from perception3d.heads.queries import LearnedQueries
from perception3d.heads.query import QueryHead
from perception3d.heads.query_decoder import QueryDecoder
from perception3d.heads.query_denoising import DenoisingBuilder
from perception3d.models.cmt import CMT
from perception3d.models.image_branch import ImageBranch
from perception3d.models.lidar_branch import LidarBranch, voxel_branch
from perception3d.nn.fpn import CPFPN, UpsampleConcatNeck
from perception3d.structures import SE3, Batch, BEVGrid, Boxes3D, CameraRig

GRID = BEVGrid((-16.0, 16.0), (-16.0, 16.0), (-5.0, 3.0), 1.0)
CHANNELS = 16


def small_cmt(
    *,
    lidar: bool = True,
    image: bool = True,
    voxels: bool = False,
    queries: int = 12,
    seed: int = 0,
) -> CMT:
    torch.manual_seed(seed)
    lidar_branch = None
    if lidar and voxels:
        lidar_branch = voxel_branch(
            GRID, height_m=0.5, widths=(8, 8), blocks=1, out_channels=4, bev_widths=(8, 16),
            bev_layers=(1, 1), neck_channels=8,
        )  # fmt: skip
    elif lidar:
        backbone = BEVConvNeXt(depths=(1, 1, 1), widths=(8, 8, 16), out_stages=(1, 2), kernel=3)
        lidar_branch = LidarBranch(
            encoder=PillarEncoder(grid=GRID, channels=8),
            backbone=backbone,
            neck=UpsampleConcatNeck(backbone.channels, (8, 8), (1, 2)),
        )
    image_branch = None
    if image:
        resnet = ResNet(depth=18, width=8)
        image_branch = ImageBranch(
            backbone=resnet,
            neck=CPFPN(resnet.channels, CHANNELS),
            normalize=ImageNormalize(multiple=16),
            grid_mask=GridMask(),
        )
    return CMT(
        lidar=lidar_branch,
        image=image_branch,
        tokens=CrossModalTokens(
            channels=CHANNELS,
            range_m=GRID.range_m,
            bev_channels=lidar_branch.channels if lidar_branch else None,
            cameras=image,
            ray_hidden=32,
            num_depths=8,
            depth_m=(1.0, 16.0),
        ),
        queries=LearnedQueries(queries),
        head=QueryHead(
            decoder=QueryDecoder(channels=CHANNELS, layers=2, heads=2, hidden=32),
            num_classes=10,
            range_m=GRID.range_m,
            task_hidden=8,
        ),
        denoising=DenoisingBuilder(range_m=GRID.range_m, num_classes=10, query_budget=queries),
    )


def random_boxes(count: int, generator: torch.Generator) -> Boxes3D:
    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    center = (uniform(count, 3) - 0.5) * torch.tensor([28.0, 28.0, 2.0])
    return Boxes3D.build(
        center,
        uniform(count, 3) * 3 + 0.5,
        uniform(count) * 6,
        torch.randint(0, 10, (count,), generator=generator),
        velocity_mps=uniform(count, 2),
    )


def ring_of_cameras(batch: int, views: int, hw: tuple[int, int]) -> CameraRig:
    """Pinhole cameras 1 m above the origin, looking outwards."""
    height, width = hw
    K = torch.tensor(
        [[0.8 * width, 0.0, width / 2], [0.0, 0.8 * width, height / 2], [0.0, 0.0, 1.0]],
        dtype=torch.float64,
    )
    poses = torch.eye(4, dtype=torch.float64).repeat(views, 1, 1)
    for view in range(views):
        yaw = 2 * math.pi * view / views
        c, s = math.cos(yaw), math.sin(yaw)
        rotation = torch.tensor([[s, -c, 0.0], [0.0, 0.0, -1.0], [c, s, 0.0]], dtype=torch.float64)
        poses[view, :3, :3] = rotation
        poses[view, :3, 3] = -rotation @ torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    shape = (batch, views)
    return CameraRig(
        tuple(f"camera{view}" for view in range(views)),
        K.expand(*shape, 3, 3),
        poses.expand(batch, -1, -1, -1),
        torch.tensor(hw).expand(*shape, 2),
        torch.eye(3, dtype=torch.float64).expand(*shape, 3, 3),
        torch.zeros(shape, dtype=torch.int64),
    )


def small_batch(
    *,
    points: tuple[int, ...] | None = (300, 200),
    boxes: tuple[int, ...] | None = (4, 2),
    images: bool = True,
    batch: int = 2,
    seed: int = 0,
) -> Batch:
    """Random sensors and boxes; ``points`` and ``boxes`` count those of each sample."""
    generator = torch.Generator().manual_seed(seed)
    cloud, offsets = None, None
    if points is not None:
        cloud = torch.rand(sum(points), 5, generator=generator)
        cloud = cloud * torch.tensor([32.0, 32.0, 4.0, 255.0, 0.5]) - torch.tensor(
            [16.0, 16.0, 2.0, 0, 0]
        )
        offsets = torch.tensor([0, *points]).cumsum(0)
    hw = (32, 48)
    return Batch(
        tokens=tuple(f"sample{i}" for i in range(batch)),
        time_ns=torch.zeros(batch, dtype=torch.int64),
        global_SE3_ref=(SE3.identity(),) * batch,
        ego_SE3_ref=(SE3.identity(),) * batch,
        sensor_present=torch.tensor([points is not None, images]).expand(batch, 2),
        points=cloud,
        offsets=offsets,
        images=torch.randint(0, 256, (batch, 3, 3, *hw), generator=generator, dtype=torch.uint8)
        if images
        else None,
        rig=ring_of_cameras(batch, 3, hw) if images else None,
        boxes=None if boxes is None else tuple(random_boxes(n, generator) for n in boxes),
    )
