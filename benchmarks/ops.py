"""Every op against its peers in one run; prints tables and writes them as JSON."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from perception3d_ops.library import COMPILED
from torch import Tensor

from benchmarks.boxes import box_cases
from benchmarks.clouds import real_cloud, street_cloud
from benchmarks.sparse import Voxels, encoder_cases, layer_cases, races
from benchmarks.timing import Case, Measured, compare
from benchmarks.voxels import voxel_cases
from perception3d.engine.files import write_json

#: Peaks of GPUs that figures are held against (vendor's data sheets, dense): TFLOP/s of tensor
#: cores in fp16, TFLOP/s of true float32, TB/s.
PEAKS = {"H200": (990.0, 67.0, 4.8), "H100": (990.0, 67.0, 3.35), "A100": (312.0, 19.5, 2.0)}
#: What others report for such layers, to stand beside ours where they cannot be installed.
REPORTED = (
    "spconv 2.3 (its BENCHMARK.md, A100, 120k voxels, its basic network): 13.0 / 12.4 ms forward / "
    "backward in fp16, 12.4 / 14.9 in tf32; TorchSparse++ (its README, A100): 1.7 x spconv 2.3.5 "
    "in inference, 1.16 x in mixed training"
)
PARTS = ("voxels", "layers", "encoder", "boxes")


@dataclass(frozen=True)
class Row:
    """One way to do one case; useful arithmetic and least traffic a second, where counted."""

    cloud: str
    case: str
    way: str
    threads: int
    measured: Measured
    ratio_to_own: float
    gflops: float | None
    gbytes: float | None


def run(
    *, parts: tuple[str, ...], frame: Path | None, threads: int, runs: int, device: str, out: Path
) -> None:
    """Measure the parts, print each table as it is ready, and write ``out``."""
    torch.set_num_threads(threads)
    facts = machine(threads, device)
    print("\n".join(f"{name}: {value}" for name, value in facts.items()), flush=True)
    clouds = {"street": street_cloud()}
    if frame is not None:
        clouds["real frame"] = real_cloud(frame)
    rows: list[Row] = []
    race: dict[str, dict[str, int]] = {}
    for cloud, points in clouds.items():
        voxels = Voxels.of(points.to(device))
        print(f"\n{cloud}: {len(points):,} points, {len(voxels.sites):,} voxels of 0.075 m")
        for case in _cases(parts, points.to(device), voxels):
            found = compare(case.ways, runs=runs, device=device)
            rows += _rows(cloud, case, found, threads)
            print(_table(case, found, device), flush=True)
        if device == "cpu" and "layers" in parts:
            race[cloud] = races(voxels)
            print(f"runs of 40 on two threads with other values than on one: {race[cloud]}")
    if device != "cpu":
        print(f"\nreported by others: {REPORTED}")
    content = {"machine": facts, "rows": [asdict(row) for row in rows], "races_of_40": race}
    write_json(out, content)
    print(f"\n{out}")


def _cases(parts: tuple[str, ...], points: Tensor, voxels: Voxels) -> Iterator[Case]:
    types = (torch.float32,) if points.device.type == "cpu" else (torch.float16, torch.float32)
    if "voxels" in parts:
        yield from voxel_cases(points)
    for dtype in types:
        if "layers" in parts:
            yield from layer_cases(voxels, dtype)
        if "encoder" in parts:
            yield from encoder_cases(voxels, dtype)
    if "boxes" in parts:
        yield from box_cases(points)


def _rows(cloud: str, case: Case, found: dict[str, Measured], threads: int) -> Iterator[Row]:
    own = next(iter(found.values())).median_ms
    for way, measured in found.items():
        ms = measured.median_ms
        yield Row(
            cloud, case.name, way, threads, measured, ms / own, _per_second(case.gflop, ms),
            _per_second(case.gbyte, ms),
        )  # fmt: skip


def _per_second(amount: float | None, ms: float) -> float | None:
    return None if amount is None else 1e3 * amount / ms


def _table(case: Case, found: dict[str, Measured], device: str) -> str:
    lines = [f"\n{case.name}"]
    own = next(iter(found.values())).median_ms
    arithmetic, bandwidth = peaks(device, case.half)
    for way, measured in found.items():
        ms = measured.median_ms
        line = (
            f"  {way:32s} {ms:10.2f} ms (least {measured.least_ms:.2f})"
            f" {ms / own:7.2f} x {measured.peak_mb:8.1f} MB"
        )
        for amount, unit, peak in (
            (case.gflop, "GFLOP/s", arithmetic),
            (case.gbyte, "GB/s", bandwidth),
        ):
            rate = _per_second(amount, ms)
            if rate is not None:
                line += f" {rate:9.1f} {unit}" + (f" ({100 * rate / peak:.1f} %)" if peak else "")
        lines.append(line)
    return "\n".join(lines)


def peaks(device: str, half: bool) -> tuple[float | None, float | None]:
    """GFLOP/s and GB/s that the device can reach, where they are known."""
    if device != "cpu":
        name = torch.cuda.get_device_name()
        for gpu, (tensor_tflops, tflops, tbytes) in PEAKS.items():
            if gpu in name:
                return 1e3 * (tensor_tflops if half else tflops), 1e3 * tbytes
    return None, None


def machine(threads: int, device: str) -> dict[str, Any]:
    """What the figures were taken with."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    flags = ""
    if info.exists():
        lines = info.read_text().splitlines()
        cpu = next((x.partition(":")[2].strip() for x in lines if x.startswith("model name")), cpu)
        flags = next((x for x in lines if x.startswith("flags")), "")
    vectors = [name for name in ("avx2", "avx512f") if name in flags.split()]
    versions = {}
    for package in ("torch", "spconv", "cumm", "mmcv", "numba", "triton"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True
    ).stdout.strip()
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit,
        "device": cpu if device == "cpu" else torch.cuda.get_device_name(),
        "vectors": ", ".join(vectors),
        "cores": os.cpu_count(),
        "threads": threads,
        "wait policy": os.environ.get("OMP_WAIT_POLICY", "default"),
        "kernels": "compiled" if COMPILED else "plain PyTorch",
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }
