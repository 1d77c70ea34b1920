"""The study of balancing: arms of the joint model x settings x seeds, one row of JSON a run.

Every run is what a user would start by hand: ``tools/train.py configs/fuller_joint.py``, then
``tools/test.py --drop lidar cameras`` on its last weights. All arms of a seed have the same first
weights, the same samples in the same order and the same schedule. What is done stays done: a run
that was killed goes on, a row that is written is kept, and two processes share one study.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.ops import machine
from perception3d.engine.files import write_json
from perception3d.engine.lock import InUseError, locked
from perception3d.engine.run_folder import RunFolder

ROOT = Path(__file__).parents[1]
CONFIG = "configs/fuller_joint.py"
Device = Literal["cpu", "cuda"]

#: What is dropped after training, for the scores without a sensor.
DROPS = ("lidar", "cameras")

#: Name of an arm -> flags of the config.
ARMS: dict[str, tuple[str, ...]] = {
    "detection alone": ("--tasks", "det", "--rule", "uniform", "--no-intra"),
    "map alone": ("--tasks", "map", "--rule", "uniform", "--no-intra"),
    "plain sum": ("--rule", "uniform", "--no-intra"),
    "map x 5": ("--rule", "fixed", "--map-weight", "5", "--no-intra"),
    "map x 20": ("--rule", "fixed", "--map-weight", "20", "--no-intra"),
    "map x 100": ("--rule", "fixed", "--map-weight", "100", "--no-intra"),
    "uncertainty": ("--rule", "uncertainty", "--no-intra"),
    "GradNorm": ("--rule", "gradnorm", "--no-intra"),
    "PCGrad": ("--rule", "pcgrad", "--no-intra"),
    "MGDA-UB": ("--rule", "mgda", "--no-intra"),
    "inter (IMTL-G)": ("--rule", "imtl_g", "--no-intra"),
    "intra": ("--rule", "uniform", "--intra"),
    "inter, mean length": ("--rule", "imtl_g", "--no-intra", "--length", "mean_norm"),
    "inter, by weights": (
        "--rule", "imtl_g", "--no-intra", "--measure", "weights", "--length", "mean_norm",
    ),
    "FULLER": ("--rule", "imtl_g", "--intra"),
    "FULLER, by weights": (
        "--rule", "imtl_g", "--intra", "--measure", "weights", "--length", "mean_norm",
    ),
}  # fmt: skip
#: Only where the map's loss is a thousandth.
UNBALANCED_ARMS = ARMS | {"map x 1000": ("--rule", "fixed", "--map-weight", "1000", "--no-intra")}

#: Name of a setting -> its flags and arms; where detection is trained alone the settings are one.
SETTINGS: dict[str, tuple[tuple[str, ...], dict[str, tuple[str, ...]]]] = {
    "natural": ((), ARMS),
    "map x 0.001": (
        ("--map-scale", "0.001"),
        {name: flags for name, flags in UNBALANCED_ARMS.items() if name != "detection alone"},
    ),
}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run of the study."""

    setting: str
    arm: str
    seed: int

    @property
    def name(self) -> str:
        """Of its folder and its row."""
        words = f"{self.setting} {self.arm} seed {self.seed}"
        return "".join(c if c.isalnum() or c == "." else "_" for c in words.lower())

    @property
    def flags(self) -> tuple[str, ...]:
        """Of the config."""
        scale, arms = SETTINGS[self.setting]
        return (*arms[self.arm], *scale, "--seed", str(self.seed))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What all runs have in common.

    Attributes:
        out: folder of the study.
        common: flags of the config for every run (size, steps, data).
        threads: of PyTorch in each process.
        device: cpu or cuda.
    """

    out: Path
    common: tuple[str, ...]
    threads: int
    device: Device

    def row(self, cell: Cell) -> Path:
        """File of a finished run's row."""
        return self.out / "rows" / f"{cell.name}.json"

    def folder(self, cell: Cell) -> Path:
        """Of a run."""
        return self.out / "runs" / cell.name


