"""Numbers and names of weights of the published CMT heads."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from perception3d.engine.key_tables import CMT_KEYS
from perception3d.fusion.tokens import CrossModalTokens
from perception3d.heads.queries import LearnedQueries
from perception3d.heads.query import QueryHead
from perception3d.heads.query_decoder import QueryDecoder

RANGE_M = (-54.0, -54.0, -5.0, 54.0, 54.0, 3.0)


class Head(nn.Module):
    """Everything that published checkpoints hold under "pts_bbox_head."."""

    def __init__(self, *, lidar: bool, image: bool) -> None:
        super().__init__()
        self.tokens = CrossModalTokens(
            channels=256, range_m=RANGE_M, bev_channels=512 if lidar else None, cameras=image
        )
        self.queries = LearnedQueries(900)
        self.head = QueryHead(
            decoder=QueryDecoder(channels=256, layers=6, heads=8, hidden=1024),
            num_classes=10,
            range_m=RANGE_M,
            task_kernel=1 if image else 3,
        )


@pytest.mark.parametrize(
    ("lidar", "image", "weights", "keys"),
    [
        (True, True, 8_763_396, 155),
        (True, False, 9_498_372, 151),
        (False, True, 7_583_236, 149),
    ],
    ids=["fusion", "LiDAR only", "camera only"],
)
def test_size_of_the_published_heads(lidar: bool, image: bool, weights: int, keys: int) -> None:
    head = Head(lidar=lidar, image=image)
    assert sum(p.numel() for p in head.parameters()) == weights
    names = {CMT_KEYS.to_published(name) for name in head.state_dict()}
    assert len(names) == keys
    assert all(name.startswith("pts_bbox_head.") for name in names)


def test_initialisation_of_the_published_heads() -> None:
    torch.manual_seed(0)
    head = Head(lidar=True, image=True).head
    layer = head.decoder.layers[0]
    bound = (6 / (256 + 1024)) ** 0.5
    assert 0.95 * bound < float(layer.expand.weight.detach().abs().max()) <= bound
    assert float(layer.expand.bias.detach().abs().max()) == 0.0
    scores = head.tasks.branches["cls_logits"].output_bias.detach()
    assert (
        0.1 < float(scores.abs().max()) <= 0.125
    )  # torch's own: the published -2.19 never applies
