"""Latency of a model by its parts: ``python tools/bench.py model CONFIG [flags]``."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.timing import peak_mb
from perception3d.engine.command_line import parse_command
from perception3d.engine.experiment import Experiment
from perception3d.engine.files import write_json
from perception3d.engine.prediction import evaluation_mode, pick_device

#: What is left of a forward pass outside of every part (position codes, gathering of tokens).
REST, DECODE, ALL = "rest of the forward pass", "decode", "all"


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to measure; precision is a knob of the config.

    Attributes:
        runs: passes that count, after three that warm up.
        samples: frames of the validation split, taken in turn.
        device: auto, cpu, cuda or cuda:N.
        threads: of PyTorch on the CPU; 0 leaves its own choice.
        compiled: whether backbones, necks and heads go through torch.compile.
        out: JSON file; a date below ``work_dirs/bench`` by default.
    """

    runs: int = 20
    samples: int = 4
    device: str = "auto"
    threads: int = 0
    compiled: bool = False
    out: Path | None = None


@dataclass(frozen=True)
class Latency:
    """Of one part, over the runs; on a GPU after waiting for it."""

    median_ms: float
    p95_ms: float

    @staticmethod
    def of(seconds: Sequence[float]) -> Latency:
        """From the times of all runs."""
        return Latency(1e3 * float(np.median(seconds)), 1e3 * float(np.percentile(seconds, 95)))


class Clock:
    """Adds up where the time of a pass goes: each part without the parts inside of it."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}
        self._open: list[list[Any]] = []  # name, begin, seconds of parts inside

    def now(self) -> float:
        """Seconds, once the device has done all that it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def begin(self, name: str) -> None:
        """A part begins, inside of the one that is open."""
        self._open.append([name, self.now(), 0.0])

    def end(self) -> None:
        """The part that began last ends."""
        name, begin, inside = self._open.pop()
        taken = self.now() - begin
        self.seconds[name] = self.seconds.get(name, 0.0) + taken - inside
        if self._open:
            self._open[-1][2] += taken

    @contextlib.contextmanager
    def watching(self, parts: dict[str, nn.Module]) -> Iterator[None]:
        """Every call of these modules is timed inside."""
        hooks = []
        for name, part in parts.items():
            hooks.append(part.register_forward_pre_hook(lambda *_, name=name: self.begin(name)))
            hooks.append(part.register_forward_hook(lambda *_: self.end()))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def parts_of(model: nn.Module) -> dict[str, nn.Module]:
    """The modules that a reader of the model's file knows by name; branches are taken apart."""
    parts = {}
    for name, child in model.named_children():
        if hasattr(child, "backbone"):
            parts |= {f"{name}.{inner}": module for inner, module in child.named_children()}
        else:
            parts[name] = child
    return parts


def measure(
    model: nn.Module, batches: Sequence[Any], precision: str, options: Options, device: torch.device
) -> tuple[dict[str, Latency], float]:
    """Latency of every part, of the decoding and of all, and the peak of memory in MB.

    The time of all is taken in passes of its own, without the clock of the parts.

    Args:
        model: in evaluation mode, on the device.
        batches: on the device, taken in turn.
        precision: fp32, bf16 or fp16.
        options: as on the command line.
        device: of both.
    """
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    parts = parts_of(model)
    if options.compiled:
        for name, part in parts.items():
            if name.endswith(("backbone", "neck")) or name == "head":
                part.compile()

    def run(number: int, clock: Clock) -> None:
        batch = batches[number % len(batches)]
        with torch.inference_mode(), torch.autocast(device.type, dtype, precision != "fp32"):
            clock.begin(REST)
            outputs = model(batch)
            clock.end()
            clock.begin(DECODE)
            model.predict(outputs, batch)  # type: ignore[operator]
            clock.end()

    for number in range(3):
        run(number, Clock(device))
        with (warming := Clock(device)).watching(parts):  # hooks change what is compiled
            run(number, warming)
    memory = peak_mb(lambda: run(0, Clock(device)), device.type)
    taken: dict[str, list[float]] = {name: [] for name in (*parts, REST, DECODE, ALL)}
    for number in range(options.runs):
        clock = Clock(device)
        begin = clock.now()
        run(number, clock)
        taken[ALL].append(clock.now() - begin)
        clock = Clock(device)
        with clock.watching(parts):
            run(number, clock)
        for name, seconds in clock.seconds.items():
            taken[name].append(seconds)
    return {name: Latency.of(seconds) for name, seconds in taken.items() if seconds}, memory


def main(arguments: list[str]) -> None:
    """CONFIG and flags, as of the other tools."""
    if not arguments or arguments[0].startswith("-"):
        print(__doc__)
        return
    command = parse_command(arguments[0], arguments[1:], Options, prog="tools/bench.py model")
    options, experiment = command.options, command.experiment()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = pick_device(options.device)
    torch.manual_seed(experiment.seed)
    model = experiment.model().to(device)
    with evaluation_mode(model):
        found, memory = measure(
            model, _batches(experiment, options.samples, device), experiment.precision, options,
            device,
        )  # fmt: skip
    facts = {
        "config": str(command.config.path),
        "knobs": {name: str(value) for name, value in command.knobs.items()},
        "precision": experiment.precision,
        "compiled": options.compiled,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "parameters": sum(p.numel() for p in model.parameters()),
        "peak_mb": memory,
    }
    print(table(found, facts))
    stamp = time.strftime("%Y%m%d_%H%M%S")
    out = options.out or Path("work_dirs") / "bench" / f"model_{experiment.name}_{stamp}.json"
    write_json(out, {**facts, "parts": {name: asdict(part) for name, part in found.items()}})
    print(out)


def _batches(experiment: Experiment, count: int, device: torch.device) -> list[Any]:
    """Batches of one frame each from the validation split."""
    if experiment.val is None:
        raise ValueError(f"{experiment.name} has no validation samples to measure with")
    samples = experiment.val()
    total = len(samples.dataset)  # type: ignore[arg-type]
    numbers = np.linspace(0, total - 1, min(count, total)).astype(int)
    return [samples.collate([samples.dataset[int(n)]]).to(device) for n in numbers]


def table(found: dict[str, Latency], facts: dict[str, Any]) -> str:
    """One line a part."""
    lines = [
        f"{facts['config']}: {facts['parameters'] / 1e6:.2f} M parameters, {facts['precision']}, "
        f"{facts['device']}, {facts['threads']} threads, peak {facts['peak_mb']:.0f} MB",
        f"{'part':32s} {'median':>10s} {'p95':>10s}",
    ]
    lines += [f"{n:32s} {x.median_ms:8.2f} ms {x.p95_ms:8.2f} ms" for n, x in found.items()]
    return "\n".join(lines)
