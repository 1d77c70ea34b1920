"""Train a config, or go on with a run.

python tools/train.py configs/cmt_fusion.py [--knob value ...] [--run NAME] [--devices N]
python tools/train.py configs/cmt_fusion.py --resume [RUN]
python tools/train.py configs/cmt_fusion.py --help

On two machines, the first of which is 10.0.0.1:
python tools/train.py configs/cmt_fusion.py --nodes 2 --master 10.0.0.1:29500 --node-rank 0
python tools/train.py configs/cmt_fusion.py --nodes 2 --master 10.0.0.1:29500 --node-rank 1
"""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":
    # Ctrl-C during the imports below, which take seconds; clear_errors answers it afterwards.
    signal.signal(signal.SIGINT, lambda *_: os._exit(os.write(2, b"\nstopped\n") and 130))

from perception3d.engine.command_line import (
    check_knobs,
    clear_errors,
    parse_command,
    split_resume,
)
from perception3d.engine.launch import Launch
from perception3d.engine.run_folder import find_run


@dataclass(frozen=True, kw_only=True)
class Options:
    """Where and how to run.

    Attributes:
        run: folder name of the run under the root (default: the experiment's name).
        root: folder of all runs.
        resume: go on with a run after a stop: its name or folder (default: this config's run).
        devices: processes on each machine; one a GPU.
        nodes: machines. Start the same command on each, with its --node-rank and one --master, or
            by torchrun or SLURM's srun, which need neither. To --resume, all must see the folder.
        node_rank: number of this machine, from 0; machine 0 keeps the run folder.
        master: HOST:PORT of machine 0, for all the same; a free port that the others can reach.
        accelerator: auto, cpu or gpu.
        threads: CPU threads of PyTorch in each process.
        tensorboard: write TensorBoard's event files beside metrics.jsonl.
    """

    run: str | None = None
    root: Path = Launch.root
    resume: str | None = None
    devices: int = 1
    nodes: int = 1
    node_rank: int | None = None
    master: str | None = None
    accelerator: str = "auto"
    threads: int | None = None
    tensorboard: bool = True


def main(arguments: list[str]) -> int:
    if not arguments or arguments[0].startswith("-"):
        print(__doc__)
        return 0 if arguments in (["-h"], ["--help"]) else 2
    config, flags = arguments[0], split_resume(arguments[1:])
    command = parse_command(config, flags, Options, prog="tools/train.py")
    options = command.options
    if options.resume is not None:
        which = options.resume
        if which == "auto":
            which = options.run or command.experiment().name
        folder = find_run(options.root, which)
        record = folder.record()
        # A run goes on with the knobs it was started with; flags may only repeat them.
        command = parse_command(
            config, flags, Options, prog="tools/train.py", earlier_knobs=record["knobs"]
        )
        check_knobs(record, command.knobs, folder.path)
    launch = Launch(origin=command.origin(), **dataclasses.asdict(options))

    from perception3d.engine.training import train  # Lightning takes seconds to import

    result = train(command.experiment(), launch)
    if result.finished and result.rank == 0:
        weights = result.folder.path / "weights"
        print(f"{result.folder.path}: {result.step} steps done, weights in {weights}")
    return 0 if result.finished else 130


if __name__ == "__main__":
    with clear_errors():
        sys.exit(main(sys.argv[1:]))
