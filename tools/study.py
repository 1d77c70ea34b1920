"""The study of gradient balancing: run its arms, then print its tables.

    python tools/study.py run --seeds 0 1 2
    python tools/study.py table

A run takes minutes on a core. Stop and start at will: finished rows are kept, a killed run goes on.
Started twice in one folder, both processes share the work. Arms and settings: benchmarks/study.py.
"""

from __future__ import annotations

import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

sys.path.insert(0, str(Path(__file__).parents[1]))

from perception3d.engine.command_line import clear_errors


@dataclass(frozen=True, kw_only=True)
class Run:
    """Train and score what is missing.

    Attributes:
        out: folder of the study.
        seeds: of weights, order of samples and augmentation.
        settings: natural, "map x 0.001"; all by default.
        arms: all by default.
        data: the town's folder, or another one laid out like nuScenes.
        size: of the model, as in configs/fuller_joint.py.
        max_steps: of every run.
        threads: of each run.
        device: cpu or cuda.
    """

    out: Path = Path("work_dirs/study")
    seeds: tuple[int, ...] = (0, 1, 2)
    settings: tuple[str, ...] = ()
    arms: tuple[str, ...] = ()
    data: str = "auto"
    size: str = "study"
    max_steps: int = 1000
    threads: int = 1
    device: Literal["cpu", "cuda"] = "cpu"

    def main(self) -> None:
        """Make the rows."""
        from benchmarks import study

        data = str(Path(self.data).resolve()) if Path(self.data).is_dir() else self.data
        common = ("--data", data, "--size", self.size, "--max-steps", str(self.max_steps))
        plan = study.Plan(
            out=self.out.resolve(), common=common, threads=self.threads, device=self.device
        )
        wanted = study.cells(self.settings or tuple(study.SETTINGS), self.arms, self.seeds)
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGINT))
        done, failed = study.run(plan, wanted)
        print(f"{done} of {len(wanted)} runs are done; tools/study.py table --out {self.out}")
        if failed:
            raise ValueError(f"{len(failed)} runs failed: {', '.join(failed)}; see their logs")


@dataclass(frozen=True, kw_only=True)
class Table:
    """Print what is there.

    Attributes:
        out: folder of the study.
    """

    out: Path = Path("work_dirs/study")

    def main(self) -> None:
        """Print Markdown."""
        from benchmarks.study_table import report

        print(report(self.out))


Verb = Annotated[Run, tyro.conf.subcommand("run")] | Annotated[Table, tyro.conf.subcommand("table")]


if __name__ == "__main__":
    with clear_errors():
        tyro.cli(Verb, description=__doc__, prog="tools/study.py").main()
