"""Gradient calibration between tasks and between modalities, for any PyTorch model.

Knows torch and nothing of driving::

    from perception3d.balancing import Balance, Fork, ImtlG

    balance = Balance(("camera", "lidar"))  # FULLER's calibration between modalities
    fork = Fork(ImtlG(("boxes", "map")))  # and between tasks
    for images, points, boxes, map_ in loader:
        camera, lidar = balance(camera_branch(images), lidar_branch(points))
        for_boxes, for_map = fork(trunk(torch.cat((camera, lidar), 1)))
        losses = box_loss(box_head(for_boxes), boxes), map_loss(map_head(for_map), map_)
        optimizer.zero_grad()
        fork.rule.total(torch.stack(losses)).backward()
        optimizer.step()

One backward pass a step, the same forward values, nothing to change for inference.
"""

from perception3d.balancing.aligned import Aligned
from perception3d.balancing.balance import Balance, BalanceRecord
from perception3d.balancing.cagrad import CaGrad
from perception3d.balancing.famo import Famo
from perception3d.balancing.fixed import Fixed
from perception3d.balancing.fork import Fork, ForkRecord, Length
from perception3d.balancing.fuller_intra import FullerIntra
from perception3d.balancing.gradnorm import GradNorm
from perception3d.balancing.hierarchical import Hierarchical
from perception3d.balancing.imtl_g import ImtlG
from perception3d.balancing.last_layer import LastLayer
from perception3d.balancing.measure import own_group
from perception3d.balancing.mgda import Mgda
from perception3d.balancing.modality import ModalityRule
from perception3d.balancing.modality_dropout import ModalityDropout
from perception3d.balancing.ogm import Ogm
from perception3d.balancing.pcgrad import PcGrad
from perception3d.balancing.rule import Rule
from perception3d.balancing.uncertainty import Uncertainty
from perception3d.balancing.uniform import Uniform

__all__ = [
    "Aligned",
    "Balance",
    "BalanceRecord",
    "CaGrad",
    "Famo",
    "Fixed",
    "Fork",
    "ForkRecord",
    "FullerIntra",
    "GradNorm",
    "Hierarchical",
    "ImtlG",
    "LastLayer",
    "Length",
    "Mgda",
    "ModalityDropout",
    "ModalityRule",
    "Ogm",
    "PcGrad",
    "Rule",
    "Uncertainty",
    "Uniform",
    "own_group",
]
