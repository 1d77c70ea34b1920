"""With equal counts on each process, CMT's own losses average to those of the big batch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from perception3d.engine.config_file import load_config
from perception3d.engine.objective import total_loss
from perception3d.structures import SE3, Batch, Boxes3D

CONFIG = Path(__file__).parents[2] / "configs" / "cmt_fusion.py"


def small_model() -> nn.Module:
    """The LiDAR head of the town's size on a small grid, without what draws random numbers."""
    config = load_config(CONFIG).function.__globals__
    size = replace(config["SIZES"]["town"], half_range_m=12.8, learned_queries=30, dropout=0.0)
    torch.manual_seed(0)
    model = config["model"](size, "lidar", "learned").train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()  # statistics of a batch are another matter (SyncBatchNorm)
    return model


def sample(seed: int) -> tuple[Tensor, Boxes3D]:
    generator = torch.Generator().manual_seed(seed)
    low, high = torch.tensor([-12.0, -12, -3, 0, 0]), torch.tensor([12.0, 12, 1, 255, 0.5])
    points = low + (high - low) * torch.rand(400, 5, generator=generator)
    boxes = Boxes3D(
        center_m=torch.rand(3, 3, generator=generator) * 20 - 10,
        size_lwh_m=torch.rand(3, 3, generator=generator) * 3 + 1,
        yaw_rad=torch.rand(3, generator=generator) * 3,
        velocity_mps=torch.zeros(3, 2),
        label=torch.tensor([0, 1, 8]),
        num_points=torch.full((3,), 5),
        attribute=torch.full((3,), -1),
    )
    return points, boxes


def batch(*samples: tuple[Tensor, Boxes3D]) -> Batch:
    number = len(samples)
    lengths = torch.tensor([0, *(len(points) for points, _ in samples)])
    return Batch(
        tokens=tuple(f"s{i}" for i in range(number)),
        time_ns=torch.zeros(number, dtype=torch.int64),
        global_SE3_ref=(SE3.identity(),) * number,
        ego_SE3_ref=(SE3.identity(),) * number,
        sensor_present=torch.tensor([[True, False]] * number),
        points=torch.cat([points for points, _ in samples]),
        offsets=lengths.cumsum(0),
        boxes=tuple(boxes for _, boxes in samples),
    )


def gradients(model: nn.Module, data: Batch) -> dict[str, Tensor]:
    model.zero_grad()
    total_loss(model.loss(model(data, None), data)).backward()  # type: ignore[operator]
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def test_mean_over_processes_is_the_big_batch() -> None:
    model, first, second = small_model(), sample(1), sample(2)
    parts = [gradients(model, batch(first)), gradients(model, batch(second))]
    whole = gradients(model, batch(first, second))
    assert len(whole) > 50
    for name, value in whole.items():
        mean = (parts[0][name] + parts[1][name]) / 2
        torch.testing.assert_close(mean, value, rtol=1e-3, atol=1e-5 * float(value.abs().max()))
