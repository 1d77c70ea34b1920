"""Latency, memory and work of a model by its parts: ``python tools/bench.py model CONFIG [flags]``.

    python tools/bench.py model configs/pillarnest_tiny.py                   frames of the data
    python tools/bench.py model configs/pillarnest_tiny.py --invented        without any data
    python tools/bench.py model configs/cmt_fusion.py --precision bf16 --compile

One sample a pass. Precision and size are knobs of the config.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.clock import Clock
from benchmarks.flops import counter
from benchmarks.invented import empty_dataset, invented_batch
from benchmarks.timing import peak_mb
from perception3d.engine.command_line import Command, parse_command
from perception3d.engine.experiment import Experiment
from perception3d.engine.files import write_json
from perception3d.engine.prediction import evaluation_mode, pick_device

#: What is left of a forward pass outside of every part (gathering of features).
REST, DECODE, ALL = "rest of the forward pass", "decode", "all"


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to measure.

    Attributes:
        runs: passes that count; 0 counts the work alone, in one pass.
        warm_up: passes before them.
        samples: frames of the validation split, taken in turn.
        invented: measure one invented frame instead (a generated street, noise in the cameras);
            no data set is needed, and the config's size is the published one by default.
        image_hw: height and width of the invented images, where the config does not tell.
        device: auto, cpu, cuda or cuda:N.
        threads: of PyTorch on the CPU; 0 leaves its own choice.
        compile: send backbones, necks and heads through torch.compile.
        out: JSON file; a date below ``work_dirs/bench`` by default.
    """

    runs: int = 20
    warm_up: int = 3
    samples: int = 4
    invented: bool = False
    image_hw: tuple[int, int] | None = None
    device: str = "auto"
    threads: int = 0
    compile: bool = False
    out: Path | None = None

    def __post_init__(self) -> None:
        if self.runs < 0 or self.samples < 1 or self.warm_up < 0:
            raise ValueError(
                "runs and warm_up must be at least 0, samples 1; found "
                f"{self.runs}, {self.warm_up}, {self.samples}"
            )


@dataclass(frozen=True)
class Part:
    """One part of a pass.

    Attributes:
        median_ms, p95_ms: over the runs, on a GPU after waiting for it; None without runs.
        gflop: floating-point operations, a multiply-add as two; None: it has none that count.
    """

    median_ms: float | None
    p95_ms: float | None
    gflop: float | None

    @staticmethod
    def of(seconds: Sequence[float], gflop: float | None) -> Part:
        """From the times of all runs."""
        slow = float(np.percentile(seconds, 95))
        return Part(1e3 * float(np.median(seconds)), 1e3 * slow, gflop)


def parts_of(model: nn.Module) -> dict[str, nn.Module]:
    """The modules that a reader of the model's file knows by name; branches are taken apart."""
    parts = {}
    for name, child in model.named_children():
        if hasattr(child, "backbone"):
            parts |= {f"{name}.{inner}": module for inner, module in child.named_children()}
        else:
            parts[name] = child
    return parts


def run(model: nn.Module, batch: Any, clock: Clock) -> None:
    """A forward pass and the decoding of its boxes."""
    with clock.part(REST):
        outputs = model(batch)
    with clock.part(DECODE):
        model.predict(outputs, batch)  # type: ignore[operator]


@torch.no_grad()
def count(model: nn.Module, batch: Any) -> dict[str, float]:
    """GFLOP of every part and of all, in full precision."""
    # PyTorch's counter trips over weights that could learn and are handed to a module.
    learning = [p for p in model.parameters() if p.requires_grad]
    try:
        for parameter in learning:
            parameter.requires_grad_(False)
        with counter() as counted, (clock := Clock.of_work(counted)).watching(parts_of(model)):
            run(model, batch, clock)
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
    return {**clock.taken, ALL: 1e-9 * counted.get_total_flops()}


