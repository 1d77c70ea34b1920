"""CMT of a size: which parts it has, put together."""

from __future__ import annotations

from torch import nn

from configs._cmt_sizes import Sensors, Size
from configs._cmt_tasks import BOXES_ALONE, Joint
from configs.fuller_joint import map_grid
from perception3d.datasets.map_raster import MAP_CLASSES
from perception3d.fusion.tokens import CrossModalTokens
from perception3d.heads.heatmap import HeatmapQueries
from perception3d.heads.queries import LearnedQueries
from perception3d.heads.query import QueryHead
from perception3d.heads.query_decoder import QueryDecoder
from perception3d.heads.query_denoising import DenoisingBuilder
from perception3d.heads.segmentation import SegmentationHead
from perception3d.heads.token_maps import TokenMaps
from perception3d.models.cmt import CMT
from perception3d.structures import BEVGrid
from perception3d.structures.taxonomy import NUSCENES_CLASSES, NUSCENES_TYPICAL_SIZE_LWH_M

#: Of each class's loss. The head's focal loss halves both sides: twice is BEVFusion's.
MAP_WEIGHT = 2.0


def model(
    size: Size,
    sensors: Sensors,
    queries: str,
    denoising_queries: int | None = None,
    *,
    pretrained: bool = False,
    asked: Joint = BOXES_ALONE,
) -> nn.Module:
    """The model of a size; a pre-trained image backbone keeps its batch statistics."""
    lidar = None if sensors == "camera" else size.lidar(grid(size))
    image = None
    if sensors != "lidar":
        image = size.image(
            size.channels, grid_mask=size.grid_mask and lidar is not None, frozen=pretrained
        )
    area = grid(size)
    if denoising_queries is None:
        denoising_queries = size.learned_queries if queries == "learned" else 0
    bev_channels = None if lidar is None else lidar.channels
    cameras = image is not None
    # The order of the parts decides what random weights they start from.
    return CMT(
        lidar=lidar,
        image=image,
        tokens=CrossModalTokens(
            channels=size.channels,
            range_m=area.range_m,
            bev_channels=bev_channels,
            bev_stride=size.token_stride,
            image_stride=size.image_token_stride,
            cameras=cameras,
            ray_hidden=size.hidden,
            num_depths=size.num_depths,
            depth_m=(1.0, area.x_m[1]),
        ),
        queries=box_queries(size, queries, bev_channels, cameras=cameras) if asked.boxes else None,
        head=box_head(size, residual=queries == "heatmap") if asked.boxes else None,
        denoising=DenoisingBuilder(
            range_m=area.range_m,
            num_classes=len(NUSCENES_CLASSES),
            query_budget=denoising_queries,
        )
        if asked.boxes
        else None,
        maps=token_maps(size, bev_channels, cameras=cameras) if asked.maps else None,
        fork=asked.fork(),
        balance=asked.balance(),
        map_scale=asked.map_scale,
    )


def box_queries(
    size: Size, queries: str, bev_channels: int | None, *, cameras: bool
) -> LearnedQueries | HeatmapQueries:
    """Where queries for boxes come from."""
    if queries == "learned":
        return LearnedQueries(size.learned_queries)
    lidar = bev_channels is not None
    return HeatmapQueries(
        channels=size.channels,
        bev_channels=bev_channels,
        hidden=size.heat_hidden,
        grid=grid(size),
        bev_queries=size.bev_queries if lidar else 0,
        image_queries=size.image_queries if cameras else 0,
        image_queries_alone=size.image_queries_alone,
        lifted_channels=size.lifted_channels if cameras and lidar else 0,
        typical_size_lwh_m=[NUSCENES_TYPICAL_SIZE_LWH_M[name] for name in NUSCENES_CLASSES],
    )


def box_head(size: Size, *, residual: bool) -> QueryHead:
    """Decoder and branches of boxes."""
    return QueryHead(
        decoder=decoder(size, size.layers),
        num_classes=len(NUSCENES_CLASSES),
        range_m=grid(size).range_m,
        task_kernel=size.task_kernel,
        residual=residual,
    )


def token_maps(size: Size, bev_channels: int | None, *, cameras: bool) -> TokenMaps:
    """The head of maps: the six classes of BEVFusion."""
    return TokenMaps(
        head=SegmentationHead(
            decoder=decoder(size, size.map_layers),
            tasks=dict.fromkeys(MAP_CLASSES, MAP_WEIGHT),
            side=size.map_side,
            widths=size.map_widths,
            bev_channels=size.map_channels,
        ),
        grid=map_grid(size),  # reads map_half_m and map_cell_m
        channels=size.map_channels,
        bev_channels=bev_channels,
        image_channels=size.channels if cameras else None,
        lifted=size.map_lifted,
    )


def decoder(size: Size, layers: int) -> QueryDecoder:
    """A transformer decoder of the size's width."""
    return QueryDecoder(
        channels=size.channels,
        layers=layers,
        heads=size.heads,
        hidden=size.hidden,
        dropout=size.dropout,
    )


def grid(size: Size) -> BEVGrid:
    """The grid of pillars or voxels from above."""
    reach = (-size.half_range_m, size.half_range_m)
    return BEVGrid(reach, reach, (-5.0, 3.0), size.voxel_m)
