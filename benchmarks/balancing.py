"""What balancing costs: training steps of the joint model with several rules, in one run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.ops import machine, write_json
from benchmarks.timing import compare, peak_mb, tensor_peak_mb
from perception3d.engine.config_file import load_config
from perception3d.engine.objective import task_losses, total_loss
from perception3d.structures import Batch

CONFIG = Path(__file__).parents[1] / "configs" / "fuller_joint.py"
#: Name of each way -> knobs of the config. The first is what the others are compared with.
WAYS: dict[str, dict[str, Any]] = {
    "plain sum": {"rule": "uniform", "intra": False},
    "IMTL-G": {"rule": "imtl_g", "intra": False},
    "FULLER (IMTL-G, intra)": {"rule": "imtl_g", "intra": True},
    "FULLER, by the last layer's weights": {
        "rule": "imtl_g", "intra": True, "measure": "weights",
    },
    "PCGrad at the fork": {"rule": "pcgrad", "intra": False},
    "MGDA-UB": {"rule": "mgda", "intra": False},
    "CAGrad": {"rule": "cagrad", "intra": False},
    "GradNorm": {"rule": "gradnorm", "intra": False},
}  # fmt: skip
#: PCGrad as published: a backward pass a task, through everything that tasks share.
TWO_PASSES = "PCGrad, a backward pass a task"


def run(*, data: str, runs: int, threads: int, device: str, out: Path) -> None:
    """Measure steps (forward, loss, backward) on one batch of the training split; write ``out``."""
    torch.set_num_threads(threads)
    facts = machine(threads, device)
    print("\n".join(f"{name}: {value}" for name, value in facts.items()), flush=True)
    experiment = load_config(CONFIG).build({"data": data})
    samples = experiment.train()
    batch = samples.collate([samples.dataset[i] for i in range(experiment.batch_size)])
    batch = batch.to(torch.device(device))
    ways: dict[str, Callable[[], Any]] = {}
    memory: dict[str, float] = {}
    for name, knobs in {**WAYS, TWO_PASSES: WAYS["plain sum"]}.items():
        model = _model(data, knobs, device)
        ways[name] = (_two_passes if name == TWO_PASSES else _step)(model, batch)
        ways[name]()
        model.zero_grad()  # so that gradients count as what the step makes
        memory[name] = (
            tensor_peak_mb(ways[name]) if device == "cpu" else peak_mb(ways[name], device)
        )
    found = compare(ways, runs=runs, device=device)
    print(f"\n{experiment.name}, {experiment.batch_size} sample(s), {runs} runs in turn, paired")
    for name, measured in found.items():
        print(
            f"  {name:32s} {measured.median_ms:9.1f} ms (least {measured.least_ms:.1f})"
            f" {measured.paired_ratio:7.3f} x"
            f" {memory[name]:9.1f} MB of tensors {memory[name] / memory['plain sum']:7.3f} x"
        )
    rows = [
        {"way": name, **asdict(measured), "tensor_peak_mb": memory[name]}
        for name, measured in found.items()
    ]
    write_json(out, {"machine": facts, "rows": rows})
    print(f"\n{out}")


def _model(data: str, knobs: dict[str, Any], device: str) -> nn.Module:
    torch.manual_seed(0)
    return load_config(CONFIG).build({"data": data, **knobs}).model().to(device).train()


def _step(model: nn.Module, batch: Batch) -> Callable[[], None]:
    def step() -> None:
        model.zero_grad()
        total_loss(model.loss(model(batch), batch), model.rule).backward()

    return step


def _two_passes(model: nn.Module, batch: Batch) -> Callable[[], None]:
    """Gradients of all parameters, task by task, then surgery on them."""
    parameters = list(model.parameters())

    def step() -> None:
        model.zero_grad()
        losses = task_losses(model.loss(model(batch), batch))
        # What images are taught directly belongs to no task: it comes with the first pass.
        each_task = [losses["detection"] + losses["images"], losses["segmentation"]]
        found: list[list[Tensor]] = []
        for number, loss in enumerate(each_task):
            last = number == len(each_task) - 1
            each = torch.autograd.grad(loss, parameters, retain_graph=not last, allow_unused=True)
            found.append(
                [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, each)]
            )
        flat = [torch.cat([g.flatten() for g in each]) for each in found]
        made = torch.zeros_like(flat[0])
        for i, own in enumerate(flat):
            for j, other in enumerate(flat):
                overlap = own @ other
                if i != j and overlap < 0:
                    own = own - overlap / other.square().sum() * other
            made += own
        for parameter, part in zip(parameters, made.split([p.numel() for p in parameters])):
            parameter.grad = part.view_as(parameter)

    return step
