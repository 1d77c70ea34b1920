"""PETR and PETRv2 in the published sizes (megvii-research/PETR, configs) around an image branch."""

from __future__ import annotations

from dataclasses import replace

from perception3d.datasets.nuscenes.map_layers import PETR_LAYERS
from perception3d.fusion.petr_position import RayPointCode
from perception3d.fusion.petr_tokens import PETRTokens
from perception3d.heads.petr import PETRV2_LOSS, PETRHead, petr_denoising
from perception3d.heads.queries import LearnedQueries
from perception3d.heads.query_decoder import QueryDecoder
from perception3d.heads.segmentation import SegmentationHead
from perception3d.models.image_branch import ImageBranch
from perception3d.models.petr import PETR
from perception3d.structures import BEVGrid

CHANNELS = 256

#: 100 m by 100 m in cells of half a metre.
MAP_GRID = BEVGrid((-50.0, 50.0), (-50.0, 50.0), (-5.0, 3.0), 0.5)


#: Losses of the branch "flash": places count double, in the matching too. (It also matches by
#: velocities, which is not offered here.)
FLASH_LOSS = replace(PETRV2_LOSS, code_weights=(2.0, 2.0) + (1.0,) * 8)


def petr(image: ImageBranch, *, num_classes: int = 10, queries: int = 900) -> PETR:
    """PETR: one frame, one box branch for all layers."""
    return PETR(
        image=image,
        tokens=_tokens(image, gated=False),
        queries=LearnedQueries(queries),
        head=PETRHead(decoder=_decoder(), num_classes=num_classes, split=False),
    )


def petrv2(
    image: ImageBranch,
    *,
    num_classes: int = 10,
    queries: int = 900,
    denoising: bool = False,
    flash: bool = False,
    frames: int = 2,
) -> PETR:
    """PETRv2 for detection: two frames, gate, sub-heads.

    Args:
        image: pixels to features.
        num_classes: K.
        queries: published 900, or 1500 for the leaderboard and on the branch "flash".
        denoising: as in its later configs.
        flash: as on the branch "flash": without the code of view, row and column, so that only
            rays tell both frames apart, and with its loss.
        frames: 2; 1 leaves the earlier frame out.
    """
    return PETR(
        image=image,
        tokens=_tokens(image, gated=True, views=not flash),
        queries=LearnedQueries(queries),
        head=PETRHead(
            decoder=_decoder(),
            num_classes=num_classes,
            split=True,
            loss=FLASH_LOSS if flash else None,
        ),
        frames=frames,
        denoising=petr_denoising(num_classes) if denoising else None,
    )


def petrv2_segmentation(image: ImageBranch, *, frames: int = 2) -> PETR:
    """PETRv2 for maps alone, as released: two frames, 625 queries, 200 x 200 cells."""
    return PETR(
        image=image,
        tokens=_tokens(image, gated=True),
        segmentation=SegmentationHead(decoder=_decoder()),
        map_grid=MAP_GRID,
        map_classes=PETR_LAYERS,
        frames=frames,
    )


def _tokens(image: ImageBranch, *, gated: bool, views: bool = True) -> PETRTokens:
    return PETRTokens(
        in_channels=image.channels,
        channels=CHANNELS,
        rays=RayPointCode(CHANNELS),
        gated=gated,
        view_feats=128 if views else None,
    )


def _decoder() -> QueryDecoder:
    return QueryDecoder(
        channels=CHANNELS, layers=6, heads=8, hidden=2048, dropout=0.1, dropout_everywhere=True
    )
