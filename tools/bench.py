"""Measures parts of the project: ``python tools/bench.py NAME --help``; without NAME, a list."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import tyro


@dataclass(frozen=True)
class Data:
    """Frames per second and core of one loading process: read, augment, collate, and each part.

    CPU time counts, so other work on the machine does not; waiting for a disk does not either.

    Attributes:
        data: "auto", "nuscenes", "town" or the folder of a data set.
        split: split to read; that of training by default.
        frames: how many frames are read, after a first one that warms up.
        num_sweeps: LiDAR sweeps a frame.
        image_hw: output size of the image augmentation; the size on disk by default.
        image_reduce: decode images at 1/1, 1/2, 1/4 or 1/8.
    """

    data: str = "auto"
    split: str | None = None
    frames: int = 40
    num_sweeps: int = 10
    image_hw: tuple[int, int] | None = None
    image_reduce: int = 1

    def run(self) -> None:
        """Print one line a part."""
        import cv2
        import torch

        from perception3d.datasets import NuScenesFrames, locate

        # One process on one core, as a worker of a loader runs.
        cv2.setNumThreads(1)
        torch.set_num_threads(1)
        found = locate(self.data)
        split = self.split or found.train_split
        parts = {
            "points alone": {"load_images": False, "load_boxes": False},
            "images alone": {"load_points": False, "load_boxes": False},
            "boxes and poses": {"load_points": False, "load_images": False},
            "whole frames": {},
        }
        print(f"{found.root} {found.version} {split}: {self.num_sweeps} sweeps, one process")
        for name, left_out in parts.items():
            source = NuScenesFrames(
                found.root, split, version=found.version, num_sweeps=self.num_sweeps,
                image_reduce=self.image_reduce, **left_out,
            )  # fmt: skip
            numbers = np.linspace(0, len(source) - 1, min(self.frames, len(source)) + 1).astype(int)
            self._time(name, source, numbers)
        self._time_training(source, numbers)

    def _time(self, name: str, source, numbers: np.ndarray) -> None:
        first = source[int(numbers[0])]
        _report(name, lambda number, _: source[number], numbers[1:])
        if name == "whole frames":
            points = 0 if first.points is None else len(first.points)
            sizes = None if first.rig is None else first.rig.image_hw[0].tolist()
            print(f"  (first frame: {points} points, images {sizes})")

    def _time_training(self, source, numbers: np.ndarray) -> None:
        from perception3d.datasets import (
            ClassFilter,
            Compose,
            FrameDataset,
            GlobalAugment,
            ImageAugment,
            MinPointsFilter,
            ModalMask,
            PointShuffle,
            RangeFilter,
            SampleKey,
            collate,
        )  # fmt: skip

        rig = source[int(numbers[0])].rig
        hw = self.image_hw or (tuple(rig.image_hw[0].tolist()) if rig is not None else (256, 704))
        transform = Compose(
            (MinPointsFilter(), ModalMask(), GlobalAugment(), RangeFilter(), ClassFilter(),
             PointShuffle(), ImageAugment(hw))
        )  # fmt: skip
        dataset = FrameDataset(source, transform)
        _report(
            "read, augment, collate",
            lambda number, position: collate([dataset[SampleKey(number, 0, position)]]),
            numbers[1:],
        )


@dataclass(frozen=True)
class Town:
    """Speed of the town's sensors on a small street, processor time of one core.

    Attributes:
        image_scales: sizes of the pictures, relative to 1600 x 900.
        repeats: runs of which the median counts.
    """

    image_scales: tuple[float, ...] = (0.25, 1.0)
    repeats: int = 5

    def run(self) -> None:
        """Print one line a sensor."""
        from perception3d.datasets.town.speed import measure

        speed = measure(self.image_scales, self.repeats)
        print(
            f"street of {speed.rows} parts, kernels compiled or loaded in {speed.compile_s:.1f} s"
        )
        print(f"  LiDAR, one turn {speed.sweep_ms:10.1f} ms {speed.rays_per_s / 1e6:8.1f} M rays/s")
        for scale, spent_ms in speed.camera_ms.items():
            pixels = 6 * 1600 * 900 * scale**2 / (spent_ms * 1e-3)
            print(f"  six images at {scale:4.2f} {spent_ms:9.1f} ms {pixels / 1e6:8.1f} M pixels/s")


@dataclass(frozen=True)
class Ops:
    """Every op against its peers in one run: spconv, mmcv (where installed), numba, PyTorch.

    Attributes:
        parts: what to measure.
        frame: a real key frame (mmdetection3d's info v2 as JSON) beside the generated street.
        threads: of all ways; spconv's CPU build is right on one alone.
        runs: of each way, in turn; medians count.
        device: "cpu" or "cuda".
        out: JSON file; a date below ``work_dirs/bench`` by default.
    """

    parts: tuple[Literal["voxels", "layers", "encoder", "boxes"], ...] = (
        "voxels", "layers", "encoder", "boxes",
    )  # fmt: skip
    frame: Path | None = None
    threads: int = 1
    runs: int = 7
    device: str = "cpu"
    out: Path | None = None

    def run(self) -> None:
        """Print tables and write the file."""
        _find_benchmarks()
        from benchmarks.ops import run

        run(
            parts=self.parts, frame=self.frame, threads=self.threads, runs=self.runs,
            device=self.device,
            out=self.out or _dated(f"ops_{self.device}"),
        )  # fmt: skip


@dataclass(frozen=True)
class Maps:
    """Rasters of the map expansion against nuScenes-devkit's, patch by patch, processor time.

    Attributes:
        data: "auto", "nuscenes", "town" or the folder of a data set, with maps.
        split: split to read; that of training by default.
        patches: how many, spread over the split.
        out: JSON file; a date below ``work_dirs/bench`` by default.
    """

    data: str = "auto"
    split: str | None = None
    patches: int = 100
    out: Path | None = None

    def run(self) -> None:
        """Print a table and write the file."""
        _find_benchmarks()
        from benchmarks.maps import run

        run(
            data=self.data, split=self.split, patches=self.patches, out=self.out or _dated("maps")
        )  # fmt: skip


@dataclass(frozen=True)
class Balancing:
    """Training steps of the joint model with several rules between tasks, in one run.

    Attributes:
        data: data set that one batch is read from.
        runs: of each way, in turn; medians count.
        threads: of all ways.
        device: "cpu" or "cuda".
        out: JSON file; a date below ``work_dirs/bench`` by default.
    """

    data: str = "auto"
    runs: int = 9
    threads: int = 1
    device: str = "cpu"
    out: Path | None = None

    def run(self) -> None:
        """Print a table and write the file."""
        _find_benchmarks()
        from benchmarks.balancing import run

        out = self.out or _dated(f"balancing_{self.device}")
        run(data=self.data, runs=self.runs, threads=self.threads, device=self.device, out=out)


@dataclass(frozen=True)
class AV2Evaluation:
    """The Argoverse 2 evaluator against av2's, in one run: processor time, memory, equal tables.

    Attributes:
        realdata: folder with real logs (poses, map, annotations); they are repeated.
        logs: how many logs.
        official_logs: how many of av2's; as many by default, 0 leaves it out.
        per_sweep: detections a sweep.
        jobs: processes of av2's; ours is one.
        roi: with the region of interest.
        folder: where the repeated split is written (about 6 MB a log); kept.
        out: JSON file; a date below ``work_dirs/bench`` by default.
    """

    realdata: Path
    logs: int = 150
    official_logs: int | None = None
    per_sweep: int = 300
    jobs: int = 2
    roi: bool = True
    folder: Path = Path("work_dirs/bench/av2_evaluator")
    out: Path | None = None

    def run(self) -> None:
        """Print a line a side and write the file."""
        _find_benchmarks()
        from benchmarks.av2_evaluator import run

        run(
            realdata=self.realdata.resolve(), logs=self.logs, official_logs=self.official_logs,
            per_sweep=self.per_sweep, jobs=self.jobs, only_roi=self.roi,
            folder=self.folder.resolve(), out=self.out or _dated("av2_evaluator"),
        )  # fmt: skip


@dataclass(frozen=True)
class Evaluator:
    """The nuScenes evaluator against the devkit, both on generated files of the size of val.

    Attributes:
        samples: of the split (val: 6019). The devkit needs 200 s and 3.5 GiB at full size.
        boxes: predictions a sample.
        truth: annotated boxes a sample.
        runs: of ours; the devkit runs once.
        devkit: whether the devkit runs.
        folder: keep the generated files there, and use them when they are; else temporary ones.
        out: JSON file; a date below ``work_dirs/bench`` by default.
    """

    samples: int = 600
    boxes: int = 300
    truth: int = 22
    runs: int = 3
    devkit: bool = True
    folder: Path | None = None
    out: Path | None = None

    def run(self) -> None:
        """Print a table and write the file."""
        _find_benchmarks()
        from benchmarks.evaluator import run

        run(
            samples=self.samples, boxes=self.boxes, truth=self.truth, runs=self.runs,
            devkit=self.devkit, folder=self.folder, out=self.out or _dated("evaluator"),
        )  # fmt: skip


def _find_benchmarks() -> None:
    """Make the folder ``benchmarks`` importable."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    # Threads that burn a core while they wait make every other way look slow.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _dated(name: str) -> Path:
    return Path("work_dirs") / "bench" / f"{name}_{time.strftime('%Y%m%d_%H%M%S')}.json"


def _report(name: str, read: Callable[[int, int], object], numbers: np.ndarray) -> None:
    """Print the median CPU time of a call: neighbours on the machine disturb some, not most."""
    taken = []
    for position, number in enumerate(numbers.tolist()):
        started = time.process_time()
        read(number, position)
        taken.append(time.process_time() - started)
    median = float(np.median(taken))
    print(f"  {name:24s} {1 / median:8.1f} frames/s a core {1e3 * median:8.1f} ms CPU a frame")


BENCHES = {
    "data": Data,
    "town": Town,
    "ops": Ops,
    "maps": Maps,
    "balancing": Balancing,
    "av2-evaluator": AV2Evaluation,
    "evaluator": Evaluator,
}


def main() -> None:
    """Run the bench named first on the command line."""
    if sys.argv[1:2] == ["model"]:  # its flags are those of the config it is given
        _find_benchmarks()
        from benchmarks.model import main as measure_model
        from perception3d.engine.command_line import clear_errors

        with clear_errors():
            measure_model(sys.argv[2:])
    else:
        tyro.extras.subcommand_cli_from_dict(BENCHES, description=__doc__).run()


if __name__ == "__main__":
    main()