def cells(settings: Sequence[str], arms: Sequence[str], seeds: Sequence[int]) -> list[Cell]:
    """The runs asked for, seed by seed, so that a table of fewer seeds is whole early.

    Args:
        settings, arms: names; no arms stand for all.
        seeds: of weights, order and augmentation.

    Raises:
        ValueError: an unknown name, or an arm that no setting has; lists the known ones.
    """
    known = list(UNBALANCED_ARMS)
    for asked, names, what in ((settings, list(SETTINGS), "setting"), (arms, known, "arm")):
        if wrong := [name for name in asked if name not in names]:
            raise ValueError(f"unknown {what} {', '.join(wrong)}; known: {', '.join(names)}")
    found = [
        Cell(setting=setting, arm=arm, seed=seed)
        for seed in seeds
        for setting in settings
        for arm in SETTINGS[setting][1]
        if not arms or arm in arms
    ]
    if absent := [arm for arm in arms if arm not in {cell.arm for cell in found}]:
        raise ValueError(f"no run of {', '.join(absent)} in setting {', '.join(settings)}")
    return found


def run(plan: Plan, wanted: Sequence[Cell]) -> tuple[int, list[str]]:
    """Make the missing rows: how many there are at the end, and what failed.

    Runs in use elsewhere are left out; where training or scoring fails, the others go on.

    Raises:
        ValueError: a row or run of other flags lies in the folder.
    """
    failed = []
    (plan.out / "rows").mkdir(parents=True, exist_ok=True)
    (plan.out / "runs").mkdir(exist_ok=True)
    for number, cell in enumerate(wanted):
        where = f"{number + 1}/{len(wanted)} {cell.name}"
        if _is_done(plan, cell):
            continue
        try:
            with locked(plan.row(cell).with_suffix(".lock")):
                if not _is_done(plan, cell):
                    print(where, flush=True)
                    _make_row(plan, cell)
        except InUseError:
            print(f"{where}: being made by another process", flush=True)
        except RuntimeError as error:
            print(f"{where}: {error}", flush=True)
            failed.append(cell.name)
    return sum(plan.row(cell).is_file() for cell in wanted), failed


def _is_done(plan: Plan, cell: Cell) -> bool:
    if not plan.row(cell).is_file():
        return False
    found, asked = read_row(plan.row(cell))["flags"], [*cell.flags, *plan.common]
    if found != asked:
        raise ValueError(
            f"{plan.row(cell)} was made with {' '.join(found)}, asked for is {' '.join(asked)}; "
            f"choose another --out, or delete it and the run {plan.folder(cell)}"
        )
    return True