@torch.inference_mode()
def measure(
    model: nn.Module, batches: Sequence[Any], precision: str, options: Options, device: torch.device
) -> tuple[dict[str, Part], float | None]:
    """Every part, the decoding and all of a pass, and the peak of memory in MB, where it is known.

    The time of all is taken in passes of its own, without the clock of the parts.

    Args:
        model: in evaluation mode, on the device.
        batches: on the device, taken in turn; work is counted with the first.
        precision: fp32, bf16 or fp16.
        options: as on the command line.
        device: of both.
    """
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    parts = parts_of(model)
    work = count(model, batches[0])
    if not options.runs:
        return {name: Part(None, None, gflop) for name, gflop in work.items()}, None
    if options.compile:
        for name, part in parts.items():
            if name.endswith(("backbone", "neck")) or name in ("head", "segmentation"):
                part.compile()
    taken: dict[str, list[float]] = {name: [] for name in ("voxelize", *parts, REST, DECODE, ALL)}
    with torch.autocast(device.type, dtype, precision != "fp32"):
        for number in range(options.warm_up):
            run(model, batches[number % len(batches)], Clock.of(device))
            with (warming := Clock.of(device)).watching(parts):  # hooks change what is compiled
                run(model, batches[number % len(batches)], warming)
        memory = peak_mb(lambda: run(model, batches[0], Clock.of(device)), device.type)
        for number in range(options.runs):
            batch = batches[number % len(batches)]
            clock = Clock.of(device)
            begin = clock.read()
            run(model, batch, clock)
            taken[ALL].append(clock.read() - begin)
            with (clock := Clock.of(device)).watching(parts):
                run(model, batch, clock)
            for name, seconds in clock.taken.items():
                taken[name].append(seconds)
    found = {n: Part.of(s, work.get(n)) for n, s in taken.items() if s}
    return found, None if math.isnan(memory) else memory


def main(arguments: list[str]) -> None:
    """CONFIG and flags, as of the other tools."""
    if not arguments or arguments[0].startswith("-"):
        print(__doc__)
        return
    command = parse_command(arguments[0], arguments[1:], Options, prog="tools/bench.py model")
    options = command.options
    if options.threads:
        torch.set_num_threads(options.threads)
    device = pick_device(options.device)
    with tempfile.TemporaryDirectory() as folder:
        experiment = _experiment(command, Path(folder))
        torch.manual_seed(experiment.seed)
        model = experiment.model().to(device)
        if options.invented:
            batches = [invented_batch(experiment, model, options.image_hw).to(device)]
        else:
            batches = _batches(experiment, options.samples, device)
    with evaluation_mode(model):
        found, memory = measure(model, batches, experiment.precision, options, device)
    facts = {
        "config": str(command.config.path),
        "experiment": experiment.name,
        "knobs": {name: str(value) for name, value in command.knobs.items()},
        "input": _shapes(batches[0]) + (", invented" if options.invented else ""),
        "precision": experiment.precision,
        "compiled": options.compile,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "parameters": sum(p.numel() for p in model.parameters()),
        "runs": options.runs,
        "peak_mb": memory,
    }
    print(table(found, facts))
    stamp = time.strftime("%Y%m%d_%H%M%S")
    out = options.out or Path("work_dirs") / "bench" / f"model_{experiment.name}_{stamp}.json"
    write_json(out, {**facts, "parts": {name: asdict(part) for name, part in found.items()}})
    print(out)


def _experiment(command: Command[Options], folder: Path) -> Experiment:
    """The config's; without data, it is shown an empty data set."""
    if not command.options.invented or command.knobs.get("data", "auto") != "auto":
        return command.experiment()
    return command.config.build({**command.knobs, "data": str(empty_dataset(folder / "nuscenes"))})


def _batches(experiment: Experiment, count: int, device: torch.device) -> list[Any]:
    """Batches of one frame each from the validation split."""
    if experiment.val is None:
        raise ValueError(f"{experiment.name} has no validation samples; try --invented")
    samples = experiment.val()
    total = len(samples.dataset)  # type: ignore[arg-type]
    numbers = np.linspace(0, total - 1, min(count, total)).astype(int)
    return [samples.collate([samples.dataset[int(n)]]).to(device) for n in numbers]


def _shapes(batch: Any) -> str:
    words = []
    if batch.points is not None:
        words.append(f"{len(batch.points)} points")
    if batch.images is not None:
        _, views, _, height, width = batch.images.shape
        words.append(f"{views} images of {height} x {width}")
    return ", ".join(words)


def table(found: dict[str, Part], facts: dict[str, Any]) -> str:
    """One line a part."""
    peak = "" if facts["peak_mb"] is None else f", peak {facts['peak_mb']:.0f} MB"
    lines = [
        f"{facts['config']}: {facts['parameters'] / 1e6:.2f} M parameters, {facts['precision']}"
        f"{', compiled' if facts['compiled'] else ''}, {facts['device']}, {facts['threads']} "
        f"threads{peak}",
        f"{facts['input']}; GFLOP: a multiply-add is two",
        f"{'part':32s} {'median':>11s} {'p95':>11s} {'GFLOP':>9s}",
    ]
    for name, part in found.items():
        times = [
            f"{'':11s}" if x is None else f"{x:8.2f} ms" for x in (part.median_ms, part.p95_ms)
        ]
        work = f"{part.gflop:9.2f}" if part.gflop else ""
        lines.append(f"{name:32s} {times[0]} {times[1]} {work}".rstrip())
    return "\n".join(lines)
