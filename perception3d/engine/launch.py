"""How a run is started, found again and continued."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path

import torch

from perception3d.engine.experiment import Experiment
from perception3d.engine.plan import Plan
from perception3d.engine.run_folder import Origin, RunFolder, check_data, create_run, find_run
from perception3d.engine.run_state import RunState

AUTO = "auto"


@dataclass(frozen=True, kw_only=True)
class Launch:
    """Where and how a run is started.

    Attributes:
        root: folder of all runs.
        run: folder name of this run (default: the experiment's name).
        resume: continue this run: its name or folder, or "auto" for the one that ``run`` names.
        devices: processes on each machine, one a GPU. nodes: machines.
        node_rank, master: number of this machine and HOST:PORT of machine 0, for several machines
            that nobody else brings together.
        accelerator: auto, cpu or gpu.
        threads: CPU threads of PyTorch in each process (None leaves PyTorch's default).
        tensorboard: also write TensorBoard's event files.
        origin: config source and knobs, for the run folder.
    """

    root: Path = Path("work_dirs")
    run: str | None = None
    resume: str | None = None
    devices: int = 1
    nodes: int = 1
    node_rank: int | None = None
    master: str | None = None
    accelerator: str = AUTO
    threads: int | None = None
    tensorboard: bool = True
    origin: Origin = field(default_factory=Origin)

    def __post_init__(self) -> None:
        for name in ("devices", "nodes"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} must be at least 1; found {getattr(self, name)}")

    def open_folder(
        self, name: str, data: dict[str, str], *, create: bool
    ) -> tuple[RunFolder, bool]:
        """The folder to resume, or a new one for an experiment called ``name``.

        Args:
            name: the experiment's name.
            data: fingerprints of the data by split.
            create: make it (rank 0), else only say which it is.

        Returns:
            The folder, and whether this call made it.

        Raises:
            FileExistsError, FileNotFoundError, ValueError: as ``create_run``, ``find_run`` and
                ``check_data`` say.
        """
        run = self.run or name
        if self.resume is not None:
            folder = find_run(self.root, run if self.resume == AUTO else self.resume)
            check_data(folder, data)
            return folder, False
        if not create:
            return RunFolder(self.root / run), False
        return create_run(self.root / run, self.origin, name=name, data=data), True

    def state(
        self, folder: RunFolder, plan: Plan, experiment: Experiment, world_size: int
    ) -> RunState | None:
        """The state to continue from; None for a new run, or one killed before its first save.

        Raises:
            ValueError: the checkpoint is damaged, or the run would go on under other numbers.
        """
        if self.resume is None or not folder.checkpoint.exists():
            return None
        state = RunState.load(folder.checkpoint)
        state.check_same_run(
            plan,
            seed=experiment.seed,
            batch_size=experiment.batch_size,
            world_size=world_size,
        )
        return state

    def farewell(self, folder: RunFolder, step: int | None, total_steps: int) -> str:
        """What to say when a run was stopped after ``step``; None if it had not gone on yet."""
        if self.resume is None and not step:
            return "stopped before the first step; nothing is kept"
        where = "before it went on" if step is None else f"at step {step} of {total_steps}, saved"
        return f"stopped {where}. Continue with\n  {self.resume_command(folder)}"

    def resume_command(self, folder: RunFolder) -> str:
        """The command line that continues a run."""
        words = ["python", "tools/train.py", self.origin.config or "CONFIG", "--resume"]
        words.append(folder.path.name if folder.path.parent == self.root else str(folder.path))
        if self.root != Launch.root:
            words += ["--root", str(self.root)]
        if self.devices != 1:
            words += ["--devices", str(self.devices)]
        if self.nodes != 1:
            words += ["--nodes", str(self.nodes)]
        if self.node_rank is not None:
            words += ["--node-rank", str(self.node_rank)]
        if self.master is not None:
            words += ["--master", self.master]
        return shlex.join(words)

    def hardware(self, experiment: Experiment) -> str:
        """``cpu`` or ``gpu``.

        Raises:
            ValueError: what is asked for is not here.
        """
        cuda = torch.cuda.is_available()
        if self.accelerator not in (AUTO, "cpu", "gpu"):
            raise ValueError(f"accelerator is auto, cpu or gpu; found {self.accelerator!r}")
        if self.accelerator == "gpu" and not cuda:
            raise ValueError("accelerator gpu: this PyTorch sees no CUDA device; use cpu")
        chosen = "gpu" if cuda and self.accelerator != "cpu" else "cpu"
        if experiment.precision == "fp16" and chosen == "cpu":
            raise ValueError("precision fp16 needs a CUDA device; on a CPU use bf16 or fp32")
        if chosen == "gpu" and self.devices > torch.cuda.device_count():
            raise ValueError(
                f"devices {self.devices}: this machine has {torch.cuda.device_count()} GPUs"
            )
        return chosen
