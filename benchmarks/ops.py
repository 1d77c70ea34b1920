"""Every op against its peers in one run; prints tables and writes them as JSON."""

from __future__ import annotations

import importlib.metadata
import json
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
from benchmarks.timing import Measured, compare
from benchmarks.voxels import Ways, voxel_cases

#: fp16 tensor-core and memory peaks of GPUs that figures are held against (vendor's data sheets,
#: dense): TFLOP/s, TB/s.
PEAKS = {"H200": (990.0, 4.8), "H100": (990.0, 3.35), "A100": (312.0, 2.0)}
PARTS = ("voxels", "layers", "encoder", "boxes")


@dataclass(frozen=True)
class Row:
    """One way to do one case. ``gflops``: useful arithmetic a second, where it is counted."""

    cloud: str
    case: str
    way: str
    threads: int
    measured: Measured
    ratio_to_own: float
    gflops: float | None


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
        for case, ways, gflop in _cases(parts, points.to(device), voxels):
            found = compare(ways, runs=runs, device=device)
            rows += _rows(cloud, case, found, threads, gflop)
            print(_table(case, found, gflop, device), flush=True)
        if device == "cpu" and "layers" in parts:
            race[cloud] = races(voxels)
            print(f"runs of 40 on two threads with other values than on one: {race[cloud]}")
    out.parent.mkdir(parents=True, exist_ok=True)
    content = {"machine": facts, "rows": [asdict(row) for row in rows], "races_of_40": race}
    part = out.with_name(out.name + ".part")
    part.write_text(json.dumps(content, indent=1) + "\n")
    part.replace(out)
    print(f"\n{out}")


def _cases(
    parts: tuple[str, ...], points: Tensor, voxels: Voxels
) -> Iterator[tuple[str, Ways, float | None]]:
    if "voxels" in parts:
        yield from ((case, ways, None) for case, ways in voxel_cases(points))
    if "layers" in parts:
        yield from layer_cases(voxels)
    if "encoder" in parts:
        yield from encoder_cases(voxels)
    if "boxes" in parts:
        yield from ((case, ways, None) for case, ways in box_cases(points))


def _rows(
    cloud: str, case: str, found: dict[str, Measured], threads: int, gflop: float | None
) -> Iterator[Row]:
    own = found.get("own", next(iter(found.values()))).median_ms
    for way, measured in found.items():
        rate = None if gflop is None else 1e3 * gflop / measured.median_ms
        yield Row(cloud, case, way, threads, measured, measured.median_ms / own, rate)


def _table(case: str, found: dict[str, Measured], gflop: float | None, device: str) -> str:
    lines = [f"\n{case}"]
    own = found.get("own", next(iter(found.values()))).median_ms
    for way, measured in found.items():
        line = (
            f"  {way:32s} {measured.median_ms:10.2f} ms (least {measured.least_ms:.2f})"
            f" {measured.median_ms / own:7.2f} x {measured.peak_mb:8.1f} MB"
        )
        if gflop is not None:
            rate = 1e3 * gflop / measured.median_ms
            line += f" {rate:9.1f} GFLOP/s{_share_of_peak(rate, device)}"
        lines.append(line)
    return "\n".join(lines)


def _share_of_peak(gflops: float, device: str) -> str:
    if device == "cpu":
        return ""
    name = torch.cuda.get_device_name()
    for gpu, (tflops, _) in PEAKS.items():
        if gpu in name:
            return f" ({gflops / tflops / 10:.2f} % of {tflops:.0f} TFLOP/s)"
    return ""


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
