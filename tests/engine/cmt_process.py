"""One of two processes that take a step of a small CMT together; run by test_cmt_processes.py.

python tests/engine/cmt_process.py QUERIES RANK MEETING_FILE BOXES_OF_SAMPLE_0 BOXES_OF_SAMPLE_1
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from perception3d.engine.config_file import load_config
from perception3d.engine.objective import total_loss
from tests.models.small_cmt import small_batch, small_cmt

CONFIG = Path(__file__).parents[2] / "configs" / "cmt_fusion.py"


class Step(nn.Module):
    """What the engine wraps: noise, forward pass and loss of one batch; always the same numbers."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: object) -> Tensor:
        torch.manual_seed(dist.get_rank())
        noise = self.model.denoising(batch)  # type: ignore[operator]
        return total_loss(self.model.loss(self.model(batch, noise), batch))  # type: ignore[operator]


def build(queries: str) -> nn.Module:
    """The same model in every process."""
    if queries == "learned":
        return small_cmt(seed=1)
    # The town's model, whose queries and part of the losses come from heat maps.
    config = load_config(CONFIG).function.__globals__
    torch.manual_seed(1)
    size = replace(config["SIZES"]["town"], half_range_m=16.0, voxel_m=1.0, image_hw=(32, 48))
    model: nn.Module = config["model"](size, "fusion", queries)
    return model


def gradients(model: nn.Module) -> dict[str, Tensor | None]:
    return {
        name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()
    }


def main(queries: str, rank: int, meeting: str, boxes: tuple[int, ...]) -> None:
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    step = Step(build(queries)).train()
    batch = small_batch(boxes=boxes, seed=rank)
    step(batch).backward()
    own = gradients(step)
    unused = [name for name, value in own.items() if value is None]
    assert not unused, f"process {rank}: DDP waits for gradients of {unused}"
    step.zero_grad()
    parallel = DistributedDataParallel(step)
    parallel(batch).backward()
    compared = 0
    for name, shared in gradients(step).items():
        mine = own[name]
        assert mine is not None and shared is not None
        mean = mine.clone()
        dist.all_reduce(mean)
        mean /= 2
        scale = float(mean.abs().max())
        torch.testing.assert_close(shared, mean, rtol=1e-5, atol=1e-6 * scale + 1e-12, msg=name)
        compared += bool(scale > 0) and not torch.equal(mean, mine)
    print(f"{compared} of {len(own)} gradients were averaged")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], tuple(map(int, sys.argv[4:])))
