"""Run by test_processes.py: one of two processes with half of a batch each.

python two_processes.py RANK INIT_FILE MODE OUT
"""

from __future__ import annotations

import sys

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from perception3d.balancing import Balance, Fork, ImtlG, own_group
from perception3d.engine.gradient_figures import balancing_parts, share_measurements
from tests.balancing.toys import Joint, batch, gradients, losses


def main(rank: int, init: str, mode: str, out: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{init}", rank=rank, world_size=2)
    group = own_group() if mode == "global" else None
    model = Joint(Fork(ImtlG("ab"), group=group), Balance(("camera", "lidar"), group=group))
    if mode == "engine":
        share_measurements(balancing_parts(model))
    wrapped = DistributedDataParallel(model)
    images, points = batch(4)
    half = slice(2 * rank, 2 * rank + 2)
    losses(wrapped(images[half], points[half])).sum().backward()
    assert model.fork is not None and model.fork.record is not None
    assert model.balance is not None and model.balance.record is not None
    torch.save(
        {
            "weight": model.fork.record.weight,
            "scale": model.balance.record.scale,
            "gradients": gradients(model),
        },
        f"{out}.{rank}",
    )
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
