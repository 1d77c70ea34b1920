"""PETR and PETRv2 small enough to learn the generated town from scratch on two CPU cores.

The published models start from backbones that were trained for days, and from queries that find
their places in 24 epochs. Here queries start where the images, lifted with their depths, show
something (:mod:`perception3d.heads.petr_lift`); tokens, position codes, decoder and branches are
those of :mod:`perception3d.models.petr_published`, smaller.
"""

from __future__ import annotations

from dataclasses import replace

from perception3d.datasets.nuscenes.map_layers import PETR_LAYERS
from perception3d.fusion.petr_position import RayPointCode
from perception3d.fusion.petr_tokens import PETRTokens
from perception3d.heads.heatmap import HeatmapQueries
from perception3d.heads.petr import PETRV2_LOSS, PETRHead
from perception3d.heads.petr_depth import DepthBranch, depth_edges
from perception3d.heads.petr_lift import DepthLift, TemporalLift
from perception3d.heads.query_decoder import QueryDecoder
from perception3d.heads.segmentation import SegmentationHead
from perception3d.models.image_branch import ImageBranch
from perception3d.models.petr import PETR
from perception3d.structures import BEVGrid
from perception3d.structures.taxonomy import NUSCENES_CLASSES, NUSCENES_TYPICAL_SIZE_LWH_M

CHANNELS = 128
#: Of the image branch.
IMAGE_CHANNELS = 64
LIFTED, BEV_CHANNELS, HIDDEN = 22, 48, 48

#: Of the map's losses; the decoder sends no gradient into the features that would drown them.
HEAT_WEIGHT, GUESS_WEIGHT = 1.0, 1.0

#: Of moving boxes' velocities: one box in five moves.
MOVING_WEIGHT = 8.0
#: Velocities are left to the map, where motion shows: here too the least absolute error is that of
#: boxes that stand.
LOSS = replace(PETRV2_LOSS, code_weights=(1.0,) * 8 + (0.0, 0.0))

#: 80 m by 80 m in cells of a metre: of what is lifted, and of the maps.
GRID = BEVGrid((-40.0, 40.0), (-40.0, 40.0), (-5.0, 3.0), 1.0)
#: Queries of a map along each axis; each draws 4 x 4 cells.
MAP_SIDE = 20
#: Depths reach the corners of the grid.
DEPTHS_M, DEPTH_BINS = (1.0, 58.0), 48


def petr_town(
    image: ImageBranch,
    *,
    second: bool = True,
    frames: int = 2,
    detection: bool = True,
    segmentation: bool = False,
    queries: int = 150,
    only_images: bool = False,
) -> PETR:
    """The town's model; its parts follow from the tasks.

    Args:
        image: pixels to features, of stride 8 or 16.
        second: PETRv2's gate and branches; PETR's if False.
        frames: 1 or 2. PETRv2 may do without its earlier frame, with the same weights: the
            present then stands in for it.
        detection, segmentation: tasks.
        queries: peaks of the heat map.
        only_images: see :class:`perception3d.models.petr.PETR`.
    """
    head, source = None, None
    if detection:
        source = HeatmapQueries(
            channels=CHANNELS,
            bev_channels=BEV_CHANNELS,
            grid=GRID,
            hidden=HIDDEN,
            bev_queries=queries,
            typical_size_lwh_m=[NUSCENES_TYPICAL_SIZE_LWH_M[name] for name in NUSCENES_CLASSES],
            velocity_weight=1.0,
            moving_weight=MOVING_WEIGHT,
            min_radius_cells=2,  # depths from images are that rough
            heat_weight=HEAT_WEIGHT,
            guess_weight=GUESS_WEIGHT,
        )
        head = PETRHead(
            decoder=_decoder(),
            num_classes=len(NUSCENES_CLASSES),
            range_m=GRID.range_m,
            split=second,
            loss=LOSS,
            residual=True,
        )
    return PETR(
        image=image,
        tokens=PETRTokens(
            in_channels=image.channels,
            channels=CHANNELS,
            rays=RayPointCode(
                CHANNELS, hidden=256, range_m=(-48.0, -48.0, -8.0, 48.0, 48.0, 8.0), num_depths=24
            ),
            gated=second,
            view_feats=32,
            view_hidden=128,
            stride=max(1, 16 // image.stride),
        ),
        queries=source,
        head=head,
        segmentation=SegmentationHead(
            decoder=_decoder(), side=MAP_SIDE, widths=(64, 32), bev_channels=BEV_CHANNELS
        )
        if segmentation
        else None,
        map_grid=GRID if segmentation else None,
        map_classes=PETR_LAYERS if segmentation else None,
        frames=frames,
        lift=TemporalLift(
            lift=DepthLift(
                depth=DepthBranch(
                    channels=image.channels,
                    hidden=64,
                    lifted=LIFTED,
                    num_classes=len(NUSCENES_CLASSES),
                    edges_m=depth_edges(*DEPTHS_M, DEPTH_BINS),
                ),
                grid=GRID,
            ),
            frames=frames,
            maps=2 if second else 1,
            channels=BEV_CHANNELS,
            image_heat_weight=3.0,
            earlier_gradient=False,
        ),
        only_images=only_images,
    )


def _decoder() -> QueryDecoder:
    return QueryDecoder(channels=CHANNELS, layers=2, heads=4, hidden=256, dropout=0.0)
