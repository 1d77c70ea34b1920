"""PETR's box code, and boxes as its published code stores them (for golden cases)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from perception3d.heads.petr_box_code import decode_petr_boxes, encode_petr_boxes
from perception3d.structures import Boxes3D


def stored_boxes(rows: Tensor, label: Tensor) -> Boxes3D:
    """Boxes of a case: (n, 9) x, y, z of the bottom, width, length, height, r, velocity."""
    rows = rows.reshape(-1, 9)
    center = rows[:, :3].clone()
    center[:, 2] += rows[:, 5] / 2
    size, yaw = rows[:, [4, 3, 5]], -rows[:, 6] - math.pi / 2
    return Boxes3D.build(center, size, yaw, label.reshape(-1), velocity_mps=rows[:, 7:9])


def all_stored(inputs: dict[str, Tensor]) -> list[Boxes3D]:
    """Ground truth of every sample of a case."""
    samples = sum(key.startswith("gt_boxes_") for key in inputs)
    return [stored_boxes(inputs[f"gt_boxes_{i}"], inputs[f"gt_labels_{i}"]) for i in range(samples)]


def stored_rows(boxes: Boxes3D) -> Tensor:
    """(n, 9) x, y, z of the gravity centre, width, length, height, r in (-pi, pi], velocity."""
    # r is what atan2 returns: its branch cut lies elsewhere than that of our yaw.
    r = torch.atan2(-boxes.yaw_rad.cos(), -boxes.yaw_rad.sin())
    parts = (boxes.center_m, boxes.size_lwh_m[:, [1, 0, 2]], r[:, None], boxes.velocity_mps)
    return torch.cat(parts, dim=1)


def car(yaw: float = 0.0, velocity: tuple[float, float] = (3.0, 4.0), label: int = 0) -> Boxes3D:
    return Boxes3D.build(
        torch.tensor([[10.0, -20.0, 0.5]]),
        torch.tensor([[4.0, 2.0, 1.5]]),
        torch.tensor([yaw]),
        torch.tensor([label]),
        velocity_mps=torch.tensor([velocity]),
    )


def test_slots_by_hand() -> None:
    want = [10.0, -20.0, math.log(2), math.log(4), 0.5, math.log(1.5)]
    vector = encode_petr_boxes(car(yaw=0.3))[0]
    torch.testing.assert_close(vector[:6], torch.tensor(want))
    r = -0.3 - math.pi / 2
    torch.testing.assert_close(vector[6:8], torch.tensor([math.sin(r), math.cos(r)]))
    assert vector[8:].tolist() == [3.0, 4.0]


def test_a_car_that_drives_ahead() -> None:
    # In the LiDAR's frame y is ahead: yaw pi / 2, which is stored as -pi.
    vector = encode_petr_boxes(car(yaw=math.pi / 2))[0]
    torch.testing.assert_close(vector[6:8], torch.tensor([0.0, -1.0]), atol=1e-6, rtol=0)


def test_round_trip() -> None:
    torch.manual_seed(0)
    boxes = Boxes3D.build(
        torch.randn(20, 3) * 20,
        torch.rand(20, 3) * 5 + 0.3,
        torch.rand(20) * 20 - 10,
        torch.arange(20) % 10,
        velocity_mps=torch.randn(20, 2),
    )
    again = decode_petr_boxes(encode_petr_boxes(boxes), boxes.label)
    torch.testing.assert_close(again.center_m, boxes.center_m)
    torch.testing.assert_close(again.size_lwh_m, boxes.size_lwh_m)
    torch.testing.assert_close(again.velocity_mps, boxes.velocity_mps)
    turned = (again.yaw_rad - boxes.yaw_rad + math.pi) % (2 * math.pi) - math.pi
    assert float(turned.abs().max()) < 1e-5


def test_unknown_velocities_stay_unknown() -> None:
    vector = encode_petr_boxes(car(velocity=(math.nan, math.nan)))
    assert bool(vector[:, 8:].isnan().all()) and bool(torch.isfinite(vector[:, :8]).all())


def test_stored_boxes_are_read_as_they_are_written() -> None:
    rows = torch.tensor([[1.0, 2.0, 3.0, 1.8, 4.5, 1.6, 2.5, 0.1, -0.2]])
    back = stored_rows(stored_boxes(rows, torch.tensor([3])))
    rows[:, 2] += 0.8
    torch.testing.assert_close(back, rows)