def read_row(path: Path) -> dict[str, Any]:
    """A row as it was written.

    Raises:
        ValueError: it is none.
    """
    try:
        row = json.loads(path.read_text())
        row["cell"]["setting"], row["cell"]["arm"], row["cell"]["seed"]
        row["scores"]["all sensors"], row["gradients"], row["flags"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no row of a study ({error!r}); delete it") from None
    return dict(row)


def _make_row(plan: Plan, cell: Cell) -> None:
    folder = plan.folder(cell)
    _refuse_other_flags(plan, cell)
    if not (folder / "weights" / "last.safetensors").is_file():
        _train(plan, cell)
    cost = {"cpu_s": None, "peak_mb": None}
    if (folder / "cost.json").is_file():
        cost = json.loads((folder / "cost.json").read_text())
    tested = folder / "test"
    flags = [*cell.flags, *plan.common]
    weights = str(folder / "weights" / "last.safetensors")
    command = ["tools/test.py", CONFIG, weights, *flags, "--out", str(tested)]
    command += ["--device", plan.device, "--drop", *DROPS]
    _call(command, folder / "test.log", plan.threads)
    scores = json.loads((tested / "drops.json").read_text())["scores"]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rates = [line["samples_per_s"] for line in lines if "samples_per_s" in line]
    steps = lines[-1]["step"]
    record = json.loads((folder / "run.json").read_text())
    row = {
        "cell": asdict(cell),
        "flags": flags,
        "git": record["git"],
        "data": record["data"],
        "machine": machine(plan.threads, plan.device),
        "steps": steps,
        "cpu_s_a_step": None if cost["cpu_s"] is None else cost["cpu_s"] / steps,
        "samples_per_s": statistics.median(rates),
        "peak_mb": cost["peak_mb"],
        "cuda_peak_gb": max((line.get("cuda_peak_gb", 0.0) for line in lines), default=0.0),
        "gradients": _typical_gradients(lines),
        "scores": scores,
    }
    write_json(plan.row(cell), row)
    for results in tested.rglob("results.json"):
        results.unlink()  # megabytes each, and made again in seconds


def _refuse_other_flags(plan: Plan, cell: Cell) -> None:
    """Raise ValueError where the run's folder was made with other flags than asked for."""
    record = plan.folder(cell) / "run.json"
    if not record.is_file():
        return
    asked = [*cell.flags, *plan.common]
    found = list(json.loads(record.read_text())["arguments"])[: len(asked)]
    if found != asked:
        raise ValueError(
            f"{record.parent} was made with {' '.join(found)}, asked for is {' '.join(asked)}; "
            "choose another --out, or delete it"
        )


def _train(plan: Plan, cell: Cell) -> None:
    """Train, or go on with a run that was killed, whose costs are then not known."""
    folder = plan.folder(cell)
    flags = [*cell.flags, *plan.common]
    resumable = (folder / "checkpoints" / "latest.ckpt").is_file()
    if folder.exists():
        # A training may have outlived the study that started it.
        with RunFolder(folder).locked():
            if not resumable:
                shutil.rmtree(folder)
    command = ["tools/train.py", CONFIG, *flags, "--root", str(folder.parent)]
    command += ["--run", folder.name, "--threads", str(plan.threads), "--evaluate-every", "-1"]
    command += ["--accelerator", "cpu" if plan.device == "cpu" else "gpu"]
    if resumable:
        command += ["--resume"]
    log = plan.out / "runs" / f"{folder.name}.log"
    cost = _call(command, log, plan.threads)
    log.replace(folder / "train.log")
    if not resumable:
        write_json(folder / "cost.json", cost)


def _call(command: list[str], log: Path, threads: int) -> dict[str, float]:
    """Run a tool; its processor seconds, loading included, and its peak of memory.

    Raises:
        RuntimeError: it failed; with the end of its log.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with log.open("w") as file:
        child = subprocess.Popen(
            [sys.executable, *command], cwd=ROOT, env=environment, stdout=file, stderr=file
        )
        try:
            _, status, usage = os.wait4(child.pid, 0)
        except KeyboardInterrupt:
            child.terminate()
            child.wait()
            raise
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        raise RuntimeError(
            f"{' '.join(command)} ended with {child.returncode}; the end of {log}:\n"
            + "\n".join(log.read_text().splitlines()[-8:])
        )
    return {"cpu_s": usage.ru_utime + usage.ru_stime, "peak_mb": usage.ru_maxrss / 1e3}


def _typical_gradients(lines: list[dict[str, Any]]) -> dict[str, float]:
    """Median over the run of every figure that balancing logged; of rates the mean."""
    found: dict[str, list[float]] = {}
    for line in lines:
        for name, value in _flat(line.get("gradients", {})):
            found.setdefault(name, []).append(value)
    return {
        name: (statistics.fmean if "rate" in name else statistics.median)(values)
        for name, values in found.items()
    }


def _flat(values: dict[str, Any], before: str = "") -> Iterator[tuple[str, float]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{name}/")
        else:
            yield f"{before}{name}", float(value)
