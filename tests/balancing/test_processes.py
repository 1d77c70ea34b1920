"""Two processes with half of a batch each weigh as one with the whole batch does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from perception3d.balancing import Balance, Fork, ImtlG
from tests.balancing.toys import Joint, batch, gradients, losses

ROOT = Path(__file__).parents[2]


def run(folder: Path, mode: str) -> list[dict[str, Any]]:
    script, out = Path(__file__).with_name("two_processes.py"), folder / mode
    started = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), str(folder / f"init_{mode}"), mode, str(out)],
            env=os.environ | {"PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in started:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    return [torch.load(f"{out}.{rank}", weights_only=True) for rank in range(2)]


@pytest.mark.slow
def test_the_sum_over_processes_is_one_process_with_the_whole_batch(tmp_path: Path) -> None:
    model = Joint(Fork(ImtlG("ab")), Balance(("camera", "lidar")))
    losses(model(*batch(4))).sum().backward()
    assert model.fork is not None and model.fork.record is not None
    assert model.balance is not None and model.balance.record is not None
    for found in (*run(tmp_path, "global"), *run(tmp_path, "engine")):
        torch.testing.assert_close(found["weight"], model.fork.record.weight, rtol=0, atol=1e-6)
        torch.testing.assert_close(found["scale"], model.balance.record.scale, rtol=1e-5, atol=0)
        for name, gradient in gradients(model).items():
            torch.testing.assert_close(found["gradients"][name], gradient, rtol=0, atol=1e-6)
    one, other = run(tmp_path, "local")
    assert (one["weight"] - other["weight"]).abs().max() > 1e-4
